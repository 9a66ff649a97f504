"""Environments of pinned engines, made by the real uv from wheels of the test's own."""

import fcntl
import functools
import hashlib
import http.server
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from pytest_energy.engines import compile_cache, environment
from pytest_energy.errors import UsageError
from tests.conftest import ROOT
from tests.wheels import wheel

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

PYPROJECT = """
[project]
name = "engine"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = f"""
import sys
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    sys.path.append({str(ROOT)!r})
    from tests.wheels import wheel
    content = Path("content.txt").read_text()
    return wheel(Path(folder), "engine", "1.0", {{"engine.py": f"version = {{content!r}}"}}).name

build_editable = build_wheel
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("UV_OFFLINE", "1")
    return tmp_path / "cache" / "pytest-energy" / "environments"


@pytest.fixture
def pin(tmp_path: Path) -> Path:
    """A requirements file with one package."""
    return repin(tmp_path / "vllm.txt", "1.0")


def repin(file: Path, version: str) -> Path:
    made = wheel(file.parent, "engine", version, {"engine.py": f"version = {version!r}\n"})
    file.write_text(f"engine @ {made.as_uri()}\n")
    return file


def source(folder: Path, content: str) -> None:
    """A folder of which uv builds version 1.0 of the package."""
    folder.mkdir(exist_ok=True)
    if not (folder / "pyproject.toml").exists():
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "backend.py").write_text(BACKEND)
    (folder / "content.txt").write_text(content)


def remake(file: Path) -> Path:
    """Its interpreter, used by no run."""
    python, lock = made_of(file)
    lock.close()
    return python


def made_of(file: Path) -> tuple[Path, BinaryIO]:
    return environment.make(file, VERSION, environment.resolve(file, VERSION))


def imported(python: Path) -> str:
    command = [python, "-c", "import engine; print(engine.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_holds_what_is_pinned_at_a_place_of_its_own(pin: Path) -> None:
    first = remake(pin)
    assert imported(first) == "1.0"
    newer = remake(repin(pin, "2.0"))
    assert (imported(newer), imported(first)) == ("2.0", "1.0")
    # vLLM's cache of compiled kernels depends on the place.
    assert remake(repin(pin, "1.0")) == first != newer


def test_what_another_file_pins_counts(tmp_path: Path) -> None:
    found = []
    for version in ("1.0", "2.0"):
        folder = tmp_path / version
        folder.mkdir()
        repin(folder / "pins.txt", version)
        (folder / "vllm.txt").write_text("-r pins.txt\n")
        python, lock = made_of(folder / "vllm.txt")
        found.append((imported(python), lock))
    assert [version for version, _ in found] == ["1.0", "2.0"]
    for _, lock in found:
        lock.close()


@pytest.mark.parametrize(
    "line",
    [
        "./{wheel}",
        "engine @ file:./{wheel}",
        "-e ./source",
        "./source",
        "--no-index\n--find-links .\nengine==1.0",
        "--no-index\n--find-links wheels\nengine==1.0",
    ],
)
def test_relative_files_of_two_folders_are_two_engines(tmp_path: Path, line: str) -> None:
    found, pythons = [], set()
    for content in ("one", "other"):
        folder = tmp_path / content
        folder.mkdir()
        made = wheel(folder, "engine", "1.0", {"engine.py": f"version = {content!r}\n"})
        source(folder / "source", content)
        (folder / "wheels").mkdir()
        shutil.copy(made, folder / "wheels")
        (folder / "vllm.txt").write_text(line.format(wheel=made.name))
        python = remake(folder / "vllm.txt")
        found.append(imported(python))
        pythons.add(python)
    assert found == ["one", "other"]
    assert len(pythons) == 2


@pytest.mark.parametrize("line", ["./source", "-e ./source", "engine @ file:{folder}/source"])
def test_a_source_that_has_changed_is_built_again(tmp_path: Path, line: str) -> None:
    """uv rebuilds a folder if its pyproject.toml changes (docs.astral.sh/uv/concepts/cache)."""
    pin = tmp_path / "vllm.txt"
    pin.write_text(line.format(folder=tmp_path))
    found = []
    for content in ("one", "other"):
        source(tmp_path / "source", content)
        found.append(imported(remake(pin)))
    assert found == ["one", "other"]


def git(folder: Path, *words: str) -> None:
    me = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", folder, *me, *words], check=True, capture_output=True)


@pytest.mark.parametrize("package", ["engine", "engine[more]"])
def test_a_branch_that_moves_is_the_commit_that_was_resolved(tmp_path: Path, package: str) -> None:
    """Also if it moves between the resolution and the installation, which build for minutes."""
    folder = tmp_path / "repository"
    source(folder, "one")
    project = folder / "pyproject.toml"
    extras = '[project.optional-dependencies]\nmore = ["other"]\n[build-system]'
    project.write_text(PYPROJECT.replace("[build-system]", extras))
    wheel(tmp_path, "other", "1.0", {"other.py": ""})
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    pin = tmp_path / "vllm.txt"
    address = f"{package} @ git+{folder.as_uri()}@main"
    pin.write_text(f"--no-index\n--find-links .\n{address}; python_version > '3'\n")
    resolved = environment.resolve(pin, VERSION)
    source(folder, "other")
    git(folder, "commit", "-qam", "other")
    again = environment.resolve(pin, VERSION)
    assert environment.commits(resolved) != environment.commits(again)
    found = []
    for pins in (resolved, again, resolved):
        python, lock = environment.make(pin, VERSION, pins)
        lock.close()
        found.append(imported(python))
        has_more = bool([*python.parents[1].glob("lib/*/site-packages/other.py")])
        assert has_more == ("more" in package)
    assert found == ["one", "other", "one"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def test_what_has_changed_at_an_address_is_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a nightly build whose wheel keeps its name."""
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    handler = functools.partial(Quiet, directory=tmp_path)
    found = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            for number, content in enumerate(("one", "other"), start=1):
                made = wheel(tmp_path, "engine", "1.0", {"engine.py": f"version = {content!r}"})
                os.utime(made, (number * 1000, number * 1000))
                pin = tmp_path / "vllm.txt"
                pin.write_text(f"engine @ http://127.0.0.1:{server.server_port}/{made.name}\n")
                found.append(imported(remake(pin)))
        finally:
            server.shutdown()
            serving.join()
    assert found == ["one", "other"]


def test_what_a_file_says_of_its_packages_counts_and_its_name_does_not(tmp_path: Path) -> None:
    made = wheel(tmp_path, "engine", "1.0", {"engine.py": "version = 'one'\n"})
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    lines = ["--no-index", "--find-links .", f"engine==1.0 --hash=sha256:{digest}", ""]
    pin = tmp_path / "-odd name.txt"
    pin.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert imported(remake(pin)) == "one"
    (tmp_path / "other").mkdir()
    pin = tmp_path / "other" / "vllm.txt"
    shutil.copy(made, pin.parent)
    pin.write_text("\n".join(lines).replace(digest, "0" * 64))
    with pytest.raises(UsageError, match=r"(?i)hash"):
        made_of(pin)


def test_what_is_not_pinned_is_removed_unless_another_run_uses_it(pin: Path) -> None:
    python, lock = made_of(pin)
    other = wheel(pin.parent, "other", "1.0", {"other.py": ""})
    command = ["uv", "pip", "install", "-q", "--python", str(python), str(other)]
    subprocess.run(command, check=True)
    (installed,) = python.parents[1].glob("lib/*/site-packages/other.py")
    remake(pin)
    assert installed.exists()
    lock.close()
    remake(pin)
    assert not installed.exists()


def test_one_that_could_not_be_made_is_told_and_made_the_next_time(pin: Path, cache: Path) -> None:
    good = pin.read_text()
    pin.write_text("engine @ file:///nowhere/engine-1.0-py3-none-any.whl\n")
    with pytest.raises(UsageError, match=r"the environment of .*vllm\.txt could not be made\.\n.*"):
        made_of(pin)
    pin.write_text(good)
    python = remake(pin)
    # As if uv had been killed: there, but not complete.
    (python.parents[1] / environment._COMPLETE).unlink()
    for module in python.parents[1].glob("lib/*/site-packages/engine.py"):
        module.unlink()
    assert imported(remake(pin)) == "1.0"


def test_uv_that_outlives_a_killed_run_is_waited_for(
    pin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, go = pin.with_name("slow"), pin.with_name("go")
    slow.mkdir()
    (slow / "uv").write_text(
        f'#!/bin/sh\ncase "$*" in *install*) touch {slow}/begun\n'
        f'while [ ! -e {go} ]; do sleep 0.05; done;; esac\nexec {shutil.which("uv")} "$@"\n'
    )
    (slow / "uv").chmod(0o755)
    code = (
        "from pathlib import Path; from pytest_energy.engines import environment as e\n"
        f"pin = Path({str(pin)!r})\ne.make(pin, {VERSION!r}, e.resolve(pin, {VERSION!r}))"
    )
    path = {**os.environ, "PATH": f"{slow}:{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=path) as run:
        while not (slow / "begun").exists():
            time.sleep(0.02)
        run.kill()
    (lock,) = cache.glob("*.lock")
    with lock.open("wb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with ThreadPoolExecutor(1) as other:
        python = other.submit(remake, pin)
        go.touch()
        assert imported(python.result()) == "1.0"


def test_a_python_that_is_not_to_be_had(
    pin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    resolved = environment.resolve(pin, VERSION)
    with pytest.raises(UsageError, match=rf"\nIf .*: --python-version {re.escape(VERSION)}$"):
        environment.make(pin, "3.99", resolved)
    with pytest.raises(UsageError) as of_reference:  # whose Python its baseline says
        environment.make(pin, "3.99", resolved, overrides=True)
    assert "--python-version" not in str(of_reference.value)


def test_one_that_no_run_has_asked_for_in_a_month_is_removed(pin: Path) -> None:
    old, lock = made_of(pin)
    os.utime(old.parents[1] / environment._COMPLETE, (0, 0))
    remake(repin(pin, "2.0"))
    assert old.exists()  # a run uses it
    lock.close()
    remake(pin)
    assert not old.exists()


@pytest.mark.parametrize(
    ("path", "file", "says"),
    [
        ("/nowhere", "vllm.txt", "there is no uv in PATH.*\nInstall it: pip install uv"),
        (None, "other.txt", "there is no requirements file .*other.txt"),
    ],
)
def test_what_is_missing_is_named(
    pin: Path, monkeypatch: pytest.MonkeyPatch, path: str | None, file: str, says: str
) -> None:
    if path is not None:
        monkeypatch.setenv("PATH", path)
    with pytest.raises(UsageError, match=says):
        environment.resolve(pin.with_name(file), VERSION)


@pytest.mark.parametrize("cache", [None, "", "caches"])
def test_a_user_without_a_home_names_a_place(
    monkeypatch: pytest.MonkeyPatch, cache: str | None
) -> None:
    """As in a container under a user id that it does not know."""
    without_home(monkeypatch)
    if cache is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    with pytest.raises(UsageError, match="no place for environments: the user has no home folder"):
        environment.folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert environment.folder() == Path("/caches/pytest-energy/environments")


def test_a_launch_needs_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_home(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert compile_cache.files() is None
    monkeypatch.setenv("VLLM_CACHE_ROOT", "~nobody-of-this-name/vllm")
    assert compile_cache.folder() == Path("~nobody-of-this-name/vllm/torch_compile_cache")


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
