"""A mixture of experts from config.json to recording, verdict and report."""

import json

import pytest

from pytest_energy.measure import checks
from pytest_energy.recording import recording_file
from pytest_energy.recording.experts import ExpertRouting
from tests.engine.conftest import interpreter
from tests.plugin.project import MARKER, TESTS, Project, summary
from tests.plugin.test_server import CONFTEST, run

LIVE = {**MARKER, "batch_sizes": [8], "output_tokens": 25}
SEEN = ExpertRouting(128, 8, 48, 2048, 65.9, 27.85)
TOLD = "tokens spread as over 65.9 of 128 experts (27.9 in the least even layer), 8 each"


@pytest.fixture(autouse=True)
def short_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the simulated power readings, here as in the runs' conftest.py."""
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)


def test_how_tokens_spread_is_recorded_and_a_degenerate_router_is_invalid(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = {"vocab_size": 100, "num_local_experts": 8}
    (project.path / "tiny" / "config.json").write_text(json.dumps(config))
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(LIVE)))
    project.pytester.makeconftest(CONFTEST)
    python = interpreter(tmp_path_factory.mktemp("interpreter"))
    options = ["--energy-python", python, "--energy-launches", "1", "--energy-record"]
    spread = run(project, *options, "spread")
    summary(spread).fnmatch_lines(
        ["tiny bs=8 64/25: tokens spread as over * of 8 experts (*), 2 *"]
    )
    *_, file = recording_file.find(project.path / "spread")
    seen = recording_file.read(file).environment.experts
    assert seen is not None
    assert (seen.experts, seen.per_token, seen.layers) == (8, 2, 2)
    refused = run(project, *options, "refused", "--energy-engine-arg", "fault=one_for_all")
    summary(refused).fnmatch_lines(["INVALID: tiny bs=8 64/25*tokens use 2.0 of a layer's 8 *"])
    assert not (project.path / "refused").exists()


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (SEEN, TOLD),
        (ExpertRouting(128), "how tokens spread over 128 experts is not known"),
    ],
)
def test_reports_tell_how_tokens_spread(project: Project, seen: ExpertRouting, told: str) -> None:
    project.record("old", environment={"experts": ExpertRouting(128, 8, 48, 2048, 66.1, 27.0)})
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0
    project.record("new", environment={"experts": seen})
    result = project.run("--energy-replay", "new", "--energy-report", "report")
    lines = summary(result)
    lines.fnmatch_lines([f"tiny bs=2,8 64/250: {told}".replace("[", "[[]")])
    lines.no_fnmatch_line("*experts.effective*")
    for name in ("report.md", "report.html"):
        assert told in (project.path / "report" / name).read_text()


def test_models_without_experts_have_no_such_line(project: Project) -> None:
    project.record("old")
    result = project.run("--energy-replay", "old", "--energy-update")
    summary(result).no_fnmatch_line("*tiny*: * experts*")
