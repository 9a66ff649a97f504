"""Environments that hold a pinned vLLM, made with uv in a cache folder.

Requirements are resolved anew each time, so that two engines of one comparison are of the same day;
and once, so that what is installed is what was resolved, though a branch has moved on meanwhile.
An environment's place follows from what they resolve to: one place never holds two engines, and as
vLLM's cache of compiled kernels depends on the paths of its files, an engine that was launched
before starts warm.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pytest_energy.errors import UsageError
from pytest_energy.safety.files import user_cache, write_atomically

_KEPT_S = 30 * 24 * 3600.0
_VERSION = re.compile(r"^[\w.-]+==[^\s;]+.*$", re.M)
_EXTRAS = re.compile(r"^(\w[\w.-]*)\[.*?\]", re.M)
_COMMIT = re.compile(r"^(\w[\w.-]*)\S* @ git\+\S+?@([0-9a-f]{40}).*$", re.M)
# What is at an address may change unless the address holds a hash.
_ADDRESS = re.compile(r"^(\w[\w.-]*) @ https?://(?!.*#sha256=)", re.M)
_NOT_LOCAL = re.compile(r"[\w+]+://|[\w.-]+(\[.*\])?==|--|#")
_ARCHIVE = (".whl", ".gz", ".tgz", ".zip")
_COMPLETE = "pytest-energy-complete"


def folder() -> Path:
    """Where environments are kept.

    Raises:
        UsageError: the user has no home.
    """
    cache = user_cache()
    if not cache.is_absolute():
        raise UsageError(
            "there is no place for environments: the user has no home folder, and XDG_CACHE_HOME "
            "names no absolute one.\nSet it: export XDG_CACHE_HOME=/path/to/caches"
        )
    return cache / "pytest-energy" / "environments"


def resolve(requirements: Path, python_version: str, *, overrides: bool = False) -> str:
    """The lines that pin all that a requirements file asks for, and branches by their commits.

    Args:
        requirements: the file.
        python_version: "3.12".
        overrides: whether its lines hold whatever packages ask for: an environment that was made
            step by step may hold versions that do not go together.

    Raises:
        UsageError: there is no uv or no such file, or uv could not do it.
    """
    if shutil.which("uv") is None:
        raise UsageError(
            "there is no uv in PATH, which makes the environments.\nInstall it: pip install uv"
        )
    if not requirements.is_file():
        raise UsageError(
            f"there is no requirements file {requirements}.\nGive the one that pins vLLM."
        )
    return _uv(
        requirements, "compile", "--no-header", "--no-annotate", "--no-strip-extras",
        "--emit-index-url", "--emit-find-links", "--python-version", python_version,
        *_overrides(requirements, overrides), _argument(requirements),
    )  # fmt: skip


def write_requirements(lines: Sequence[str]) -> Path:
    """A requirements file with these lines, kept beside the environments.

    Raises:
        OSError: the cache folder cannot be used.
    """
    content = "\n".join([*lines, ""]).encode()
    path = folder() / f"{hashlib.sha256(content).hexdigest()[:16]}.txt"
    write_atomically(path, content)
    return path


def commits(resolved: str) -> dict[str, str]:
    """Packages that are built from a Git repository, and the commit that each was resolved to."""
    return {match[1]: match[2] for match in _COMMIT.finditer(resolved)}


def make(
    requirements: Path, python_version: str, resolved: str, *, overrides: bool = False
) -> tuple[Path, BinaryIO]:
    """An environment with what a requirements file asks for.

    Args:
        requirements, python_version, overrides: as resolved.
        resolved: what `resolve` gave.

    Returns:
        Its interpreter, and a lock on it: as long as the file is open, also in another program
        that this process becomes, no other run changes the environment.

    Raises:
        UsageError: uv could not do it.
        OSError: the cache folder cannot be used.
    """
    pinned = _EXTRAS.sub(r"\1", resolved)
    relative = any(path and not path.startswith("/") for path in _local(pinned))
    local = requirements.parent.resolve() if relative else ""
    content = f"{python_version}\n{local}\n{pinned}"
    place = folder() / hashlib.sha256(content.encode()).hexdigest()[:16]
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(place.with_suffix(".lock").open("wb"))
        os.set_inheritable(lock.fileno(), True)  # uv holds it, too, and may outlive this process
        while True:
            if _alone(lock):
                held = _overrides(requirements, overrides)
                _bring_up_to_date(place, requirements, python_version, resolved, pinned, held)
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits while another run makes it
            if (place / _COMPLETE).exists():
                break
            fcntl.flock(lock, fcntl.LOCK_UN)
        stack.pop_all()
    _remove_old(place.parent)
    return place / "bin" / "python", lock


def has_vllm(python: Path) -> bool:
    """Whether an interpreter finds vLLM, which is not imported."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def _alone(lock: BinaryIO) -> bool:
    """Whether no other run uses the environment; if so it is locked for a change."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _bring_up_to_date(
    place: Path,
    requirements: Path,
    python_version: str,
    resolved: str,
    pinned: str,
    held: Sequence[str],
) -> None:
    complete = place / _COMPLETE
    if not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        other = f"\nIf that Python cannot be had, use this one's: --python-version {here}"
        advice = "" if held or here == python_version else other  # gate's option
        _uv(requirements, "venv", "--python", python_version, str(place), advice=advice)
    complete.unlink(missing_ok=True)
    versions, of_branches = place / "versions.txt", place / "commits.txt"
    versions.write_text("\n".join(_VERSION.findall(pinned)), encoding="utf-8")
    of_branches.write_text("\n".join(m[0] for m in _COMMIT.finditer(resolved)), encoding="utf-8")
    # From the file itself, whose indexes and hashes are not among the versions.
    _uv(
        requirements, "install", "--exact", "--python", str(place), "--constraints", str(versions),
        "--overrides", str(of_branches), *held, *_anew(pinned), "-r", _argument(requirements),
    )  # fmt: skip
    complete.touch()


def _local(pinned: str) -> list[str]:
    """The paths, without a leading "file:", of what lies on this machine."""
    targets = [
        re.sub(r"^(-e |--find-links )?([\w.-]+(\[.*\])? @ )?(file:)?(?=\S)", "", line)
        for line in pinned.splitlines()
    ]
    return [target for target in targets if target and not _NOT_LOCAL.match(target)]


def _anew(pinned: str) -> list[str]:
    """For what uv takes as installed although it has changed: folders, and files at an address."""
    built = re.sub(r"^--.*", "", pinned, flags=re.M)
    paths = [path.partition(" ")[0] for path in _local(built)]
    if any(not path.endswith(_ARCHIVE) for path in paths):
        return ["--reinstall"]
    return [f"--reinstall-package={name}" for name in _ADDRESS.findall(pinned)]


def _overrides(requirements: Path, wanted: bool) -> list[str]:
    return ["--overrides", _argument(requirements)] if wanted else []


def _argument(requirements: Path) -> str:
    """The file for uv, which runs in its folder; a name may begin as an option does."""
    return f"./{requirements.name}"


def _uv(requirements: Path, command: str, *arguments: str, advice: str = "") -> str:
    """What a command of uv prints, run in the folder of the requirements file."""
    group = [] if command == "venv" else ["pip"]
    done = subprocess.run(
        ["uv", *group, command, "--quiet", *arguments],
        cwd=requirements.parent, capture_output=True, text=True, check=False, close_fds=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise UsageError(
            f"the environment of {requirements} could not be made.\n{done.stderr.strip()}{advice}"
        )
    return done.stdout


def _remove_old(kept_in: Path) -> None:
    """Remove the environments that no run has asked for in a month."""
    for lock in kept_in.glob("*.lock"):
        place = lock.with_suffix("")
        mark = place / _COMPLETE
        if mark.exists() and time.time() - mark.stat().st_mtime > _KEPT_S:
            with lock.open("wb") as file:
                if _alone(file):
                    shutil.rmtree(place, ignore_errors=True)
