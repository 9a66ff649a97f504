"""A GPU that no baseline is of: the reference is launched there first, or taken from the cache."""

import datetime
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.engines import environment
from pytest_energy.errors import EngineError, MeterError
from pytest_energy.launch.gpu_minutes import GpuMinutes
from pytest_energy.recording.fingerprint import vllm_variables
from tests import simulated
from tests.plugin.project import Project, summary

HERE, ELSEWHERE = "GPU-11111111-2222-3333-4444-555555555555", simulated.UUID
INSTALLED = {"vllm": "0.0.1", "torch": "2.11.0"}


class Engines:
    """What the engines draw (W) by interpreter and number of launch, on a GPU of this machine."""

    def __init__(self, folder: Path) -> None:
        self.launched: list[str] = []
        self.power_w: Callable[[str, int], float] = lambda name, launch: 550.0
        self.fails: set[tuple[str, int]] = set()
        self.breaks: Exception | None = None  # raised after the reference's first cell
        self.ends_early: BaseException | None = None  # what a reference raises after a cell
        self.gpu, self.driver, self.python_version = HERE, "580", "3.12.3"
        self.packages = {"new": {**INSTALLED, "vllm": "0.0.2"}, "old": INSTALLED}
        self.variables: dict[str, str] = {}
        self._folder = folder
        # Two launches within a second would have one date, of which an alarm tells the older ones.
        self.now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=3)

    def python(self, name: str, from_folder: bool = False) -> str:
        """An interpreter that says what is installed, and does no more."""
        answer = json.dumps([self.python_version, self.packages[name], from_folder, self.variables])
        path = self._folder / name
        path.write_text(f"#!/bin/sh\necho '{answer}'\n")
        path.chmod(0o755)
        return str(path)

    def record_launch(
        self, cells: Any, settings: Any, open_meter: Any, progress: Any, is_enough: Any
    ) -> Iterator[Any]:
        name = Path(settings.python).name
        self.launched.append(name)
        launch = self.launched.count(name)
        progress("tiny: loading (python)")
        if (name, launch) in self.fails:
            raise EngineError("load", "CUDA error: an illegal memory access")
        self.now += datetime.timedelta(minutes=1)
        now = self.now
        for cell in cells:
            yield (
                cell,
                simulated.recording(
                    cell,
                    launch_id=f"{now:%Y%m%dT%H%M%S%f}",
                    power_w=self.power_w(name, launch) + launch % 2,
                    cycles=12.5,
                    environment={
                        "date": now.isoformat(timespec="seconds"),
                        "gpu_uuids": (self.gpu,),
                        "driver": self.driver,
                        "vllm": self.packages[name]["vllm"],
                        "python": self.python_version,
                        "packages": self.packages[name],
                        "vllm_variables": vllm_variables(self.variables),
                        "engine_args_under_test": settings.engine_args_under_test,
                    },
                ),
            )
            if name == "old" and self.breaks is not None:
                raise self.breaks


@pytest.fixture
def engines(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engines:
    """A project with baselines of another GPU, and the noise of its model."""
    project.store()
    project.measure_noise()
    made = Engines(tmp_path)
    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", made.record_launch)
    return made


def run(project: Project, engines: Engines, *arguments: str) -> pytest.RunResult:
    """A live run in which the store's engine is at hand; what it launches is counted anew."""
    engines.launched.clear()
    return project.run(
        "--energy-python", engines.python("new"),
        "--energy-reference-python", engines.python("old"),
        "--energy-gpu-cache", str(project.path / "cache"), *arguments,
    )  # fmt: skip


def test_an_unchanged_engine_passes_after_one_launch_and_two_of_the_reference(
    project: Project, engines: Engines
) -> None:
    before = project.files()
    result = run(project, engines)
    result.assert_outcomes(passed=4)
    assert engines.launched == ["new", "old", "old"]
    summary(result).fnmatch_lines(
        [
            "energy: live, up to 5 launches of */new, compared on a GPU without baselines with "
            "launches of */old, baselines in baselines",
            "energy * reference, launch 1: tiny: loading *",
            "vLLM 0.0.2 against the reference's vLLM 0.0.1, made in this run: 1 launch against 2, "
            "* under load on *",
        ]
    )
    assert {path for path in project.files() if path not in before} == {
        path for path in project.files() if path.startswith("cache/")
    }


def test_the_next_run_needs_no_launch_of_the_reference(project: Project, engines: Engines) -> None:
    run(project, engines)
    today = f"{engines.now:%Y-%m-%d}"
    result = run(project, engines, "--energy-record", "kept")
    result.assert_outcomes(passed=4)
    assert engines.launched == ["new"]
    summary(result).fnmatch_lines(
        [f"*against the reference's vLLM 0.0.1, made here by {today}: 1 launch against 2, *"]
    )
    replayed = project.run(
        "--energy-replay", "kept/candidate", "--energy-reference-replay", "kept/reference",
        "--energy-interleave", "never",
    )  # fmt: skip
    replayed.assert_outcomes(passed=4)


def test_a_dearer_engine_is_regressed_by_launches_of_the_same_run(
    project: Project, engines: Engines
) -> None:
    run(project, engines)
    engines.power_w = lambda name, launch: 550.0 if name == "old" else 580.0
    result = run(project, engines, "-k", "test_energy")
    result.assert_outcomes(failed=2)
    # The cached launches say so after two launches; then the reference is launched anew.
    assert engines.launched == ["new", "new", "old", "old", "old"]
    result.stdout.fnmatch_lines(
        [
            "REGRESSED: tiny bs=2*% vs the reference's 0.55*",
            "  how sure: *; 2 launches against 3 of vLLM 0.0.1, made in this run",
        ]
    )


def test_a_machine_that_changed_since_is_no_regression_of_the_engine(
    project: Project, engines: Engines
) -> None:
    run(project, engines)
    engines.power_w = lambda name, launch: 600.0
    result = run(project, engines)
    result.assert_outcomes(passed=4)
    assert engines.launched == ["new", "new", "old", "old", "old"]


def test_so_it_is_on_a_gpu_that_has_baselines(project: Project, engines: Engines) -> None:
    engines.gpu, engines.power_w = ELSEWHERE, lambda name, launch: 500.0
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new"]
    engines.power_w = lambda name, launch: 600.0
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new", "new", "old", "old", "old"]


@pytest.mark.parametrize(
    "change",
    ["driver", "packages", "damaged", "other", "old", "from folder", "variables", "unknown"],
)
def test_cached_launches_that_do_not_stand_for_one_made_now_cost_a_launch(
    project: Project, engines: Engines, change: str
) -> None:
    if change == "variables":
        engines.variables = {"VLLM_USE_FLASHINFER_SAMPLER": "1"}
    run(project, engines)
    engines.variables = {}
    for path in (project.path / "cache").rglob("*.json.gz"):
        content = json.loads(gzip.decompress(path.read_bytes()))
        if change == "unknown":  # as in recordings of earlier versions
            del content["environment"]["vllm_variables"]
        if change == "damaged":
            path.write_bytes(path.read_bytes()[:-20])
            continue
        if change == "other":
            content["environment"]["gpu_uuids"] = [ELSEWHERE]
        if change == "old":
            content["environment"]["date"] = "2026-01-01T00:00:00+00:00"
        path.write_bytes(gzip.compress(json.dumps(content).encode()))
    if change == "driver":
        engines.driver = "590"
    if change == "packages":
        engines.packages["old"] = {**INSTALLED, "torch": "2.12.0"}
    if change == "from folder":
        engines.launched.clear()
        result = project.run(
            "--energy-python", engines.python("new"),
            "--energy-reference-python", engines.python("old", from_folder=True),
            "--energy-gpu-cache", str(project.path / "cache"),
        )  # fmt: skip
    else:
        result = run(project, engines)
    result.assert_outcomes(passed=4)
    assert engines.launched == ["new", "old", "old"]


def test_variables_that_leave_the_engine_as_it_is_cost_no_launch(
    project: Project, engines: Engines
) -> None:
    engines.variables = {"VLLM_KV_CACHE_LAYOUT": "HND", "VLLM_LOGGING_LEVEL": "DEBUG"}
    run(project, engines)
    engines.variables = {"VLLM_KV_CACHE_LAYOUT": "HND", "VLLM_PORT": "4711", "VLLM_API_KEY": "x"}
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new"]


def test_launches_under_other_variables_are_another_engine_in_the_gpu_s_chart(
    project: Project, engines: Engines
) -> None:
    measure_reference(project, engines, 4)
    engines.variables = {"VLLM_ATTENTION_BACKEND": "FLEX_ATTENTION"}
    engines.power_w = lambda name, launch: 600.0
    result = run(project, engines)
    result.assert_outcomes(passed=4)
    assert engines.launched == ["new", "old", "old"]
    result.stdout.no_fnmatch_line("*out of its band*")


@pytest.mark.parametrize(
    ("breaks", "kept"),
    [
        (EngineError("run", "the worker was ended by SIGKILL"), 1),
        # Nobody has looked at the GPU once the engine had ended.
        (RuntimeError("unforeseen"), 0),
        (MeterError("the GPU is lost"), 0),
    ],
)
def test_of_a_launch_that_breaks_off_whole_cells_are_kept_if_the_engine_s_end_was_seen(
    project: Project, engines: Engines, breaks: Exception, kept: int
) -> None:
    engines.breaks = breaks
    run(project, engines)
    (of_bs2,) = [*(project.path / "cache").rglob("*.json.gz")] or [None]
    assert bool(kept) == (of_bs2 is not None and "bs2" in of_bs2.parent.name)
    engines.breaks = None
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new", "old", "old"]


def test_under_xdist_the_header_does_not_promise_what_cells_decide(
    project: Project, engines: Engines
) -> None:
    result = run(project, engines, "-p", "xdist", "-n", "1", "-k", "none_of_this_name")
    result.stdout.fnmatch_lines(["energy: *(unless the reference may stand in for baselines): *"])


def test_a_cache_that_cannot_be_written_is_said_and_decides_nothing(
    project: Project, engines: Engines
) -> None:
    (project.path / "cache").write_text("not a folder")
    result = run(project, engines)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*the reference's launch is not kept for later runs: *"])


def test_a_reference_that_fails_is_named(project: Project, engines: Engines) -> None:
    engines.fails = {("old", 1)}
    result = run(project, engines)
    result.assert_outcomes(failed=4)
    assert engines.launched == ["new", "old"]
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: tiny bs=2 *",
            "  the reference could not be launched on this GPU: the reference engine (*/old): "
            "engine failed during load: CUDA error: an illegal memory access*",
        ]
    )


def test_a_regression_stands_if_the_reference_cannot_confirm_it(
    project: Project, engines: Engines
) -> None:
    engines.gpu, engines.fails = ELSEWHERE, {("old", 1)}
    result = run(project, engines, "-k", "test_energy")
    result.assert_outcomes(failed=2)
    assert engines.launched == ["new", "new", "old"]
    result.stdout.fnmatch_lines(
        [
            "REGRESSED: tiny bs=2 64/250, J/token 0.55*",
            "  how sure: *the reference could not be launched on this GPU: *illegal memory access*",
        ]
    )


def test_an_undecided_cell_gets_further_launches_of_both(
    project: Project, engines: Engines
) -> None:
    engines.power_w = lambda name, launch: 550.0 if name == "old" else 563.0
    run(project, engines, "-k", "test_energy and bs2")
    assert engines.launched[:5] == ["new", "old", "old", "new", "old"]
    assert engines.launched.count("old") <= 5


def installing(project: Project, engines: Engines) -> pytest.RunResult:
    engines.launched.clear()
    return project.run(
        "--energy-python", engines.python("new"), "--energy-reference-install",
        "--energy-gpu-cache", str(project.path / "cache"), "-k", "test_energy",
    )  # fmt: skip


def test_the_reference_is_installed_as_the_newest_baselines_pin_it(
    project: Project, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[str] = []

    def resolve(requirements: Path, python_version: str, **_: bool) -> str:
        pinned.append(f"{python_version}: {' '.join(requirements.read_text().split())}")
        return ""

    monkeypatch.setenv("XDG_CACHE_HOME", str(project.path / "home"))
    monkeypatch.setattr(environment, "resolve", resolve)
    monkeypatch.setattr(environment, "make", lambda *_, **__: (Path(engines.python("old")), None))
    project.record(
        "newer",
        environment={"date": "2026-02-01", "python": "3.12.3", "packages": INSTALLED},
        power_w=499.0,
    )
    assert project.run("--energy-replay", "newer", "--energy-update").ret == 0
    engines.gpu, engines.power_w = ELSEWHERE, lambda name, launch: 500.0
    installing(project, engines).assert_outcomes(passed=2)
    assert (engines.launched, pinned) == (["new"], [])  # not needed
    engines.gpu = HERE
    installing(project, engines).assert_outcomes(passed=2)
    assert engines.launched == ["new", "old", "old"]
    assert pinned == ["3.12: torch==2.11.0 vllm==0.0.1"]


def test_a_baseline_that_does_not_say_what_to_install(project: Project, engines: Engines) -> None:
    result = installing(project, engines)
    result.assert_outcomes(failed=2)
    assert engines.launched == ["new"]
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: tiny bs=2 *",
            "*could not be launched on this GPU: --energy-reference-install: the baseline does not "
            "say which packages it was made with.",
        ]
    )


def test_another_engine_than_the_store_s_is_interleaved(project: Project, engines: Engines) -> None:
    engines.packages["old"] = {**INSTALLED, "vllm": "0.0.0"}
    result = run(project, engines, "--collect-only")
    result.stdout.fnmatch_lines(
        [
            "energy: live, up to 5 pairs of launches, interleaved by periods, or by launches if "
            "the engines do not fit on the GPU together (the baseline of tiny bs=2 64/250 is of "
            "vLLM 0.0.1): *"
        ]
    )


def test_without_the_engine_the_message_says_how_to_compare_here(
    project: Project, engines: Engines
) -> None:
    result = project.run("--energy-python", engines.python("new"), "-k", "test_energy and bs2")
    result.assert_outcomes(failed=1)
    summary(result).fnmatch_lines(
        [
            f"*no baseline fits: one was measured on another GPU, {ELSEWHERE} (vLLM 0.0.1) "
            "next: compare with the baseline's vLLM on this GPU: pytest * "
            "--energy-reference-python PYTHON   (or --energy-reference-install) *",
        ]
    )


def test_updates_on_two_gpus_change_two_files(project: Project, engines: Engines) -> None:
    before = project.files()
    for gpu in (HERE, "GPU-99999999-2222-3333-4444-555555555555"):
        engines.gpu = gpu
        run(project, engines, "--energy-update", "--energy-interleave", "never")
    after = project.files()
    assert [path for path in before if after[path] != before[path]] == []
    stores = sorted(p for p in after if p.startswith("baselines/") and p not in before)
    assert [Path(path).name for path in stores] == [
        "tiny.gpu-11111111.json",
        "tiny.gpu-99999999.json",
    ]


def measure_reference(project: Project, engines: Engines, times: int) -> None:
    """Runs without cached launches, so that each makes two launches of the reference."""
    for _ in range(times):
        for path in (project.path / "cache").rglob("*.json.gz"):
            path.unlink()
        run(project, engines, "-k", "test_energy")
        assert engines.launched == ["new", "old", "old"]


def test_a_gpu_that_left_its_band_is_measured_anew_until_it_has_another(
    project: Project, engines: Engines
) -> None:
    measure_reference(project, engines, 4)
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new"]  # eight launches, and the chart is in its band
    engines.power_w = lambda name, launch: 600.0
    result = run(project, engines)
    result.assert_outcomes(passed=4)
    assert engines.launched == ["new", "new", "old", "old", "old"]
    result.stdout.fnmatch_lines(
        [
            "*GPU-11111111: out of its band since 20*: J/token of the reference +9.? % in two "
            "launches; the next runs measure the reference anew*"
        ]
    )
    made = 1  # the third launch, after the alarm
    while made < 8:
        result = run(project, engines)
        result.assert_outcomes(passed=4)
        assert engines.launched == ["new", "old", "old"]
        said = f"*GPU-11111111 out of its band since 20*; {made} of 8 launches of a new band: the *"
        result.stdout.fnmatch_lines([said])
        made += 2
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new"]


def test_so_it_is_on_a_gpu_whose_baseline_an_engine_would_pass(
    project: Project, engines: Engines
) -> None:
    measure_reference(project, engines, 4)
    chart = next((project.path / "cache").rglob("launches.jsonl"))
    there = chart.parent.with_name(ELSEWHERE.lower())
    chart.parent.rename(there)
    lines = (there / "launches.jsonl").read_text().replace(HERE, ELSEWHERE)
    (there / "launches.jsonl").write_text(lines)
    engines.gpu, engines.power_w = ELSEWHERE, lambda name, launch: 600.0
    run(project, engines)  # dearer than its baseline, so that the reference is launched
    engines.power_w = lambda name, launch: 500.0
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new", "old", "old"]


def test_a_changed_machine_is_said_with_its_step_and_is_no_alarm(
    project: Project, engines: Engines
) -> None:
    measure_reference(project, engines, 4)
    engines.driver, engines.power_w = "590", lambda name, launch: 600.0
    result = run(project, engines)
    result.assert_outcomes(passed=4)
    assert engines.launched == ["new", "old", "old"]
    result.stdout.fnmatch_lines(
        [
            "*GPU-11111111: machine changed by 20* (driver 580 → 590): J/token of the reference "
            "+9.* % (+*.* to +*.* %, 8 launches before, 2 after)*"
        ]
    )
    result.stdout.no_fnmatch_line("*out of its band*")
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new"]


def test_a_baseline_from_before_the_machine_changed_passes_no_engine(
    project: Project, engines: Engines
) -> None:
    """A driver that saves 8 % would hide a regression of 6 %."""
    project.record("before", environment={"driver": "580", "date": "2026-11-01"})
    assert project.run("--energy-replay", "before", "--energy-update").ret == 0
    engines.gpu, engines.driver = ELSEWHERE, "590"
    engines.power_w = lambda name, launch: 460.0 if name == "old" else 488.0
    result = run(project, engines, "-k", "test_energy")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*GPU-00000000: machine changed by 20* (driver 580 → 590*): J/token of the reference "
            "-7.8 % (-*.* to -*.* %, 3 launches before, 3 after)*",
            "REGRESSED: tiny bs=2*, +6.0 % vs the reference's *",
        ]
    )
    project.run(
        "--energy-python", engines.python("old"), "--energy-update", "--energy-launches", "3"
    )
    engines.power_w = lambda name, launch: 460.0
    run(project, engines, "-k", "test_energy").assert_outcomes(passed=2)
    assert engines.launched == ["new"]


@pytest.mark.parametrize(
    ("ends", "because"),
    [
        (1, "the reference was not launched: no further launch would have ended within *"),
        (9, "the reference could not be launched on this GPU: *illegal memory access*"),
    ],
)
def test_nor_if_the_reference_cannot_be_launched(
    project: Project,
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
    ends: int,
    because: str,
) -> None:
    project.record("before", environment={"driver": "580", "date": "2026-11-01"})
    assert project.run("--energy-replay", "before", "--energy-update").ret == 0
    engines.gpu, engines.driver, engines.fails = ELSEWHERE, "590", {("old", 1)}
    engines.power_w = lambda name, launch: 488.0
    monkeypatch.setattr(
        GpuMinutes, "allow_another", property(lambda _: len(engines.launched) < ends)
    )
    result = run(project, engines, "-k", "test_energy", "--energy-minutes", "9")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: tiny bs=2 *",
            "  the baseline is from before the machine changed (driver 580 → 590*), and is set *",
            f"  {because}",
        ]
    )


def test_a_baseline_passes_no_engine_on_a_gpu_that_left_its_band(
    project: Project, engines: Engines
) -> None:
    measure_reference(project, engines, 4)
    engines.power_w = lambda name, launch: 600.0
    run(project, engines)
    chart = next((project.path / "cache").rglob("launches.jsonl"))
    there = chart.parent.with_name(ELSEWHERE.lower())
    chart.parent.rename(there)
    lines = (there / "launches.jsonl").read_text().replace(HERE, ELSEWHERE)
    (there / "launches.jsonl").write_text(lines)
    engines.gpu, engines.fails = ELSEWHERE, {("old", 1)}
    engines.power_w = lambda name, launch: 500.0
    result = run(project, engines, "-k", "test_energy and bs2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: tiny bs=2 *",
            "  the baseline is set aside, since the GPU is out of its band since 20*",
        ]
    )


def test_a_cell_that_the_cache_leaves_undecided_gets_launches_of_both(
    project: Project, engines: Engines
) -> None:
    run(project, engines)
    engines.power_w = lambda name, launch: 550.0 if name == "old" else 563.0
    result = run(project, engines, "-k", "test_energy and bs2")
    result.assert_outcomes(passed=1)
    assert engines.launched[:5] == ["new", "new", "old", "old", "old"]


def test_a_cell_that_its_baseline_leaves_undecided_gets_all_its_launches(
    project: Project, engines: Engines
) -> None:
    engines.gpu, engines.power_w = ELSEWHERE, lambda name, launch: 511.0
    result = run(project, engines, "-k", "test_energy and bs2", "--energy-engine-arg", "x=1")
    assert engines.launched == ["new"] * 5
    result.stdout.fnmatch_lines(["INCONCLUSIVE: tiny bs=2 *"])


@pytest.mark.parametrize(
    ("gpu", "launches", "verdict"), [(ELSEWHERE, 2, "REGRESSED"), (HERE, 1, "NOT COMPARABLE")]
)
def test_minutes_that_end_before_the_reference_is_launched_are_named(
    project: Project,
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
    gpu: str,
    launches: int,
    verdict: str,
) -> None:
    engines.gpu = gpu
    monkeypatch.setattr(
        GpuMinutes, "allow_another", property(lambda _: len(engines.launched) < launches)
    )
    result = run(project, engines, "-k", "test_energy", "--energy-minutes", "9")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            f"{verdict}: tiny bs=2 *",
            "*the reference was not launched: no further launch would have ended within "
            "--energy-minutes 9",
        ]
    )


def test_a_reference_that_fails_after_its_first_launch_is_named(
    project: Project, engines: Engines
) -> None:
    engines.fails = {("old", 2)}
    engines.power_w = lambda name, launch: 550.0 if name == "old" else 563.0
    result = run(project, engines, "-k", "test_energy and bs2")
    result.stdout.fnmatch_lines(
        ["INCONCLUSIVE: tiny bs=2 *", "*the reference could not be launched on this GPU: *illegal*"]
    )


def test_recordings_hold_the_launches_that_the_verdict_is_by(
    project: Project, engines: Engines
) -> None:
    run(project, engines)
    engines.power_w = lambda name, launch: 600.0
    run(project, engines, "--energy-record", "kept").assert_outcomes(passed=4)
    assert len(list((project.path / "kept" / "reference").iterdir())) == 3
    sides = ("--energy-replay", "kept/candidate", "--energy-interleave", "never")
    replayed = project.run(*sides, "--energy-reference-replay", "kept/reference")
    replayed.assert_outcomes(passed=4)
    itself = project.run(*sides, "--energy-reference-replay", "kept/candidate")
    itself.assert_outcomes(failed=4)
    itself.stdout.fnmatch_lines(["*is on both sides, and would be compared with itself."])


def test_results_say_how_the_run_compared(project: Project, engines: Engines) -> None:
    run(project, engines, "--energy-report", "report")
    results = json.loads((project.path / "report" / "results.json").read_text())
    assert "compared on a GPU without baselines" in results["runs"][0]["settings"]


def test_another_engine_than_that_of_the_baseline_here_confirms_nothing(
    project: Project, engines: Engines
) -> None:
    project.record(
        "newer", environment={"date": "2026-02-01", "vllm": "0.0.9", "gpu_uuids": [HERE]}
    )
    update = "--energy-update", "--energy-update-reason", "a new GPU"
    assert project.run("--energy-replay", "newer", *update).ret == 0
    engines.gpu = ELSEWHERE
    result = installing(project, engines)
    result.assert_outcomes(failed=2)
    assert engines.launched == ["new", "new"]
    result.stdout.no_fnmatch_line("*the reference could not be launched*")


def test_what_a_clock_that_was_ahead_left_does_not_stay_in_the_cache(
    project: Project, engines: Engines
) -> None:
    run(project, engines)
    for path in (project.path / "cache").rglob("*.json.gz"):
        for year in range(2090, 2095):
            (path.parent / f"{year}{path.name[4:]}").write_bytes(b"")
        path.unlink()
    run(project, engines).assert_outcomes(passed=4)
    run(project, engines).assert_outcomes(passed=4)
    assert engines.launched == ["new"]


def test_an_interpreter_s_wrapper_may_print_lines_of_its_own(
    project: Project, engines: Engines
) -> None:
    run(project, engines)
    old = Path(engines.python("old"))
    wrapper = old.with_name("wrapper")
    wrapper.write_text(f"#!/bin/sh\necho loading\n{old}\necho 3\n")
    wrapper.chmod(0o755)
    engines.launched.clear()
    project.run(
        "--energy-python", engines.python("new"), "--energy-reference-python", str(wrapper),
        "--energy-gpu-cache", str(project.path / "cache"),
    ).assert_outcomes(passed=4)  # fmt: skip
    assert engines.launched == ["new"]


def test_an_interpreter_that_does_not_say_what_is_installed_is_refused(
    project: Project, engines: Engines
) -> None:
    result = project.run(
        "--energy-python", engines.python("new"), "--energy-reference-python", "false",
        "--energy-interleave", "never",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --energy-reference-python: false does not say what is installed (exit status 1)."]
    )


@pytest.mark.parametrize(
    ("versions", "same"),
    [(("1.0+cu130", "1.0"), True), (("1.dev5+gabcdef0.cu130", "1.dev5+g1234567"), False)],
)
def test_builds_of_two_commits_are_two_engines(
    project: Project, engines: Engines, versions: tuple[str, str], same: bool
) -> None:
    project.record("here", environment={"vllm": versions[0], "date": "2026-02-01"})
    assert project.run("--energy-replay", "here", "--energy-update").ret == 0
    engines.packages["old"] = {**INSTALLED, "vllm": versions[1]}
    result = run(project, engines, "--collect-only")
    assert ("compared on a GPU without baselines" in result.stdout.str()) is same


TWO_OF_A_NAME = """
    import pytest
    cell = dict(model="tiny", weights="dummy", input_tokens=64, output_tokens=250)

    @pytest.mark.energy(**cell, batch_sizes=[2], engine_args={"dtype": "bfloat16"})
    def test_new(energy):
        energy.check()

    @pytest.mark.energy(**cell, batch_sizes=[2, 8])
    def test_energy(energy):
        energy.check()
"""


def test_a_new_cell_takes_no_reference_from_those_that_have_baselines(
    project: Project, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.path / "home"))
    monkeypatch.setattr(environment, "resolve", lambda *_, **__: "")
    monkeypatch.setattr(environment, "make", lambda *_, **__: (Path(engines.python("old")), None))
    project.record(
        "newer",
        environment={"date": "2026-02-01", "python": "3.12.3", "packages": INSTALLED},
    )
    assert project.run("--energy-replay", "newer", "--energy-update").ret == 0
    project.pytester.makepyfile(test_tiny=TWO_OF_A_NAME)
    result = project.run(
        "--energy-python", engines.python("new"), "--energy-reference-install",
        "--energy-gpu-cache", str(project.path / "cache"),
    )  # fmt: skip
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["NO BASELINE: tiny bs=2 64/250, *"])


def test_a_new_cell_with_the_name_of_another_is_interleaved(
    project: Project, engines: Engines
) -> None:
    project.pytester.makepyfile(test_tiny=TWO_OF_A_NAME)
    result = run(project, engines, "--collect-only")
    result.stdout.fnmatch_lines(["*interleaved by periods*(no baseline is of tiny bs=2 64/250)*"])


def test_a_baseline_here_of_another_engine_is_told_as_that(
    project: Project, engines: Engines
) -> None:
    engines.gpu, engines.fails = ELSEWHERE, {("old", 1)}
    engines.packages["old"] = {**INSTALLED, "vllm": "0.0.0"}
    result = run(project, engines, "-k", "test_energy and bs2", "--energy-interleave", "never")
    result.stdout.fnmatch_lines(
        [
            "NO BASELINE: tiny bs=2 *",
            "*no baseline fits: the one of this GPU is of vLLM 0.0.1, which is not the reference",
            "*the reference could not be launched on this GPU: *",
        ]
    )


def test_what_is_given_already_is_not_what_to_type_next(project: Project, engines: Engines) -> None:
    engines.fails = {("old", 1)}
    result = run(project, engines, "-k", "test_energy and bs2")
    summary(result).fnmatch_lines(["*next: fix the cause and measure again: pytest *"])
    result.stdout.no_fnmatch_line("*--energy-reference-python PYTHON*")


def test_a_power_budget_asks_for_no_launch_of_the_reference(
    project: Project, engines: Engines
) -> None:
    run(project, engines)
    tests = project.path / "test_tiny.py"
    tests.write_text(tests.read_text().replace("energy(**", "energy(max_power_w=540, **"))
    run(project, engines, "-k", "test_energy and bs2").assert_outcomes(failed=1)
    assert engines.launched == ["new"]


@pytest.mark.parametrize(
    "given",
    [
        "--energy-reference-python=python",
        "--energy-reference-engine-arg=x=1",
        "--energy-url=http://localhost:1",
    ],
)
def test_an_engine_is_not_compared_with_itself_for_the_baseline_s(
    project: Project, engines: Engines, given: str
) -> None:
    result = project.run("--energy-reference-install", given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --energy-reference-install *"])


def test_an_update_launches_no_reference_and_says_so(project: Project, engines: Engines) -> None:
    result = project.run(
        "--energy-python", engines.python("new"), "--energy-reference-install", "--energy-update",
        "--energy-update-reason", "a new GPU", "--energy-launches", "3",
        "--energy-gpu-cache", str(project.path / "cache"),
    )  # fmt: skip
    result.assert_outcomes(passed=4)
    assert set(engines.launched) == {"new"}
    result.stdout.no_fnmatch_line("*without baselines*")


def test_a_user_without_a_home_has_no_cache(
    project: Project, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_energy.store.gpu_cache.user_cache", lambda: Path("~/.cache"))
    before = project.files()
    result = project.run(
        "--energy-python", engines.python("new"), "--energy-reference-python", engines.python("old")
    )
    result.assert_outcomes(passed=4)
    assert project.files() == before
