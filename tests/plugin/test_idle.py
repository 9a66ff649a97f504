"""The gate of an engine at idle, on recordings and live."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.launch import launch
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import Recording
from tests import simulated
from tests.plugin.project import MARKER, TESTS, Project, summary

IDLE = f"""
    import pytest
    pytestmark = pytest.mark.energy(**{MARKER!r})

    def test_idle(idle_power):
        pass
"""


@pytest.fixture
def project(project: Project) -> Project:
    """With a test of the idle engine alone."""
    (project.path / "test_tiny.py").unlink()
    project.pytester.makepyfile(test_idle=IDLE)
    return project


def cell_of(project: Project) -> Cell:
    return Marked.from_arguments((), MARKER).cell(0, project.path)


def record(project: Project, label: str, power_w: float = 100.0, **recorded: Any) -> Path:
    """Three launches that differ by 0.5 W."""
    for number in range(3):
        made = simulated.idle_recording(
            cell_of(project), f"{label}-{number}", power_w + 0.5 * number, **recorded
        )
        recording_file.write(made, project.path / label / made.launch_id / "idle.json.gz")
    return project.path / label


def store(project: Project) -> None:
    record(project, "old")
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0


def test_an_unchanged_engine_passes_and_its_row_shows_watts_alone(project: Project) -> None:
    store(project)
    record(project, "new")
    result = project.run("--energy-replay", "new", "--junitxml=junit.xml", "--energy-report=page")
    assert result.ret == 0
    lines = summary(result)
    result.stdout.fnmatch_lines(
        ["cell *W*change, %*verdict*detects, %", "tiny", "  idle *+0.0*pass*"]
    )
    lines.fnmatch_lines(
        ["*tiny idle: 100.5 W, 70.0 W without the engine (+30.5 W), 0.02 CPU cores"]
    )
    lines.no_fnmatch_line("*J/token*")
    given = {
        found.get("name"): found.get("value")
        for found in ElementTree.parse(project.path / "junit.xml").iter("property")
    }
    assert given["idle_power_w_verdict"] == "pass"
    assert (given["power_w"], given["without_engine_w"]) == ("100.5", "70")
    (entry,) = json.loads((project.path / "page" / "results.json").read_text())["entries"]
    assert (entry["metric"], entry["verdict"], entry["candidate"]) == ("idle_power_w", "pass", None)
    assert entry["idle"]["candidate"]["power_w"] == pytest.approx(100.5, abs=0.01)
    assert entry["idle"]["reference"]["cpu_cores"] == 0.02
    assert "tiny idle" in (project.path / "page" / "report.html").read_text()


def test_a_busy_loop_regresses_and_the_message_says_it_in_words(project: Project) -> None:
    store(project)
    record(project, "busy", 180.0, cpu_cores=1.02)
    result = project.run("--energy-replay", "busy", "--energy-report=page")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*REGRESSED: tiny idle, W at idle 180.5, +79.6 % vs the baseline's 100.5",
            "*how sure: 95 % interval *tolerance 10.0 %; 3 launches against 3 of vLLM 0.0.1*",
            "*at idle 180.5 W, 70.0 W without the engine (+110.5 W), 1.02 CPU cores; "
            "+80.0 W against 100.5 W; the engine keeps a CPU core busy while it waits: a busy "
            "loop (0.02 → 1.02 CPU cores)*",
        ]
    )
    page = (project.path / "page" / "report.html").read_text()
    assert "Do not merge" in page
    assert "a busy loop" in page


def test_more_power_at_an_idle_host_points_to_the_gpu(project: Project) -> None:
    store(project)
    record(project, "hot", 130.0)
    result = project.run("--energy-replay", "hot")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*its host does not wait busily*look for work, or clocks*GPU*"])


def test_tokens_in_the_window_are_invalid(project: Project) -> None:
    store(project)
    record(project, "asked", tokens=12)
    result = project.run("--energy-replay", "asked")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*INVALID: tiny idle*", "*not_idle: the engine generated 12*"])


def test_updates_make_a_history_and_a_loss_needs_a_reason(project: Project) -> None:
    store(project)
    assert "joules_per_token" not in next((project.path / "baselines").rglob("*.json")).read_text()
    record(project, "worse", 120.0)
    refused = project.run("--energy-replay", "worse", "--energy-update")
    assert refused.ret == 1
    refused.stdout.fnmatch_lines(["*W at idle +19.9 % against the best entry (100.499*"])
    accepted = project.run(
        "--energy-replay", "worse", "--energy-update", "--energy-update-reason", "new clocks"
    )
    assert accepted.ret == 0
    accepted.stdout.fnmatch_lines(["  idle *changed*"])
    judged = project.run("--energy-replay", "worse", "--energy-report=page")
    assert judged.ret == 0
    assert "new clocks" in (project.path / "page" / "report.md").read_text()
    done = project.pytester.run(
        sys.executable, "-m", "pytest_energy.commands.main", "history", "baselines", "-o", "history"
    )
    assert done.ret == 0
    text = (project.path / "history" / "report.md").read_text()
    assert "tiny idle" in text
    assert "new clocks" in text


def test_a_baseline_that_no_engine_has_is_damaged_and_fleets_say_what_they_show(
    project: Project,
) -> None:
    store(project)
    done = project.pytester.run(
        sys.executable, "-m", "pytest_energy.commands.main", "fleet", "baselines"
    )
    done.stderr.fnmatch_lines(["*baselines holds no baselines of engines under load*"])
    path = next((project.path / "baselines").rglob("*.json"))
    path.write_text(path.read_text().replace('"cpu_cores": 0.02', '"cpu_cores": -5'))
    record(project, "new")
    result = project.run("--energy-replay", "new", "--energy-report=page")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*is damaged: *cpu_cores is -5*must be at least 0*"])


def test_its_noise_is_measured(project: Project) -> None:
    store(project)
    for label in ("a", "b", "c"):
        record(project, label)
    measured = project.run("--energy-replay", "a", "b", "c", "--energy-noise")
    assert measured.ret == 0
    measured.stdout.fnmatch_lines(["*idle *W at idle*9*"])
    judged = project.run("--energy-replay", "a")
    assert judged.ret == 0
    summary(judged).fnmatch_lines(["noise of W at idle between launches: *measured on this cell*"])


def test_noise_under_load_and_at_idle_are_apart(project: Project) -> None:
    project.pytester.makepyfile(test_tiny=TESTS)
    for label in ("old", "noise", "new"):
        project.record(label)
        record(project, label)
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0
    for measured in ("test_tiny.py", "test_idle.py"):
        assert project.run("--energy-replay", "noise", "--energy-noise", measured).ret == 0
        judged = project.run("--energy-replay", "new")
        judged.assert_outcomes(passed=5)
        of_idle = "assumed" if measured == "test_tiny.py" else "assumed, 2 of *"
        judged.stdout.fnmatch_lines(
            ["cell *W *change, %*", "tiny", "  idle *", "cell *J/token *tokens/s *", "tiny 64/250"],
            consecutive=True,
        )
        summary(judged).fnmatch_lines([f"noise of W at idle between launches: *{of_idle}"])


def test_it_shares_the_launch_with_the_cells_under_load_and_comes_first(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.pytester.makepyfile(test_tiny=TESTS)
    launches: list[list[int]] = []

    def record_launch(cells: Any, *_: Any) -> Iterator[tuple[Cell, Recording]]:
        launches.append([cell.batch_size for cell in cells])
        for cell in cells:
            made = f"live-{len(launches)}"
            yield (
                cell,
                (
                    simulated.idle_recording(cell, made)
                    if cell.key.is_idle
                    else simulated.recording(cell, made, cycles=12.5)
                ),
            )

    monkeypatch.setattr(launch, "record_launch", record_launch)
    result = project.run("--energy-launches", "3", "--energy-update", "--energy-record", "kept")
    assert result.ret == 0
    assert launches == [[0, 2, 8]] * 3
    files = project.files()
    again = project.run("--energy-replay", "kept")
    assert again.ret == 0
    assert project.files() == files


def test_interleaved_its_launches_alternate_and_periods_are_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines on one GPU have one power together."""
    made: list[str] = []

    def record_launch(cells: Any, settings: Any, *_: Any) -> Iterator[tuple[Cell, Recording]]:
        busy = not settings.engine_args_under_test
        made.append("candidate" if busy else "reference")
        for cell in cells:
            power_w = 180.0 if busy else 100.0
            yield cell, simulated.idle_recording(cell, f"{made[-1]}-{len(made)}", power_w)

    monkeypatch.setattr(launch, "record_launch", record_launch)
    pair = "--energy-reference-engine-arg", "seed=1", "--energy-python", sys.executable
    refused = project.run(*pair, "--energy-interleave", "periods")
    assert refused.ret == 1
    refused.stdout.fnmatch_lines(
        ["*an engine at idle is measured alone on its GPU*", "*--energy-interleave launches*"]
    )
    assert made == []
    result = project.run(*pair)
    assert result.ret == 1
    assert made[:4] == ["reference", "candidate", "candidate", "reference"]
    result.stdout.fnmatch_lines(
        ["*REGRESSED: tiny idle, W at idle 180.0, +80.0 % vs the reference's 100.0"]
    )


def test_recordings_are_compared_without_a_verdict(project: Project) -> None:
    record(project, "old")
    record(project, "busy", 180.0, cpu_cores=1.02, environment={"vllm": "0.0.2"})
    done = project.pytester.run(
        sys.executable, "-m", "pytest_energy.commands.main", "report", "old", "busy", "-o", "page"
    )
    assert done.ret == 0
    text = (project.path / "page" / "report.md").read_text()
    assert "vLLM 0.0.1 → vLLM 0.0.2" in text
    assert "W at idle 180.5, +79.6 % vs the reference's 100.5" in text


def test_a_table_of_releases_leaves_it_out(project: Project) -> None:
    record(project, "old")
    done = project.pytester.run(
        sys.executable, "-m", "pytest_energy.commands.main", "sweep", "--table", "old", "-o", "page"
    )
    assert done.ret != 0
    done.stderr.fnmatch_lines(["*nothing to compare: all of this is of engines at idle, *"])


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("def test_both(energy, idle_power): pass", "*Give idle_power a test of its own*"),
        (
            "@pytest.mark.energy(idle_tolerance=2)\n    def test_far(idle_power): pass",
            "*idle_tolerance is 2: it must be a number between 0 and 1*",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(project: Project, test: str, message: str) -> None:
    project.pytester.makepyfile(
        test_wrong=IDLE.replace("def test_idle(idle_power):\n        pass", test)
    )
    (project.path / "test_idle.py").unlink()
    result = project.run("--energy-replay", "none")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
