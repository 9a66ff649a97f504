"""The store of baselines: one JSON file per GPU model and model, one entry per cell and GPU, changed only by an update.

docs/baselines.md describes the file. Keys are sorted and numbers rounded to six digits, so that an update is a small diff.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_energy.cell.key import CellKey, slugify
from pytest_energy.errors import BaselineError
from pytest_energy.measure import spread
from pytest_energy.measure.cycles import FIGURES
from pytest_energy.measure.measurement import Measurement, first_invalid
from pytest_energy.recording.fingerprint import Fingerprint, differing_engines
from pytest_energy.safety import untrusted
from pytest_energy.safety.files import exclusively, write_atomically
from pytest_energy.safety.untrusted import Malformed

SCHEMA_VERSION = 1
MAX_BYTES = 20_000_000  # of a file; an entry of a baseline has some 2 kB
MIN_LAUNCHES = 3
_DIGITS = 6


@dataclass(frozen=True)
class LaunchValues:
    """One launch of a baseline: values per cycle, each of shape (cycles,), and what was seen beside them.

    `tokens` are those of each cycle, empty where all hold equally many.
    """

    launch_id: str
    joules_per_token: tuple[float, ...]
    power_w: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    static_power_w: float | None = None
    sm_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_cap_share: float | None = None
    tokens: tuple[float, ...] = ()

    @classmethod
    def from_measurement(cls, measurement: Measurement) -> "LaunchValues":
        """The launch that `measurement`, a valid one, comes from."""
        cycles, conditions = measurement.cycles, measurement.conditions
        assert cycles is not None
        return cls(
            launch_id=measurement.launch_id,
            joules_per_token=cycles.joules_per_token,
            power_w=cycles.power_w,
            tokens_per_s=cycles.tokens_per_s,
            static_power_w=measurement.static_power_w,
            sm_clock_mhz=conditions.sm_clock_mhz,
            temperature_c=conditions.temperature_c,
            power_cap_share=conditions.power_cap_share,
            tokens=cycles.weights,
        )


@dataclass(frozen=True)
class Baseline:
    """What a cell is compared with.

    Attributes:
        key: the cell's key.
        gpu_name: the GPU model that it was measured on.
        launches: at least three.
        environment: the fingerprint of the newest launch.
        history: earlier entries, oldest first: {"date", "vllm", "joules_per_token", "tokens_per_s", "power_w", "launches"}, and
            "update_reason" where one was given.
        update_reason: why a loss was accepted with this entry; None where there was none to accept.
    """

    key: CellKey
    gpu_name: str
    launches: tuple[LaunchValues, ...]
    environment: Fingerprint
    history: tuple[Mapping[str, Any], ...] = ()
    update_reason: str | None = None

    @classmethod
    def of(
        cls, measurements: Sequence[Measurement], history: Sequence[Mapping[str, Any]] = ()
    ) -> "Baseline":
        """The baseline that valid measurements, one per launch and in order, make."""
        environments = [measurement.environment for measurement in measurements]
        return cls(
            key=measurements[0].key,
            gpu_name=measurements[0].environment.gpu_name,
            launches=tuple(map(LaunchValues.from_measurement, measurements)),
            environment=max(environments, key=lambda environment: str(environment.date)),
            history=tuple(history),
        )

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that it was measured on, sorted."""
        return self.environment.gpus

    @property
    def joules_per_token(self) -> list[float]:
        """One value per launch."""
        return spread.launch_means(
            [launch.joules_per_token for launch in self.launches], self._weights
        )

    @property
    def tokens_per_s(self) -> list[float]:
        """One value per launch."""
        return spread.launch_rates([launch.tokens_per_s for launch in self.launches], self._weights)

    @property
    def _weights(self) -> list[tuple[float, ...]]:
        return [launch.tokens for launch in self.launches]

    @property
    def power_w(self) -> list[float]:
        """One value per launch: energy over time."""
        return [
            jpt * rate for jpt, rate in zip(self.joules_per_token, self.tokens_per_s, strict=True)
        ]

    @property
    def summary(self) -> dict[str, Any]:
        """Means over launches, and their number."""
        return {
            "joules_per_token": rounded(spread.geometric_mean(self.joules_per_token)),
            "launches": len(self.launches),
            "power_w": rounded(math.fsum(self.power_w) / len(self.power_w)),
            "tokens_per_s": rounded(spread.geometric_mean(self.tokens_per_s)),
        }


@dataclass(frozen=True)
class NearMiss:
    """Why a baseline of the same model and batch size does not fit; `other_hardware` where only the GPU differs."""

    reason: str
    other_hardware: bool


@dataclass(frozen=True)
class Update:
    """What an update did to one cell: `change` is the relative change of J/token, None where the entry is new."""

    path: Path
    created: bool
    change: float | None


def other_gpus(uuids: Sequence[str]) -> str:
    """What messages call GPUs of the same model that are not those measured."""
    return f"{'another GPU' if len(uuids) < 2 else 'other GPUs'}, {' and '.join(uuids) or 'of unknown UUID'}"


class Store:
    """The baseline files below one folder. Nothing is written but by `update`.

    Raises (all methods):
        BaselineError: a file is damaged, of another schema version or not JSON; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, dict[str, Any]] = {}
        self._entries: dict[Path, list[Baseline]] = {}

    def find(self, key: CellKey, gpu_name: str, on: Sequence[str]) -> Baseline | None:
        """The baseline of this cell on these GPUs (UUIDs), None where there is none.

        GPUs of one model differ by more than any tolerance (docs/measurements.md), so a cell has one for each.
        """
        uuids = tuple(sorted(on))
        for baseline in self.entries():
            if (baseline.key, baseline.gpu_name, baseline.gpus) == (key, gpu_name, uuids):
                return baseline
        return None

    def entries(self) -> list[Baseline]:
        """All baselines, in file order."""
        return [baseline for path in self._paths() for baseline in self._read(path)]

    def near_misses(self, key: CellKey, gpu_name: str) -> list[NearMiss]:
        """Why baselines of the same model and batch size do not fit: other GPU models, other GPUs, other settings."""
        misses = []
        for baseline in self.entries():
            if (baseline.key.model, baseline.key.batch_size) != (key.model, key.batch_size):
                continue
            if baseline.key != key:
                if baseline.gpu_name == gpu_name:
                    misses.append(
                        NearMiss(
                            "one differs in " + ", ".join(baseline.key.differences(key)), False
                        )
                    )
            elif baseline.gpu_name != gpu_name:
                misses.append(
                    NearMiss(f"one was measured on another GPU model, {baseline.gpu_name}", True)
                )
            else:
                misses.append(NearMiss(f"one was measured on {other_gpus(baseline.gpus)}", True))
        return misses

    def update(
        self,
        measurements: Sequence[Measurement],
        tolerance: Mapping[str, float],
        reason: str | None = None,
    ) -> Update:
        """Make `measurements`, the launches of one cell, its baseline; the one before goes into the history.

        Args:
            measurements: one per launch.
            tolerance: relative, by metric ("joules_per_token", "tokens_per_s"): the loss against the best and the oldest accepted
                entry that needs a reason.
            reason: why a larger loss is accepted.

        Raises:
            BaselineError: fewer than three launches, a launch twice, an invalid measurement, two GPUs, or a loss without a reason.
            OSError: nothing was written.
        """
        first = measurements[0]
        launches = {measurement.launch_id: measurement for measurement in measurements}
        invalid = first_invalid(measurements)
        if invalid:
            raise BaselineError(invalid)
        if len(launches) < MIN_LAUNCHES:
            raise BaselineError(
                f"a baseline needs at least {MIN_LAUNCHES} launches, this is {len(launches)}: one launch says nothing about how "
                f"launches differ.\nMeasure with --energy-launches {MIN_LAUNCHES}, or give several recordings: --energy-replay A B C"
            )
        if any(measurement.co_resident for measurement in measurements):
            raise BaselineError(
                "these launches were measured in turns with another engine resident on the GPU, and a baseline is measured without one.\n"
                "Measure again without --energy-interleave periods; under --energy-update launches alternate by themselves."
            )
        environments = [measurement.environment for measurement in launches.values()]
        differing = differing_engines(environments)
        if differing:
            raise BaselineError(f"the launches differ in {differing}: they are no one baseline")
        gpu_name = first.environment.gpu_name
        with exclusively(self.folder):
            return self._replace(launches, gpu_name, tolerance, reason)

    def _replace(
        self,
        launches: Mapping[str, Measurement],
        gpu_name: str,
        tolerance: Mapping[str, float],
        reason: str | None,
    ) -> Update:
        """Store the launches (by id) of one cell, seen with what other processes have stored by now."""
        first = next(iter(launches.values()))
        self._files.clear()
        self._entries.clear()
        previous = self.find(first.key, gpu_name, first.environment.gpus)
        history = _history(previous) if previous else ()
        baseline = Baseline.of([m for _, m in sorted(launches.items())], history)
        losses = baseline_drift(baseline.summary, history, tolerance)
        if losses and reason is None:
            raise BaselineError(
                f"it would accept a loss: {'; '.join(losses)}.\n"
                'If that is wanted, say why; the reason is kept with the baseline: --energy-update-reason "..."'
            )
        if losses:
            baseline = replace(baseline, update_reason=reason)
        path = self.folder / slugify(gpu_name) / f"{slugify(first.key.model)}.json"
        self._write(path, baseline)
        change = None
        if previous:
            change = baseline.summary["joules_per_token"] / previous.summary["joules_per_token"] - 1
        return Update(path, created=previous is None, change=change)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*/*.json"))

    def _content(self, path: Path) -> dict[str, Any]:
        if path not in self._files:
            self._files[path] = _load(path)
        return self._files[path]

    def _read(self, path: Path) -> list[Baseline]:
        content = self._content(path)
        if path in self._entries:
            return self._entries[path]
        try:
            gpu_name = untrusted.name(content["gpu_name"], "gpu_name")
            self._entries[path] = [
                _baseline(entry, gpu_name) for entry in content["cells"].values()
            ]
            return self._entries[path]
        except Malformed as error:
            raise _damaged(path, str(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, f"a field is missing or malformed: {error!r}") from None

    def _write(self, path: Path, baseline: Baseline) -> None:
        content: dict[str, Any] = {
            "gpu_name": baseline.gpu_name,
            "model": baseline.key.model,
            "cells": {},
        }
        if path.exists():
            self._read(path)
            content = self._content(path)
        wanted = baseline.key, baseline.gpus
        cells = {
            name: entry
            for name, entry in content["cells"].items()
            if (CellKey.from_plain(entry["key"]), Fingerprint.from_plain(entry["environment"]).gpus)
            != wanted
        }
        cells[_entry_name(baseline, cells)] = _entry(baseline)
        text = _dump(
            {**content, "schema_version": SCHEMA_VERSION, "cells": dict(sorted(cells.items()))}
        ).encode()
        try:
            content = untrusted.parse(text)
            entries = [_baseline(entry, baseline.gpu_name) for entry in content["cells"].values()]
        except Malformed as error:
            raise BaselineError(
                f"it could not be read again: {error}. Nothing was written"
            ) from None
        write_atomically(path, text)
        self._files[path], self._entries[path] = content, entries


def baseline_drift(
    new: Mapping[str, Any], history: Sequence[Mapping[str, Any]], tolerance: Mapping[str, float]
) -> list[str]:
    """Losses of `new` that reach the tolerance against the best or the oldest earlier entry, one line each; many small steps add up.

    Entries before the last loss that was accepted with a reason do not count any more.

    Args:
        new: summary of the entry to come ("joules_per_token", "tokens_per_s").
        history: earlier entries, oldest first.
        tolerance: relative, by metric.
    """
    accepted = max((i for i, entry in enumerate(history) if entry.get("update_reason")), default=0)
    entries = history[accepted:]
    losses = []
    for metric, unit, worse, best in (
        ("joules_per_token", "J/token", 1, min),
        ("tokens_per_s", "tokens/s", -1, max),
    ):
        if not entries or metric not in tolerance:
            continue
        for name, old in (
            ("best", best(entries, key=lambda entry: float(entry[metric]))),
            ("oldest", entries[0]),
        ):
            change = new[metric] / old[metric] - 1
            if worse * change >= tolerance[metric]:
                losses.append(
                    f"{unit} {change:+.1%} against the {name} entry ({old[metric]:g}, vLLM {old.get('vllm')}, {old.get('date')})"
                )
                break
    return losses


def _history(previous: Baseline) -> tuple[Mapping[str, Any], ...]:
    """The history of the entry that replaces `previous`."""
    entry = {
        "date": previous.environment.date,
        "vllm": previous.environment.vllm,
        **previous.summary,
    }
    if previous.update_reason:
        entry["update_reason"] = previous.update_reason
    return (*previous.history, entry)


def _entry_name(baseline: Baseline, taken: Mapping[str, Any]) -> str:
    key = baseline.key
    tokens_in, tokens_out = (
        length if isinstance(length, int | str) else "lognormal"
        for length in (key.workload.input_tokens, key.workload.output_tokens)
    )
    stem = f"{key.engine} in={tokens_in} out={tokens_out} bs={key.batch_size:04d}"
    stem += "".join(f" {uuid[:12]}" for uuid in baseline.gpus)
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem} ({count})"
    return name


def _load(path: Path) -> dict[str, Any]:
    try:
        content = untrusted.parse(untrusted.read(path, MAX_BYTES))
    except OSError as error:
        raise BaselineError(f"baseline {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise _damaged(path, "it has no schema_version")
    version = content["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BaselineError(
            f"baseline {path} has schema version {version}, this pytest-energy reads {SCHEMA_VERSION}.\n"
            "Use the pytest-energy that wrote it, or measure the baseline anew with --energy-update into another folder."
        )
    if not isinstance(content.get("cells"), dict):
        raise _damaged(path, "it has no cells")
    return content


def _damaged(path: Path, why: str) -> BaselineError:
    return BaselineError(
        f"baseline {path} is damaged: {why}.\nNothing was compared and nothing written. Restore it: git checkout -- {path}"
    )


def rounded(value: float) -> float:
    """`value` with the digits that files keep."""
    return float(f"{value:.{_DIGITS}g}")


def _series(values: Sequence[float]) -> list[float]:
    return [rounded(value) for value in values]


def _entry(baseline: Baseline) -> dict[str, Any]:
    reason = {"update_reason": baseline.update_reason} if baseline.update_reason else {}
    return {
        **reason,
        "environment": baseline.environment.plain,
        "history": list(baseline.history),
        "key": baseline.key.plain,
        "launches": [
            {
                "joules_per_token": _series(launch.joules_per_token),
                "launch_id": launch.launch_id,
                "power_cap_share": None
                if launch.power_cap_share is None
                else rounded(launch.power_cap_share),
                "power_w": _series(launch.power_w),
                "sm_clock_mhz": launch.sm_clock_mhz,
                "static_power_w": None
                if launch.static_power_w is None
                else rounded(launch.static_power_w),
                "temperature_c": launch.temperature_c,
                **({"tokens": list(launch.tokens)} if launch.tokens else {}),
                "tokens_per_s": _series(launch.tokens_per_s),
            }
            for launch in baseline.launches
        ],
        "summary": baseline.summary,
    }


def _baseline(entry: Mapping[str, Any], gpu_name: str) -> Baseline:
    key = CellKey.from_plain(entry["key"])
    environment = Fingerprint.from_plain(entry["environment"])
    launches = tuple(map(_launch_values, untrusted.objects(entry["launches"], "launches")))
    if len(launches) < MIN_LAUNCHES:
        raise Malformed(f"an entry has {len(launches)} launches")
    history = untrusted.objects(entry["history"], "history")
    for earlier in history:
        for figure in ("joules_per_token", "power_w", "tokens_per_s"):
            untrusted.number(earlier[figure], f"{figure} in its history", *FIGURES)
        untrusted.integer(earlier["launches"], "launches in its history", 1, 10**6)
        for text in ("date", "vllm"):
            if earlier.get(text) is not None:
                untrusted.short(earlier[text], f"{text} in its history")
    for reason in (
        entry.get("update_reason"),
        *(earlier.get("update_reason") for earlier in history),
    ):
        if reason is not None:
            untrusted.text(reason, "an update_reason")
    return Baseline(
        key, gpu_name, launches, environment, tuple(history), entry.get("update_reason")
    )


def _launch_values(launch: Mapping[str, Any]) -> LaunchValues:
    launch_id = untrusted.name(launch["launch_id"], "launch_id")
    series: dict[str, Any] = {
        name: figures(launch[name], f"{name} of launch {launch_id}")
        for name in ("joules_per_token", "power_w", "tokens_per_s")
    }
    if launch.get("tokens"):
        series["tokens"] = tokens_of_cycles(launch["tokens"], launch_id)
    if len(set(map(len, series.values()))) > 1:
        raise Malformed(f"the series of launch {launch_id} differ in length")
    others = {name: value for name, value in launch.items() if name not in series}
    for name, value in others.items():
        if name != "launch_id" and value is not None:
            untrusted.number(value, f"{name} of launch {launch_id}", -FIGURES[1], FIGURES[1])
    return LaunchValues(**others, **series)


def figures(values: Any, what: str) -> tuple[float, ...]:
    """A launch's values per cycle, as files keep them: at least one, all positive.

    Raises:
        Malformed: they are none; `what` names them.
    """
    if not isinstance(values, list) or not values:
        raise Malformed(f"{what} is no list of figures")
    return tuple(untrusted.number(value, f"a value in {what}", *FIGURES) for value in values)


def tokens_of_cycles(values: Any, launch_id: str) -> tuple[int, ...]:
    """The tokens of a launch's cycles where they differ, as files keep them.

    Raises:
        Malformed: they are none.
    """
    if not isinstance(values, list):
        raise Malformed(f"tokens of launch {launch_id} are no list")
    return tuple(
        untrusted.integer(value, f"a value in tokens of launch {launch_id}", 1, 10**12)
        for value in values
    )


def _dump(content: Any) -> str:
    """JSON with sorted keys, one per line; lists of numbers stay on one line."""

    def render(value: Any, indent: str) -> str:
        inner = indent + " "
        if isinstance(value, Mapping) and value:
            items = (
                f"{inner}{json.dumps(str(name))}: {render(item, inner)}"
                for name, item in sorted(value.items())
            )
            return "{\n" + ",\n".join(items) + f"\n{indent}}}"
        if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
            return (
                "[\n"
                + ",\n".join(f"{inner}{render(item, inner)}" for item in value)
                + f"\n{indent}]"
            )
        return json.dumps(value, allow_nan=False)

    return render(content, "") + "\n"
