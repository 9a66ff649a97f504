"""The time that a live run still takes, by a clock of the test's own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pytest_energy.launch.gpu_minutes import GpuMinutes
from pytest_energy.launch.time_left import TimeLeft
from pytest_energy.settings import LaunchSettings, Settings
from tests.simulated import live_settings

LAUNCH = LaunchSettings("python", {}, 1.0, 1.0)


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return live_settings(tmp_path, launches=5)


def run(left: TimeLeft, clock: Clock, group: str, cells: int, number: int, takes_s: float) -> str:
    """A launch; what is said at its begin."""
    with left.launch(group, cells, number):
        said = left.in_words()
        clock.now_s += takes_s
    return said


def test_from_the_fewest_to_the_most_launches(clock: Clock, settings: Settings) -> None:
    """A launch of four cells is expected to take 160 s until one has ended, after 320 s."""
    left = TimeLeft(replace(settings, launches_given=False), "aaaa", clock)
    assert run(left, clock, "a", 4, 1, takes_s=320.0) == "3 to 14 min left"
    with left.launch("a", 4, 2):
        assert left.in_words() == "6 to 22 min left"
        clock.now_s += 310.0
        assert left.in_words() == "1 to 17 min left"
        clock.now_s += 1000.0  # slower than thought
        assert left.in_words() == "1 to 16 min left"


def test_cells_of_other_launches_count_until_their_turn_comes(
    clock: Clock, settings: Settings
) -> None:
    left = TimeLeft(replace(settings, launches=1), "aaaab", clock)
    assert run(left, clock, "a", 4, 1, takes_s=160.0) == "5 min left"  # 160 s and 85 s
    assert run(left, clock, "b", 1, 1, takes_s=85.0) == "2 min left"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"noise": True}, "8 min left"),  # all launches: 5 × 85 s
        ({"update": True}, "5 to 8 min left"),  # three at least
        ({"reference": LAUNCH}, "9 to 15 min left"),  # three pairs at least
        ({"launch": replace(LAUNCH, url="http://localhost"), "launches": 1}, "1 min left"),
    ],
)
def test_launches_that_a_run_cannot_do_without(
    clock: Clock, settings: Settings, change: dict[str, object], said: str
) -> None:
    changed = replace(settings, launches_given=False, **change)  # type: ignore[arg-type]
    assert run(TimeLeft(changed, "a", clock), clock, "a", 1, 1, takes_s=0.0) == said


def test_no_more_than_the_gpu_minutes_allow(clock: Clock, settings: Settings) -> None:
    """Of two GPUs, each launch uses up twice its time; one that has begun is ended."""
    limited = replace(settings, launches_given=False)
    minutes = GpuMinutes(10, clock)
    left = TimeLeft(limited, "aaaa", clock)
    assert minutes.left_s == 600
    with minutes.counted(lambda: 2), left.launch("a", 4, 1, minutes.left_s / 2):
        assert left.in_words() == "3 to 5 min left"
        clock.now_s += 160.0
    assert minutes.left_s == 280
    with left.launch("a", 4, 2, minutes.left_s / 2):
        assert left.in_words() == "3 min left"
    assert GpuMinutes(None, clock).left_s == float("inf")


def test_it_is_told_before_what_goes_on(clock: Clock, settings: Settings) -> None:
    shown: list[str] = []
    left = TimeLeft(replace(settings, launches=1), "a", clock)
    progress: Callable[[str], None] = left.told(shown.append)
    with left.launch("a", 1, 1):
        progress("tiny: loading")
    assert shown == ["2 min left: tiny: loading"]
