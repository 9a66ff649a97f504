"""Engines that do not load: told once, and not tried again and again; vLLM is a stand-in."""

from pathlib import Path
from typing import Any

import pytest

from pytest_energy.errors import EngineError
from tests.engine.conftest import interpreter
from tests.plugin.project import MARKER, TESTS, Project

LOG = "\n".join(f"(EngineCore pid={{pid}}) line {n}" for n in range(30))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Launches that fail while loading; what they were asked for, and how they fail."""
    launched: list[Any] = []

    def record_launch(cells: Any, *_: Any) -> Any:
        launched.append(dict(cells[0].engine_args))
        kind = launched[-1].get("fails", "the weights are missing")
        log = LOG.format(pid=100 + len(launched))
        raise EngineError("load", f"RuntimeError: {kind}", log, out_of_memory="memory" in kind)
        yield

    monkeypatch.setattr("pytest_energy.launch.launch.record_launch", record_launch)
    return launched


def suite(*engine_args: dict[str, Any]) -> str:
    """Tests with launches of their own, of four batch sizes each."""
    marker = {**MARKER, "batch_sizes": [1, 2, 4, 8]}
    tests = [
        f"@pytest.mark.energy(engine_args={arguments!r})\ndef test_{n}(energy, throughput): pass"
        for n, arguments in enumerate(engine_args)
    ]
    return "\n".join(["import pytest", f"pytestmark = pytest.mark.energy(**{marker!r})", *tests])


@pytest.mark.parametrize("option", [[], ["--energy-update"], ["--energy-noise"]])
def test_a_failed_load_is_told_once_and_launched_once(
    project: Project, loads: list[Any], option: list[str]
) -> None:
    project.pytester.makepyfile(test_tiny=suite({}))
    result = project.run(*option)
    result.assert_outcomes(failed=4)
    text = result.stdout.str()
    assert len(loads) == 1
    assert text.count("line 17") <= (2 if option else 1)
    assert text.count("RuntimeError: the weights are missing") >= 4
    assert text.count("... (in full at tiny bs=1 64/250)") >= 3


def test_the_whole_log_is_shown_with_the_test_that_a_rerun_repeats(
    project: Project, loads: list[Any]
) -> None:
    project.pytester.makepyfile(test_tiny=suite({}))
    text = project.run("-k", "bs4").stdout.str()
    assert all(f"line {n}\n" in text for n in range(30))


def test_a_third_launch_of_a_model_that_fails_alike_is_not_tried(
    project: Project, loads: list[Any]
) -> None:
    project.pytester.makepyfile(test_tiny=suite(*({"block_size": 16 * n} for n in (1, 2, 3, 4))))
    result = project.run()
    result.assert_outcomes(failed=16)
    assert [arguments["block_size"] for arguments in loads] == [16, 32]
    assert result.stdout.str().count("line 17") == 1
    result.stdout.fnmatch_lines(
        [
            "INVALID: tiny bs=8 64/250, J/token",
            "  not launched again, since launches of this model with other settings failed alike:",
            "  engine failed during load: RuntimeError: the weights are missing",
        ]
    )


@pytest.mark.parametrize("kinds", [("a", "b", "a"), ("no memory",) * 3])
def test_launches_that_may_succeed_are_tried(
    project: Project, loads: list[Any], kinds: tuple[str, ...]
) -> None:
    arguments = [{"fails": kind, "block_size": 16 * n} for n, kind in enumerate(kinds, 1)]
    project.pytester.makepyfile(test_tiny=suite(*arguments))
    project.run().assert_outcomes(failed=12)
    assert len(loads) == 3


def test_a_failed_load_says_that_the_model_was_no_folder(project: Project, tmp_path: Path) -> None:
    project.pytester.makepyfile(test_tiny=TESTS.replace("'tiny'", "'checkpoints/tiny'"))
    options = ("--energy-engine-arg", "fault=crash_on_load", "--energy-python")
    result = project.run("-k", "energy and bs2", *options, interpreter(tmp_path))
    result.stdout.fnmatch_lines(
        [
            "*engine failed during load: ValueError: the weights are missing",
            "*There is no folder checkpoints/tiny beside the test or in pytest's rootdir, "
            "so the model was taken from Hugging Face.",
        ]
    )
