"""Whose store and settings count: those of the tests' project, whatever stands after options."""

import shutil
from pathlib import Path

import pytest

from tests.plugin.project import STORED, Project
from tests.plugin.test_bad_input import everything

UPDATE = "--energy-update"


@pytest.fixture
def other(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another repository, with recordings of ours, a store, and settings that hold none of ours."""
    folder = tmp_path_factory.mktemp("other")
    (folder / ".git").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "baselines").mkdir()
    project.record("old").rename(folder / "old")
    return folder


def holds_only(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("tests", [[], ["test_tiny.py"], ["{here}/test_tiny.py"], ["{here}"]])
@pytest.mark.parametrize("mark", [None, "pytest.ini", "baselines", ".git"])
def test_a_path_after_an_option_moves_no_store(
    project: Project, other: Path, tests: list[str], mark: str | None
) -> None:
    if mark == "pytest.ini":
        project.pytester.makeini("[pytest]")
    elif mark:
        (project.path / mark).mkdir()
    paths = [path.format(here=project.path) for path in tests]
    options = ("--energy-python", "/usr/bin/python3", "--energy-replay", other / "old", UPDATE)
    result = project.run(*paths, *options)
    assert result.ret == 0, everything(result)
    assert (project.path / STORED).is_file()
    assert holds_only(other / "baselines")
    assert not (other.parent / "baselines").exists()


def test_tests_of_another_project_are_judged_by_its_store(
    project: Project, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project.path / "tiny", other / "tiny")
    (project.path / "test_tiny.py").rename(other / "test_tiny.py")
    monkeypatch.chdir(other)
    assert project.run("--energy-replay", "old", UPDATE).ret == 0
    project.record("same")
    monkeypatch.chdir(project.path)
    project.run(other, "--energy-replay", "same").assert_outcomes(passed=4)


def test_a_suite_that_is_a_link_belongs_where_it_is_linked(project: Project, other: Path) -> None:
    (other / "suites").mkdir()
    (project.path / "test_tiny.py").rename(other / "suites" / "test_tiny.py")
    (project.path / "tiny").rename(other / "suites" / "tiny")
    (project.path / ".git").mkdir()
    (project.path / "suites").symlink_to(other / "suites")
    result = project.run("suites", "--energy-replay", other / "old", UPDATE)
    assert result.ret == 0, everything(result)
    assert (project.path / STORED).is_file()
    assert holds_only(other / "baselines")


@pytest.mark.parametrize("option", [UPDATE, "--energy-noise"])
@pytest.mark.parametrize("how", [["{other}/test_tiny.py"], ["--rootdir", "{other}"]])
def test_another_projects_store_is_not_written_to(
    project: Project, other: Path, how: list[str], option: str
) -> None:
    (other / "test_tiny.py").write_bytes((project.path / "test_tiny.py").read_bytes())
    (project.path / "tiny").rename(other / "tiny")
    words = [word.format(other=other) for word in how]
    result = project.run(*words, "--energy-replay", other / "old", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{option} would write to {other}/baselines, which is outside" in everything(result)
    assert holds_only(other / "baselines")
    named = "--energy-baselines", other / "baselines"
    assert project.run(*words, "--energy-replay", other / "old", option, *named).ret == 0


def test_a_store_that_the_projects_own_ini_file_names_may_be_anywhere(
    project: Project, other: Path
) -> None:
    shared = other / "shared"
    project.pytester.makeini(f"[pytest]\nenergy_baselines = {shared}")
    project.record("new")
    assert project.run("--energy-replay", "new", UPDATE).ret == 0
    assert (shared / "simulated-gpu" / "tiny.gpu-00000000.json").is_file()


@pytest.mark.parametrize("setting", ["energy_baselines = store", "energy_inconclusive = warn"])
def test_another_projects_settings_are_refused(project: Project, other: Path, setting: str) -> None:
    (other / "pytest.ini").write_text(f"[pytest]\n{setting}\n")
    for option in ([], [UPDATE]):
        result = project.run("--energy-replay", other / "old", *option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        message = f"{other}/pytest.ini: its energy settings are in force, and are another project's"
        assert message in everything(result)
    assert holds_only(other, ".git", "pytest.ini", "baselines", "old")
    assert project.run(f"--energy-replay={other / 'old'}", UPDATE).ret == 0


@pytest.mark.parametrize("ini", ["pytest.ini", "tox.ini", "pyproject.toml"])
def test_settings_that_a_path_after_an_option_hides_are_missed(
    project: Project, other: Path, ini: str
) -> None:
    section = "tool.pytest.ini_options" if ini == "pyproject.toml" else "pytest"
    (project.path / ini).write_text(f'[{section}]\nenergy_baselines = "store"\n')
    result = project.run("--energy-replay", other / "old", UPDATE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    message = f"{project.path}/{ini}: its energy settings are not in force"
    assert message in everything(result)
    assert project.run("test_tiny.py", "--energy-replay", other / "old", UPDATE).ret == 0
    assert not (project.path / "baselines").exists()


def test_models_are_those_of_the_tests_project(project: Project, other: Path) -> None:
    """The test names a model by a path from the project's top."""
    (project.path / ".git").mkdir()
    (project.path / "suites").mkdir()
    (project.path / "test_tiny.py").rename(project.path / "suites" / "test_tiny.py")
    (other / "tiny").mkdir()
    (other / "tiny" / "config.json").write_text('{"vocab_size": 9}')
    result = project.run("--energy-replay", other / "old", UPDATE)
    assert result.ret == 0, everything(result)


def test_tests_of_two_projects_have_no_store_in_common(project: Project, other: Path) -> None:
    (project.path / "pytest.ini").write_text("[pytest]\n")
    shutil.copytree(project.path / "tiny", other / "tiny")
    text = (project.path / "test_tiny.py").read_text()
    (other / "test_other.py").write_text(text.replace("[2, 8]", "[4]"))
    run = project.run("test_tiny.py", other / "test_other.py", "--energy-replay", other / "old")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "belong to several projects" in everything(run)
    assert "--energy-baselines DIR" in everything(run)


def test_an_update_stays_in_the_project_of_a_repository_of_several(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.path / ".git").mkdir()
    for name in ("a", "b"):
        shutil.copytree(project.path / "tiny", project.path / name / "tiny")
    (project.path / "a" / "pytest.ini").write_text("[pytest]\n")
    (project.path / "test_tiny.py").rename(project.path / "b" / "test_tiny.py")
    old = project.record("old")
    monkeypatch.chdir(project.path / "a")
    run = project.run("../b/test_tiny.py", "--energy-replay", old, UPDATE)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "outside of the project that pytest was called in" in everything(run)
    assert not (project.path / "baselines").exists()


def test_a_baseline_that_is_a_link_is_updated_where_it_leads(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project.store()
    shared = tmp_path_factory.mktemp("shared") / "tiny.json"
    (project.path / STORED).rename(shared)
    (project.path / STORED).symlink_to(shared)
    before = shared.read_bytes()
    project.record("new", power_w=490.0)
    assert project.run("--energy-replay", "new", UPDATE).ret == 0
    assert (project.path / STORED).is_symlink()
    assert shared.read_bytes() != before
    project.run("--energy-replay", "new").assert_outcomes(passed=4)
