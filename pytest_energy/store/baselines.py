"""The store of baselines: a file per model and GPU, changed only by an update."""

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pytest_energy.cell.key import CellKey, slugify
from pytest_energy.errors import BaselineError
from pytest_energy.measure.measurement import Measurement, first_invalid
from pytest_energy.measure.metric import metrics_of
from pytest_energy.recording.fingerprint import differing_engines
from pytest_energy.safety.files import exclusively, write_atomically
from pytest_energy.safety.untrusted import Malformed
from pytest_energy.settings import MIN_LAUNCHES
from pytest_energy.store import baseline_file, files
from pytest_energy.store.baseline import Baseline, EarlierBaseline
from pytest_energy.store.baseline_file import Entry
from pytest_energy.store.drift import Drift, drift
from pytest_energy.store.gpu_launches import Machine


@dataclass(frozen=True)
class NearMiss:
    """Why a baseline of the same model and batch size does not fit.

    `other_hardware` if only the GPU differs.
    """

    reason: str
    other_hardware: bool


@dataclass(frozen=True)
class Update:
    """What an update did to one cell.

    Attributes:
        path: of the file.
        done: "created", "changed", or "unchanged" if the baseline held the very launches.
        change: relative, of J/token or power at idle; None if the cell is new.
    """

    path: Path
    done: Literal["created", "changed", "unchanged"]
    change: float | None


def other_gpus(uuids: Sequence[str]) -> str:
    """What messages call GPUs of the same model that are not those measured."""
    kind = "another GPU" if len(uuids) < 2 else "other GPUs"
    return f"{kind}, {' and '.join(uuids) or 'of unknown UUID'}"


_Wanted = tuple[CellKey, str, tuple[str, ...]]  # cell, GPU model, UUIDs


@dataclass(frozen=True)
class _Place:
    """Where an entry stands."""

    path: Path
    name: str
    entry: Entry

    def __str__(self) -> str:
        return f"{self.path} ({self.name})"


class Store:
    """The baseline files below one folder; `update` alone writes.

    GPUs of one model differ by more than any tolerance (docs/measurements.md), so a cell has a
    baseline for each GPU, or set of GPUs, that it was measured on.

    Raises (all methods):
        BaselineError: a file is damaged, or has another schema version, or two hold a baseline of
            the same cell and GPUs; the message names them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listing = files.Listing(folder, "*/*.json", BaselineError)
        self._files: dict[Path, dict[str, Entry]] = {}

    def find(self, key: CellKey, gpu_name: str, on: Sequence[str]) -> Baseline | None:
        """The baseline of this cell on these GPUs (UUIDs); None if there is none."""
        found = self._places().get((key, gpu_name, tuple(sorted(on))))
        return found.entry.baseline if found else None

    def newest(self, key: CellKey) -> Baseline | None:
        """The baseline of this cell that was measured last, on whichever GPU."""
        found = [baseline for baseline in self.entries() if baseline.key == key]
        return max(found, key=lambda baseline: baseline.environment.date or "", default=None)

    def entries(self) -> list[Baseline]:
        """All baselines, in the order of the files."""
        return [place.entry.baseline for place in self._places().values()]

    def _places(self) -> dict[_Wanted, _Place]:
        """All entries by what `find` looks for, whatever their files are called.

        Raises:
            BaselineError: two would be found.
        """
        places: dict[_Wanted, _Place] = {}
        for path in self._listing.paths():
            for name, entry in self._read(path).items():
                place, stored = _Place(path, name, entry), entry.baseline
                wanted = stored.key, stored.gpu_name, stored.gpus
                other = places.setdefault(wanted, place)
                if other is not place:
                    what = f"the baseline of {stored.key.name} on {' and '.join(stored.gpus)}"
                    raise BaselineError(files.twice(what, str(other), str(place)))
        return places

    def near_misses(self, key: CellKey, gpu_name: str, on: Sequence[str] = ()) -> list[NearMiss]:
        """Why baselines of the same model and batch size do not fit: other GPUs or settings.

        The one of these GPUs (UUIDs, `on`) does not if its engine is not the reference.
        """
        misses = []
        for baseline in self.entries():
            if (baseline.key.model, baseline.key.batch_size) != (key.model, key.batch_size):
                continue
            elsewhere = baseline.gpu_name != gpu_name
            if baseline.key != key:
                if not elsewhere:
                    differing = ", ".join(baseline.key.differences(key))
                    misses.append(NearMiss(f"one differs in {differing}", other_hardware=False))
            elif not elsewhere and baseline.gpus == tuple(sorted(on)):
                of = f"vLLM {baseline.environment.vllm}, which is not the reference"
                misses.append(NearMiss(f"the one of this GPU is of {of}", other_hardware=False))
            else:
                on = f"another GPU model, {baseline.gpu_name}"
                on = on if elsewhere else other_gpus(baseline.gpus)
                on += f" (vLLM {baseline.environment.vllm})"
                misses.append(NearMiss(f"one was measured on {on}", other_hardware=True))
        return misses

    def update(
        self,
        measurements: Sequence[Measurement],
        tolerance: Mapping[str, float],
        reason: str | None = None,
        reference: Sequence[Measurement] = (),
    ) -> Update:
        """Make `measurements`, the launches of one cell, its baseline.

        The baseline before it goes into the history, unless it is of the very launches.

        Args:
            measurements: one per launch.
            tolerance: relative, by metric (its value): a loss against the
                best or the oldest engine before that reaches it needs a reason (drift.py).
            reason: why such a loss is accepted.
            reference: launches of the reference. They begin the history if there is none, and link
                these GPUs with those that have run it; those on other GPUs, or from before the
                machine changed, do not count.

        Raises:
            BaselineError: fewer than three launches, a launch twice, an invalid measurement,
                launches of two engines or GPUs, or a loss without a reason.
            OSError: nothing was written.
        """
        launches = {measurement.launch_id: measurement for measurement in measurements}
        refusal = first_invalid(measurements) or _not_one_baseline(list(launches.values()))
        if refusal:
            raise BaselineError(refusal)
        with exclusively(self.folder):
            self._files.clear()  # other processes may have changed them
            self._listing.forget()
            measured = [m for _, m in sorted(launches.items())]
            return self._replace(measured, tolerance, reason, _alike(reference, measured[0]))

    def _replace(
        self,
        launches: Sequence[Measurement],
        tolerance: Mapping[str, float],
        reason: str | None,
        reference: Sequence[Measurement],
    ) -> Update:
        key, environment = launches[0].key, launches[0].environment
        previous = self.find(key, environment.gpu_name, environment.gpus)
        history: tuple[EarlierBaseline, ...] = ()
        if previous:
            history = (*previous.history, previous.as_history)
        elif reference:
            history = (Baseline.of(reference).as_history,)
        baseline = Baseline.of(launches, history)
        path = self._path(baseline)
        if previous and baseline_file.hold_the_same(previous, baseline):
            return Update(path, "unchanged", change=0.0)
        elsewhere = [
            other
            for other in self.entries()
            if (other.key, other.gpu_name) == (key, baseline.gpu_name)
            and other.gpus != baseline.gpus
        ]
        found = drift(baseline, elsewhere, tolerance)
        held_up = _words(found._replace(unlinked=()) if previous else found, baseline)
        if held_up and reason is None:
            raise BaselineError(held_up)
        if held_up:
            baseline = replace(baseline, update_reason=reason)
        self._write(path, baseline)
        if previous is None:
            return Update(path, "created", change=None)
        metric = metrics_of(key)[0].value
        change = getattr(baseline.summary, metric) / getattr(previous.summary, metric) - 1
        return Update(path, "changed", change)

    def _path(self, baseline: Baseline) -> Path:
        """The file for a baseline: where it stands, else that of its GPU, else a new one.

        Runners whose GPUs have files of their own never change the same file.
        """
        places = self._places()
        found = places.get((baseline.key, baseline.gpu_name, baseline.gpus))
        if found:
            return found.path
        of_file = baseline.gpu_name, baseline.key.model, baseline.gpus
        taken = set()
        for place in places.values():
            stored = place.entry.baseline
            if (stored.gpu_name, stored.key.model, stored.gpus) == of_file:
                return place.path
            taken.add(place.path)
        folder, stem = self.folder / slugify(baseline.gpu_name), slugify(baseline.key.model)
        stem += "".join(f".{slugify(uuid[:12])}" for uuid in baseline.gpus)
        # Of models whose names differ in capitals or punctuation alone, the later has a number.
        numbered = (folder / f"{stem}-{number}.json" for number in itertools.count(2))
        paths = itertools.chain([folder / f"{stem}.json"], numbered)
        return next(path for path in paths if path not in taken)

    def _read(self, path: Path) -> dict[str, Entry]:
        if path not in self._files:
            self._files[path] = baseline_file.read(path)
        return self._files[path]

    def _write(self, path: Path, baseline: Baseline) -> None:
        self._listing.check_replaceable(path)
        stored = self._read(path) if path.exists() else {}
        place = baseline.key, baseline.gpus
        kept = {
            name: entry
            for name, entry in stored.items()
            if (entry.key, entry.environment.gpus) != place
        }
        kept[_entry_name(baseline, kept)] = Entry.of(baseline)
        content = baseline_file.dump(kept)
        try:
            written = baseline_file.parse(content)
        except Malformed as error:
            raise BaselineError(
                f"the baseline could not be read back: {error}. Nothing was written"
            ) from None
        write_atomically(path, content)
        self._files[path] = written
        self._listing.forget()


def _words(found: Drift, baseline: Baseline) -> str:
    """Why an update is refused without a reason; empty if it is not."""
    why = '--energy-update-reason "..."'
    if found.losses:
        return (
            f"the baseline would drift: {'; '.join(found.losses)}.\n"
            f"If that is wanted, say why; the reason is kept with the baseline: {why}"
        )
    if found.unlinked:
        others = ", ".join(found.unlinked)
        on = baseline.environment
        engine = " ".join((f"vLLM {on.vllm}", *on.settings_under_test))
        return (
            "whether the baseline would drift is unknown: the store has neither this engine "
            f"({engine}) nor this GPU; other GPUs have run vLLM {others}.\n"
            "Measure that here, too: --energy-reference-python /its/venv/bin/python (recordings: "
            f"--energy-reference-replay DIR). Or say why it need not be known: {why}"
        )
    return ""


def _alike(reference: Sequence[Measurement], measured: Measurement) -> list[Measurement]:
    """The launches of the reference that were made as those that were measured."""
    now = measured.environment
    return [
        m
        for m in reference
        if m.valid and not m.co_resident and (m.key, m.environment.gpus) == (measured.key, now.gpus)
        and not Machine.of(m.environment).has_become(Machine.of(now))
    ]  # fmt: skip


def _not_one_baseline(launches: Sequence[Measurement]) -> str | None:
    """Why these launches do not make a baseline; None if they do."""
    if len(launches) < MIN_LAUNCHES:
        return (
            f"a baseline needs at least {MIN_LAUNCHES} launches, but there "
            f"{'is' if len(launches) == 1 else 'are'} only {len(launches)}, too few to tell how "
            "much launches differ.\n"
            f"Measure with --energy-launches {MIN_LAUNCHES}, or give several recordings: "
            "--energy-replay A B C"
        )
    if any(launch.co_resident for launch in launches):
        return (
            "these launches were measured with another engine co-resident on the GPU, and a "
            "baseline is measured without one.\nMeasure again without --energy-interleave "
            "periods; with --energy-update, launches alternate on their own."
        )
    differing = differing_engines([launch.environment for launch in launches])
    if differing:
        return f"the launches differ in {differing}, so they do not make one baseline"
    return None


def _entry_name(baseline: Baseline, taken: Container[str]) -> str:
    key = baseline.key
    if key.is_idle:
        return _free(f"{key.engine} idle", baseline, taken)
    tokens_in, tokens_out = (
        length if isinstance(length, int | str) else "lognormal"
        for length in (key.workload.input_tokens, key.workload.output_tokens)
    )
    shared = key.workload.shared_prefix_tokens
    stem = f"{key.engine} in={tokens_in}" + (f" shared={shared}" if shared else "")
    stem += f" out={tokens_out} bs={key.batch_size:04d}"
    return _free(stem, baseline, taken)


def _free(stem: str, baseline: Baseline, taken: Container[str]) -> str:
    """A name that no other entry has."""
    stem += "".join(f" {uuid[:12]}" for uuid in baseline.gpus)
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem} ({count})"
    return name
