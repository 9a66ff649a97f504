"""The engine `server` from a test file to its verdict; server and meter are stand-ins."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch

import pytest

from pytest_energy.engines.server import free_port
from pytest_energy.measure import measurement
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from tests import simulated
from tests.conftest import ROOT
from tests.engine.conftest import interpreter
from tests.engine.test_attached_server import start_server
from tests.plugin.project import MARKER, TESTS, Project, summary

CONFTEST = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    import pytest_energy.measure.checks, pytest_energy.measure.stopping
    from tests.simulated import SimulatedMeter

    pytest_energy.measure.stopping.WINDOW_S = 1.0
    pytest_energy.measure.checks.AVERAGED_NS = 100_000_000

    def pytest_energy_open_meter(gpu_uuids, is_engine_process):
        return SimulatedMeter()
"""


@pytest.fixture
def served(project: Project, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a live run in a project with one test, of a server."""
    python = interpreter(tmp_path_factory.mktemp("interpreter"))
    marker = {**MARKER, "engine": "server", "batch_sizes": [8], "output_tokens": 100}
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(marker)))
    project.pytester.makeconftest(CONFTEST)
    return ["--energy-python", python, "--energy-launches", "1"]


def run(project: Project, *arguments: str) -> pytest.RunResult:
    return project.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def rows(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("  bs=")]


def test_a_server_is_recorded_and_replayed(project: Project, served: list[str]) -> None:
    live = run(project, *served, "--energy-record", "kept")
    live.assert_outcomes(failed=2)
    summary(live).fnmatch_lines(
        [
            "*tiny server bs=8 64/100: measuring*",
            "NO BASELINE: tiny server bs=8 64/100*",
            "tiny server bs=8 64/100: time to first token * ms (p99 *); inter-token latency * ms "
            "(p99 *); end-to-end latency * ms (p99 *)",
        ]
    )
    (file,) = recording_file.find(project.path / "kept")
    measured = measurement.measure(recording_file.read(file))
    assert measured.key.engine == "server"
    assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.02)
    assert rows(run(project, "--energy-replay", "kept")) == rows(live) != []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "die",
            "engine failed during run: the server was ended by SIGKILL while requests were in *",
        ),
        pytest.param(
            "refuse_429",
            "engine failed during run: the server refused a request: 429 Too Many Requests",
            marks=pytest.mark.nightly,
        ),
        ("miscount", "tokens_disagree: the streams brought"),
    ],
)
def test_a_server_that_fails_fails_the_test_and_nothing_is_written(
    project: Project, served: list[str], fault: str, message: str
) -> None:
    before = project.files()
    result = run(project, *served, "--energy-engine-arg", f"fault={fault}")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["INVALID: tiny server bs=8 64/100, J/token", f"*{message}*"])
    assert {name for name in project.files() if name not in {"stdout", "stderr"}} == set(before)


@pytest.mark.parametrize(
    ("option", "marker", "ini", "engine"),
    [
        (None, None, None, "offline"),
        (None, None, "server", "server"),
        (None, "offline", "server", "offline"),
        (None, "server", None, "server"),
        ("offline", "server", "server", "offline"),
        ("server", "offline", None, "server"),
    ],
)
def test_the_command_line_wins_over_the_marker_and_the_marker_over_the_ini_file(
    project: Project, option: str | None, marker: str | None, ini: str | None, engine: str
) -> None:
    arguments = {**MARKER, **({"engine": marker} if marker else {})}
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(arguments)))
    project.pytester.makeini(f"[pytest]\n{f'energy_engine = {ini}' if ini else ''}")
    project.record("old")
    result = project.run("--energy-replay", "old", *(["--energy-engine", option] if option else []))
    name = "tiny bs=2 64/250" if engine == "offline" else "tiny server bs=2 64/250"
    # What is recorded is of the offline engine, so a server's cell finds no recording.
    expected = f"NO BASELINE: {name}" if engine == "offline" else f"*no recording of {name}"
    result.stdout.fnmatch_lines([f"{expected}*"])
    if engine == "server":
        result.stdout.fnmatch_lines(["*differs in engine: offline → server*"])


@pytest.mark.parametrize(
    ("arguments", "ini"), [(["--energy-engine", "online"], ""), ([], "energy_engine = online")]
)
def test_an_engine_that_there_is_not(project: Project, arguments: list[str], ini: str) -> None:
    project.pytester.makeini(f"[pytest]\n{ini}")
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*energy?engine: *online*offline*server*"])


def test_the_command_to_measure_again_names_the_engine(project: Project) -> None:
    project.record("old")
    result = project.run("--energy-replay", "old", "--energy-engine", "offline")
    result.stdout.fnmatch_lines(["*next: *--energy-engine offline*"])


@pytest.fixture
def running() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that someone else started, and its address."""
    process, port = start_server()
    yield process, f"http://localhost:{port}"
    process.kill()
    process.wait()


def test_a_running_server_is_measured_left_alone_and_replayed(
    project: Project, served: list[str], running: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, url = running
    project.pytester.makepyfile(
        test_tiny=(project.path / "test_tiny.py")
        .read_text()
        .replace("64", "4")
        .replace("100", "50")
    )
    live = run(project, "--energy-url", url, "--energy-record", "kept")
    assert process.poll() is None
    live.assert_outcomes(failed=2)
    live.stdout.fnmatch_lines(
        [
            f"energy: live, the server at {url}, baselines in *",
            f"*tiny: attaching to {url}",
            "NO BASELINE: tiny attached bs=8 4/50*",
            f"*next: measure again: pytest * --energy-url {url}",
            "*a running server counts as one launch: restart it*",
        ]
    )
    (file,) = recording_file.find(project.path / "kept")
    recorded = recording_file.read(file)
    assert (recorded.key.engine, recorded.key.engine_args) == ("attached", {})
    assert recorded.environment.vllm == "0.0.1"
    assert recorded.environment.engine_settings["max_num_seqs"] == "unknown"
    replayed = run(project, "--energy-replay", "kept", "--energy-engine", "attached")
    shown = [
        [line for line in result.outlines if line.startswith("  bs=")]
        for result in (live, replayed)
    ]
    assert shown[0] == shown[1] != []
    refused = run(
        project, "--energy-replay", "kept", "--energy-engine", "attached", "--energy-update"
    )
    refused.stdout.fnmatch_lines(["*was not updated: *at least 3 launches*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--energy-url", "http://192.0.2.1:8000"],
            "192.0.2.1 is another machine*GPUs cannot be read from here*",
        ),
        (
            ["--energy-url", "http://192.0.2.1:8000"],
            "Run pytest on the machine that has them, with --energy-url http://localhost:8000",
        ),
        (
            ["--energy-url", "localhost:8000"],
            "*--energy-url localhost:8000: it must be http://host:port*",
        ),
        (["--energy-url", "http://localhost:x"], "*it must be http://host:port*"),
        (
            ["--energy-url", "http://localhost:1", "--energy-update"],
            "*a baseline needs 3 launches*",
        ),
        (
            ["--energy-url", "http://localhost:1", "--energy-noise"],
            "*is one launch, however often it is measured*",
        ),
        (
            ["--energy-url", "http://localhost:1", "--energy-launches", "3"],
            "*Restart it for each launch*--energy-replay A B C",
        ),
        (
            ["--energy-url", "http://localhost:1", "--energy-engine", "offline"],
            "*--energy-engine offline starts an engine*",
        ),
        (
            ["--energy-url", "http://localhost:1", "--energy-engine-arg", "a=1"],
            "*--energy-engine-arg sets up an engine*",
        ),
        (
            ["--energy-url", "http://localhost:1", "--energy-python", "python"],
            "*--energy-python starts an engine*",
        ),
        (
            ["--energy-url", "http://localhost:1", "--energy-reference-python", "python"],
            "*leave out --energy-url*",
        ),
        (
            ["--energy-url", "http://localhost:1", "--energy-replay", "x"],
            "*measures nothing: give one of them*",
        ),
        (["--energy-gpu", "GPU-1"], "*give its --energy-url, too*"),
        (
            ["--energy-engine", "attached"],
            "*give --energy-replay DIR, or the server's --energy-url*",
        ),
    ],
)
def test_what_cannot_be_asked_of_a_running_server(
    project: Project, arguments: list[str], message: str
) -> None:
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert fnmatch(result.stderr.str(), f"*{message}*")


def test_a_running_server_is_not_measured_under_two_names(project: Project) -> None:
    (project.path / "other").mkdir()
    (project.path / "other" / "config.json").write_text("{}")
    project.pytester.makepyfile(
        test_other=TESTS.replace(repr(MARKER), repr({**MARKER, "model": "other"}))
    )
    result = project.run("--energy-url", "http://localhost:1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*serves one model, and the selected tests name 2: other, tiny.", "*-k NAME*"]
    )


def test_no_server_at_the_address(project: Project, served: list[str]) -> None:
    before = project.files()
    result = run(project, "--energy-url", f"http://localhost:{free_port()}")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "INVALID: tiny attached bs=8 64/100*",
            "*nothing answers at http://localhost:*",
            "*Start the server*",
        ]
    )
    assert {name for name in project.files() if name not in {"stdout", "stderr"}} == set(before)


@pytest.mark.parametrize(("limit_ms", "passed"), [(0.1, 0), (1000, 1)])
def test_a_latency_limit_fails_the_test_of_energy_alone(
    project: Project, limit_ms: float, passed: int
) -> None:
    marker = {**MARKER, "engine": "server", "batch_sizes": [8]}
    marked = Marked.from_arguments((), marker)
    for launch in range(3):
        made = replace(
            simulated.recording(
                marked.cell(8, project.path, engine="server"), f"old-{launch}", cycles=12.5
            ),
            client=simulated.client(9),
        )
        recording_file.write(made, project.path / "old" / made.launch_id / "8.json.gz")
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(marker)))
    assert project.run("--energy-replay", "old", "--energy-update").ret == 0
    project.pytester.makepyfile(
        test_tiny=TESTS.replace(repr(MARKER), repr({**marker, "max_itl_ms": limit_ms}))
    )
    result = project.run("--energy-replay", "old")
    result.assert_outcomes(passed=1 + passed, failed=1 - passed)
    if not passed:
        result.stdout.fnmatch_lines(
            [
                "REGRESSED: tiny server bs=8 64/250, the inter-token latency of 8.00 ms (99th "
                "percentile, median of 3 launches) is over the limit of 0.1 ms (max_itl_ms)",
                "  J/token 0.5000, +0.0 % vs the baseline's 0.5000; *",
            ]
        )


def test_a_latency_limit_of_an_engine_without_clients(project: Project) -> None:
    project.pytester.makepyfile(
        test_tiny=TESTS.replace(repr(MARKER), repr({**MARKER, "engine": "server", "max_itl_ms": 5}))
    )
    result = project.run("--energy-engine", "offline")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*max_itl_ms limits what a server's clients see*"])
