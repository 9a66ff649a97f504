"""The plugin as its users meet it: options, fixtures, table, JUnit, pytest-benchmark, xdist."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from tests import simulated
from tests.conftest import ROOT
from tests.plugin.project import MARKER, STORED, TESTS, Project, summary


@pytest.fixture
def live(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Replaces the engine and meter by simulation; holds the batch sizes of each launch."""
    launched: list[list[int]] = []

    def record_launch(
        cells: Any, settings: Any, open_meter: Any, progress: Callable[[str], None], precision: Any
    ) -> Any:
        launched.append([cell.batch_size for cell in cells])
        progress("tiny: loading (python)")
        for cell in cells:
            progress(f"{cell.name}: measuring, 1.0 cycles, 1,000 tokens/s")
            assert cell.launch_args["max_num_seqs"] == 8
            yield cell, simulated.recording(cell, launch_id=f"live-{len(launched)}", cycles=12.5)

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", record_launch)
    return launched


def test_passes_and_shows_the_table(project: Project) -> None:
    project.store()
    project.record("same")
    result = project.run("--energy-replay", "same")
    result.assert_outcomes(passed=4)
    summary(result).fnmatch_lines(
        [
            "energy: replay of same, baselines in baselines",
            "cell * J/token * change, % * tokens/s * change, % * W * verdict * detects, %",
            "  bs=2 * 0.4995 *+0.0 ±* 1,001 * +0.0 ±* 500 * pass * +* -*",
            "  bs=8 * 0.4995 *+0.0 ±* 1,001 * +0.0 ±* 500 * pass * +* -*",
            "vLLM 0.0.1 against the baseline's vLLM 0.0.1: 3 launches against 3, * s under load *",
            "noise of J/token between launches: 1.00 % assumed",
            "an assumed noise takes more launches to raise an alarm: run pytest-energy noise",
        ]
    )


@pytest.mark.parametrize("with_others", [False, True])
def test_launches_that_the_baseline_holds_are_said_to_be_compared_with_themselves(
    project: Project, with_others: bool
) -> None:
    project.store()
    project.record("same")
    said = "tiny bs=2,8 64/250: compared with itself: the baseline holds old-0, old-1, old-2, so"
    also = ["same"] if with_others else []
    result = project.run("--energy-replay", "old", *also, "--energy-report", "report")
    result.assert_outcomes(passed=4)
    assert summary(result).str().count(said) == 1
    assert "Compared with itself" in (project.path / "report" / "report.md").read_text()
    assert "with itself" not in project.run("--energy-replay", "same").stdout.str()
    updated = project.run("--energy-replay", "old", "--energy-update")
    assert "with itself" not in updated.stdout.str()


def test_create_change_and_history(project: Project) -> None:
    project.record("old")
    created = project.run("--energy-replay", "old", "--energy-update")
    created.assert_outcomes(passed=4)
    created.stdout.fnmatch_lines(
        [
            "energy: *baselines UPDATED in baselines",
            "  bs=2 * created",
            "  bs=8 * created",
            "baselines written below baselines: review and commit them",
        ]
    )
    project.record("new", power_w=450.0)
    changed = project.run("--energy-replay", "new", "--energy-update")
    changed.stdout.fnmatch_lines(
        [
            "  bs=2 * 0.4* -10.0 ±* 1,001 * +0.0 ±* 450 * changed",
        ]
    )
    stored = json.loads((project.path / STORED).read_text())
    assert [len(cell["history"]) for cell in stored["cells"].values()] == [1, 1]


def test_an_update_with_the_launches_of_the_baseline_changes_nothing(project: Project) -> None:
    project.store()
    before = project.files()
    again = project.run("--energy-replay", "old", "--energy-update", "--energy-report", "report")
    again.assert_outcomes(passed=4)
    again.stdout.fnmatch_lines(["  bs=2 * unchanged", "  bs=8 * unchanged"])
    again.stdout.no_fnmatch_line("*commit them")
    assert "4 of 4 energy tests unchanged" in (project.path / "report" / "report.md").read_text()
    after = project.files()
    assert {name: after[name] for name in before} == before


def test_updates_only_the_selected_tests(project: Project) -> None:
    project.store()
    before = json.loads((project.path / STORED).read_text())["cells"]
    project.record("new", power_w=450.0)
    project.run("--energy-replay", "new", "--energy-update", "-k", "bs2")
    after = json.loads((project.path / STORED).read_text())["cells"]
    assert [name for name in after if after[name] != before[name]] == [
        "offline in=64 out=250 bs=0002 GPU-00000000"
    ]


def test_nothing_is_written_unasked(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    project.record("new", marker={**MARKER, "output_tokens": 500})
    before = project.files()
    for label in ("old", "dear", "new"):
        project.run("--energy-replay", label)
    assert project.files() == before


def test_recordings_from_elsewhere_do_not_move_the_store(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project.pytester.makeini("[pytest]")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "pytest.ini").write_text("[pytest]\n")
    (project.record("old")).rename(elsewhere / "old")
    assert project.run("--energy-replay", elsewhere / "old", "--energy-update").ret == 0
    assert (project.path / STORED).is_file()
    assert not (elsewhere / "baselines").exists()
    assert not (elsewhere.parent / "baselines").exists()


@pytest.mark.parametrize(
    ("launches", "kwargs", "reason"),
    [(2, {}, "at least 3 launches"), (3, {"faults": ("throttled: hot",)}, "throttled: hot")],
)
def test_refused_updates_fail_and_change_nothing(
    project: Project, launches: int, kwargs: dict[str, Any], reason: str
) -> None:
    project.store()
    project.record("new", launches=launches, power_w=450.0, **kwargs)
    before = project.files()
    result = project.run("--energy-replay", "new", "--energy-update")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines([f"the baseline of tiny bs=2 64/250 was not updated: *{reason}*"])
    assert project.files() == before


def test_the_failure_stands_in_the_test_with_its_figures(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    result = project.run("--energy-replay", "dear", "--junitxml", "junit.xml")
    result.assert_outcomes(failed=2, passed=2)
    assert result.ret == 1
    cases = ElementTree.parse(project.path / "junit.xml").findall(".//testcase")
    failed = {case.get("name"): case.find("failure") for case in cases}
    assert {name for name, failure in failed.items() if failure is not None} == {
        "test_energy[bs2]",
        "test_energy[bs8]",
    }
    failure = failed["test_energy[bs8]"]
    assert failure is not None
    assert "+12.0 %" in (failure.text or "")
    properties = {p.get("name"): p.get("value") for p in cases[1].findall(".//property")}
    assert properties == {
        "joules_per_token": "0.559441",
        "joules_per_total_token": "0.445415",
        "wh_per_1000_requests": "38.8501",
        "power_w": "560",
        "tokens_per_s": "1001",
        "joules_per_token_change": "0.12",
        "joules_per_token_verdict": "regressed",
    }


def test_a_body_that_never_checks_is_checked_and_a_body_that_fails_fails_for_its_own_reason(
    project: Project,
) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    project.pytester.makepyfile(
        test_tiny=f"""
        import pytest
        pytestmark = pytest.mark.energy(**{MARKER!r})

        def test_forgets(energy):
            assert energy.power_w > 500
            assert energy.joules_per_token > 0.5
            assert energy.tokens_per_s > 900
            assert energy.verdict == "regressed"

        def test_own_reason(throughput):
            assert throughput.power_w < 300, "too hot for my rack"
        """
    )
    result = project.run("--energy-replay", "dear")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["REGRESSED: tiny bs=2 64/250*", "*too hot for my rack*"])


def test_a_test_may_refine_its_modules_marker(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    project.pytester.makepyfile(
        test_tiny=TESTS.replace(
            "    def test_energy", "    @pytest.mark.energy(tolerance=0.2)\n    def test_energy"
        )
    )
    project.run("--energy-replay", "dear").assert_outcomes(passed=4)


def test_one_launch_serves_all_cells_of_all_tests(project: Project, live: list[list[int]]) -> None:
    result = project.run("--energy-update")
    result.assert_outcomes(passed=4)
    assert live == [[2, 8]] * 5
    result.stdout.fnmatch_lines(
        [
            "energy: live, up to 8 launches (as many as the noise asks for) of *",
            "energy * s  * min left: launch 1 of up to 8: tiny: loading*",
            "energy * s  * min left: launch 1 of up to 8: tiny bs=2 64/250: measuring, 1.0 cycles*",
        ]
    )


def test_a_selection_measures_only_itself_on_the_same_engine(
    project: Project, live: list[list[int]]
) -> None:
    project.run("-k", "bs2")
    assert live == [[2]]


def test_recordings_of_a_live_run_replay_to_the_same_table(
    project: Project, live: list[list[int]]
) -> None:
    project.store()

    def table(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if line.startswith("  bs=")]

    project.measure_noise()
    measured = project.run("--energy-record", "kept")
    assert table(measured)
    assert live == [[2, 8]]

    def without_detects(lines: list[str]) -> list[str]:
        return [line.rpartition("  ")[0] for line in lines]

    # A replay has no launches to come, so it would have caught less.
    assert without_detects(table(project.run("--energy-replay", "kept"))) == without_detects(
        table(measured)
    )
    assert len(list((project.path / "kept").rglob("*.json.gz"))) == 2


def test_launches_are_spent_on_what_is_undecided(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One launch decides an unchanged cell, two a dearer one; an unclear one takes all five."""
    launched: list[list[int]] = []
    power_w = {2: 500.0, 8: 560.0, 4: 512.0}

    def record_launch(cells: Any, *_: Any) -> Any:
        launched.append([cell.batch_size for cell in cells])
        for cell in cells:
            yield (
                cell,
                simulated.recording(
                    cell,
                    launch_id=f"live-{len(launched)}",
                    cycles=12.5,
                    power_w=power_w[cell.batch_size],
                ),
            )

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", record_launch)
    marker = {**MARKER, "batch_sizes": [2, 4, 8]}
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(marker)))
    project.record("old", marker=marker)
    project.measure_noise(marker)
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0
    result = project.run("-k", "test_energy")
    assert launched == [[2, 4, 8], [4, 8], [4], [4], [4]]
    result.stdout.fnmatch_lines(
        [
            "energy: live, up to 5 launches of *",
            "  bs=2 * pass *",
            "  bs=4 * inconclusive",
            "  bs=8 * regressed",
        ]
    )
    result.stdout.fnmatch_lines(["*next: set another tolerance in the test, *"])


def test_what_stays_undecided_may_warn_instead_of_failing(project: Project) -> None:
    project.store()
    project.record("vague", launches=1, power_w=512.0)
    assert project.run("-k", "test_energy", "--energy-replay", "vague").ret == 1
    result = project.run(
        "-k",
        "test_energy",
        "--energy-replay",
        "vague",
        "--energy-inconclusive",
        "warn",
        "-W",
        "error",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["  bs=2 * inconclusive", "warning: INCONCLUSIVE: tiny bs=2 64/250*", "  next: *"]
    )
    dear = project.record("dear", power_w=600.0)
    project.run(
        "-k", "test_energy", "--energy-replay", dear, "--energy-inconclusive", "warn"
    ).assert_outcomes(failed=2)


def test_a_baseline_of_another_gpu_is_not_compared(project: Project) -> None:
    project.store()
    project.record("elsewhere", environment={"gpu_uuids": ("GPU-11111111",)})
    result = project.run("--energy-replay", "elsewhere")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: tiny bs=2 64/250*",
            "*measured on another GPU, GPU-00000000-*",
            "*next: * --energy-update*",
        ]
    )
    assert project.run("--energy-replay", "elsewhere", "--energy-update").ret == 0
    for label in ("old", "elsewhere"):
        assert project.run("--energy-replay", label).ret == 0


def test_noise_is_measured_added_up_and_judged_by(project: Project, live: list[list[int]]) -> None:
    before = project.files()
    first = project.run("--energy-noise", "--energy-launches", "2", "-k", "bs2")
    first.assert_outcomes(passed=2)
    assert live == [[2]] * 2
    assert {*project.files()} - {*before} == {"baselines/simulated-gpu/noise/tiny.json"}
    first.stdout.fnmatch_lines(
        [
            "energy: live, 2 launches of *, noise ADDED to baselines",
            "cell * metric * launches * launch sd, % * cycle sd, % * n=1 * n=5",
            "tiny 64/250",
            "  bs=2 * J/token * 2 * 0.00 (0.00 to 0.00) *",
            "tiny bs=2 64/250: 4 more launches until it is judged by its own noise",
        ]
    )
    project.record("more", launches=5)
    for _ in range(2):  # a launch counts once
        second = project.run("--energy-noise", "--energy-replay", "more", "-k", "bs2")
        second.stdout.fnmatch_lines(["  bs=2 * tokens/s * 7 * 0.* (0.* to *) *"])
    project.store()
    summary(project.run("--energy-replay", "old", "-k", "bs2")).fnmatch_lines(
        ["noise of J/token between launches: 0.* % measured on this cell, 6 degrees of freedom"]
    )


def test_an_update_of_too_few_launches_is_refused_before_it_costs_any(
    project: Project, live: list[list[int]]
) -> None:
    result = project.run("--energy-update", "--energy-launches", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--energy-update needs at least 3 launches, and 2 would be made: give --energy-laun*"]
    )
    assert live == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--energy-update", "--energy-noise"], "*give one of them"),
        (["--energy-update-reason", "because"], "*goes with --energy-update*"),
        (
            ["--energy-update", "--energy-update-reason", " "],
            "*--energy-update-reason: the text is empty",
        ),
        (
            ["--energy-inconclusive", "maybe"],
            "*--energy-inconclusive: invalid choice: 'maybe' (choose from *fail*, *warn*)",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    project: Project, options: list[str], message: str
) -> None:
    result = project.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_damaged_noise_file_is_named_and_costs_no_launch(
    project: Project, live: list[list[int]]
) -> None:
    project.measure_noise()
    path = project.path / "baselines/simulated-gpu/noise/tiny.json"
    path.write_text("{")
    before = project.files()
    result = project.run()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*noise file *tiny.json is damaged*", "*git checkout*"])
    assert live == []
    assert project.files() == before


def test_an_invalid_launch_adds_no_noise(project: Project) -> None:
    project.record("bad", faults=("throttled: hot",))
    before = project.files()
    result = project.run("--energy-noise", "--energy-replay", "bad")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        ["the noise of tiny bs=2 64/250 was not stored: launch bad-0 is invalid: throttled: hot"]
    )
    assert project.files() == before


def test_the_command_line_tool_measures_noise(project: Project) -> None:
    project.record("launches")
    command = [
        sys.executable,
        "-m",
        "pytest_energy.commands.main",
        "noise",
        "--energy-replay",
        "launches",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny bs=8 64/250" in done.stdout
    assert (project.path / "baselines/simulated-gpu/noise/tiny.json").is_file()


def test_losses_that_add_up_need_a_reason(project: Project) -> None:
    project.store()
    project.record("dearer", power_w=520.0)
    before = project.files()
    refused = project.run("--energy-replay", "dearer", "--energy-update")
    refused.assert_outcomes(failed=4)
    refused.stdout.fnmatch_lines(
        [
            "*the baseline would drift: J/token +4.0 % against the best entry*",
            "*--energy-update-reason*",
        ]
    )
    assert project.files() == before
    assert (
        project.run(
            "--energy-replay", "dearer", "--energy-update", "--energy-update-reason", "new kernels"
        ).ret
        == 0
    )
    assert b'"update_reason": "new kernels"' in project.files()[STORED]


def test_a_full_disk_is_told_and_engines_are_not_launched_again_and_again(
    project: Project, live: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = project.run("--energy-record", "kept")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*cannot be written to *kept*No space left on device*"])
    assert len(live) == 1


def test_an_update_that_failed_is_not_tried_again_behind_its_message(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room again by the time the cell's other metric asks."""
    project.record("old")
    sync, failed = os.fsync, list[int]()

    def full_once(handle: int) -> None:
        if not failed:
            failed.append(handle)
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full_once)
    result = project.run("--energy-replay", "old", "--energy-update")
    result.assert_outcomes(passed=2, failed=2)
    not_updated = "the baseline of tiny bs=2 64/250 was not updated"
    result.stdout.fnmatch_lines(
        [
            f"{not_updated}: No space left on device.",
            "Mend that, or give another store: --energy-baselines DIR",
            f"{not_updated}; why: as for energy (test_tiny.py::test_energy[[]bs2])",
        ]
    )
    (path,) = (project.path / "baselines").rglob("*.json")
    assert [
        entry["key"]["batch_size"] for entry in json.loads(path.read_text())["cells"].values()
    ] == [8]


def test_ctrl_c_while_measuring_writes_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", interrupted)
    before = project.files()
    options = ("-p", "no:cacheprovider", "--energy-update", "--energy-record", "kept")
    assert (
        project.pytester.runpytest_inprocess(*options, no_reraise_ctrlc=True).ret
        == pytest.ExitCode.INTERRUPTED
    )
    assert project.files() == before


def test_an_unforeseen_error_is_shown_once_and_no_test_is_green(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = []

    def broken(*_: Any) -> Any:
        launches.append(1)
        raise ZeroDivisionError("what?")
        yield

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", broken)
    project.run().assert_outcomes(failed=4)
    assert len(launches) == 1


def test_ini_settings_and_the_command_line_over_them(
    project: Project, live: list[list[int]]
) -> None:
    project.pytester.makeini(
        "[pytest]\nenergy_baselines = store\nenergy_launches = 4\nenergy_python = venv/bin/python\n"
        "energy_engine_args =\n  enforce_eager=true\n  block_size=16"
    )
    python = project.path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    result = project.run("--energy-update", "--energy-engine-arg", "block_size=32")
    result.stdout.fnmatch_lines(
        [
            "energy: live, 4 launches of */venv/bin/python with enforce_eager=True, block_size=32, "
            "*store"
        ]
    )
    assert (project.path / "store/simulated-gpu/tiny.gpu-00000000.json").is_file()
    assert len(live) == 4
    project.run("--energy-launches", "1")
    assert len(live) == 5


def test_unused_baselines_are_told_when_all_tests_ran(project: Project) -> None:
    project.store()
    project.pytester.makepyfile(test_tiny=TESTS.replace("[2, 8]", "[8]"))
    everything = project.run("--energy-replay", "old")
    everything.stdout.fnmatch_lines(["unused baseline: simulated GPU, tiny, batch size 2 *"])
    for selection in (["-k", "test_energy"], ["test_tiny.py::test_energy"], ["test_tiny.py"]):
        assert (
            "unused baseline" not in project.run("--energy-replay", "old", *selection).stdout.str()
        )


@pytest.mark.parametrize(
    "option", ["--benchmark-skip", "--benchmark-only", "--benchmark-disable", "-pno:benchmark"]
)
def test_no_option_of_pytest_benchmark_turns_a_test_green_or_skips_it(
    project: Project, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark looks at it
    monkeypatch.setenv(
        "PYTEST_PLUGINS",
        "pytest_energy.plugin"
        if option == "-pno:benchmark"
        else "pytest_energy.plugin,pytest_benchmark.plugin",
    )
    project.store()
    project.record("dear", power_w=560.0)
    project.run("--energy-replay", "dear", option).assert_outcomes(failed=2, passed=2)


def test_pytest_benchmark_shows_seconds_per_cycle_and_the_energy(project: Project) -> None:
    project.store()
    result = project.run("--energy-replay", "old", "--benchmark-json", "bench.json")
    result.stdout.fnmatch_lines(["*benchmark 'energy': 4 tests*"])
    entries = {
        entry["name"]: entry
        for entry in json.loads((project.path / "bench.json").read_text())["benchmarks"]
    }
    assert set(entries) == {
        "test_energy[bs2]",
        "test_energy[bs8]",
        "test_throughput[bs2]",
        "test_throughput[bs8]",
    }
    entry = entries["test_energy[bs8]"]
    assert entry["stats"]["mean"] == pytest.approx(8 * 250 / 1001, rel=0.01)
    assert entry["extra_info"]["joules_per_token"] == pytest.approx(0.4995, rel=0.001)
    assert entry["extra_info"]["joules_per_token_verdict"] == "pass"


def test_replay_works_under_xdist(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    result = project.pytester.runpytest_subprocess(
        "-p", "xdist", "-n", "2", "--energy-replay", "dear", "-p", "no:cacheprovider"
    )
    assert result.ret == 1
    result.assert_outcomes(failed=2, passed=2)
    rows = sorted(line for line in result.outlines if line.startswith("  bs="))
    assert [" regressed " in row for row in rows] == [True, True]
    assert result.outlines.count("    J/token regressed, tokens/s pass") == 2


def test_live_runs_and_updates_are_refused_under_xdist(project: Project) -> None:
    update = project.pytester.runpytest_subprocess("-p", "xdist", "-n", "2", "--energy-update")
    assert update.ret == pytest.ExitCode.USAGE_ERROR
    update.stderr.fnmatch_lines(["*--energy-update does not work under pytest-xdist*", "*-n 0*"])
    live = project.pytester.runpytest_subprocess("-p", "xdist", "-n", "2")
    assert live.ret == 1
    live.stdout.fnmatch_lines(
        ["*live measurements do not work under pytest-xdist if workers share GPUs*"]
    )


@pytest.mark.parametrize("arguments", [["-x"], ["--lf"], ["-p", "no:terminal"], ["-q"], ["-v"]])
def test_ordinary_options_keep_the_verdict(project: Project, arguments: list[str]) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    assert project.pytester.runpytest("--energy-replay", "dear", *arguments).ret == 1


def test_collect_only_measures_nothing(project: Project, live: list[list[int]]) -> None:
    assert project.run("--collect-only").ret == 0
    assert live == []


HEAVY = {
    "matplotlib",
    "numpy",
    "pandas",
    "psutil",
    "pydantic",
    "pynvml",
    "scipy",
    "zeus",
    "pytest_energy.session",
    "pytest_energy.plugin.marker",
}


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    """Every pytest run does: it takes a few ms, as long as it loads a few of our own files."""
    code = (
        "import sys, pytest, _pytest.fixtures; before = set(sys.modules)\n"
        "import pytest_energy.plugin; print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pytest_energy.plugin" in loaded
    assert {name for name in loaded if not name.startswith("pytest_energy")} == set()
    assert loaded & HEAVY == set()
    assert len(loaded) <= 16


def test_a_run_without_energy_tests_loads_nothing_heavy(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_energy.plugin")
    pytester.makepyfile(
        f"""
        import sys

        def test_modules():
            assert "pytest_energy.plugin" in sys.modules
            assert {HEAVY!r} & set(sys.modules) == set()
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_markers_arguments_are_explained(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--markers")
    result.stdout.fnmatch_lines(
        ["@pytest.mark.energy(model, batch_sizes, *", "    tolerance: relative increase of *"]
    )


def test_the_plugin_works_by_name_without_being_installed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.store()
    monkeypatch.delenv("PYTEST_PLUGINS")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = project.pytester.runpytest_subprocess(
        "-p", "pytest_energy.plugin", "--energy-replay", "old"
    )
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("arguments", "noise", "launches"),
    [([], True, 3), ([], False, 5), (["--energy-launches", "4"], True, 4)],
)
def test_an_update_makes_as_many_launches_as_the_noise_asks_for(
    project: Project,
    live: list[list[int]],
    arguments: list[str],
    noise: bool,
    launches: int,
) -> None:
    """Three if launches differ by 0.4 %, and five if that was not measured."""
    if noise:
        project.measure_noise()
    result = project.run("--energy-update", *arguments)
    result.assert_outcomes(passed=4)
    assert live == [[2, 8]] * launches
    told = "*live, up to 8 launches (as many as the noise asks for) of *"
    result.stdout.fnmatch_lines([f"*live, {launches} launches of *" if arguments else told])
