"""Which pictures a report shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_energy.report import change_chart, changes, charts, history_chart, plane, trace
from pytest_energy.report.groups import Group, groups
from pytest_energy.report.pictures import Picture
from pytest_energy.report.results import Results

MAX_GROUPS = 5  # drawn; the others are in the table
MAX_TRACES = 4
NO_TRACE = "No power trace: it needs recordings, which a live run keeps with --energy-record DIR."


@dataclass(frozen=True)
class Section:
    """One group's pictures.

    Attributes:
        history: of the baseline, for a phone and for a desk; empty if there is none.
        missing: which pictures or panels are missing, and why.
    """

    title: str
    detail: str
    pictures: tuple[Picture, ...]
    history: tuple[Picture, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """A report's pictures.

    Attributes:
        change: for the first screen; None if nothing was compared.
        sections: by group.
        not_drawn: how many groups have none.
    """

    change: Picture | None
    sections: tuple[Section, ...]
    not_drawn: int

    @property
    def pictures(self) -> list[Picture]:
        """All of them, in order."""
        found = [self.change] if self.change else []
        for section in self.sections:
            found += [*section.pictures, *section.history]
        return found


def gallery(results: Results, recordings: Sequence[Path] = ()) -> Gallery:
    """A report's pictures; of too many groups, those with the largest clear changes.

    Args:
        results: of the report.
        recordings: folders to look for the launches' recordings in.
    """
    found = groups(results)
    drawn = sorted(found, key=_weight)[:MAX_GROUPS]
    with_change = not changes.draws_all(results)
    sections = tuple(
        _section(group, "" if len(drawn) == 1 else f"{i}-", recordings, with_change)
        for i, group in enumerate(drawn, 1)
    )
    return Gallery(change_chart.picture(results), sections, len(found) - len(drawn))


def _weight(group: Group) -> float:
    return -max(
        (abs(move.change.value - 1) for move in group.moves if move.clear and move.change),
        default=0.0,
    )


def _section(group: Group, prefix: str, recordings: Sequence[Path], with_change: bool) -> Section:
    pictures: list[Picture] = []
    missing: list[str] = []
    history: tuple[Picture, ...] = ()
    if group.series:
        against = charts.against_batch_size(f"{prefix}against-batch-size", group, with_change)
        pictures += [against] if against else []
        missing.append(charts.not_drawn(group))
        if group.moves:
            pictures.append(plane.power_throughput_plane(f"{prefix}power-throughput", group))
        traces = trace.find(recordings, wanted(group))
        if traces:
            pictures.append(charts.launch_trace(f"{prefix}launch", traces))
        else:
            missing.append(NO_TRACE)
    if any(len(states) > 1 for _, states in group.history):
        history = history_chart.over_time(f"{prefix}history", group)
    return Section(
        group.title, group.detail, tuple(pictures), history, tuple(filter(None, missing))
    )


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
