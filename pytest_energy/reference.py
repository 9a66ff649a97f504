"""The reference engine: whether it is interleaved, or stands in for baselines that fit no GPU here.

A baseline holds for the GPU that it was measured on. On another GPU its engine can be launched
instead, for the launches there are what a baseline would hold.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.key import CellKey
from pytest_energy.engines.installed import Installed, installed
from pytest_energy.errors import EnergyError, UsageError
from pytest_energy.launch.load import Progress
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.recording.recording import Recording
from pytest_energy.report import gpu_chart
from pytest_energy.settings import LaunchSettings, Settings
from pytest_energy.store import gpu_cache
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Store
from pytest_energy.store.gpu_cache import Cached, GpuCache
from pytest_energy.store.gpu_launches import GpuLaunches, Machine

MOST_LAUNCHES = 5  # of the reference in one run


@dataclass(frozen=True)
class Pin:
    """The engine that is the reference.

    Attributes:
        vllm: its version.
        engine_args: settings under test.
    """

    vllm: str | None
    engine_args: Mapping[str, Any]

    @classmethod
    def of(cls, baseline: Baseline) -> "Pin":
        """That of a baseline."""
        fingerprint = baseline.environment
        return cls(_public(fingerprint.vllm), fingerprint.engine_args_under_test)

    def is_of(self, baseline: Baseline) -> bool:
        """Whether a baseline holds launches of this engine."""
        return Pin.of(baseline) == self


def _public(version: str | None) -> str | None:
    """A version as metadata and module both give it: of its local part only the commit.

    As many commits after a tag, two branches have the same version but for that.
    """
    public, _, local = (version or "").partition("+")
    commit = re.search(r"\bg[0-9a-f]{7,}\b", local)
    return version and (f"{public}+{commit[0]}" if commit else public)


def pinned(settings: Settings) -> Pin | None:
    """The engine that the user names as the reference; None if that is left to the store.

    Raises:
        UsageError: the interpreter cannot be run.
    """
    if settings.reference is None:
        return None
    found = installed(settings.reference.python)
    return Pin(_public(found.vllm), settings.reference.engine_args_under_test)


def resolved(settings: Settings, cells: Sequence[Cell], store: Store) -> tuple[Settings, str]:
    """The settings with "auto" made up to "never" if the reference may stand in for baselines.

    It may if it is the engine of the newest baseline of each cell, and none is bound by the host,
    whose pace changes from hour to hour.

    Returns:
        The settings, and in words why they interleave; empty if the user said so.
    """
    if settings.reference is None or settings.interleave != "auto" or settings.update:
        return settings, ""
    try:
        # Cells that differ in settings alone have one name.
        newest = [(cell.name, store.newest(cell.key)) for cell in cells]
        why = next((f"no baseline is of {name}" for name, b in newest if b is None), "")
        why = why or _unfit(pinned(settings), newest)
    except EnergyError as error:
        why = str(error).partition("\n")[0].removesuffix(".")
    return (settings, why) if why else (replace(settings, interleave="never"), "")


def _unfit(pin: Pin | None, newest: Sequence[tuple[str, Baseline | None]]) -> str:
    """Why the reference may not stand in for the cells' baselines; empty if it may."""
    for name, baseline in newest:
        assert baseline is not None
        if pin != Pin.of(baseline):
            return f"the baseline of {name} is of vLLM {baseline.environment.vllm}"
        if baseline.is_host_bound:
            return f"{name} is host-bound"
    return ""


def may_install(key: CellKey, on: Fingerprint, store: Store) -> bool:
    """Whether the engine to install is known, and is that of the cell's baseline on these GPUs."""
    newest, stored = store.newest(key), store.find(key, on.gpu_name, on.gpus)
    return newest is not None and (stored is None or Pin.of(newest).is_of(stored))


def _newest_of_all(cells: Sequence[Cell], store: Store) -> Baseline:
    """A baseline of the engine that the newest baselines of all cells that have one are of."""
    newest = (store.newest(cell.key) for cell in cells)
    baselines = [baseline for baseline in newest if baseline is not None]
    pins = [Pin.of(baseline) for baseline in baselines]
    if any(pin != pins[0] for pin in pins):
        versions = ", ".join(sorted({str(pin.vllm) for pin in pins}))
        raise UsageError(
            f"--energy-reference-install: the baselines are of several engines (vLLM {versions}).\n"
            "Select cells of one of them with -k, or update the others."
        )
    return baselines[0]


def launch_settings(
    settings: Settings, cells: Sequence[Cell], store: Store, progress: Progress
) -> tuple[LaunchSettings, BinaryIO | None]:
    """How the reference is launched; installs it if that was asked for.

    Returns:
        It, and a lock on what was installed: as long as the file is open nobody changes it.

    Raises:
        UsageError: it could not be installed.
        BaselineError: a file of the store is damaged.
        OSError: the folder of environments cannot be used.
    """
    if settings.reference is not None:
        return settings.reference, None
    pins = _newest_of_all(cells, store).environment
    progress(f"installing the reference: vLLM {pins.vllm}")
    python, lock = _install(pins)
    arguments = pins.engine_args_under_test
    return replace(settings.launch, python=str(python), engine_args_under_test=arguments), lock


def _install(pins: Fingerprint) -> tuple[Path, BinaryIO]:
    """The interpreter of an environment with the packages of a fingerprint, and a lock on it."""
    from pytest_energy.engines import environment  # needs locks, which not all platforms have

    if not pins.packages or not pins.python:
        raise UsageError(
            "--energy-reference-install: the baseline does not say which packages it was made with."
            "\nName the reference's interpreter instead: --energy-reference-python PATH"
        )
    lines = [f"{name}=={version}" for name, version in sorted(pins.packages.items())]
    version = ".".join(pins.python.split(".")[:2])
    try:
        requirements = environment.write_requirements(lines)
        resolved = environment.resolve(requirements, version, overrides=True)
        return environment.make(requirements, version, resolved, overrides=True)
    except (UsageError, OSError) as error:
        raise UsageError(
            f"--energy-reference-install: {error}\n"
            "Or name the reference's interpreter: --energy-reference-python PATH"
        ) from None


@dataclass
class StandIn:
    """The reference engine where it stands in for baselines.

    Args:
        make: gives how it is launched, and a lock on its environment; may take minutes, and is
            called when needed.
        cache: launches that earlier runs made of it here.
        progress: called with a few words on what is going on.
    """

    make: Callable[[], tuple[LaunchSettings, BinaryIO | None]]
    cache: GpuCache
    progress: Progress
    _made: dict[tuple[str, ...], set[str]] = field(default_factory=dict)
    _known: dict[tuple[str, ...], GpuLaunches] = field(default_factory=dict)
    _outdated: dict[tuple[str, ...], dict[CellKey, Baseline]] = field(default_factory=dict)
    _lock: BinaryIO | None = None

    @cached_property
    def engine(self) -> LaunchSettings:
        """How it is launched."""
        made, self._lock = self.make()
        return made

    def close(self) -> None:
        """Let other runs change its environment."""
        if self._lock is not None:
            self._lock.close()

    @cached_property
    def _installed(self) -> Installed:
        return installed(self.engine.python)

    def is_out_of_band(self, on: Fingerprint) -> bool:
        """Whether the GPUs are not what they were, so that no earlier launch stands for one now."""
        return self._launches(on.gpus).is_out(Machine.of(on))

    def set_aside(self, baseline: Baseline, on: Fingerprint) -> str:
        """Why a baseline of these GPUs stands for no launch made now; empty if it does."""
        was, machine = Machine.of(baseline.environment), Machine.of(on)
        if was.has_become(machine):
            self._outdated.setdefault(on.gpus, {})[baseline.key] = baseline
            changed = was.differences(machine)
            return f"the baseline is from before the machine changed ({changed}), and is set aside"
        if self.is_out_of_band(on):
            state = gpu_chart.state(self._launches(on.gpus), machine)
            return f"the baseline is set aside, since the GPU is {state}"
        return ""

    def cached(self, key: CellKey, on: Fingerprint) -> list[Cached]:
        """Launches of a cell that were made on these GPUs, newest first.

        Raises:
            EnergyError: the reference cannot be launched.
        """
        arguments = self.engine.engine_args_under_test
        machine, launches = Machine.of(on), self._launches(on.gpus)
        if launches.is_out(machine):
            state = gpu_chart.state(launches, machine)
            self.progress(f"{gpu_chart.named(on.gpus)} {state}: the reference is measured anew")
            return []
        return self.cache.find(key, on, self._installed, arguments)

    def keep(self, *recordings: Recording) -> None:
        """Keep launches for later runs; that they cannot be kept is said, and stops nothing."""
        for recorded in recordings:
            gpus = recorded.environment.gpus
            self._known.pop(gpus, None)
            self._made.setdefault(gpus, set()).add(recorded.launch_id)
            try:
                self.cache.add(recorded)
            except OSError as error:
                self.progress(f"the reference's launch is not kept for later runs: {error}")

    def report(self) -> None:
        """Say what the launches since the last report show of the machine."""
        for gpus, launch_ids in self._made.items():
            outdated = [*self._outdated.get(gpus, {}).values()]
            for text in gpu_chart.news(self._launches(gpus), launch_ids, outdated):
                self.progress(f"{gpu_chart.named(gpus)}: {text}")
        self._made.clear()

    def _launches(self, gpus: tuple[str, ...]) -> GpuLaunches:
        """Those in the cache, read once until this run adds to them."""
        if gpus not in self._known:
            self._known[gpus] = self.cache.launches(gpus)
        return self._known[gpus]


def stand_in(
    settings: Settings, cells: Sequence[Cell], store: Store, progress: Progress
) -> tuple[Callable[[Baseline], bool], StandIn]:
    """Which baselines may be the reference, and the reference that stands in for them.

    Raises:
        UsageError: its interpreter cannot be run.
    """
    pin = pinned(settings)
    return (pin.is_of if pin else lambda baseline: True), StandIn(
        lambda: launch_settings(settings, cells, store, progress),
        gpu_cache.existing(settings.gpu_cache),
        progress,
    )
