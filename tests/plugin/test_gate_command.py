"""`pytest-energy gate`: what it refuses before it makes environments, which takes minutes."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import NoReturn

import pytest

from pytest_energy.commands.main import main
from pytest_energy.engines import environment
from tests.conftest import ROOT
from tests.plugin.project import TESTS, Project


class Became(BaseException):
    """This process would have become pytest; what it showed and returned."""

    def __init__(self, result: pytest.RunResult) -> None:
        self.output = result.stdout.str() + result.stderr.str()
        self.status = result.ret


class Resolved(BaseException):
    """Environments would be made."""


@pytest.fixture
def gate(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the requirements of a gate; pytest runs in this process."""

    def run_pytest(command: Sequence[str], env: Mapping[str, str]) -> pytest.RunResult:
        assert command[1:3] == ["-m", "pytest"]
        with monkeypatch.context() as patched:
            for name in os.environ.keys() - env.keys():
                patched.delenv(name)
            return project.pytester.runpytest_inprocess(*command[3:])

    def start(
        command: Sequence[str], *, env: Mapping[str, str], **_: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, int(run_pytest(command, env).ret))

    def execute(_: str, command: Sequence[str]) -> NoReturn:
        raise Became(run_pytest(command, os.environ))

    def resolve(*_: object) -> NoReturn:
        raise Resolved

    monkeypatch.setattr(os, "execv", execute)
    stand_in = SimpleNamespace(run=start, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr("pytest_energy.commands.gate.subprocess", stand_in)
    monkeypatch.setattr(environment, "resolve", resolve)
    monkeypatch.setenv("GITHUB_OUTPUT", str(project.path / "outputs"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (project.path / "vllm.txt").write_text("vllm==0.25.1\n")
    (project.path / "suites").mkdir()
    (project.path / "test_tiny.py").rename(project.path / "suites" / "test_tiny.py")
    return project


REFERENCE = ["--reference", "vllm.txt"]


def run(*arguments: str, against: list[str] = REFERENCE) -> int:
    return main(["gate", "--candidate", "vllm.txt", *against, "-o", "results", *arguments])


def became(*arguments: str, against: list[str] = REFERENCE) -> Became:
    with pytest.raises(Became) as found:
        run(*arguments, against=against)
    return found.value


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["-k", "bs8 or bs2"], "-- -k 'bs8 or bs2'"),
        (["-kbs8"], "-- -kbs8"),
        (["-x", "--energy-launches", "3"], "-- -x --energy-launches 3"),
        (["-k", "bs8", "--", "-v"], "-- -k bs8 -v"),
    ],
)
def test_arguments_of_pytest_without_dashes_before_them(
    capsys: pytest.CaptureFixture[str], arguments: list[str], instead: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    usage, _, said = capsys.readouterr().err.partition("pytest-energy gate: error: ")
    assert usage.startswith("usage: pytest-energy gate ")
    assert said.endswith(
        "\nArguments of pytest follow --, as in: pytest-energy gate --candidate vllm.txt "
        f"--reference vllm.txt -o results {instead}\n"
    )


@pytest.mark.parametrize("command", ["report x -o y", "history x -o y", "doctor", "init"])
def test_what_a_command_does_not_know_is_refused_with_its_own_usage(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--csv"])
    said = capsys.readouterr().err
    name = command.partition(" ")[0]
    assert said.startswith(f"usage: pytest-energy {name} ")
    assert said.endswith(f"pytest-energy {name}: error: unrecognized arguments: --csv\n")


def test_an_unknown_option_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--quiet", "doctor"])
    assert "pytest-energy: error: unrecognized arguments: --quiet" in capsys.readouterr().err


def test_a_right_command_makes_environments(gate: Project) -> None:
    """Nothing is shown or written before; a test may be named."""
    for arguments in ([], ["--", "-k", "bs8"], ["--suites", "suites/test_tiny.py::test_energy"]):
        before = gate.files()
        with pytest.raises(Resolved):
            run(*arguments)
        assert gate.files() == before
    gate.store()
    with pytest.raises(Resolved):
        run(against=["--baselines", "baselines"])
    with pytest.raises(Resolved):
        run(against=[*REFERENCE, "--baselines", "baselines"])


def test_nothing_to_compare_with(gate: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(against=[]) != 0
    assert "--reference FILE, --baselines DIR" in capsys.readouterr().err


def test_the_readmes_command_makes_environments(gate: Project) -> None:
    (command,) = re.findall("^pytest-energy (gate .*)$", (ROOT / "README.md").read_text(), re.M)
    with pytest.raises(Resolved):
        main(shlex.split(command))


def test_a_store_yet_to_come_is_made_by_an_update_alone(gate: Project) -> None:
    store = ["--baselines", "store"]
    with pytest.raises(Resolved):
        run("--", "--energy-update", against=store)
    refused = became(against=store)
    assert refused.status == pytest.ExitCode.USAGE_ERROR
    assert refused.output.count(f"--energy-baselines {gate.path / 'store'}: there is no such") == 1


@pytest.mark.parametrize("suites", ["nosuch", "suites/nosuch.py::test_energy"])
def test_a_suite_that_is_not_there(
    gate: Project, capsys: pytest.CaptureFixture[str], suites: str
) -> None:
    assert run("--suites", suites) == 2
    assert capsys.readouterr().err == (
        f"pytest-energy: there is no file or folder {suites}, where the tests would be.\n"
        "Name your suite: --suites PATH\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--", "-k", "bs16 or bs32"], "is selected by: -k 'bs16 or bs32'"),
        (["--", "--deselect", "suites/test_tiny.py"], "is selected by: --deselect suites/"),
        (["--suites", "tiny"], "no test in tiny is selected by: "),
    ],
)
def test_nothing_that_is_selected(
    gate: Project, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert became(*arguments).status == pytest.ExitCode.NO_TESTS_COLLECTED
    said = capsys.readouterr().err
    assert said.startswith("pytest-energy: no test in ")
    assert says in said
    assert " --collect-only --quiet\n" in said
    # GitHub's step has the status, from which the workflow says what happened.
    assert "verdict=none\n" in (gate.path / "outputs").read_text()
    assert "status=5\n" in (gate.path / "outputs").read_text()


def test_what_the_environment_selects_is_named(
    gate: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the workflow's input pytest-args does."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    assert became().status == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "no test in suites is selected by: -k nothing\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tests", "arguments", "status", "says"),
    [
        (TESTS, ["--nosuchoption"], 4, "unrecognized arguments: --nosuchoption"),
        (TESTS, ["--energy-launches", "2"], 4, "needs at least 3 pairs of launches"),
        (TESTS.replace("'tiny'", "'./none'"), [], 4, "model './none': no such folder"),
        (TESTS.replace("[2, 8]", "[0]"), [], 4, "batch_sizes is [0]: it must be"),
        ("import nothing_of_this_name", [], 2, "No module named 'nothing_of_this_name'"),
        ("def test_other(): pass", [], 4, "so there would be no verdict"),
    ],
)
def test_what_pytest_will_refuse(
    gate: Project, tests: str, arguments: list[str], status: int, says: str
) -> None:
    """A suite without tests of energy would be green."""
    gate.pytester.makepyfile(**{"suites/test_tiny": tests})
    refused = became("--", *arguments)
    assert (refused.status, refused.output.count(says)) == (status, 1), refused.output
