"""Launches of reference engines that this machine keeps for its own GPUs, outside the repository.

A folder per GPU (or set of GPUs) and cell, a recording per launch. What a run takes from here is
read like any recording of others: a file that is damaged, of another cell, GPU, driver, power limit
or engine, or too old costs a launch, and never a verdict. So does a GPU that has left the band of
its earlier launches (gpu_launches.py).
"""

import contextlib
import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_energy.cell.key import CellKey, slugify
from pytest_energy.engines.installed import Installed
from pytest_energy.errors import RecordingError
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.recording import recording_file
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.recording.folder import SUFFIX
from pytest_energy.recording.recording import Recording
from pytest_energy.safety.files import user_cache, visible
from pytest_energy.store import gpu_launches
from pytest_energy.store.gpu_launches import GpuLaunches, Machine

KEPT_DAYS = 30
MOST_LAUNCHES = 5  # of a cell; older ones are removed
# What must be alike, beside the GPUs and the engine.
_MACHINE = ("gpu_name", "gpus", "driver", "power_limit_w", "ecc", "energy_scope")
_HOST = ("cpu_model", "kernel")


def default_folder() -> Path:
    """Where launches are kept if nothing else is said."""
    return user_cache() / "pytest-energy" / "gpus"


def existing(folder: Path | None) -> "GpuCache":
    """The cache as it is now, in this folder or where launches are kept if nothing else is said."""
    return GpuCache(folder or default_folder(), datetime.datetime.now(datetime.UTC))


@dataclass(frozen=True)
class Cached:
    """A launch that was kept.

    Attributes:
        recording, measured: the launch.
        path: of its file.
    """

    recording: Recording
    measured: Measurement
    path: Path


@dataclass(frozen=True)
class GpuCache:
    """The launches kept below one folder.

    Attributes:
        folder: made when the first is kept.
        now: the time by which they are too old.
    """

    folder: Path
    now: datetime.datetime

    def find(
        self, key: CellKey, on: Fingerprint, engine: Installed, engine_args: Mapping[str, Any]
    ) -> list[Cached]:
        """The launches of a cell that stand for a launch of the engine made now; newest first.

        Args:
            key: of the cell.
            on: of a launch made now, which tells the GPUs and what else must be alike.
            engine, engine_args: of the reference: its environment and its settings under test.
        """
        if engine.from_folder:
            return []  # the same version may be another engine by now
        launches, machine = self.launches(on.gpus), Machine.of(on)
        if launches.is_out(machine):
            return []
        # Without its line a launch may be older than an alarm that is lost with the line.
        known = {line.launch_id for line in launches.lines if line.cell == key.slug}
        alarm = launches.last_alarm(machine)
        found = []
        for path in self._files(key, on):
            with contextlib.suppress(RecordingError):
                recorded = recording_file.read(path)
                kept = Cached(recorded, measure(recorded), path)
                if (
                    kept.measured.launch_id in known
                    and self._stands_for(kept, key, on, engine, engine_args)
                    and (alarm is None or age_days(kept.measured.environment, alarm) < 0)
                ):
                    found.append(kept)
        by_id = {kept.measured.launch_id: kept for kept in found}
        return sorted(by_id.values(), key=lambda kept: kept.measured.launch_id, reverse=True)

    def launches(self, gpus: Sequence[str]) -> GpuLaunches:
        """What is known of the launches on GPUs (UUIDs), beyond those that are kept whole."""
        return gpu_launches.read(self._gpu_folder(gpus), sorted(gpus), self.now)

    def all_launches(self) -> list[GpuLaunches]:
        """The same for each GPU, or set of GPUs, that there is a line of."""
        with contextlib.suppress(OSError):
            paths = visible(self.folder, f"*/{gpu_launches.NAME}")
            found = [gpu_launches.read(path.parent, None, self.now) for path in paths]
            return [launches for launches in found if launches.lines]
        return []

    def damaged(self) -> dict[str, int]:
        """Files of launches with damaged lines, relative to the cache, and how many."""
        with contextlib.suppress(OSError):
            paths = visible(self.folder, f"*/{gpu_launches.NAME}")
            found = {path: gpu_launches.read(path.parent, None, self.now).damaged for path in paths}
            return {
                str(p.relative_to(self.folder)): number for p, number in found.items() if number
            }
        return {}

    def add(self, recorded: Recording) -> None:
        """Keep a launch if it is sound, in place of the oldest.

        Raises:
            OSError: it could not be written.
        """
        measured = measure(recorded)
        if not measured.valid or recorded.co_resident is not None or recorded.key.is_idle:
            return
        if not self.folder.is_absolute():
            return  # the user has no home, and nothing is written where a run happens to start
        folder = self._folder(recorded.key, recorded.environment)
        made = folder / f"{recorded.launch_id}{SUFFIX}"
        recording_file.write(recorded, made)
        files = self._files(recorded.key, recorded.environment)
        # What a clock that was ahead left would take the place of every launch from now on.
        latest = f"{self.now + gpu_launches.AHEAD:%Y%m%dT%H%M%S}"
        ahead = [path for path in files if path.name > latest]
        others = [path for path in files if path.name <= latest]
        for path in (*others[:-MOST_LAUNCHES], *ahead):
            path.unlink(missing_ok=True)  # another run may have removed it
        gpu_launches.append(self._gpu_folder(measured.environment.gpus), measured, self.now)

    def _files(self, key: CellKey, on: Fingerprint) -> list[Path]:
        with contextlib.suppress(OSError):
            return visible(self._folder(key, on), f"*{SUFFIX}")
        return []

    def _folder(self, key: CellKey, on: Fingerprint) -> Path:
        return self._gpu_folder(on.gpus) / key.slug

    def _gpu_folder(self, gpus: Sequence[str]) -> Path:
        return self.folder / slugify("+".join(sorted(gpus)))

    def _stands_for(
        self,
        kept: Cached,
        key: CellKey,
        on: Fingerprint,
        engine: Installed,
        engine_args: Mapping[str, Any],
    ) -> bool:
        measured, environment = kept.measured, kept.measured.environment
        return (
            measured.valid
            and kept.recording.co_resident is None
            and measured.key == key
            and 0 <= age_days(environment, self.now) <= KEPT_DAYS
            and all(getattr(environment, name) == getattr(on, name) for name in _MACHINE)
            and all(getattr(environment.host, name) == getattr(on.host, name) for name in _HOST)
            and (environment.python, environment.packages) == (engine.python, engine.packages)
            and environment.engine_args_under_test == engine_args
            # What is unknown (None) equals nothing: a launch is cheaper than a wrong verdict.
            and environment.vllm_variables == engine.vllm_variables
        )


def age_days(environment: Fingerprint, now: datetime.datetime) -> float:
    """How long ago a launch was made; infinite if that is unknown."""
    try:
        made = datetime.datetime.fromisoformat(environment.date or "")
        return (now - made).total_seconds() / 86400
    except (ValueError, TypeError):
        return math.inf
