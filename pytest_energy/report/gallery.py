"""Which pictures a report shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_energy.report import charts, plane, trace
from pytest_energy.report.groups import Group, groups
from pytest_energy.report.pictures import Picture
from pytest_energy.report.results import Results

MAX_GROUPS = 5  # drawn; the others are in the table
MAX_TRACES = 4
NO_TRACE = "No power trace: it needs recordings, which a live run keeps with --energy-record DIR."


@dataclass(frozen=True)
class Section:
    """One group's pictures; `missing` says why one of them is missing, and is empty otherwise."""

    title: str
    detail: str
    pictures: tuple[Picture, ...]
    missing: str = ""


def sections(results: Results, recordings: Sequence[Path]) -> tuple[list[Section], int]:
    """The groups to draw and how many were left out; the largest clear changes come first.

    Args:
        results: of the report.
        recordings: folders to look for the launches' recordings in.
    """
    found = groups(results)
    drawn = sorted(found, key=_weight)[:MAX_GROUPS]
    return [
        _section(group, "" if len(drawn) == 1 else f"{i}-", recordings)
        for i, group in enumerate(drawn, 1)
    ], len(found) - len(drawn)


def _weight(group: Group) -> float:
    return -max(
        (abs(move.change.value - 1) for move in group.moves if move.clear and move.change),
        default=0.0,
    )


def _section(group: Group, prefix: str, recordings: Sequence[Path]) -> Section:
    pictures, missing = [], ""
    if group.series:
        pictures.append(charts.against_batch_size(f"{prefix}against-batch-size", group))
        if group.moves:
            pictures.append(plane.power_throughput_plane(f"{prefix}power-throughput", group))
        traces = trace.find(recordings, wanted(group))
        if traces:
            pictures.append(charts.launch_trace(f"{prefix}launch", traces))
        else:
            missing = NO_TRACE
    if any(len(states) > 1 for _, states in group.history):
        pictures.append(charts.over_time(f"{prefix}history", group))
    return Section(group.title, group.detail, tuple(pictures), missing)


def wanted(group: Group) -> list[tuple[str, str]]:
    """Cells of one launch, at batch sizes that the plane shows.

    It is the last engine's launch that measured most cells, and of several such the newest.
    """
    points = dict(group.series[-1].points)
    launch_ids = [launch.launch_id for side in points.values() for launch in side.launches]
    launch_id = max(launch_ids, key=lambda candidate: (launch_ids.count(candidate), candidate))
    of_launch = [
        size
        for size, side in points.items()
        if launch_id in {launch.launch_id for launch in side.launches}
    ]
    chosen = [size for size in plane.chosen(group.moves) if size in of_launch] or of_launch
    return [
        (replace(group.key, batch_size=size).canonical, launch_id) for size in chosen[:MAX_TRACES]
    ]
