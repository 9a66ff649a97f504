"""No secret reaches a file or the terminal, no user name a file, and of variables vLLM's alone."""

import gzip
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.errors import EngineError, UsageError
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import fingerprint, recording_file
from pytest_energy.safety import redact
from tests.engine.conftest import FAKE_PACKAGES
from tests.plugin.project import MARKER, TESTS, Project
from tests.plugin.test_server import CONFTEST

USER, MARK = "canary-user", "c4n4ry"
SECRETS = {
    "HF_TOKEN": f"hf_{MARK}0000",
    "HUGGING_FACE_HUB_TOKEN": f"hf_{MARK}0001",
    "AWS_SECRET_ACCESS_KEY": f"aws/{MARK}+0002",
    "VLLM_API_KEY": f"sk-{MARK}0003",
    "VLLM_PROXY": f"http://user:{MARK}0011@proxy.invalid",
    "PYTEST_ENERGY_API_KEY": f"sk-{MARK}0004",
    "DATABASE_PASSWORD": f"pw {MARK}0005",
    "HTTP_PROXY": f"http://proxy-user:{MARK}0006@proxy.invalid:3128",
    "https_proxy": f"http://proxy-user:{MARK}0007@proxy.invalid:3128",
    "SOME_SETTING": f"{MARK}0008",
    "GITHUB_TOKEN": f"ghs_{MARK}0009",
    "PIP_INDEX_URL": f"https://user:{MARK}0010@index.invalid/simple",
}
# What a failing worker may print: all that is secret by its name or form; SOME_SETTING is neither.
PRINTED = [value for name, value in SECRETS.items() if name != "SOME_SETTING"]


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory of a user with secrets in the environment."""
    folder = tmp_path_factory.mktemp("home") / USER
    folder.mkdir()
    for name, value in {
        **SECRETS,
        "HOME": str(folder),
        "USER": USER,
        "LOGNAME": USER,
        "USERNAME": USER,
    }.items():
        monkeypatch.setenv(name, value)
    return folder


def interpreter(folder: Path, before: str = "") -> Path:
    script = folder / "venv" / "bin" / "python"
    script.parent.mkdir(parents=True)
    run = f'PYTHONPATH={FAKE_PACKAGES} exec {sys.executable} "$@"'
    script.write_text(f"#!/bin/sh\n{before}\n{run}\n")
    script.chmod(0o755)
    return script


def contents(project: Project) -> dict[str, str]:
    """Every file that was written, unpacked."""
    texts = {}
    for path in project.path.rglob("*"):
        if (
            path.is_file()
            and "__pycache__" not in path.parts
            and path.name not in {"stdout", "stderr"}
        ):
            content = path.read_bytes()
            texts[str(path.relative_to(project.path))] = (
                gzip.decompress(content) if path.suffix == ".gz" else content
            ).decode()
    return texts


WRITTEN = (
    "--junitxml",
    "junit.xml",
    "--benchmark-json",
    "benchmark.json",
    "--energy-report",
    "report",
)


@pytest.mark.parametrize("engine", [pytest.param("offline", marks=pytest.mark.nightly), "server"])
def test_a_live_run_writes_none_of_them(project: Project, home: Path, engine: str) -> None:
    python = interpreter(home)
    marker = {**MARKER, "batch_sizes": [8], "output_tokens": 100, "engine": engine}
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(marker)))
    project.pytester.makeconftest(CONFTEST)
    live = project.pytester.runpytest_subprocess(
        "-p",
        "no:cacheprovider",
        "--energy-python",
        python,
        "--energy-launches",
        "1",
        "--energy-record",
        "kept",
        *WRITTEN,
    )
    live.assert_outcomes(failed=2)
    live.stdout.fnmatch_lines(["NO BASELINE: *", "*~/venv/bin/python*"])
    (file,) = recording_file.find(project.path / "kept")
    recorded = recording_file.read(file)
    assert recorded.environment.vllm == "0.0.1"
    assert recorded.environment.vllm_variables == {"VLLM_PROXY": "http://***@proxy.invalid"}
    for number in range(3):
        recording_file.write(
            replace(recorded, launch_id=f"launch-{number}"),
            project.path / "three" / str(number) / "x.json.gz",
        )
    stored = project.pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--energy-replay", "three", "--energy-update", *WRITTEN
    )
    stored.assert_outcomes(passed=2)
    written = contents(project)
    assert {
        "junit.xml",
        "benchmark.json",
        "report/results.json",
        "report/report.html",
        "report/report.md",
    } <= set(written)
    assert "baselines/simulated-gpu/tiny.gpu-00000000.json" in written
    leaks = {
        name: mark
        for name, text in written.items()
        for mark in (MARK, str(home), USER)
        if mark in text and "conftest" not in name
    }
    assert leaks == {}
    for result in (live, stored):
        assert MARK not in result.stdout.str() + result.stderr.str()


def test_a_worker_that_prints_its_environment_tells_no_secret(project: Project, home: Path) -> None:
    python = interpreter(home, before="env; echo 'connecting to redis://cache:c4n4ry@host'")
    project.pytester.makeconftest(CONFTEST)
    result = project.pytester.runpytest_subprocess(
        "-p",
        "no:cacheprovider",
        "--energy-python",
        python,
        "--energy-engine-arg",
        "fault=crash_on_load",
        "-k",
        "bs8",
        *WRITTEN,
    )
    result.assert_outcomes(failed=2, deselected=2)
    result.stdout.fnmatch_lines(["*the weights are missing*"])
    everything = {**contents(project), "terminal": result.stdout.str() + result.stderr.str()}
    leaks = {
        (name, value)
        for name, text in everything.items()
        for value in (*PRINTED, f"{MARK}@host")
        if value in text
    }
    assert leaks == set()


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{MARK}@localhost:8000",
        f"http://:{MARK}@localhost:8000",
        f"http://localhost:8000/?token={MARK}",
        f"http://[{MARK}",
    ],
)
def test_an_address_with_a_password_is_refused_without_repeating_it(
    project: Project, url: str
) -> None:
    result = project.run("--energy-url", url)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*it must be http://host:port, without a path, user or password*"])
    assert MARK not in result.stdout.str() + result.stderr.str()


NESTED = {"kv_connector_extra_config": {"password": MARK}}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"api_key": MARK}, "api_key"),
        ({"hf_token": MARK}, "hf_token"),
        ({"kv_transfer_config": NESTED}, "password"),
        ({"kv_transfer_config": [NESTED]}, "password"),
        ({"download_dir": f"s3://id:{MARK}@bucket"}, "download_dir"),
    ],
)
def test_a_secret_among_engine_settings_is_refused_by_its_name(
    project: Project, arguments: dict[str, Any], name: str
) -> None:
    message = f"{name} looks like a secret, and engine settings are kept in recordings"
    with pytest.raises(UsageError, match=message) as raised:
        Marked.from_arguments((), {**MARKER, "engine_args": arguments})
    assert MARK not in str(raised.value)
    ((key, value),) = arguments.items()
    result = project.run("--energy-engine-arg", f"{key}={json.dumps(value)}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"*--energy-engine-arg: {message}*", "*in an environment variable, such as HF_TOKEN*"]
    )
    assert MARK not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    "name",
    [
        "max_num_batched_tokens",
        "tokenizer",
        "skip_tokenizer_init",
        "kv_cache_dtype",
        "max_model_len",
        "monkey",
        "tokenizer_mode",
        "passage",
    ],
)
def test_settings_that_only_sound_like_one_are_taken(name: str) -> None:
    assert not redact.says_secret(name)
    assert redact.complaint({name: 1}, "engine_args") is None


def test_settings_that_could_not_be_read_again_are_refused() -> None:
    with pytest.raises(
        UsageError,
        match="a recording with it could not be read back: it holds text with forbidden characters",
    ):
        Marked.from_arguments((), {**MARKER, "engine_args": {"chat_template": "\x1b[2J"}})


def test_paths_are_kept_by_their_last_part(cell: Cell) -> None:
    kept = fingerprint.fingerprint(
        {},
        {"model": "/home/alice/llama", "n": 1},
        {"tokenizer": "~/tok", "dtype": "auto"},
        {"gpu_name": "x"},
        {},
    )
    assert kept.engine_settings == {"model": "llama", "n": 1}
    assert kept.engine_args_under_test == {"tokenizer": "tok", "dtype": "auto"}
    named = Cell(
        Model("/models/x", "x"),
        8,
        engine_args=(("speculative_config", {"model": "/home/alice/draft"}),),
    )
    assert named.key.engine_args["speculative_config"] == {"model": "draft"}
    assert named.launch_args["speculative_config"] == {"model": "/home/alice/draft"}
    assert str(Path.home()) not in cell.key.canonical


def test_the_fingerprint_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine reports beyond it is left out."""
    versions = {
        "vllm": "1",
        "packages": {"torch": "2"},
        "environ": {"HF_TOKEN": MARK},
        "host": MARK,
    }
    kept = fingerprint.fingerprint(versions, {}, {}, {"gpu_name": "x"}, {}).plain
    assert MARK not in json.dumps(kept)
    assert set(kept) == {
        "date",
        "pytest_energy",
        "vllm",
        "packages",
        "engine_settings",
        "engine_args_under_test",
        "gpu_name",
        "gpu_uuids",
        "host",
    }
    assert set(kept["host"]) <= {"cpu_model", "cpu_count", "kernel", "load_1min", "cpu_governor"}


def test_the_home_directory_is_shown_as_a_tilde_that_works_as_an_option(home: Path) -> None:
    assert redact.home(f"{home}/venv/bin/python {home}") == "~/venv/bin/python ~"
    assert redact.home(f"{home}-other/x") == f"{home}-other/x"
    assert shlex.split("--energy-python '~/venv/bin/python'")[1] == "~/venv/bin/python"


def test_an_error_of_the_engine_holds_no_secret(home: Path) -> None:
    python = interpreter(home, before='echo "token $HF_TOKEN $AWS_SECRET_ACCESS_KEY"; exit 3')
    with (
        pytest.raises(EngineError, match=r"token \*\*\* \*\*\*") as raised,
        OfflineEngine(str(python), {}, 10.0, 10.0),
    ):
        pass
    assert MARK not in str(raised.value)
