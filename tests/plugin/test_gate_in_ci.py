"""The steps of workflow and action, from requirements files to verdict and outputs.

The shell is GitHub's, read from the YAML; uv makes the environments. vLLM is the stand-in, of which
one wheel takes twice as long for a step, and the meter reports a constant power.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.engine.conftest import FAKE_PACKAGES
from tests.test_workflows import ACTION, GATE, MEASURE, Runner
from tests.wheels import wheel

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pytest_energy.launch import interleaved, launch
from pytest_energy.measure import checks, stopping
from tests.simulated import SimulatedMeter

stopping.WINDOW_S, stopping.PERIOD_S, stopping.PAIR_S = 0.5, 0.25, 0.5
interleaved._IDLE_S, launch._HOT_TAIL_S, checks.AVERAGED_NS = 0.1, 0.1, 100_000_000

def pytest_energy_open_meter(gpu_uuids, is_engine_process):
    return SimulatedMeter(power_w=100.0)
"""
TESTS = """
import pytest

@pytest.mark.energy(model="tiny", weights="dummy", batch_sizes=[2], input_tokens=4,
                    output_tokens=20, tolerance=0.5, throughput_tolerance=0.4)
def test_tiny(energy):
    pass
"""


def pin(file: Path, wheels: Path, step_s: float) -> None:
    """A requirements file with the stand-in at this pace."""
    files = {
        str(path.relative_to(FAKE_PACKAGES)): path.read_text()
        for path in FAKE_PACKAGES.glob("*/**/*.py")
    }
    package = files["vllm/__init__.py"]
    files["vllm/__init__.py"] = package.replace('"STEP_S", "0.001"', f'"STEP_S", "{step_s}"')
    assert files["vllm/__init__.py"] != package
    made = wheel(wheels, "vllm", f"1.{step_s * 1000:g}", files)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"vllm @ {made.as_uri()}\n")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner with a checkout of a pull request and, beside it, of the base branch."""
    made = Runner(tmp_path)
    (made.folder / "tiny").mkdir()
    (made.folder / "tiny" / "config.json").write_text('{"vocab_size": 2048}')
    (made.folder / "suites").mkdir()
    (made.folder / "suites" / "test_tiny.py").write_text(TESTS)
    (made.folder / "conftest.py").write_text(CONFTEST)
    (made.folder / "pytest.ini").write_text("[pytest]\n")
    command = f'exec "{sys.executable}" -m pytest_energy.commands.main "$@"'
    made.program("pytest-energy", command, made.temp / "energy" / "bin")
    made.program("uv", f'exec "{Path(sys.executable).parent / "uv"}" "$@"')
    return made


ENVIRONMENT = {
    "PYTHON_VERSION": f"{sys.version_info.major}.{sys.version_info.minor}",
    "CANDIDATE": "requirements/vllm.txt",
    "BASELINES": "",
    "PYTHONPATH": str(ROOT),
    "UV_OFFLINE": "1",
}


def run_workflow(runner: Runner, **changed: str) -> subprocess.CompletedProcess[str]:
    shutil.rmtree(runner.temp / "results")
    (runner.temp / "results").mkdir()  # as a new job finds it
    runner.output.write_text("")
    return runner.run(GATE, "measure", "Measure and judge", **{**MEASURE, **ENVIRONMENT, **changed})


def outputs(runner: Runner) -> dict[str, str]:
    """Of the step."""
    return dict(line.split("=", 1) for line in runner.output.read_text().splitlines())


@pytest.mark.parametrize(
    ("candidate_s", "status", "verdict"),
    [pytest.param(0.004, 10, "regressed", marks=pytest.mark.nightly), (0.002, 0, "pass")],
)
def test_a_pull_request_is_compared_with_its_base(
    runner: Runner, tmp_path: Path, candidate_s: float, status: int, verdict: str
) -> None:
    pin(runner.folder / "requirements" / "vllm.txt", tmp_path, candidate_s)
    pin(runner.folder / ".energy-reference" / "requirements" / "vllm.txt", tmp_path, 0.002)
    done = run_workflow(runner)
    assert done.returncode == status, done.stdout + done.stderr
    found = outputs(runner)
    assert (found["verdict"], found["status"]) == (verdict, str(status))
    assert (float(found["worst-change"].rstrip("%")) > 50) is (verdict == "regressed")
    assert (Path(found["report"]) / "report.html").is_file()
    assert (runner.temp / "results" / "junit.xml").is_file()
    sides = runner.temp / "results" / "recordings"
    assert sorted(path.name for path in sides.iterdir()) == ["candidate", "reference"]


@pytest.mark.nightly
def test_the_first_pull_request_is_compared_with_itself(runner: Runner, tmp_path: Path) -> None:
    pin(runner.folder / "requirements" / "vllm.txt", tmp_path, 0.002)
    done = run_workflow(runner)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The base branch has no requirements/vllm.txt yet" in done.stdout
    assert "both files resolve to the same packages: one engine against itself" in done.stdout


@pytest.mark.nightly
def test_baselines_are_stored_and_compared_with(runner: Runner, tmp_path: Path) -> None:
    pin(runner.folder / "requirements" / "vllm.txt", tmp_path, 0.002)
    stored = {"BASELINES": "baselines"}
    missing = run_workflow(runner, **stored)
    assert (missing.returncode, outputs(runner)["verdict"]) == (4, "none")
    assert "there is no such folder" in missing.stdout + missing.stderr
    (runner.folder / "baselines").mkdir()
    none_of_cell = run_workflow(runner, **stored, PYTEST_ADDOPTS="--energy-launches 1")
    assert (none_of_cell.returncode, outputs(runner)["verdict"]) == (13, "no baseline")
    update = run_workflow(runner, **stored, UPDATE="true", BECAUSE="the first")
    assert update.returncode == 0, update.stdout
    pin(runner.folder / "requirements" / "vllm.txt", tmp_path, 0.004)
    assert run_workflow(runner, **stored).returncode == 10


@pytest.mark.nightly
def test_a_suite_that_is_skipped_is_no_verdict(runner: Runner, tmp_path: Path) -> None:
    pin(runner.folder / "requirements" / "vllm.txt", tmp_path, 0.002)
    skipped = TESTS.replace("@pytest", "@pytest.mark.skip(reason='too slow')\n@pytest", 1)
    (runner.folder / "suites" / "test_tiny.py").write_text(skipped)
    done = run_workflow(runner)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "no verdict: 1 energy test selected, none judged (skipped: too slow)." in done.stdout
    assert (outputs(runner)["verdict"], outputs(runner)["status"]) == ("none", "5")


def test_launches_of_a_run_before_are_not_added_to(runner: Runner) -> None:
    (runner.temp / "results" / "recordings").mkdir()
    step = {**MEASURE, **ENVIRONMENT}
    done = runner.run(GATE, "measure", "Measure and judge", **step)
    assert done.returncode == 2
    assert "whose launches would count as this one's" in done.stderr


def test_an_environment_that_cannot_be_made_is_no_verdict(runner: Runner) -> None:
    done = run_workflow(runner)
    assert done.returncode == 2
    assert done.stderr == (
        "pytest-energy: there is no requirements file requirements/vllm.txt.\n"
        "Give the one that pins vLLM.\n"
    )
    assert outputs(runner) == {}


def test_a_file_without_vllm_is_refused_before_anything_is_launched(runner: Runner) -> None:
    file = runner.folder / "requirements" / "vllm.txt"
    file.parent.mkdir()
    file.write_text("# vllm==0.25.1\n")
    done = run_workflow(runner)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.endswith(
        "pytest-energy: requirements/vllm.txt asks for no vLLM.\nWrite it there: vllm==VERSION\n"
    )
    assert outputs(runner) == {}


@pytest.mark.nightly
def test_the_action_does_the_same(runner: Runner, tmp_path: Path) -> None:
    pin(runner.folder / "requirements" / "vllm.txt", tmp_path, 0.004)
    pin(runner.folder / "base.txt", tmp_path, 0.002)
    action: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    as_workflow = runner.folder / "action.yml"
    as_workflow.write_text(yaml.safe_dump({True: {}, "jobs": {"gate": action["runs"]}}))
    given = {**ENVIRONMENT, "SUITES": "suites", "REFERENCE": "base.txt"}
    given["PYTEST_ADDOPTS"] = ""
    done = runner.run(as_workflow, "gate", "Measure and judge", **given)
    assert done.returncode == 10, done.stdout + done.stderr
    found = outputs(runner)
    assert (found["verdict"], found["status"]) == ("regressed", "10")
    assert 50 < float(found["worst-change"].rstrip("%")) < 200
    wanted = {value["value"] for value in action["outputs"].values()}
    assert wanted <= {f"${{{{ steps.gate.outputs.{name} }}}}" for name in found}
