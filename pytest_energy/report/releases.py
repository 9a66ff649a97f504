"""vLLM releases side by side: figures, ratios within each GPU, verdicts.

GPUs of one model differ by more than releases do, so a release is compared with the reference on
the same GPU, and the log ratios are averaged over the GPUs that have launched both. The deviation
of a launch is pooled over all releases and GPUs of a cell, the store's launches among them, and
moderated by the other cells (store/noise_pooling.py). Where three or more GPUs have launched
several releases, what counts instead is how ratios scatter over GPUs, launches included: what log
figure = GPU + release leaves, be the blocks complete or not (Yates 1936, Ann. Eugen. 7:121). The
intervals of all ratios of one quantity in a table hold together with 95 % (Šidák 1967, J. Am.
Stat. Assoc. 62:626, whose inequality allows for a reference that they share). Those of launches
alone say nothing of other GPUs.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from packaging.version import InvalidVersion, Version

from pytest_energy.cell.key import CellKey
from pytest_energy.errors import ResultsError
from pytest_energy.measure import measurement
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import CONFIDENCE
from pytest_energy.recording import recording_file
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.report import (
    prefix_cache,
    release_names,
    release_ratio,
    release_steps,
    release_weights,
)
from pytest_energy.report.gpu_chart import named
from pytest_energy.report.release_noise import QUANTITIES, Gpus, Launches, Stored
from pytest_energy.report.release_ratio import Varies
from pytest_energy.report.release_steps import Step, chains
from pytest_energy.report.release_weights import UnderWeights
from pytest_energy.report.results import Interval, engine_name
from pytest_energy.report.words import count, without_size
from pytest_energy.store import gpu_launches
from pytest_energy.store.noise import NoiseStore


@dataclass(frozen=True)
class Machine:
    """What launches of one table have in common: the GPUs, and what their energy is of.

    Attributes:
        gpu_name: their model.
        gpus: how many.
        power_limit: of each.
        energy_scope: as in `Fingerprint`.
    """

    gpu_name: str
    gpus: int
    power_limit: str
    energy_scope: str | None

    @classmethod
    def of(cls, on: Fingerprint) -> "Machine":
        """That of a launch."""
        return cls(on.gpu_name, len(on.gpus), on.power_limit, on.energy_scope)

    def __str__(self) -> str:
        number = f"{self.gpus} × " if self.gpus > 1 else ""
        scope = f", energy of the whole {self.energy_scope}" if self.energy_scope else ""
        return f"{number}{self.gpu_name}, {self.power_limit}{scope}"


@dataclass(frozen=True)
class Figures:
    """One release in one cell.

    Attributes:
        by_gpus: its valid launches.
        on: GPUs that `values` are of: those that have launched all releases, if there are any, so
            that GPUs do not pass for releases; if `by_ratio`, those that have launched both.
        values: by quantity, geometric means over the launches of a GPU, then over GPUs, with 95 %
            intervals.
        ratios: by quantity, release ÷ reference with intervals that hold together; empty for the
            reference, and if no GPU has launched both.
        ratio_gpus: how many GPUs have launched both.
        of_blocks: whether the intervals of ratios are by how these scatter over GPUs.
        by_ratio: whether `values` are the reference's times `ratios`, as it has other GPUs.
        noise_assumed: whether the intervals of J/token rest on an assumption.
    """

    cell: CellKey
    release: str
    by_gpus: Mapping[Gpus, Sequence[Measurement]]
    on: tuple[Gpus, ...]
    values: Mapping[str, Interval]
    ratios: Mapping[str, Interval]
    ratio_gpus: int
    of_blocks: bool
    by_ratio: bool
    noise_assumed: bool

    @property
    def shown(self) -> list[Measurement]:
        """The launches that `values` are of."""
        return [m for gpus in self.on for m in self.by_gpus[gpus]]


@dataclass(frozen=True)
class Table:
    """Releases on GPUs of one kind.

    Attributes:
        releases: in the order of their versions.
        figures: by cell, and in the order of releases.
        steps: by cell and GPU, in the order of releases.
        over_gpus: the same over the GPUs that launched both, where three or more did.
        comparisons: verdicts that share the error level; over GPUs, where there are such.
        under_weights: whether ratios carry over, of cells that differ in their weights alone.
        notes: invalid launches that are left out, GPUs whose machine changed, and prefix caches
            that served nothing.
    """

    machine: Machine
    reference: str
    releases: tuple[str, ...]
    figures: tuple[Figures, ...]
    steps: tuple[Step, ...]
    over_gpus: tuple[Step, ...]
    comparisons: int
    under_weights: tuple[UnderWeights, ...]
    notes: tuple[str, ...] = ()

    @property
    def gpus(self) -> list[Gpus]:
        """Those that it is averaged over."""
        return sorted({gpus for figures in self.figures for gpus in figures.by_gpus})

    @property
    def weights(self) -> set[str]:
        """The kinds that its cells are of."""
        return {figures.cell.weights for figures in self.figures}

    @cached_property
    def _apart(self) -> Mapping[CellKey, tuple[str, ...]]:
        return release_names.apart(dict.fromkeys(figures.cell for figures in self.figures))

    def name(self, cell: CellKey) -> str:
        """Of one of its cells, with its weights if others are of other ones, and with what else
        tells it apart.
        """
        weights = [f"weights={cell.weights}"] if cell.weights and len(self.weights) > 1 else []
        return cell.named(*weights, *self._apart[cell])

    def name_without_weights(self, cell: CellKey) -> str:
        """The same beside cells that differ in their weights alone."""
        return cell.named(*self._apart[cell])

    def in_role(self, role: str) -> dict[tuple[CellKey, str], list[Step]]:
        """By cell and release the steps from the release with this role, one per GPU."""
        return self._by_place(role, self.steps)

    def judged(self, role: str) -> dict[tuple[CellKey, str], list[Step]]:
        """The same, but one over the GPUs if there is one."""
        return self._by_place(role, self.steps) | self._by_place(role, self.over_gpus)

    def _by_place(self, role: str, steps: Sequence[Step]) -> dict[tuple[CellKey, str], list[Step]]:
        found: dict[tuple[CellKey, str], list[Step]] = {
            (figures.cell, figures.release): [] for figures in self.figures
        }
        for step in steps:
            if role in step.roles:
                found[step.cell, step.release].append(step)
        return {place: steps for place, steps in found.items() if steps}


@dataclass
class _Place:
    cells: dict[CellKey, Launches] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    interleaved: set[str] = field(default_factory=set)
    idle: set[str] = field(default_factory=set)

    @property
    def notes(self) -> Iterator[str]:
        yield from self.left_out
        if self.interleaved:
            yield (
                f"left out: {count(len(self.interleaved), 'launch', 'launches')} with another "
                "engine co-resident on the GPUs, which pairs alone judge"
            )
        if self.idle:
            yield (
                f"left out: {count(len(self.idle), 'launch', 'launches')} at idle, as releases are "
                "compared under load"
            )


def read(paths: Iterable[Path]) -> list[Measurement]:
    """The launches at or below `paths`.

    Raises:
        RecordingError: a file is damaged, or a path holds none.
    """
    return [measurement.measure(*periods) for periods in recording_file.read_launches([*paths])]


def tables(
    launches: Sequence[Measurement],
    reference: str | None = None,
    noise_store: NoiseStore | None = None,
) -> tuple[Table, ...]:
    """Releases side by side, a table for each kind of GPUs.

    Args:
        launches: one measurement per launch and cell.
        reference: version that ratios are to; None for the first release of each table.
        noise_store: holds further launches that the noise follows from.

    Raises:
        NoiseError: the store is damaged.
        ResultsError: there is no valid launch, or a table has none of the reference.
    """
    if all(m.co_resident for m in launches):
        raise ResultsError(
            "nothing to compare: each of these launches had another engine co-resident on its "
            "GPUs.\nJudge them in pairs: pytest SUITE --energy-replay DIR/candidate "
            "--energy-reference-replay DIR/reference"
        )
    if all(m.key.is_idle for m in launches):
        raise ResultsError(
            "nothing to compare: all of this is of engines at idle, and releases are compared "
            "under load.\nGive recordings of cells with a batch size: --table DIR"
        )
    places: dict[Machine, _Place] = {}
    for m in launches:
        on = m.environment
        place = places.setdefault(Machine.of(on), _Place())
        label = engine_name(on.vllm or "?", on.settings_under_test).removeprefix("vLLM ")
        if m.co_resident:
            place.interleaved.add(m.launch_id)
            continue
        if m.key.is_idle:
            place.idle.add(m.launch_id)
            continue
        if not m.valid:
            place.left_out += [
                f"left out: vLLM {label}, {m.key.name}, launch {m.launch_id}: {fault}"
                for fault in m.faults
            ]
            continue
        of_cell = place.cells.setdefault(m.key, {})
        of_cell.setdefault(label, {}).setdefault(on.gpus, []).append(m)
    found = [
        _table(machine, place, reference, _stored(machine, launches, noise_store))
        for machine, place in sorted(places.items(), key=lambda item: str(item[0]))
        if place.cells
    ]
    if not found:
        why = next(line for place in places.values() for line in place.notes)
        raise ResultsError(f"no launch is valid, so there is nothing to compare: {why}.")
    return tuple(found)


def _stored(machine: Machine, launches: Sequence[Measurement], store: NoiseStore | None) -> Stored:
    """What a store knows of such GPUs beside the launches of a table."""
    if store is None:
        return {}
    shown = {m.launch_id for m in launches}
    return {m.value: store.groups(machine.gpu_name, m, shown) for m in UNDER_LOAD}


def in_order(releases: Iterable[str]) -> list[str]:
    """By version; what is no version, last."""

    def order(release: str) -> tuple[bool, Version, str]:
        version, _, rest = release.partition(" ")
        try:
            return False, Version(version), rest
        except InvalidVersion:
            return True, Version("0"), release

    return sorted(releases, key=order)


def _table(machine: Machine, place: _Place, asked: str | None, stored: Stored) -> Table:
    apart = release_names.apart(place.cells)
    cells = {key: place.cells[key] for key in sorted(apart, key=lambda k: _order(k, apart[k]))}
    releases = in_order({release for of in cells.values() for release in of})
    reference = asked or releases[0]
    if reference not in releases:
        raise ResultsError(
            f"there is no launch of vLLM {reference} on {machine}, to compare others with.\n"
            f"Name one that there is: --reference {shlex.quote(releases[0])} "
            f"(of {', '.join(releases)})"
        )
    shared = sum(reference in of for of in cells.values()) * (len(releases) - 1)
    together = CONFIDENCE ** (1 / max(1, shared))
    figures = []
    for key, of_cell in cells.items():
        varies = {name: Varies.of(name, key, cells, stored) for name in QUANTITIES}
        figures += [
            _figures(key, release, of_cell, reference, varies, together)
            for release in releases
            if release in of_cell
        ]
    steps, over_gpus, comparisons = release_steps.steps(cells, releases, stored)
    return Table(
        machine, reference, tuple(releases), tuple(figures), steps, over_gpus, comparisons,
        release_weights.under_weights(cells, releases, reference, stored),
        (*place.notes, *_changes(cells), *_unserved(cells)),
    )  # fmt: skip


def _unserved(cells: Mapping[CellKey, Launches]) -> Iterator[str]:
    """Prefix caches that served nothing of what a cell's prompts share."""
    for key, of_cell in cells.items():
        for release, by_gpus in of_cell.items():
            launches = [m for on_gpus in by_gpus.values() for m in on_gpus]
            for line in prefix_cache.unserved(launches):
                yield f"vLLM {release}, {key.name}: {line}"


def _changes(cells: Mapping[CellKey, Launches]) -> Iterator[str]:
    """GPUs whose machine changed between launches, which may be taken for a release's change."""
    machines: dict[Gpus, set[tuple[str, gpu_launches.Machine]]] = {}
    for gpus, m in (
        (gpus, m)
        for of_cell in cells.values()
        for by_gpus in of_cell.values()
        for gpus, launches in by_gpus.items()
        for m in launches
    ):
        found = machines.setdefault(gpus, set())
        found.add((m.environment.date or "", gpu_launches.Machine.of(m.environment)))
    for gpus, dated in sorted(machines.items()):
        (_, first), *others = sorted(dated, key=lambda of: of[0])
        changed = dict.fromkeys(first.differences(of) for _, of in others if first.has_become(of))
        if changed:
            yield (
                f"{named(gpus)}: the machine changed between launches ({'; '.join(changed)}), "
                "which ratios and verdicts hold, too"
            )


def _order(
    key: CellKey, apart: Sequence[str]
) -> tuple[str, tuple[bool, str], Sequence[str], int, str]:
    name = without_size(key.name, key.batch_size)
    return name, release_weights.order(key), apart, key.batch_size, key.canonical


def _figures(
    key: CellKey,
    release: str,
    of_cell: Launches,
    reference: str,
    varies: Mapping[str, Varies],
    together: float,
) -> Figures:
    by_gpus, on = of_cell[release], _on(of_cell, release)
    of_reference = of_cell.get(reference, {}) if release != reference else {}
    common = [gpus for gpus in by_gpus if gpus in of_reference]
    on_reference = _on(of_cell, reference) if common else ()
    by_ratio = bool(common) and on != on_reference
    if by_ratio:
        on = tuple(sorted(common))
    means, ratios = {}, {}
    for name, known in varies.items():
        mean = release_ratio.mean(name, by_gpus, on, known)
        if common:
            found = release_ratio.ratio(name, by_gpus, of_reference, common, known)
            ratios[name] = found.interval(together)
            if by_ratio:
                mean = release_ratio.mean(name, of_reference, on_reference, known).plus(found)
        means[name] = mean.interval(CONFIDENCE)
    of_blocks = bool(ratios) and all(known.blocks for known in varies.values())
    assumed = varies[Metric.JOULES_PER_TOKEN.value].assumed
    return Figures(
        key, release, by_gpus, on, means, ratios, len(common), of_blocks, by_ratio, assumed
    )


def _on(of_cell: Launches, release: str) -> tuple[Gpus, ...]:
    """The GPUs that have launched all releases; else all under its settings; else itself."""
    (chain,) = (chain for chain in chains(of_cell) if release in chain)
    found = (
        set.intersection(*(set(of_cell[other]) for other in others))
        for others in (of_cell, chain, [release])
    )
    return tuple(sorted(next(filter(None, found))))
