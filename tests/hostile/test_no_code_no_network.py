"""Nothing is unpickled, evaluated or fetched; a model's code runs only if the suite asks for it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.engines.worker_process import WorkerProcess
from pytest_energy.launch import launch
from pytest_energy.plugin.marker import Marked
from pytest_energy.settings import LaunchSettings
from tests.conftest import ROOT
from tests.engine.conftest import interpreter
from tests.plugin.project import MARKER, TESTS, Project

PACKAGE = ROOT / "pytest_energy"
# What may connect, run or decode, and where: the server's worker to the server; engines and the
# noise command as processes of their own.
_FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "system",
    "popen",
    "fromstring",
    "urlopen",
    "urlretrieve",
    "getoutput",
    "literal_eval",
}
_FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
    "yaml",
    "requests",
    "httpx",
    "urllib3",
    "ftplib",
    "xmlrpc",
    "huggingface_hub",
    "transformers",
    "torch",
    "vllm",
    "ctypes",
    "webbrowser",
    "smtplib",
    "telnetlib",
    "code",
    "runpy",
    "zipimport",
}
_ALLOWED = {
    ("engines/server_worker.py", "aiohttp"),
    ("engines/server_process.py", "http.client"),
    ("engines/running_server.py", "http.client"),
    ("engines/server_process.py", "subprocess"),
    ("engines/worker_process.py", "subprocess"),
    ("engines/server.py", "socket"),
    ("engines/attached.py", "socket"),
    ("health/read_engine.py", "subprocess"),
    ("engines/environment.py", "subprocess"),  # uv
    ("engines/installed.py", "subprocess"),  # the measured interpreter
    ("commands/gate.py", "subprocess"),  # pytest, before it becomes pytest
    ("commands/checkout.py", "subprocess"),  # git
    ("commands/one_launch.py", "subprocess"),  # pytest
    ("commands/one_launch.py", "ctypes"),  # prctl
    ("engines/workers/vllm_worker.py", "ctypes"),  # CUDA's driver
    ("engines/workers/inside/pytest_energy_routing.py", "torch"),
    ("engines/workers/inside/pytest_energy_weights.py", "torch"),
    ("engines/workers/inside/pytest_energy_weights.py", "vllm"),
    ("engines/workers/vllm_worker.py", "torch"),
    ("engines/workers/vllm_worker.py", "vllm"),
    ("engines/workers/vllm_server.py", "vllm"),
    ("engines/attached.py", "urllib.parse"),
    ("safety/redact.py", "urllib.parse"),
    ("report/pictures.py", "fromstring"),
    ("re", "compile"),
}
_GUARDED = {"aiohttp", "http.client", "subprocess", "socket"}


def uses(path: Path) -> set[str]:
    """Modules that a file imports and guarded functions that it calls."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else node.func.id
                if isinstance(node.func, ast.Name)
                else ""
            )
            of_re = (
                isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
            )
            if name in _FORBIDDEN_CALLS and not of_re:
                found.add(name)
            if any(keyword.arg == "shell" for keyword in node.keywords):
                found.add("shell")
    return found


def test_nothing_in_the_package_can_unpickle_evaluate_or_fetch() -> None:
    forbidden = _FORBIDDEN_MODULES | _FORBIDDEN_CALLS | _GUARDED | {"shell", "urllib.request"}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        found = {
            name
            for name in uses(path)
            if name in forbidden or name.split(".")[0] in _FORBIDDEN_MODULES
        }
        assert {
            name
            for name in found
            if not any(where == place and name.startswith(what) for where, what in _ALLOWED)
        } == set(), place


def test_the_scan_sees_what_it_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import pickle, re\nfrom urllib import request\nre.compile('x')\neval('1')\n"
        "subprocess.run('x', shell=True)\n"
    )
    assert {"pickle", "urllib.request", "eval", "shell"} <= uses(path)
    assert "compile" not in uses(path)


_WATCHED = """
import sys, pytest
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "socket.bind", "pickle.find_class",
           "marshal.loads", "subprocess.Popen", "os.exec",
           "os.posix_spawn", "os.system", "urllib.Request", "ctypes.dlopen")

def watch(event, arguments):
    if event in watched:
        seen.append((event, str(arguments)[:200]))

import importlib, zlib, tempfile
# What numpy, scipy, matplotlib and pydantic do while they are imported is not about our files.
for name in ("pytest_energy.session", "pytest_energy.report.page", "pytest_benchmark.plugin",
             "matplotlib.backends.backend_svg", "pytest_energy.commands.main"):
    importlib.import_module(name)
sys.addaudithook(watch)
if sys.argv[1] == "pytest":
    status = pytest.main(sys.argv[2:])
else:
    from pytest_energy.commands.main import main
    status = main(sys.argv[1:])
# marshal: Python's own byte code of modules that are imported late.
print("STATUS", int(status), "SEEN", [event for event in seen if event[0] != "marshal.loads"])
"""


def watched(project: Project, *arguments: str) -> str:
    # Without pytest-benchmark, which asks git and `file` about the machine.
    environment = {**os.environ, "PYTEST_PLUGINS": "pytest_energy.plugin", "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", _WATCHED, *arguments],
        capture_output=True,
        text=True,
        cwd=project.path,
        timeout=120,
        check=False,
        env=environment,
    )
    return child.stdout + child.stderr


def test_replaying_and_reporting_open_no_socket_start_no_process_and_unpickle_nothing(
    project: Project,
) -> None:
    project.store()
    project.record("same")
    out = watched(
        project,
        "pytest",
        "--energy-replay",
        "same",
        "--energy-report",
        "report",
        "-p",
        "no:cacheprovider",
    )
    assert "STATUS 0 SEEN []" in out, out[-3000:]
    out = watched(project, "report", "old", "same", "-o", "report-2")
    assert "STATUS 0 SEEN []" in out, out[-3000:]
    out = watched(project, "history", "baselines", "-o", "history")
    assert "STATUS 0 SEEN []" in out, out[-3000:]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the workers are sent, in order."""
    sent: list[dict[str, Any]] = []
    send = WorkerProcess.send

    def remember(self: WorkerProcess, stage: str, **command: Any) -> None:
        sent.append(json.loads(json.dumps(command)))
        send(self, stage, **command)

    monkeypatch.setattr(WorkerProcess, "send", remember)
    return sent


@pytest.mark.parametrize("engine", ["offline", "server"])
@pytest.mark.parametrize("asked", [False, True])
def test_a_models_own_code_runs_only_where_the_suite_says_so(
    tmp_path: Path, commands: list[dict[str, Any]], engine: str, asked: bool
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(
        '{"vocab_size": 2048, "auto_map": {"AutoModel": "evil.Model"}}'
    )
    marked = Marked.from_arguments(
        (), {**MARKER, "engine_args": {"trust_remote_code": True} if asked else {}}
    )
    cell: Cell = marked.cell(8, tmp_path, engine=engine)
    assert isinstance(cell.model, Model)
    with launch.new_engine(cell, LaunchSettings(interpreter(tmp_path), {}, 30.0, 30.0)):
        pass
    (load,) = [command for command in commands if command["command"] == "load"]
    assert ("trust" in json.dumps(load)) is asked
    if asked:
        assert (
            load.get("engine_args", {}).get("trust_remote_code") is True
            or "--trust-remote-code" in load["arguments"]
        )


@pytest.mark.parametrize(
    "argument",
    [
        "trust_remote_code=true",
        "trust-remote-code=true",
        "trust_remote_code=false",
        "trust_remote=true",
        "trust=1",
        "Trust_Remote_Code=1",
        'speculative_config={"model":"x","trust_remote_code":true}',
    ],
)
@pytest.mark.parametrize("option", ["--energy-engine-arg", "--energy-reference-engine-arg", "ini"])
def test_the_command_line_cannot_let_a_models_code_run(
    project: Project, option: str, argument: str
) -> None:
    if option == "ini":
        project.pytester.makeini(f"[pytest]\nenergy_engine_args =\n    {argument}\n")
    result = project.run(*([option, argument] if option != "ini" else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*trust_remote_code runs code that comes with a model, and only the suite may ask*"]
    )
    result.stderr.fnmatch_lines(['*engine_args={"trust_remote_code": True}*'])


def test_the_suite_that_ships_asks_for_no_code() -> None:
    assert "trust" not in "".join(path.read_text() for path in (ROOT / "suites").rglob("*.py"))
    assert TESTS
