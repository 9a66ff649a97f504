"""--energy-minutes: seconds are counted by a clock of the test's own, which launches turn on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy import live
from pytest_energy.cell.cell import Cell
from pytest_energy.errors import RecordingError
from pytest_energy.launch.gpu_minutes import GpuMinutes
from pytest_energy.measure.metric import Metric
from pytest_energy.recording.recording import Recording
from pytest_energy.session import Session
from pytest_energy.told import Question
from pytest_energy.verdict.judgement import NO_LIMITS
from pytest_energy.verdict.rule import Verdict
from tests.simulated import live_settings, recording

LAUNCH_S = 60.0


class Run:
    """A run of two cells that are launched apart; each launch takes a minute and says nothing."""

    def __init__(self, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.launched = 0.0, 0
        self.cells = [cell, replace(cell, engine_args=(("max_num_seqs", 4),))]
        self.settings = live_settings(tmp_path)
        monkeypatch.setattr(live.launch, "record_launch", self._record_launch)
        monkeypatch.setattr(live.nvml, "visible_uuids", lambda: ())

    def _record_launch(self, cells: Sequence[Cell], *_: Any) -> Iterator[tuple[Cell, Recording]]:
        self.now_s += LAUNCH_S
        self.launched += 1
        power_w = 500.0 + 20 * (self.launched % 3)
        yield cells[0], recording(cells[0], f"launch-{self.launched}", power_w, cycles=12.5)

    def session(self, minutes: float | None, **changes: Any) -> Session:
        return Session(
            replace(self.settings, gpu_minutes=minutes, **changes),
            [Question(cell.name, cell, Metric.JOULES_PER_TOKEN, NO_LIMITS) for cell in self.cells],
            lambda *_: None,  # type: ignore[arg-type,return-value]
            lambda text: None,
            clock=lambda: self.now_s,
        )

    def store(self) -> None:
        """Baselines of both cells, whose launches differ by 2 %."""
        session = self.session(None, update=True)
        for cell in self.cells:
            session.update(cell)
        self.launched = 0


@pytest.fixture
def run(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(cell, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("minutes", "first", "second"),
    [(None, 3, 3), (6.0, 3, 3), (5.9, 3, 2), (2.0, 2, 0), (0.5, 1, 0)],
)
def test_no_launch_is_begun_that_would_pass_the_limit(
    run: Run, minutes: float | None, first: int, second: int
) -> None:
    run.store()
    session = run.session(minutes)
    counts = [len(session.evidence(cell).measurements) for cell in run.cells]
    assert counts == [first, second]


def test_what_is_open_then_is_inconclusive_and_says_so(run: Run) -> None:
    run.store()
    session = run.session(2.0)
    open_cell, unmeasured = (session.judge(question) for question in session.questions)
    assert {open_cell.verdict, unmeasured.verdict} == {Verdict.INCONCLUSIVE}
    reason = "no further launch would have ended within --energy-minutes 2"
    assert open_cell.reasons[-1] == reason
    assert unmeasured.reasons == (reason,)
    assert open_cell.out_of_time
    assert unmeasured.out_of_time
    assert open_cell.candidate is not None
    assert unmeasured.candidate is None


def test_a_cell_that_is_decided_in_time_says_nothing_of_it(run: Run) -> None:
    session = run.session(1.0)
    judgement = session.judge(session.questions[0])
    assert judgement.verdict is Verdict.NO_BASELINE
    assert not judgement.out_of_time


def test_a_baseline_that_was_cut_short_is_not_stored(run: Run, tmp_path: Path) -> None:
    session = run.session(4.0, update=True, launches=5)
    with pytest.raises(RecordingError, match=r"--energy-minutes 4: 4 were made, which is too few"):
        session.update(run.cells[0])
    assert not list(tmp_path.glob("*/*.json"))


def test_noise_keeps_what_was_measured_in_time(run: Run) -> None:
    session = run.session(2.0, noise=True)
    session.add_noise(run.cells[0])
    assert session.noise(run.cells[0], Metric.JOULES_PER_TOKEN).launches == 2
    with pytest.raises(RecordingError, match="0 were made"):
        session.add_noise(run.cells[1])


def test_each_gpu_of_a_launch_counts() -> None:
    now_s = iter([0.0, 30.0])
    minutes = GpuMinutes(3.0, lambda: next(now_s))
    with minutes.counted(lambda: 4):
        pass
    assert not minutes.allow_another  # two minutes are used, and another two would be
