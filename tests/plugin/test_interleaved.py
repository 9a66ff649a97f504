"""Two interleaved engines, simulated: order of launches, verdicts on pairs, failures, replays."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.errors import EngineError
from pytest_energy.launch.interleaved import NoFit, SideError
from pytest_energy.recording.recording import CoResident
from pytest_energy.store.baselines import Store
from tests import simulated
from tests.plugin.project import STORED, Project, summary

OLD, NEW = "/bin/false", "/bin/true"  # the engines are the stand-ins below
TOGETHER = ("--energy-python", NEW, "--energy-reference-python", OLD)
BY_LAUNCHES = (*TOGETHER, "--energy-interleave", "launches")

Launched = list[tuple[str, list[int]]]


class Engines:
    """What the engines draw (W), by interpreter and number of launch; or which launches fail."""

    def __init__(self) -> None:
        self.launched: Launched = []
        self.power_w: Callable[[str, int], float] = lambda python, launch: 500.0
        self.fails: set[tuple[str, int]] = set()
        self.pairs: list[tuple[str, str]] = []
        self.fit = True
        self.paused = True
        self.period_w = 0.0

    def record_launch(
        self,
        cells: Any,
        settings: Any,
        open_meter: Any,
        progress: Callable[[str], None],
        precision: Any,
    ) -> Iterator[Any]:
        self.launched.append((settings.python, [cell.batch_size for cell in cells]))
        launch = sum(python == settings.python for python, _ in self.launched)
        progress("tiny: loading (python)")
        if (settings.python, launch) in self.fails:
            raise EngineError("load", "CUDA error: out of memory")
        for cell in cells:
            yield (
                cell,
                simulated.recording(
                    cell,
                    launch_id=f"{len(self.launched):02d}",
                    power_w=self.power_w(settings.python, launch),
                    cycles=12.5,
                    environment={
                        "vllm": "1.0" if settings.python == OLD else "2.0",
                        "engine_args_under_test": settings.engine_args_under_test,
                    },
                ),
            )

    def record_pair(
        self, cells: Any, outer: Any, inner: Any, open_meter: Any, progress: Any, noise: Any
    ) -> Iterator[Any]:
        """Three periods per cell; those of one launch differ by `period_w`."""
        self.pairs.append((outer.name, inner.name))
        progress(outer.name)("tiny: loading (python)")
        if not self.fit:
            raise NoFit(
                "the candidate engine's KV cache holds 160 of the 2560 tokens that tiny bs=8 "
                "64/250 needs\nand a log"
            )
        for side in (outer, inner):
            if (side.settings.python, len(self.pairs)) in self.fails:
                raise SideError(
                    side.name, EngineError("load", "CUDA error: an illegal memory access")
                )
        for cell in cells:
            for number, (side, period) in enumerate(((outer, 0), (inner, 0), (outer, 1))):
                made = simulated.recording(
                    cell,
                    launch_id=f"{len(self.pairs):02d}-{side.name}",
                    power_w=self.power_w(side.settings.python, len(self.pairs))
                    + (-1) ** period * self.period_w,
                    cycles=12.5,
                    environment={"vllm": "1.0" if side.settings.python == OLD else "2.0"},
                    start_s=1000 * (1 + number),
                    faults=() if self.paused else ("not_idle: its scheduler was not paused",),
                )
                other = f"{len(self.pairs):02d}-{(inner if side is outer else outer).name}"
                co_resident = CoResident(other, 10.0, 0, self.paused, 0.25, 128.5, 128.0)
                yield side.name, cell, replace(made, period=period, co_resident=co_resident)


@pytest.fixture
def engines(project: Project, monkeypatch: pytest.MonkeyPatch) -> Engines:
    made = Engines()
    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", made.record_launch)
    monkeypatch.setattr("pytest_energy.launch.interleaved.record_pair", made.record_pair)
    return made


def order(engines: Engines) -> str:
    return " ".join("old" if python == OLD else "new" for python, _ in engines.launched)


def test_an_unchanged_engine_passes_after_three_pairs_without_a_baseline(
    project: Project, engines: Engines
) -> None:
    project.measure_noise()
    before = project.files()
    result = project.run(*BY_LAUNCHES)
    result.assert_outcomes(passed=4)
    assert order(engines) == "old new new old old new"
    assert {tuple(sizes) for _, sizes in engines.launched} == {(2, 8)}
    assert project.files() == before
    summary(result).fnmatch_lines(
        [
            "energy: live, up to 5 pairs of launches, interleaved by launches: "
            f"{NEW} against {OLD}, baselines in baselines",
            "energy * s  * min left: pair 1 of up to 5 (reference): tiny: loading*",
            "  bs=2 * 0.5000 * pass *",
            "candidate vLLM *, reference vLLM *: 3 pairs, * s under load on *",
        ]
    )


def test_a_dearer_engine_is_regressed_and_what_differs_is_listed(
    project: Project, engines: Engines
) -> None:
    project.measure_noise()
    engines.power_w = lambda python, launch: 560.0 if python == NEW else 500.0
    result = project.run(
        *BY_LAUNCHES, "--energy-engine-arg", "enforce_eager=true", "-k", "test_energy"
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "REGRESSED: tiny bs=2 64/250, J/token 0.5600, +12.0 % vs the reference's 0.5000",
            "  how sure: 95 % interval *; 3 pairs with vLLM 1.0",
            "  what changed: enforce_eager: None → True; vllm: 1.0 → 2.0",
            f"  next: measure again: pytest *--energy-python {NEW} --energy-engine-arg "
            f"enforce_eager=true --energy-reference-python {OLD}*",
        ]
    )


def test_what_drifts_from_pair_to_pair_cancels(project: Project, engines: Engines) -> None:
    """The machine gets hotter by 10 % over the run: a comparison of means would drown in it."""
    project.measure_noise()
    engines.power_w = lambda python, launch: (
        (500.0 if python == OLD else 525.0) * (1 + 0.05 * launch)
    )
    result = project.run(*BY_LAUNCHES, "-k", "test_energy and bs2")
    result.stdout.fnmatch_lines(["  bs=2 * +5.0 ±* regressed"])
    assert len(engines.launched) == 6


def test_only_undecided_cells_take_more_pairs(project: Project, engines: Engines) -> None:
    project.measure_noise()
    engines.power_w = lambda python, launch: 514.9 if python == NEW else 500.0
    result = project.run(*BY_LAUNCHES, "-k", "test_energy and bs2")
    result.assert_outcomes(failed=1)
    assert order(engines) == "old new new old old new new old old new"
    result.stdout.fnmatch_lines(["INCONCLUSIVE: *", "  how sure: *; 5 pairs with vLLM 1.0"])


@pytest.mark.parametrize(("python", "side"), [(OLD, "reference"), (NEW, "candidate")])
def test_a_failure_names_its_side(
    project: Project, engines: Engines, python: str, side: str
) -> None:
    engines.fails = {(python, 2)}
    result = project.run(*BY_LAUNCHES)
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [f"*the {side} engine ({python}): engine failed during load: CUDA error: out of memory"]
    )


def test_an_invalid_reference_is_no_measure(
    project: Project, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = simulated.recording

    def spoiled(cell: Any, **kwargs: Any) -> Any:
        return made(
            cell,
            **kwargs,
            faults=("throttled: hot",) if kwargs["environment"]["vllm"] == "1.0" else (),
        )

    monkeypatch.setattr(simulated, "recording", spoiled)
    result = project.run(*BY_LAUNCHES)
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*reference, launch 01: throttled: hot"])


def test_one_interpreter_with_other_settings_is_another_side(
    project: Project, engines: Engines
) -> None:
    project.measure_noise()
    result = project.run(
        "--energy-python",
        NEW,
        "--energy-reference-engine-arg",
        "block_size=32",
        "-k",
        "test_energy",
        "--energy-interleave",
        "launches",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "energy: live, up to 5 pairs of launches, interleaved by launches: "
            f"{NEW} against {NEW} with block_size=32*"
        ]
    )


def test_an_update_stores_the_new_side_and_begins_its_history_with_the_reference(
    project: Project, engines: Engines
) -> None:
    engines.power_w = lambda python, launch: 480.0 if python == NEW else 500.0
    result = project.run(*BY_LAUNCHES, "--energy-update", "--energy-launches", "3")
    result.assert_outcomes(passed=4)
    for stored in Store(project.path / "baselines").entries():
        assert stored.environment.vllm == "2.0"
        (before,) = stored.history
        assert (before.vllm, before.launches) == ("1.0", 3)
        assert before.joules_per_token == pytest.approx(
            stored.summary.joules_per_token * 500 / 480, rel=1e-3
        )


def test_an_update_is_refused_if_it_loses_against_the_reference(
    project: Project, engines: Engines
) -> None:
    engines.power_w = lambda python, launch: 530.0 if python == NEW else 500.0
    result = project.run(*BY_LAUNCHES, "--energy-update", "--energy-launches", "3")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        ["*the baseline would drift: J/token +6.0 % against the best entry (*, vLLM 1.0, *"]
    )
    assert not (project.path / STORED).exists()


def test_recordings_of_both_sides_replay_in_pairs(project: Project, engines: Engines) -> None:
    project.measure_noise()
    engines.power_w = lambda python, launch: (560.0 if python == NEW else 500.0) + 20 * launch
    live = project.run(*BY_LAUNCHES, "--energy-record", "kept")
    assert sorted(path.name for path in Path("kept").iterdir()) == ["candidate", "reference"]
    replayed = project.run(
        "--energy-replay", "kept/candidate", "--energy-reference-replay", "kept/reference"
    )
    assert (
        "energy: replay of kept/candidate against kept/reference, baselines in baselines"
        in replayed.outlines
    )

    def figures(result: pytest.RunResult) -> list[str]:
        return [
            line for line in result.outlines if line.startswith("  bs=") and "regressed" in line
        ]

    assert figures(replayed) == figures(live)
    assert len(figures(live)) == 2
    accept = (
        "  next: if the change is intended: make this engine the reference, or raise the test's "
        "tolerance; updating a baseline does not change it"
    )
    for result in (live, replayed):
        assert result.outlines.count(accept) == 2
        result.stdout.no_fnmatch_line("*--energy-update*")


def test_too_few_pairs_and_unequal_sides_give_no_verdict(project: Project) -> None:
    project.record("two", launches=2)
    project.record("other", launches=2)
    project.record("three")
    few = project.run("--energy-replay", "two", "--energy-reference-replay", "other")
    few.assert_outcomes(failed=4)
    few.stdout.fnmatch_lines(["*a verdict needs 3 pairs of launches, 2 so far"])
    unequal = project.run("--energy-replay", "three", "--energy-reference-replay", "two")
    unequal.assert_outcomes(failed=4)
    unequal.stdout.fnmatch_lines(
        ["*3 launches of tiny bs=2 64/250 cannot be paired with 2 of the reference.*"]
    )


def test_a_launch_is_not_compared_with_itself(project: Project) -> None:
    project.record("old")
    result = project.run("--energy-replay", "old", "--energy-reference-replay", "old")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "INVALID: tiny bs=2 64/250*",
            "*launch old-0 is on both sides, and would be compared with itself.",
            "*--energy-reference-replay DIR/reference",
        ]
    )


def test_launches_that_did_not_share_a_gpu_are_no_pair(project: Project, engines: Engines) -> None:
    project.run(*TOGETHER, "--energy-interleave", "periods", "--energy-record", "kept")
    shutil.rmtree(next(Path("kept/candidate").glob("01-*")))
    shutil.rmtree(next(Path("kept/reference").glob("03-*")))
    result = project.run(
        "--energy-replay", "kept/candidate", "--energy-reference-replay", "kept/reference"
    )
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "INVALID: tiny bs=2 64/250*",
            "*launch 02-candidate of tiny bs=2 64/250 was interleaved with launch 02-reference, "
            "and would be paired with 01-reference.",
            "*Give all recordings of both sides*",
        ]
    )


def test_a_reference_on_another_gpu_is_not_compared(project: Project) -> None:
    project.record("here")
    project.record("there", environment={"gpu_uuids": ("GPU-11111111",)})
    result = project.run("--energy-replay", "here", "--energy-reference-replay", "there")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: *",
            "*the reference ran on another GPU, GPU-11111111, the candidate on GPU-00000000-*",
            "*next: judge it with its reference, interleaved on one GPU: --energy-replay *",
        ]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--energy-reference-replay", "x"], "*live on both sides*or replayed on both*"),
        (
            ["--energy-replay", "x", "--energy-reference-python", OLD],
            "*live on both sides*or replayed on both*",
        ),
        (
            [*BY_LAUNCHES, "--energy-launches", "2"],
            "*an interleaved comparison needs at least 3 pairs of launches, and 2 would be made: *",
        ),
        (
            [*TOGETHER, "--energy-interleave", "both"],
            "*--energy-interleave: invalid choice: 'both' (choose from *auto*, *periods*, *",
        ),
        (
            [*TOGETHER, "--energy-interleave", "periods", "--energy-update"],
            "*launches that had the GPU to themselves*",
        ),
        ([*BY_LAUNCHES, "--energy-noise"], "*leave out the reference"),
        (["--energy-reference-engine-arg", "what"], "*is not NAME=VALUE*"),
    ],
)
def test_options_that_do_not_go_together(
    project: Project, options: list[str], message: str
) -> None:
    result = project.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_engines_that_fit_together_alternate_by_periods(project: Project, engines: Engines) -> None:
    project.measure_noise()
    engines.period_w = 2.5
    before = project.files()
    result = project.run(*TOGETHER)
    result.assert_outcomes(passed=4)
    assert engines.pairs == [
        ("reference", "candidate"),
        ("candidate", "reference"),
        ("reference", "candidate"),
    ]
    assert engines.launched == []
    assert project.files() == before
    summary(result).fnmatch_lines(
        [
            "energy: live, up to 5 pairs of launches, interleaved by periods, or by launches if "
            "the engines do not fit on the GPU together (no baseline is of tiny bs=2 64/250): "
            f"{NEW} against {OLD}, *",
            "energy * s  * min left: pair 1 of up to 5 (reference): tiny: loading*",
            "  bs=2 * pass *",
            # The first two periods of a pair draw the same, the last 1 % less: ratios of 1 and
            # 1 ± 1 %, and pairs of 1 ± 0.5 %.
            "tiny bs=2 64/250, J/token: candidate ÷ reference varies by 0.71 % (3 df) between "
            "periods and by 0.58 % (2 df) between pairs (0.50 % expected from the periods alone); "
            "the paused engine generated 0 tokens and used 2.5 % of a CPU core; "
            "loading the second engine changed the idle GPU's power by +0.5 W",
            "tiny bs=2 64/250, tokens/s: candidate ÷ reference varies by 0.00 % (3 df) between "
            "periods and by 0.00 % (2 df) between pairs (0.00 % expected from the periods alone)",
        ]
    )


def test_engines_that_do_not_fit_together_alternate(project: Project, engines: Engines) -> None:
    project.measure_noise()
    engines.fit = False
    result = project.run(*TOGETHER)
    result.assert_outcomes(passed=4)
    assert len(engines.pairs) == 1
    assert order(engines) == "old new new old old new"
    result.stdout.fnmatch_lines(
        [
            "energy * launches alternate: the two engines do not fit on the GPU together: the "
            "candidate engine's KV cache holds 160 of *"
        ]
    )


def test_asked_for_periods_engines_that_do_not_fit_fail(project: Project, engines: Engines) -> None:
    engines.fit = False
    result = project.run(*TOGETHER, "--energy-interleave", "periods")
    result.assert_outcomes(failed=4)
    assert engines.launched == []
    result.stdout.fnmatch_lines(
        [
            "*the two engines do not fit on the GPU together: the candidate engine's KV cache*",
            "*--energy-interleave launches",
        ]
    )


@pytest.mark.parametrize(("python", "side"), [(OLD, "reference"), (NEW, "candidate")])
def test_a_failure_of_one_of_two_resident_engines_names_it(
    project: Project, engines: Engines, python: str, side: str
) -> None:
    engines.fails = {(python, 2)}
    result = project.run(*TOGETHER)
    result.assert_outcomes(failed=4)
    assert len(engines.pairs) == 2
    result.stdout.fnmatch_lines(
        [f"*the {side} engine ({python}): engine failed during load: CUDA error: an illegal *"]
    )


def test_an_engine_that_did_not_rest_makes_the_measurement_invalid(
    project: Project, engines: Engines
) -> None:
    engines.paused = False
    result = project.run(*TOGETHER, "-k", "bs2")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["INVALID: tiny bs=2 64/250*", "*not_idle: its scheduler was not paused"]
    )


def test_an_update_lets_launches_alternate(project: Project, engines: Engines) -> None:
    """A baseline is measured with the GPU for itself."""
    assert project.run(*TOGETHER, "--energy-update", "--energy-launches", "3").ret == 0
    assert engines.pairs == []
    assert order(engines) == "old new new old old new"


def test_recordings_of_periods_replay_in_pairs_and_in_no_other_way(
    project: Project, engines: Engines
) -> None:
    project.measure_noise()
    engines.power_w = lambda python, launch: (560.0 if python == NEW else 500.0) + 20 * launch
    live = project.run(*TOGETHER, "--energy-record", "kept")
    names = sorted(
        path.name.rpartition("-")[2] for path in Path("kept/reference/01-reference").iterdir()
    )
    assert names == ["period0.json.gz", "period0.json.gz", "period1.json.gz", "period1.json.gz"]

    def lines(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if line.startswith("  bs=")]

    replayed = project.run(
        "--energy-replay", "kept/candidate", "--energy-reference-replay", "kept/reference"
    )
    assert lines(replayed) == lines(live)
    assert sum("regressed" in line for line in lines(live)) == 2
    alone = project.run("--energy-replay", "kept/candidate")
    alone.assert_outcomes(failed=4)
    alone.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: tiny bs=2 64/250*",
            "*measured with another engine co-resident on the GPU, and a baseline is measured *",
            "*next: judge it with its reference, interleaved on one GPU: --energy-replay "
            "DIR/candidate --energy-reference-replay DIR/reference",
        ]
    )
    before = project.files()
    update = project.run("--energy-replay", "kept/candidate", "--energy-update")
    update.assert_outcomes(failed=4)
    update.stdout.fnmatch_lines(
        ["the baseline of tiny bs=2 64/250 was not updated: *another engine co-resident*"]
    )
    project.record("apart")
    mixed = project.run("--energy-replay", "kept/candidate", "--energy-reference-replay", "apart")
    mixed.assert_outcomes(failed=4)
    mixed.stdout.fnmatch_lines(
        ["*only one side was measured with the other engine co-resident, so they are not pairs"]
    )
    after = project.files()
    assert {name: after[name] for name in before} == before


def test_a_launch_that_lacks_a_period_is_refused(project: Project, engines: Engines) -> None:
    """The middle period alone would pass for a launch; the last one without the first does not."""
    project.run(*TOGETHER, "--energy-record", "kept")
    for file in Path("kept/reference/01-reference").glob("*period0*"):
        file.unlink()
    result = project.run(
        "--energy-replay", "kept/candidate", "--energy-reference-replay", "kept/reference"
    )
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*01-reference*period 0 is missing*"])
