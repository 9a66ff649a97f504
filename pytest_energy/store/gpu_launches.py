"""launches.jsonl: what launches of reference engines took on the GPUs of this machine, a line each.

They outlast the few recordings that the cache holds, and make the GPU's control chart. Lines that
are damaged, of other GPUs or from the future are passed over.
"""

import contextlib
import datetime
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, TypeAdapter

from pytest_energy.measure import control_chart
from pytest_energy.measure.control_chart import Chart, Point, Step
from pytest_energy.measure.measurement import Measurement
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.safety import untrusted
from pytest_energy.safety.files import exclusively, write_atomically
from pytest_energy.safety.schema import STRICT, Name, Setting, Short, checked
from pytest_energy.safety.untrusted import Malformed
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.figures import Condition, Figure

NAME = "launches.jsonl"
MOST_LINES = 500  # a launch and cell each; older ones are removed
_MAX_BYTES = 5_000_000
AHEAD = datetime.timedelta(days=1)  # `now` may be when a run began


def _date(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a date without its offset from UTC")
    return text


@dataclass(frozen=True)
class Engine:
    """What makes launches those of one engine.

    Attributes:
        settings: under test, "name=value" each.
        environment: digest of Python's and the packages' versions, and of vLLM's variables if any.
    """

    __pydantic_config__ = STRICT

    vllm: Name
    settings: tuple[Setting, ...]
    environment: Name

    @classmethod
    def of(cls, environment: Fingerprint) -> "Engine":
        """That of a launch."""
        versions: list[object] = [environment.python, sorted(environment.packages.items())]
        if environment.vllm_variables:
            versions.append(sorted(environment.vllm_variables.items()))
        digest = hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:16]
        return cls(environment.vllm or "?", environment.settings_under_test, digest)

    def __str__(self) -> str:
        return " ".join((f"vLLM {self.vllm}", *self.settings))


@dataclass(frozen=True)
class Machine:
    """What changes every engine at once."""

    __pydantic_config__ = STRICT

    driver: Name | None
    power_limit: Name
    ecc: bool | None
    energy_scope: Name | None
    kernel: Name | None
    cpu_model: Name | None

    @classmethod
    def of(cls, environment: Fingerprint) -> "Machine":
        """That of a launch."""
        return cls(
            environment.driver,
            environment.power_limit,
            environment.ecc,
            environment.energy_scope,
            environment.host.kernel,
            environment.host.cpu_model,
        )

    def has_become(self, other: "Machine") -> bool:
        """Whether something differs that is known of both."""
        return any(
            mine != its and None not in (mine, its)
            for mine, its in zip(astuple(self), astuple(other), strict=True)
        )

    def differences(self, other: "Machine") -> str:
        """From this one to another, "driver 580 → 590"."""
        mine, its = asdict(self), asdict(other)
        changes = (
            f"{name.replace('_', ' ')} {mine[name] or '?'} → {its[name] or '?'}"
            for name in mine
            if mine[name] != its[name]
        )
        return ", ".join(changes)


@dataclass(frozen=True)
class Line:
    """One cell of one launch.

    Attributes:
        date: start of its load.
        cell, name: the cell's slug and name.
        gpus: UUIDs, sorted.
    """

    __pydantic_config__ = STRICT

    date: Annotated[Short, AfterValidator(_date)]
    launch_id: Name
    cell: Name
    name: Name
    gpu_name: Name
    gpus: tuple[Name, ...]
    engine: Engine
    machine: Machine
    joules_per_token: Figure
    tokens_per_s: Figure
    static_power_w: Condition | None = None

    @classmethod
    def of(cls, measured: Measurement) -> "Line":
        """That of a valid measurement."""
        environment = measured.environment
        return cls(
            environment.date or "",
            measured.launch_id,
            measured.key.slug,
            measured.key.name,
            environment.gpu_name,
            environment.gpus,
            Engine.of(environment),
            Machine.of(environment),
            measured.joules_per_token,
            measured.tokens_per_s,
            measured.static_power_w,
        )

    @property
    def made(self) -> datetime.datetime:
        """Its date, for comparisons."""
        return datetime.datetime.fromisoformat(self.date)


_LINE = TypeAdapter(Line)


class Change(NamedTuple):
    """A change of the machine between two launches of one engine.

    Attributes:
        launch_id, date: of the first launch after it.
        what: changed.
        step: of the engine's J/token; None if no cell was measured before and after.
    """

    launch_id: str
    date: str
    what: str
    step: Step | None


@dataclass(frozen=True)
class GpuLaunches:
    """The lines of one GPU, or set of GPUs, the oldest first.

    Attributes:
        damaged: lines that cannot be read. The next launch takes their place; until then nobody
            knows whether the GPU is in its band.
    """

    lines: tuple[Line, ...]
    damaged: int = 0

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs, sorted; empty without a line."""
        return self.lines[0].gpus if self.lines else ()

    def engine(self, machine: Machine) -> Engine | None:
        """The one that was launched last on a machine like this."""
        return next((of.engine for of in reversed(self.lines) if of.machine == machine), None)

    def chart(self, machine: Machine) -> Chart:
        """That of the engine that was launched last on a machine like this."""
        return control_chart.chart(self._points(self.engine(machine), machine))

    def is_out(self, machine: Machine) -> bool:
        """Whether the GPU has left its band, or may have."""
        return self.damaged > 0 or self.chart(machine).is_out

    def last_alarm(self, machine: Machine) -> datetime.datetime | None:
        """Of any engine; older launches of none stand for one made now."""
        engines = {line.engine for line in self.lines if line.machine == machine}
        charts = [control_chart.chart(self._points(engine, machine)) for engine in engines]
        dates = [datetime.datetime.fromisoformat(c.alarm.date) for c in charts if c.alarm]
        return max(dates, default=None)

    def change(self) -> Change | None:
        """The last change of the machine that the newest engine was measured across, if any."""
        if not self.lines:
            return None
        newest = self.lines[-1]
        of_engine = [line for line in self.lines if line.engine == newest.engine]
        after: list[Line] = []
        while of_engine and of_engine[-1].machine == newest.machine:
            after.insert(0, of_engine.pop())
        if not of_engine:
            return None
        was = of_engine[-1].machine
        before: list[Line] = []
        while of_engine and of_engine[-1].machine == was:
            before.insert(0, of_engine.pop())
        step = control_chart.step(_points(before), _points(after))
        what = was.differences(newest.machine)
        return Change(after[0].launch_id, after[0].date, what, step)

    def change_since(self, stored: Sequence[Baseline]) -> Change | None:
        """That since baselines of these GPUs, by what their engine takes now; None without one."""
        if not stored or not self.lines:
            return None
        newest = self.lines[-1]
        after = [line for line in self.lines if line.engine == newest.engine]
        after = [line for line in after if line.machine == newest.machine]
        launches: dict[str, dict[str, float]] = {}
        for baseline in stored:
            if baseline.key.is_idle:
                continue
            for kept, energy in zip(baseline.launches, baseline.joules_per_token, strict=True):
                launches.setdefault(kept.launch_id, {})[baseline.key.slug] = math.log(energy)
        before = [Point("", launches[launch_id]) for launch_id in sorted(launches)]
        what = Machine.of(stored[-1].environment).differences(newest.machine)
        step = control_chart.step(before, _points(after))
        return Change(after[0].launch_id, after[0].date, what, step)

    def _points(self, engine: Engine | None, machine: Machine) -> list[Point]:
        return _points([of for of in self.lines if (of.engine, of.machine) == (engine, machine)])


def _points(lines: Sequence[Line]) -> list[Point]:
    """A point per launch, dated by the last of its cells."""
    launches: dict[str, list[Line]] = {}
    for line in lines:
        launches.setdefault(line.launch_id, []).append(line)
    return sorted(
        (
            Point(of[-1].date, {line.cell: math.log(line.joules_per_token) for line in of})
            for of in launches.values()
        ),
        key=lambda point: datetime.datetime.fromisoformat(point.date),
    )


def read(folder: Path, gpus: Sequence[str] | None, now: datetime.datetime) -> GpuLaunches:
    """The lines in a folder; none if its file cannot be read.

    Args:
        folder: of the GPUs.
        gpus: UUIDs, sorted; None for those of the first line.
        now: dates that lie more than a day ahead do not count.
    """
    lines, damaged = _lines(folder, gpus)
    made = [line for line in lines if line.made <= now + AHEAD]
    return GpuLaunches(tuple(sorted(made, key=lambda line: line.made)), damaged)


def _lines(folder: Path, gpus: Sequence[str] | None) -> tuple[list[Line], int]:
    """The lines in a folder, whatever their dates, and how many are damaged; `gpus` as in `read`.

    A file that cannot be read is one damaged line.
    """
    sound, damaged = _sound_and_damaged(folder)
    found: dict[tuple[str, str], Line] = {}
    for line in sound:
        gpus = line.gpus if gpus is None else gpus
        if line.gpus == tuple(gpus):
            found[line.launch_id, line.cell] = line
    return list(found.values()), damaged


def _sound_and_damaged(folder: Path) -> tuple[list[Line], int]:
    try:
        content = untrusted.read(folder / NAME, _MAX_BYTES)
    except FileNotFoundError:
        return [], 0
    except (OSError, Malformed):
        return [], 1
    sound = []
    texts = content.splitlines()[-MOST_LINES:]
    for text in texts:
        with contextlib.suppress(Malformed):
            sound.append(checked(_LINE, untrusted.parse(text)))
    return sound, len(texts) - len(sound)


def append(folder: Path, measured: Measurement, now: datetime.datetime) -> None:
    """Add a launch's line, in place of the oldest if there are too many.

    Lines from the future are kept, for the clock may be behind, and are the first to make room.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    new = Line.of(measured)
    with exclusively(folder):
        place = new.launch_id, new.cell
        known = [of for of in _lines(folder, new.gpus)[0] if (of.launch_id, of.cell) != place]
        known.sort(key=lambda line: (line.made <= now + AHEAD, line.made))
        lines = [*known, new][-MOST_LINES:]
        content = b"".join(_LINE.dump_json(line) + b"\n" for line in lines)
        write_atomically(folder / NAME, content)
