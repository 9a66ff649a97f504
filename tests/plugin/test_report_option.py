"""--energy-report: what is written and when, on GitHub and under xdist, and if it cannot be."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_energy.report import results, results_file
from tests import simulated
from tests.plugin.project import MARKER, Project

FILES = {"report.html", "report.md", "results.json"}


@pytest.fixture(autouse=True)
def not_on_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)


def written(project: Project, folder: str = "report") -> results.Results:
    assert {path.name for path in (project.path / folder).iterdir()} >= FILES
    return results_file.read(project.path / folder / "results.json")


def test_a_replay_writes_its_report_and_nothing_else(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0, environment={"vllm": "0.0.2"})
    before = project.files()
    result = project.run("--energy-replay", "dear", "--energy-report", "out/report")
    result.assert_outcomes(failed=2, passed=2)
    result.stdout.fnmatch_lines(
        ["energy report: out/report/results.json, out/report/report.md, out/report/report.html"]
    )
    new = {name for name in project.files() if name not in before}
    assert {name.partition("/")[0] for name in new} == {"out"}
    assert {name: content for name, content in project.files().items() if name in before} == before
    found = written(project, "out/report")
    assert [run.source for run in found.runs] == ["replay"]
    assert found.runs[0].exit_status == 1
    assert found.runs[0].settings == "replay of dear, baselines in baselines"
    entry = found.entries[1]
    assert (entry.test, entry.file, entry.line) == (
        "test_tiny.py::test_energy[bs8]",
        "test_tiny.py",
        4,
    )
    assert (entry.verdict, entry.green, entry.cell.batch_size, entry.metric) == (
        "regressed",
        False,
        8,
        "joules_per_token",
    )
    assert entry.candidate is not None
    assert entry.reference is not None
    assert entry.ratio is not None
    assert entry.candidate.joules_per_token.value == pytest.approx(0.559441, rel=1e-5)
    assert entry.candidate.power_w.value == pytest.approx(560)
    assert entry.ratio.value == pytest.approx(1.12, rel=1e-4)
    assert [launch.launch_id for launch in entry.candidate.launches] == [
        "dear-0",
        "dear-1",
        "dear-2",
    ]
    assert (entry.reference.vllm, entry.candidate.vllm) == ("0.0.1", "0.0.2")
    assert entry.candidate.static_power_w == pytest.approx(120, rel=0.01)
    pictures = {path.name for path in (project.path / "out/report/pictures").iterdir()}
    assert pictures == {
        f"{name}-{theme}.svg"
        for name in ("change", "against-batch-size", "power-throughput", "launch")
        for theme in ("light", "dark")
    }


def test_the_report_says_what_the_terminal_says(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    result = project.run(
        "--energy-replay", "dear", "--energy-report", "report", "-k", "test_energy and bs8"
    )
    page = (project.path / "report/report.md").read_text()
    headline, how_sure, split, changed, following = next(
        result.outlines[i : i + 5]
        for i, line in enumerate(result.outlines)
        if line.startswith("REGRESSED: ")
    )
    assert f"### {headline}" in page
    for line in (how_sure.removeprefix("  how sure: "), split.strip(), changed.strip()):
        assert line in page
    assert following.split("pytest ")[1].split("   ")[0] in page


def test_nothing_is_written_without_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    project.store()
    project.record("dear", power_w=560.0)
    before = project.files()
    result = project.run("--energy-replay", "dear")
    assert project.files() == before
    assert not (tmp_path / "summary.md").exists()
    assert "::error" not in result.stdout.str()


def test_on_github_the_job_summary_is_added_to_and_regressions_are_annotated(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path.parent))
    (tmp_path / "summary.md").write_text("# another step\n")
    project.store()
    project.record("dear", power_w=560.0)
    result = project.run("--energy-replay", "dear", "--energy-report", "report")
    assert (
        tmp_path / "summary.md"
    ).read_text() == f"# another step\n{(project.path / 'report/report.md').read_text()}\n"
    annotations = [line for line in result.outlines if line.startswith("::error")]
    assert len(annotations) == 2
    place = f"file={project.path.name}/test_tiny.py,line=4,title=tiny bs=2 64/250 regressed"
    assert annotations[0].startswith(
        f"::error {place}::REGRESSED: tiny bs=2 64/250, J/token 0.5594, "
        "+12.0 %25 vs the baseline's 0.4995%0A"
    )
    assert (
        project.run("--energy-replay", "old", "--energy-report", "report")
        .stdout.str()
        .count("::error")
        == 0
    )


def test_a_live_run_draws_the_trace_from_the_recordings_it_keeps(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_launch(cells, *_):  # type: ignore[no-untyped-def]
        for cell in cells:
            yield cell, simulated.recording(cell, launch_id="live", cycles=12.5)

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", record_launch)
    project.store()
    assert project.run("--energy-report", "without", "--energy-launches", "1").ret == 0
    assert (
        "it needs recordings, which a live run keeps with --energy-record"
        in (project.path / "without/report.html").read_text()
    )
    project.run("--energy-report", "with", "--energy-launches", "1", "--energy-record", "kept")
    assert (project.path / "with/pictures/launch-light.svg").is_file()
    run = written(project, "with").runs[0]
    assert (run.source, run.settings) == (
        "live",
        f"live, 1 launch of {Path(sys.executable).name}, baselines in baselines, "
        "recordings kept in kept",
    )


@pytest.mark.nightly
def test_under_xdist_the_report_is_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    project.store()
    project.record("dear", power_w=560.0)
    result = project.pytester.runpytest_subprocess(
        "-p",
        "xdist",
        "-n",
        "2",
        "--energy-replay",
        "dear",
        "--energy-report",
        "spread",
        "-p",
        "no:cacheprovider",
    )
    assert result.ret == 1
    project.run("--energy-replay", "dear", "--energy-report", "alone")
    spread, alone = written(project, "spread"), written(project, "alone")
    by_test = {entry.test: entry for entry in spread.entries}
    assert by_test == {entry.test: entry for entry in alone.entries}
    assert spread.runs == alone.runs


def test_updates_improvements_and_failures_are_reported(project: Project) -> None:
    project.record("old")
    project.run("--energy-replay", "old", "--energy-update", "--energy-report", "report")
    assert [entry.verdict for entry in written(project).entries] == ["created"] * 4
    project.run(
        "--energy-replay",
        project.record("bad", faults=["throttled: hot"]),
        "--energy-report",
        "report",
    )
    found = written(project)
    assert [(entry.verdict, entry.candidate) for entry in found.entries] == [("invalid", None)] * 4
    assert found.entries[0].reasons[0] == "launch bad-0: throttled: hot"
    project.record("new", marker={**MARKER, "output_tokens": 500})
    project.run("--energy-replay", "new", "--energy-report", "report")
    assert "no recording of tiny bs=2 64/250" in (project.path / "report/report.md").read_text()


def test_the_history_of_the_baselines_is_drawn(project: Project) -> None:
    project.store()
    project.record("new", power_w=450.0, environment={"vllm": "0.0.2"})
    project.run("--energy-replay", "new", "--energy-update")
    project.run("--energy-replay", "new", "--energy-report", "report")
    assert [(state.vllm, state.cell.batch_size) for state in written(project).history] == [
        ("0.0.1", 2), ("0.0.2", 2), ("0.0.1", 8), ("0.0.2", 8),
    ]  # fmt: skip
    assert (project.path / "report/pictures/history-light.svg").is_file()


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_told_before_anything_is_measured(
    project: Project, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    launched = []
    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", lambda *_: launched.append(1))
    monkeypatch.setitem(sys.modules, package, None)
    before = project.files()
    result = project.run("--energy-report", "report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            f"*a report needs {package}, which is not installed.",
            "*pip install 'pytest-energy?report?'",
        ]
    )
    assert launched == []
    assert project.files() == before


def test_a_folder_that_cannot_be_is_refused_before_anything_is_measured(project: Project) -> None:
    (project.path / "file").write_text("")
    result = project.run("--energy-replay", "old", "--energy-report", "file/report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*the report cannot go to *file/report: *file is not a folder.", "Give another folder*"]
    )


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file of a report be written."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pytest_energy.report.publish.write_atomically", full)


@pytest.mark.parametrize("options", [[], ["-p", "no:terminal"]])
def test_a_full_disk_loses_the_report_and_no_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    project.store()

    fill_disk(monkeypatch)
    result = project.pytester.runpytest(
        "--energy-replay", "old", "--energy-report", "report", *options, "--junitxml", "junit.xml"
    )
    assert result.ret == 1
    assert "the energy report was not written: " in result.stdout.str() + result.stderr.str()
    assert "No space left on device" in result.stdout.str() + result.stderr.str()
    assert (project.path / "junit.xml").read_text().count('_verdict" value="pass"') == 4
    if not options:
        result.assert_outcomes(passed=4)


@pytest.mark.parametrize(
    "path",
    [
        "folder",
        pytest.param("missing/summary.md", marks=pytest.mark.nightly),
        pytest.param("full.md", marks=pytest.mark.nightly),
    ],
)
def test_a_job_summary_that_cannot_be_written_decides_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """GitHub takes 1 MiB a step (CreateStepSummaryCommand in actions/runner) or nothing."""
    (project.path / "folder").mkdir()
    (project.path / "full.md").write_bytes(b"x" * (1024 * 1024 - 50))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / path))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.store()
    project.record("dear", power_w=560.0)
    arguments = ("--energy-report", "report", "-k", "test_energy and bs8", "--energy-replay")
    result = project.run(*arguments, "old")
    assert result.ret == 0
    assert written(project).entries
    assert (project.path / "full.md").stat().st_size == 1024 * 1024 - 50
    result.stdout.fnmatch_lines(
        ["warning: the energy report was not added to the job summary*", "energy report: *"]
    )
    assert "was not written" not in result.stdout.str()
    failed = project.run(*arguments, "dear")
    assert failed.ret == 1
    assert failed.stdout.str().count("::error") == 1


def test_a_report_that_cannot_be_written_is_in_the_job_summary(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    project.store()
    project.run("--energy-report", "report", "-k", "test_energy and bs8", "--energy-replay", "old")
    assert "1 of 1 energy test passed" in (project.path / "summary.md").read_text()


def test_a_report_that_cannot_be_drawn_takes_no_other_output_along(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "none of matplotlib's")  # importing matplotlib fails
    project.store()
    arguments = ("-p", "no:cacheprovider", "-k", "test_energy and bs8", "--energy-replay", "old")
    result = project.pytester.runpytest_subprocess(
        *arguments, "--energy-report", "report", "--junitxml", "junit.xml"
    )
    assert result.ret == 1
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines(
        ["  bs=8 *pass*", "the energy report was not written: ValueError: *"]
    )
    assert 'joules_per_token_verdict" value="pass"' in (project.path / "junit.xml").read_text()


def test_a_path_that_is_not_utf_8_is_reported(project: Project) -> None:
    project.store()
    folder = (project.path / "old").rename(project.path / os.fsdecode(b"r\xe9f"))
    for file in folder.glob("*/8.json.gz"):
        file.unlink()
    project.run("--energy-report", "report", "--energy-replay", folder.name)
    text = (project.path / "report" / "results.json").read_text()
    assert "replay of r?f" in text
    assert "no recording of tiny bs=8 64/250 in ~/r?f" in text


def test_step_outputs_that_cannot_be_written_decide_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(project.path / "missing" / "output"))
    project.store()
    arguments = ("--energy-report", "report", "-k", "test_energy and bs8", "--energy-replay")
    result = project.run(*arguments, "old")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["warning: the step's outputs were not written (GITHUB_OUTPUT): *"])
    project.record("dear", power_w=560.0)
    assert project.run(*arguments, "dear", "--energy-exit-status", "verdict").ret == 10


def test_step_outputs_tell_of_a_report_that_was_not_written(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch)
    monkeypatch.setenv("GITHUB_OUTPUT", str(project.path / "output"))
    project.store()
    project.run("--energy-report", "report", "-k", "test_energy and bs8", "--energy-replay", "old")
    assert "status=1\n" in (project.path / "output").read_text()


@pytest.mark.parametrize(
    "hook",
    [
        "sessionfinish(session)",
        pytest.param("terminal_summary(config)", marks=pytest.mark.nightly),
    ],
)
def test_another_plugin_that_fails_at_the_end_takes_no_verdict_along(
    project: Project, hook: str
) -> None:
    project.store()
    project.pytester.makeconftest(f"def pytest_{hook}: raise OSError(28, 'No space left')")
    result = project.pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--energy-replay", "old", "--energy-report", "report"
    )
    assert result.ret == 1
    assert "No space left" in result.stderr.str()
    assert len([line for line in result.outlines if " 1,001 " in line and " pass " in line]) == 2
    assert len(written(project).entries) == 4


def test_an_interrupted_run_says_so(project: Project) -> None:
    project.store()
    project.pytester.makeconftest(
        """
        def pytest_runtest_setup(item):
            if "bs8" in item.name:
                raise KeyboardInterrupt
        """
    )
    arguments = ("-p", "no:cacheprovider", "--energy-replay", "old", "--energy-report", "report")
    assert (
        project.pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True).ret
        == pytest.ExitCode.INTERRUPTED
    )
    assert "not all tests were judged" in (project.path / "report/report.md").read_text()


def test_collecting_writes_no_report(project: Project) -> None:
    assert project.run("--collect-only", "--energy-report", "report").ret == 0
    assert not (project.path / "report").exists()


def test_noise_is_no_verdict_to_report(project: Project) -> None:
    result = project.run("--energy-noise", "--energy-report", "report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--energy-noise*judges nothing: leave --energy-report out"])


def test_the_ini_file_may_name_the_folder(project: Project) -> None:
    project.store()
    project.pytester.makeini("[pytest]\nenergy_report = kept")
    project.pytester.makepyfile(test_other="def test_other(): pass")
    project.run("test_other.py")
    assert not (project.path / "kept").exists()
    project.run("test_tiny.py", "--energy-replay", "old", "-k", "bs8")
    assert written(project, "kept").entries


def test_results_json_is_plain_json_of_the_schema(project: Project) -> None:
    project.store()
    project.run("--energy-replay", "old", "--energy-report", "report", "-k", "bs8")
    content = json.loads((project.path / "report/results.json").read_text())
    assert content["schema_version"] == 4
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", content["runs"][0]["date"])
    assert str(project.path) not in json.dumps(content)


def test_a_run_with_a_report_asked_for_starts_light(project: Project) -> None:
    """The check at the start loads none of the packages that it looks for."""
    project.pytester.makepyfile(
        test_tiny="""
        import sys

        def test():
            assert not {"matplotlib", "pandas", "jinja2"} & set(sys.modules)
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--energy-report", "report"],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "No energy test was judged" in (project.path / "report/report.md").read_text()
