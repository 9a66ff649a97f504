"""Paths that are wrong: one message before anything is launched, and pytest's status 4."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_energy.launch import launch
from tests.plugin.project import MARKER, TESTS, Project
from tests.plugin.test_bad_input import everything, refused


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was launched; nothing is."""
    found: list[object] = []

    def record(*arguments: object, **_: object) -> None:
        found.append(arguments)
        pytest.fail("launched")

    monkeypatch.setattr(launch, "record_launch", record)
    return found


def once(result: pytest.RunResult, message: str) -> None:
    assert everything(result).count(message) == 1
    assert everything(result).count("ERROR: ") == 1


def nothing(path: Path) -> None:
    """There is none."""


def link(path: Path) -> None:
    path.symlink_to("gone")


def plain_file(path: Path) -> None:
    path.write_text("#!/bin/sh\n")


def environment(path: Path) -> None:
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python").touch()


@pytest.mark.parametrize("option", ["--energy-python", "--energy-reference-python"])
@pytest.mark.parametrize(
    ("make", "given", "says", "instead"),
    [
        (nothing, "~/given", "there is no such file", "/venv/bin/python"),
        (link, "~/given", "there is no such file", "/venv/bin/python"),
        (plain_file, "~/given", "it is not executable", "/venv/bin/python"),
        (Path.mkdir, "~/given", "it is a folder", "/venv/bin/python"),
        (environment, "~/given", "it is a folder", "~/given/bin/python"),
        (nothing, "no-such-python", "there is no such program in PATH", "/venv/bin/python"),
    ],
)
def test_an_interpreter_that_cannot_be_run(
    project: Project,
    launched: list[object],
    option: str,
    make: Callable[[Path], None],
    given: str,
    says: str,
    instead: str,
) -> None:
    """The home folder is the project's."""
    make(project.path / "given")
    message = f"{option} {given}: {says}.\nGive the interpreter of an environment with vLLM: "
    result = refused(project, [option, given], message + f"{option} {instead}\n", ret=4)
    once(result, message)
    assert not launched


def test_an_interpreter_of_the_ini_file_is_needed_to_launch_alone(
    project: Project, launched: list[object]
) -> None:
    """Its settings are of the runner; on a laptop recordings are judged and tests listed."""
    project.store()
    project.pytester.makeini("[pytest]\nenergy_python = /no/python")
    once(refused(project, [], "--energy-python /no/python: there is", ret=4), "no such file")
    assert project.run("--energy-replay", "old").ret == 0
    assert project.run("--collect-only").ret == 0
    project.pytester.makepyfile(test_tiny="def test_other(): pass")
    assert project.run().ret == 0
    assert not launched


@pytest.mark.parametrize("arguments", [[], ["--energy-replay", "old"]])
@pytest.mark.parametrize("make", [nothing, link])
def test_a_store_that_is_not_there_is_read_by_no_run(
    project: Project, launched: list[object], make: Callable[[Path], None], arguments: list[str]
) -> None:
    project.store()
    store = project.path / "basline"
    make(store)
    named = ["--energy-baselines", str(store)]
    once(
        refused(
            project,
            [*arguments, *named],
            f"--energy-baselines {store}: there is no such folder.\nGive the store of baselines, "
            "or make it: --energy-update",
            ret=4,
        ),
        "no such folder",
    )
    assert not launched


@pytest.mark.parametrize("arguments", ["--energy-update", "--energy-noise"])
def test_a_store_that_is_not_there_is_made_if_it_is_written(
    project: Project, arguments: str
) -> None:
    project.record("old")
    assert project.run("--energy-replay", "old", arguments, "--energy-baselines", "new").ret == 0
    assert (project.path / "new").is_dir()


def test_a_store_that_nobody_named_may_be_yet_to_come(project: Project) -> None:
    """Each cell says how its baseline is stored."""
    project.record("old")
    project.pytester.makeini("[pytest]\nenergy_baselines = store")
    project.run("--energy-replay", "old").stdout.fnmatch_lines(["NO BASELINE: *"])


def empty_subfolders(path: Path) -> None:
    (path / "launch-0").mkdir(parents=True)


def results(path: Path) -> None:
    path.mkdir()
    (path / "results.json").write_text("{}")


@pytest.mark.parametrize("how", [[], ["--energy-update"], ["--energy-noise"]])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "does not exist"),
        (link, "does not exist"),
        (Path.mkdir, "holds no recordings (*.json.gz)"),
        (empty_subfolders, "holds no recordings (*.json.gz)"),
        (results, "holds no recordings (*.json.gz)"),
    ],
)
def test_a_path_without_recordings(
    project: Project, make: Callable[[Path], None], says: str, how: list[str]
) -> None:
    project.store()
    path = project.path / "none"
    make(path)
    message = f"--energy-replay: {path} {says}. Give a folder that --energy-record wrote"
    once(refused(project, ["--energy-replay", "old", "none", *how], message, ret=4), message)


def test_a_path_without_recordings_of_the_reference(project: Project) -> None:
    project.store()
    message = f"--energy-reference-replay: {project.path / 'none'} does not exist."
    once(
        refused(
            project,
            ["--energy-replay", "old", "--energy-reference-replay", "none"],
            message,
            ret=pytest.ExitCode.USAGE_ERROR,
        ),
        message,
    )


def test_all_that_is_wrong_with_markers_is_told_at_once(project: Project) -> None:
    """The exit status is the one under pytest-xdist (test_bad_input.py)."""
    other = TESTS.replace(repr(MARKER), repr({**MARKER, "tolerance": 3}))
    wrong = TESTS.replace(repr(MARKER), repr({**MARKER, "batch_sizes": [0]}))
    project.pytester.makepyfile(test_other=other, test_tiny=wrong)
    result = refused(project, [], "test_other.py::test_energy: tolerance is 3", ret=4)
    result.stderr.fnmatch_lines(
        [
            "ERROR: test_other.py::test_energy: tolerance is 3: it must be a number *",
            "test_tiny.py::test_energy: batch_sizes is [[]0]: it must be a list *",
        ]
    )
    assert everything(result).count("it must be") == 2
