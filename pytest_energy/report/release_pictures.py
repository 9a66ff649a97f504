"""Pictures of releases: against batch size, on the power-throughput plane, and in a row."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_energy.cell.key import CellKey, canonical
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE
from pytest_energy.report import charts, plane, release_chart, sides
from pytest_energy.report.drawing import MAX_SERIES
from pytest_energy.report.groups import Group, Move, Series
from pytest_energy.report.pictures import Picture
from pytest_energy.report.published import Published
from pytest_energy.report.release_noise import POWER
from pytest_energy.report.release_steps import chains
from pytest_energy.report.releases import Figures, Table
from pytest_energy.report.results import Interval, ReportedSide
from pytest_energy.report.table import split_name


def pictures(tables: Sequence[Table], published: Sequence[Published] = ()) -> list[Picture]:
    """Those of each table, model and workload; without a second release, measured or published,
    one of them.
    """
    lines = [(table, figures) for table in tables for figures in _by_workload(table)]
    found = []
    for number, (table, figures) in enumerate(lines, 1):
        prefix = f"{number}-" if len(lines) > 1 else ""
        found += list(_of_workload(prefix, table, figures, published))
    return found


def _by_workload(table: Table) -> list[list[Figures]]:
    """The cells that differ in batch size, and in what an engine needs for it, in one picture."""
    found: dict[str, list[Figures]] = {}
    for figures in table.figures:
        found.setdefault(_workload(figures.cell), []).append(figures)
    return [one for of in found.values() for one in (_apart(of) if _is_ambiguous(of) else [of])]


def _workload(key: CellKey) -> str:
    workload = {name: v for name, v in key.plain["workload"].items() if name != "requests"}
    arguments = {name: v for name, v in key.engine_args.items() if name != "max_num_seqs"}
    return canonical({**key.plain, "workload": workload, "engine_args": arguments, "batch_size": 0})


def _is_ambiguous(of: Sequence[Figures]) -> bool:
    """Whether two cells have the same batch size."""
    return len({f.cell for f in of}) > len({f.cell.batch_size for f in of})


def _apart(of: Sequence[Figures]) -> list[list[Figures]]:
    """By what their engines were started with."""
    found: dict[str, list[Figures]] = {}
    for figures in of:
        found.setdefault(canonical(figures.cell.engine_args), []).append(figures)
    return list(found.values())


def _of_workload(
    prefix: str, table: Table, figures: Sequence[Figures], published: Sequence[Published]
) -> Iterator[Picture]:
    found = {(f.cell.batch_size, f.release): (f, _side(f)) for f in figures}
    releases = [name for name in table.releases if any(name == release for _, release in found)]
    drawn = _drawn(releases, table.reference)
    series = tuple(
        Series(
            _label(name, table.reference),
            tuple((size, side) for (size, release), (_, side) in found.items() if release == name),
        )
        for name in drawn
    )
    key = figures[0].cell
    title = f"{split_name(table.name(key))[0]} on {table.machine.gpu_name}"
    group = Group(key, title, str(table.machine), series)
    to_reference, in_a_row = _moves(table, found, drawn)
    left = len(releases) - len(drawn)
    note = f" {left} of {len(releases)} releases are not drawn." if left else ""
    against = charts.against_batch_size(
        f"{prefix}against-batch-size", replace(group, moves=to_reference)
    )
    if against is not None:
        together = "Those of changes hold for all cells and releases together."
        yield replace(against, caption=f"{against.caption} {together}{note}")
    longest, on = max(chains(releases), key=len), table.machine
    beside = any(p.is_of(of.cell, on.gpu_name, on.gpus) for p in published for of in figures)
    if len(longest) < 2 and not beside:
        return
    in_it = [of for of in figures if of.release in longest]
    yield release_chart.over_releases(f"{prefix}releases", title, table, in_it, published)
    if in_a_row:
        path = replace(group, moves=in_a_row)
        picture = plane.power_throughput_plane(f"{prefix}power-throughput", path)
        yield replace(picture, caption=f"{picture.caption}{note}")


def _drawn(releases: Sequence[str], reference: str) -> list[str]:
    """As many as can be told apart, in order: the reference, else the first, and the newest."""
    first = reference if reference in releases else releases[0]
    kept = list(dict.fromkeys([first, *reversed(releases)]))[:MAX_SERIES]
    return [release for release in releases if release in kept]


def _label(release: str, reference: str) -> str:
    return f"vLLM {release}{' (reference)' * (release == reference)}"


def _side(of: Figures) -> ReportedSide:
    """As one engine of a report, with the table's figures."""
    side = sides.side_of_launches(of.shown, ASSUMED_NOISE)
    return replace(
        side,
        joules_per_token=of.values[Metric.JOULES_PER_TOKEN.value],
        power_w=of.values[POWER],
        tokens_per_s=of.values[Metric.TOKENS_PER_S.value],
    )


def _moves(
    table: Table,
    found: dict[tuple[int, str], tuple[Figures, ReportedSide]],
    releases: Sequence[str],
) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
    """From the reference to each release, and from each release to the next, by batch size."""
    to_reference, in_a_row = [], []
    for size in sorted({size for size, _ in found}):
        made = [name for name in releases if (size, name) in found]
        for name in made:
            ratio = found[size, name][0].ratios.get(Metric.JOULES_PER_TOKEN.value)
            if ratio is not None:
                to_reference.append(_move(table, found, size, table.reference, name, ratio))
        in_a_row += [
            _move(table, found, size, before, name, None)
            for chain in chains(made)
            for before, name in itertools.pairwise(chain)
        ]
    return tuple(to_reference), tuple(in_a_row)


def _move(
    table: Table,
    found: dict[tuple[int, str], tuple[Figures, ReportedSide]],
    size: int,
    before: str,
    after: str,
    change: Interval | None,
) -> Move:
    return Move(
        batch_size=size,
        reference=found[size, before][1],
        candidate=found[size, after][1],
        reference_label=_label(before, table.reference),
        candidate_label=_label(after, table.reference),
        change=change,
        tolerance=None,
        reading=None,
    )
