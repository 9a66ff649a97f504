"""The launches of a sweep: complete blocks, in an order that a resumed sweep keeps."""

from pytest_energy.commands.sweep_plan import Planned, Progress, plan

RELEASES = ["0.11.1", "0.20.2", "0.25.1", "0.33.0"]
GPU = ("GPU-1",)


def test_every_block_launches_each_release_once_and_no_place_in_it_is_always_the_same_ones() -> (
    None
):
    planned = plan(RELEASES, 12, GPU)
    assert [launch.block for launch in planned] == [n for n in range(1, 13) for _ in RELEASES]
    blocks = [[p.release for p in planned if p.block == n] for n in range(1, 13)]
    assert all(sorted(block) == RELEASES for block in blocks)
    assert all(len({block[place] for block in blocks}) > 2 for place in range(4))


def test_the_plan_does_not_depend_on_how_releases_are_named_first_or_how_many_blocks_follow() -> (
    None
):
    assert plan(RELEASES[::-1], 5, GPU)[: 4 * 3] == plan(RELEASES, 3, GPU)


def test_a_fleet_that_launches_each_release_once_a_gpu_has_no_order_of_them_in_common() -> None:
    orders = [[p.release for p in plan(RELEASES, 1, [f"GPU-{n}"])] for n in range(12)]
    assert all(len({order[place] for order in orders}) > 2 for place in range(4))


def made(progress: Progress, failing: dict[str, int]) -> list[tuple[int, str]]:
    """The launches that are begun if releases fail at their first so many."""
    begun = []
    for launch in progress.launches():
        begun.append((launch.block, launch.release))
        left = failing.get(launch.release, 0)
        failing[launch.release] = left - 1
        progress.ended(launch, left > 0, 60.0)
    return begun


def test_what_is_recorded_is_not_measured_again() -> None:
    planned = plan(["1", "2"], 2, GPU)
    progress = Progress(planned, [planned[0], planned[3], Planned(9, "1")])
    assert progress.open == planned[1:3]
    assert progress.left_s is None
    assert made(progress, {}) == [(p.block, p.release) for p in planned[1:3]]
    assert (progress.open, progress.left_s) == ([], 0.0)


def test_a_release_that_fails_is_tried_again_once_and_the_others_go_on() -> None:
    progress = Progress(plan(["1", "2"], 4, GPU), ())
    begun = made(progress, {"1": 9})
    assert sorted(begun) == [(1, "1"), (1, "2"), (2, "1"), (2, "2"), (3, "2"), (4, "2")]
    assert progress.is_given_up("1")
    assert {(p.block, p.release) for p in progress.open} == {(n, "1") for n in range(1, 5)}
    assert progress.left_s == 0.0


def test_a_release_that_failed_once_goes_on() -> None:
    progress = Progress(plan(["1", "2"], 3, GPU), ())
    assert len(made(progress, {"1": 1})) == 6
    assert progress.open == [Planned(1, "1")]
    assert progress.left_s == 60.0
