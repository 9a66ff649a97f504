"""What a green gate needs, and where its files lie."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_energy.meters.nvml import listed_uuids

PIN = Path("requirements/vllm.txt")
OURS = Path("requirements/energy.txt")
WORKFLOWS = Path(".github/workflows")
GITLAB = Path(".gitlab-ci.yml")
_VLLM = r"^[ \t]*vllm[ \t]*(?:\[[^\]\n]*\])?[ \t]*"
PINNED = re.compile(_VLLM + r"===?[ \t]*([0-9][\w.!+-]*)(?=[\s;,#\\]|$)", re.M | re.I)
_PINNED_AT = re.compile(_VLLM + "@", re.M | re.I)


@dataclass(frozen=True)
class Need:
    """What a green gate needs.

    Attributes:
        what: in words.
        met: whether it is there.
        command: what to type if not.
    """

    what: str
    met: bool
    command: str


def check(folder: Path) -> int:
    """Print what a green gate needs, in order, and the command for what is missing.

    Returns:
        1 if something is missing.
    """
    missing = 0
    for need in _needs(folder):
        shown = "ok       " if need.met else "missing  "
        print(f"{shown}{need.what}{'' if need.met else f': {need.command}'}")
        missing += not need.met
    print(
        f"{missing} missing; begin with the first."
        if missing
        else "A pull request that raises the pin is measured now."
    )
    return 1 if missing else 0


def _needs(folder: Path) -> Iterator[Need]:
    init = "pytest-energy init"
    suites = map(text_of, (folder / "suites").glob("**/test_*.py"))
    workflows = map(text_of, [folder / GITLAB, *(folder / WORKFLOWS).glob("*.y*ml")])
    runs_gate = any(re.search(r"pytest-energy|energy-gate", text) for text in workflows)
    written = _written(folder)
    in_git = bool(written) and (folder / ".git").exists() and not _uncommitted(folder)
    commit = f"git add {' '.join(written)} && git commit" if written else init
    pin = text_of(folder / PIN)
    pinned = bool(PINNED.search(pin) or _PINNED_AT.search(pin))
    yield Need("a pinned vLLM", pinned, f"write vllm==VERSION into {PIN}" if pin else init)
    yield Need("the gate's requirements", "pytest-energy" in text_of(folder / OURS), init)
    yield Need("a suite", any("mark.energy" in text for text in suites), init)
    yield Need("a workflow that runs the gate", runs_gate, init)
    yield Need("all of them in git", in_git, commit)
    yield Need("uv on the runner", shutil.which("uv") is not None, "pip install uv")
    yield Need("a GPU that can be measured", bool(listed_uuids()), "pytest-energy doctor")


def _written(folder: Path) -> list[str]:
    """Where `init` writes, as far as it exists."""
    places = (PIN.parent, Path("suites"), WORKFLOWS, GITLAB)
    return [str(place) for place in places if (folder / place).exists()]


def _uncommitted(folder: Path) -> bool:
    command = ["git", "-C", str(folder), "status", "--porcelain", "--", *_written(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode != 0 or bool(done.stdout.strip())


def text_of(path: Path) -> str:
    """The content of a file; empty if there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")[:1_000_000]
    except OSError:
        return ""
