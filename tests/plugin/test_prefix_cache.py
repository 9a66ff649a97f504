"""A shared prefix from the marker to recording, verdict and report."""

from typing import Any

import pytest

from pytest_energy.measure import checks, measurement
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import PrefixCache
from tests.engine.conftest import interpreter
from tests.plugin.project import MARKER, TESTS, Project, summary
from tests.plugin.test_bad_input import refused
from tests.plugin.test_server import CONFTEST, run

SHARED = {
    **MARKER,
    "batch_sizes": [8],
    "shared_prefix_tokens": 48,
    "output_tokens": 25,
    "engine_args": {"enable_prefix_caching": True},
}
SERVED, NOTHING = PrefixCache(6400, 4800), PrefixCache(6400, 0)


@pytest.fixture(autouse=True)
def short_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the simulated power readings, here as in the runs' conftest.py."""
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)


def write_tests(project: Project, marker: dict[str, Any]) -> None:
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(marker)))


@pytest.mark.parametrize("engine", ["offline", "server"])
def test_what_the_cache_serves_is_recorded_and_shown(
    project: Project, tmp_path_factory: pytest.TempPathFactory, engine: str
) -> None:
    write_tests(project, {**SHARED, "engine": engine})
    project.pytester.makeconftest(CONFTEST)
    python = interpreter(tmp_path_factory.mktemp("interpreter"))
    options = ["--energy-python", python, "--energy-launches", "1", "--energy-record"]
    live = run(project, *options, "on")
    name = "tiny bs=8 48+16/25" if engine == "offline" else "tiny server bs=8 48+16/25"
    summary(live).fnmatch_lines(
        [f"NO BASELINE: {name}*", f"{name}: 75 % of prompt tokens from the prefix cache"]
    )
    *_, file = recording_file.find(project.path / "on")  # a busy host makes another launch
    recorded = recording_file.read(file)
    assert recorded.prefix_cache is not None
    assert recorded.prefix_cache.prompt_tokens > 64 * 64  # more prompts than are drawn
    assert measurement.measure(recorded).cached_share == 0.75
    if engine == "offline":
        off = run(project, *options, "off", "--energy-engine-arg", "enable_prefix_caching=false")
        summary(off).fnmatch_lines(
            [
                f"{name}: 0 % of prompt tokens from the prefix cache",
                f"{name}: the prefix cache served none of the 48 tokens that its prompts share: "
                "the engine runs without prefix caching (1 launch)",
            ]
        )


def store(project: Project) -> None:
    write_tests(project, SHARED)
    caching = {"engine_settings": {"enable_prefix_caching": True}}
    project.record("old", marker=SHARED, prefix_cache=SERVED, environment=caching)
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0
    project.measure_noise(SHARED)


def without_caching(project: Project, power_w: float) -> None:
    project.record(
        "new",
        marker=SHARED,
        power_w=power_w,
        noise=0.01,
        prefix_cache=NOTHING,
        environment={
            "engine_args_under_test": {"enable_prefix_caching": False},
            "engine_settings": {"enable_prefix_caching": False},
        },
    )


def test_prefix_caching_off_is_a_regression_with_its_cause(project: Project) -> None:
    store(project)
    without_caching(project, power_w=600.0)
    result = project.run("--energy-replay", "new", "--energy-report", "report")
    result.assert_outcomes(passed=1, failed=1)
    served = "the prefix cache served 0 % of prompt tokens, baseline 75 %"
    summary(result).fnmatch_lines(
        [
            "REGRESSED: tiny bs=8 48+16/25, J/token *, +20.? % vs * what changed: more work "
            f"({served}); enable_prefix_caching: True → False next: *",
            "tiny bs=8 48+16/25: 0 % of prompt tokens from the prefix cache (baseline 75 %)",
        ]
    )
    told = "tiny bs=8 48+16/25, vLLM 0.0.1 enable_prefix_caching=False: 0 % of prompt tokens"
    for name in ("report.md", "report.html"):
        page = (project.path / "report" / name).read_text().replace("\\_", "_")
        assert served in page
        assert told in page
        assert "64 tokens in (the first 48 shared), 25 out" in page or name == "report.md"


def test_a_cache_that_serves_nothing_is_told_even_if_the_test_passes(project: Project) -> None:
    store(project)
    without_caching(project, power_w=500.0)
    result = project.run("--energy-replay", "new")
    result.assert_outcomes(passed=2)
    summary(result).fnmatch_lines(
        ["tiny bs=8 48+16/25: the prefix cache served none of the 48 tokens that its prompts *"]
    )


def test_a_cell_that_shares_nothing_is_told_nothing_of_the_cache(project: Project) -> None:
    project.record("plain", prefix_cache=NOTHING)
    result = project.run("--energy-replay", "plain", "--energy-report", "report")
    result.stdout.no_fnmatch_line("*prefix cache*")
    assert "prefix cache" not in (project.path / "report" / "report.md").read_text()


def test_a_prefix_as_long_as_the_prompts_is_refused(project: Project) -> None:
    write_tests(project, {**SHARED, "shared_prefix_tokens": 64})
    message = "shared_prefix_tokens is 64: it must be less than input_tokens, 64"
    refused(project, [], message, "test_tiny.py::test_energy", ret=pytest.ExitCode.USAGE_ERROR)
