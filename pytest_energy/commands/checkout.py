"""What a user's repository holds: requirements files, suites, workflows, and what git knows."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_energy.errors import UsageError

PIN = Path("requirements/vllm.txt")
OURS = Path("requirements/energy.txt")
SUITES = Path("suites")
WORKFLOWS = Path(".github/workflows")
GITLAB = Path(".gitlab-ci.yml")
VERSION = r"[0-9][\w.!+-]*"
_VLLM = r"^[ \t]*vllm[ \t]*(?:\[[^\]\n]*\])?[ \t]*"
PINNED = re.compile(_VLLM + rf"===?[ \t]*({VERSION})(?=[\s;,#\\]|$)", re.M | re.I)
PINNED_AT = re.compile(_VLLM + "@", re.M | re.I)
ASKED_FOR = re.compile(_VLLM + r"(?![\w.-]).*$", re.M | re.I)
_INCLUDED = re.compile(
    r"^[ \t]*(?:-r|--requirement|-c|--constraint)(?:[ \t]+|=|(?<=-[rc]))([^\s#]+)", re.M
)
_GATE = re.compile(
    r"pytest-energy\"?[ \t]+gate\b|energy-gate\.yml|uses:.*/pytest-energy@|--energy-"
)


@dataclass(frozen=True)
class Marked:
    """What an energy marker names: files are relative to the test file or the top.

    Attributes:
        file: the test file.
        names: of "model", "prompts" and "weights" those that the file spells out.
    """

    file: Path
    names: dict[str, str]


@dataclass(frozen=True)
class Gate:
    """The workflow that runs the gate, and what it names.

    Attributes:
        text: of all its files, without comments; empty if there is none.
        candidate, requirements, suites: as the inputs of energy-gate.yml.
        labels: of the runner, in words; empty if not found.
        starts: patterns of the paths whose changes start it; empty if not found.
        missing: a workflow of this repository that it calls and that is not there.
    """

    text: str
    candidate: Path
    requirements: Path
    suites: Path
    labels: str
    starts: tuple[str, ...]
    missing: Path | None


def gate(folder: Path) -> Gate:
    """The gate's workflow below the top of a repository."""
    files = [folder / GITLAB, *sorted((folder / WORKFLOWS).glob("*.y*ml"))]
    texts = [re.sub(r"(^|\s)#.*", "", text_of(file)) for file in files]
    text = "\n".join(t for t in texts if _GATE.search(t) and "workflow_call:" not in t)
    labels = _listed(text, "runner-labels|tags")
    called = re.search(rf"uses:[ \t]*\./({re.escape(str(WORKFLOWS))}/[\w.-]+)", text)
    return Gate(
        text,
        _named(text, "candidate", PIN),
        _named(text, "requirements", OURS),
        _named(text, "suites", SUITES),
        ", ".join(labels),
        tuple(_listed(text, "paths|changes")),
        Path(called[1]) if called and not (folder / called[1]).exists() else None,
    )


def _listed(text: str, names: str) -> list[str]:
    """The items of the first list of one of these names, if it stands in one line."""
    found = re.search(rf"^[ \t]*(?:{names}):[ \t]*(.*\].*)$", text, re.M)
    return re.findall(r"[^\[\]'\",\s]+", found[1]) if found else []


def _named(text: str, name: str, default: Path) -> Path:
    """The path that an input or an option gives."""
    found = re.search(rf"(?:^[ \t]*{name}:[ \t]*|--{name}[ =])[\"']?([\w./-]+)", text, re.M)
    return Path(found[1]) if found else default


def requirements_files(file: Path) -> list[Path]:
    """A requirements file and those that it includes, whether or not they exist."""
    found: list[Path] = []
    todo = [file]
    while todo:
        path = Path(os.path.normpath(todo.pop(0)))
        if path not in found:
            found.append(path)
            named = _INCLUDED.findall(text_of(path))
            todo += [path.parent / name for name in named if "://" not in name]
    return found


def marked(suites: Path) -> Iterator[Marked]:
    """What the energy markers of a suite name, as far as a file spells it out."""
    files = [suites] if suites.is_file() else sorted(suites.glob("**/*.py"))
    for file in files:
        try:
            tree = ast.parse(text_of(file))
        except (SyntaxError, ValueError):  # pytest says so
            continue
        known = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "energy":
                values = {k.arg: _value(k.value, known) for k in call.keywords if k.arg}
                names = {n: v for n, v in values.items() if isinstance(v, str)}
                yield Marked(file, names)


def _value(node: ast.expr, known: Mapping[str, object]) -> object:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    return node.value if isinstance(node, ast.Constant) else None


def is_a_repository(folder: Path) -> bool:
    """Whether a folder is the top of one.

    Raises:
        UsageError: it lies inside of one, in which CI looks elsewhere.
    """
    top = (git(folder, "rev-parse", "--show-toplevel") or "").strip()
    if top and Path(top).resolve() != folder.resolve():
        raise UsageError(
            f"this folder lies in the repository {top}, and CI reads workflows at its top.\n"
            f"Go there first: cd {os.path.relpath(top, folder.resolve())}"
        )
    return bool(top)


def not_in_git(folder: Path, places: Sequence[Path]) -> tuple[list[Path], bool]:
    """Which of these hold a file that a checkout would lack or have otherwise.

    Args:
        folder: top of the repository.
        places: files and folders relative to it.

    Returns:
        Also, whether git ignores one of these files.
    """
    status = git(
        folder, "status", "--porcelain", "--ignored", "--untracked-files=all", "--no-renames", "-z",
        "--", *map(str, places),
    )  # fmt: skip
    if status is None:
        return list(places), False
    entries = [e for e in status.split("\0") if e and not re.search("__pycache__|[.]pyc$", e)]
    changed = [(entry[:2], Path(entry[3:])) for entry in entries]
    found = [
        place
        for place in places
        if any(path == place or place in path.parents for _, path in changed)
    ]
    return found, any(state == "!!" for state, _ in changed)


def git(folder: Path, *words: str) -> str | None:
    """What a command of git prints; None if it fails."""
    command = ["git", "--literal-pathspecs", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def text_of(path: Path) -> str:
    """The content of a file; empty if there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")[:1_000_000]
    except OSError:
        return ""
