"""Requests of varying lengths, recorded, replayed, judged and reported; files of prompts."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.measure import checks, measurement
from pytest_energy.recording import recording_file
from tests.engine.conftest import interpreter
from tests.plugin.project import MARKER, TESTS, Project
from tests.plugin.test_bad_input import refused
from tests.plugin.test_server import CONFTEST, run

LOGNORMAL = {
    **MARKER,
    "batch_sizes": [8],
    "input_tokens": {"lognormal": {"median": 40, "sigma": 0.6, "max": 200}},
    "output_tokens": {"lognormal": {"median": 60, "sigma": 0.8, "max": 300}},
}
OF_PROMPTS = {
    **{name: value for name, value in MARKER.items() if not name.endswith("_tokens")},
    "batch_sizes": [8],
    "prompts": "p.jsonl",
}


def lines(count: int = 30) -> str:
    made: list[dict[str, Any]] = [
        {"prompt": "word " * n, "output_tokens": 20 + n} for n in range(1, count)
    ]
    made.append(
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello " * 25},
            ]
        }
    )
    return "\n".join(map(json.dumps, made))


@pytest.fixture(autouse=True)
def short_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the simulated power readings, here as in the runs' conftest.py."""
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)


@pytest.fixture
def project(project: Project) -> Project:
    """With a tokenizer in the model's folder, and a file of prompts."""
    (project.path / "tiny" / "tokenizer.json").write_text("{}")
    (project.path / "p.jsonl").write_text(lines())
    return project


def write_tests(project: Project, marker: dict[str, Any]) -> None:
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(marker)))


def named(project: Project, marker: dict[str, Any], engine: str = "offline") -> str:
    """The name of the marker's cell, as it is shown."""
    spread = "tiny bs=8" if engine == "offline" else f"tiny {engine} bs=8"
    if marker is LOGNORMAL:
        return f"{spread} ~40/~60"
    digest = hashlib.sha256((project.path / marker["prompts"]).read_bytes()).hexdigest()
    return f"{spread} {digest[:8]}/replies"


def rows(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("  bs=")]


@pytest.mark.parametrize(
    ("marker", "engine"),
    [
        pytest.param(LOGNORMAL, "offline", marks=pytest.mark.nightly),
        (OF_PROMPTS, "server"),
        pytest.param(LOGNORMAL, "server", marks=pytest.mark.nightly),
        pytest.param(OF_PROMPTS, "offline", marks=pytest.mark.nightly),
    ],
    ids=["lognormal-offline", "prompts-server", "lognormal-server", "prompts-offline"],
)
def test_recorded_and_replayed(
    project: Project, tmp_path_factory: pytest.TempPathFactory, marker: dict[str, Any], engine: str
) -> None:
    write_tests(project, marker)
    project.pytester.makeconftest(CONFTEST)
    python = interpreter(tmp_path_factory.mktemp("interpreter"))
    options = [
        "--energy-python",
        python,
        "--energy-launches",
        "1",
        "--energy-record",
        "kept",
        "--energy-engine",
        engine,
    ]
    live = run(project, *options)
    live.assert_outcomes(failed=2)
    name = named(project, marker, engine)
    live.stdout.fnmatch_lines([f"*{name}: measuring*", f"NO BASELINE: {name}*"])
    assert ("tokenizing prompts" in live.stdout.str()) == ("prompts" in marker)
    (file,) = recording_file.find(project.path / "kept")
    recorded = recording_file.read(file)
    assert recorded.requests is not None
    measured = measurement.measure(recorded)
    assert measured.valid, measured.faults
    assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.02)
    of_pass = {
        "input": sum(recorded.requests.input_tokens),
        "output": sum(recorded.requests.output_tokens),
    }
    assert recorded.environment.plain["request_tokens"] == of_pass
    replayed = run(
        project, "--energy-replay", "kept", "--energy-engine", engine, "--energy-report", "report"
    )
    assert rows(replayed) == rows(live) != []
    shown = (
        "lognormal (median 40, sigma 0.6, at most 200) tokens in"
        if marker is LOGNORMAL
        else "prompts "
    )
    assert shown in (project.path / "report" / "report.html").read_text()


def test_verdicts(project: Project) -> None:
    """An unchanged engine passes against its own baseline; one with 10 % more power does not."""
    write_tests(project, LOGNORMAL)
    project.record("old", marker=LOGNORMAL)
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0
    project.measure_noise(LOGNORMAL)
    project.record("same", marker=LOGNORMAL, noise=0.01)
    same = project.run("--energy-replay", "same")
    same.assert_outcomes(passed=2)
    project.record("more", marker=LOGNORMAL, noise=0.01, power_w=550.0)
    more = project.run("--energy-replay", "more")
    more.assert_outcomes(passed=1, failed=1)
    more.stdout.fnmatch_lines(["REGRESSED: tiny bs=8 ~40/~60, J/token *, +10.? % vs *"])


def test_another_content_of_the_file_is_another_cell(project: Project) -> None:
    write_tests(project, OF_PROMPTS)
    project.record("old", marker=OF_PROMPTS)
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0
    assert project.run("--energy-replay", "old", "--energy-inconclusive", "warn").ret == 0
    (project.path / "p.jsonl").rename(project.path / "q.jsonl")
    renamed = {**OF_PROMPTS, "prompts": "q.jsonl"}
    write_tests(project, renamed)
    assert project.run("--energy-replay", "old", "--energy-inconclusive", "warn").ret == 0
    (project.path / "q.jsonl").write_text(lines(31))
    project.record("new", marker=renamed)
    differing = (
        "workload.prompts_sha256: * → * (another file of prompts, or its content was changed)"
    )
    result = project.run("--energy-replay", "new")
    result.assert_outcomes(failed=2)
    name = named(project, renamed)
    result.stdout.fnmatch_lines([f"NO BASELINE: {name}*", f"*one differs in {differing}*"])
    result = project.run("--energy-replay", "old")
    result.stdout.fnmatch_lines(
        [
            f"*no recording of {name}*",
            f"*of the same model and batch size differs in {differing}*",
        ]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "prompts 'p.jsonl': no such file"),
        ("", "p.jsonl is empty"),
        ("{}\n", "p.jsonl, line 1: it has no prompt"),
        ('{"prompt": "a"}', "p.jsonl, line 1: it has no reply and no output_tokens"),
    ],
)
def test_files_of_prompts_that_are_none(
    project: Project, content: str | None, message: str
) -> None:
    write_tests(project, OF_PROMPTS)
    if content is None:
        (project.path / "p.jsonl").unlink()
    else:
        (project.path / "p.jsonl").write_text(content)
    refused(project, [], message, "test_tiny.py::test_energy", ret=pytest.ExitCode.USAGE_ERROR)


def test_a_model_without_a_tokenizer(project: Project) -> None:
    (project.path / "tiny" / "tokenizer.json").unlink()
    write_tests(project, OF_PROMPTS)
    refused(
        project,
        [],
        "has no tokenizer, so the prompts of p.jsonl have no length in tokens",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


def test_a_distribution_that_is_none(project: Project) -> None:
    write_tests(project, {**LOGNORMAL, "output_tokens": {"lognormal": {"median": 60}}})
    refused(
        project,
        [],
        "output_tokens is {'lognormal': {'median': 60}}: it must be",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("untemplated", "engine failed during tokenize: the model has no chat template"),
        (
            "picky",
            "engine failed during tokenize: the model's chat template does not accept the prompt "
            "of line 30",
        ),
    ],
)
def test_prompts_that_the_engine_does_not_take(
    project: Project, tmp_path_factory: pytest.TempPathFactory, fault: str, message: str
) -> None:
    (project.path / "p.jsonl").write_text(
        f'{lines().rpartition(chr(10))[0]}\n{{"prompt": "say no more", "output_tokens": 5}}'
    )
    write_tests(project, OF_PROMPTS)
    project.pytester.makeconftest(CONFTEST)
    python = interpreter(tmp_path_factory.mktemp("interpreter"))
    before = project.files()
    result = run(
        project,
        "--energy-python",
        python,
        "--energy-launches",
        "1",
        "--energy-engine-arg",
        f"fault={fault}",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"INVALID: {named(project, OF_PROMPTS)}, J/token", f"*{message}*"])
    assert {name for name in project.files() if Path(name).name not in {"stdout", "stderr"}} == set(
        before
    )
