"""A disturbed launch counts for nothing, and another takes its place."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy import live
from pytest_energy.cell.cell import Cell
from pytest_energy.evidence import Evidence
from pytest_energy.launch import gpu_locks
from pytest_energy.launch.load import Progress
from pytest_energy.live import LiveSource
from pytest_energy.measure.measurement import measure
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import Recording
from pytest_energy.settings import LaunchSettings
from tests.disturbed import with_step_in_power
from tests.driver import UUIDS
from tests.simulated import live_settings, recording
from tests.unit.figures import measurement

STEADY, DISTURBED, LATE = "steady", "disturbed", "with a fault found late"


def recorded(cell: Cell, number: int, kind: str) -> Recording:
    made = recording(cell, f"launch-{number}", cycles=8.5)
    return with_step_in_power(made, 80.0) if kind == DISTURBED else made


def launched(
    cell: Cell,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kinds: Sequence[str],
    launches: int = 3,
    decided_after: int = 99,
    url: str | None = None,
    visible: tuple[str, ...] = (),
    record_launch: Any = None,
    progress: Progress = lambda text: None,
) -> Evidence:
    """What a live source makes of launches of these kinds, and that it makes no further one."""
    made: list[str] = []

    def of_kinds(cells: Sequence[Cell], *_: Any) -> Iterator[tuple[Cell, Recording]]:
        kind = kinds[len(made)]
        made.append(kind)
        yield cells[0], recorded(cell, len(made), kind)
        if kind == LATE:
            late = recorded(cell, len(made), STEADY)
            yield cells[0], replace(late, faults=("hidden_process: late",))

    monkeypatch.setattr(live.launch, "record_launch", record_launch or of_kinds)
    monkeypatch.setattr(live.nvml, "visible_uuids", lambda: visible)
    settings = live_settings(
        tmp_path,
        record=tmp_path / "kept",
        launches=launches,
        launch=LaunchSettings("python", {}, 1.0, 1.0, url=url),
    )
    source = LiveSource(
        settings,
        [cell],
        lambda *_: None,  # type: ignore[arg-type,return-value]
        progress,
        lambda _, found: len(found.measurements) >= decided_after,
        lambda: None,
    )
    found = source.evidence(cell)
    assert made == list(kinds)
    return found


@pytest.mark.parametrize(
    ("kinds", "launches", "decided_after"),
    [
        ([DISTURBED, STEADY], 1, 99),
        ([DISTURBED, STEADY], 3, 1),
        ([STEADY, DISTURBED, STEADY, STEADY], 3, 99),
        ([STEADY, STEADY, DISTURBED, STEADY], 3, 99),
    ],
)
def test_a_disturbed_launch_is_made_again_and_left_out(
    cell: Cell,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kinds: list[str],
    launches: int,
    decided_after: int,
) -> None:
    told = list[str]()
    found = launched(
        cell, monkeypatch, tmp_path, kinds, launches, decided_after, progress=told.append
    )
    assert found.failure is None
    # Where as many launches as asked for would have been made anyway, there is nothing to tell.
    said = [text for text in told if "launching once more, because a cell was disturbed" in text]
    assert len(said) == (len(kinds) > launches)
    assert [m.valid for m in found.measurements] == [True] * kinds.count(STEADY)
    (out,) = found.left_out
    assert out.launch_id == f"launch-{kinds.index(DISTURBED) + 1}"


def test_an_engine_that_is_unsteady_twice_is_not_judged_by_its_steady_launches(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = launched(cell, monkeypatch, tmp_path, [DISTURBED, STEADY, DISTURBED])
    assert [m.valid for m in found.measurements] == [False, True, False]
    assert found.left_out == ()


def test_a_recording_that_comes_again_with_a_fault_takes_the_first_ones_place(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = launched(cell, monkeypatch, tmp_path, [STEADY, LATE], 2)
    assert [m.faults for m in found.measurements] == [(), ("hidden_process: late",)]
    assert [m.launch_id for m in found.measurements] == ["launch-1", "launch-2"]
    kept = [file for (file,) in recording_file.read_launches([tmp_path / "kept"])]
    assert [file.faults for file in kept] == [(), ("hidden_process: late",)]


@pytest.mark.parametrize("listed", [(), (UUIDS[1],)])
def test_a_gpu_that_the_driver_fails_to_list_stays_locked(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: tuple[str, ...]
) -> None:
    locked = []

    def record_launch(_cells: Any, _settings: Any, open_meter: Any, *_: Any) -> Iterator[Any]:
        monkeypatch.setattr(live.nvml, "listed_uuids", lambda: listed)
        open_meter(UUIDS[:1], lambda pid: True)
        locked.extend([gpu_locks.look(uuid)[0] for uuid in UUIDS])
        yield cell, recorded(cell, 1, STEADY)

    launched(cell, monkeypatch, tmp_path, [], 1, visible=UUIDS, record_launch=record_launch)
    assert locked == [True, False]


def test_a_running_server_is_measured_once(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = launched(cell, monkeypatch, tmp_path, [DISTURBED], 1, url="http://localhost:8000")
    assert [m.valid for m in found.measurements] == [False]


def test_a_launch_with_another_fault_stays(cell: Cell) -> None:
    hot = measurement(cell, "hot", faults=("throttled: hot",))
    both = measurement(cell, "both", faults=("unsteady: so", "throttled: hot"))
    for bad in (hot, both):
        found = Evidence.of([measurement(cell), bad])
        assert len(found.measurements) == 2
        assert found.left_out == ()


def test_of_pairs_both_launches_are_left_out(cell: Cell) -> None:
    candidate = [measurement(cell, f"candidate-{i}") for i in range(3)]
    reference = [measurement(cell, f"reference-{i}") for i in range(3)]
    reference[1] = replace(reference[1], faults=("unsteady: so",))
    found = Evidence.of(candidate, reference)
    assert [m.launch_id for m in found.measurements] == ["candidate-0", "candidate-2"]
    assert [m.launch_id for m in found.reference] == ["reference-0", "reference-2"]
    assert [m.launch_id for m in found.left_out] == ["reference-1"]


def test_of_many_launches_one_in_ten_may_be_disturbed(cell: Cell) -> None:
    def kept(disturbed: int) -> int:
        bad = [measurement(cell, f"bad-{i}", faults=("unsteady: so",)) for i in range(disturbed)]
        good = [measurement(cell, f"good-{i}") for i in range(20 - disturbed)]
        return len(Evidence.of([*bad, *good]).measurements)

    assert [kept(1), kept(2), kept(3)] == [19, 18, 20]


def test_the_last_launch_stays(cell: Cell) -> None:
    found = Evidence.of([measure(recorded(cell, 1, DISTURBED))])
    assert len(found.measurements) == 1
