"""What a green gate needs, as far as a checkout shows it."""

import contextlib
import fnmatch
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_energy import __version__
from pytest_energy.cell.model import Model
from pytest_energy.commands import checkout
from pytest_energy.commands.checkout import Gate, Marked, text_of
from pytest_energy.errors import UsageError
from pytest_energy.meters.nvml import listed_uuids

_INIT = "pytest-energy init"
SYNTHETIC = ("dummy", "random")
_WIDTH, _INDENT = 80, 9


@dataclass(frozen=True)
class Need:
    """What a green gate needs.

    Attributes:
        what: in words.
        met: whether it is there; None if that cannot be seen from here.
        command: what to type if not.
    """

    what: str
    met: bool | None
    command: str = ""


def check(folder: Path) -> int:
    """Print what a green gate needs, in order, and the command for what is missing.

    Returns:
        1 if something is missing.

    Raises:
        UsageError: the folder is not the top of its repository.
    """
    needs = list(_needs(folder, checkout.is_a_repository(folder)))
    for need in needs:
        shown = {True: "ok", False: "missing", None: "unseen"}[need.met]
        print(said(shown, need.what))
        if need.met is not True:
            print(" " * _INDENT + need.command)
    missing = sum(need.met is False for need in needs)
    print(
        f"{missing} missing; begin with the first."
        if missing
        else "Nothing is missing here. Push it, and whatever raises the pin is measured."
    )
    return 1 if missing else 0


def said(label: str, text: str) -> str:
    """A line with a label before it, in 80 columns."""
    return textwrap.fill(
        f"{label:{_INDENT}}{text}", _WIDTH, subsequent_indent=" " * _INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _needs(folder: Path, repository: bool) -> Iterator[Need]:
    gate = checkout.gate(folder)
    marked = list(checkout.marked(folder / gate.suites))
    yield Need("a git repository", repository, "git init")
    yield from _requirements(folder, gate)
    yield Need(f"a suite in {gate.suites}", bool(marked), _INIT)
    yield from dict.fromkeys(_models(folder, marked))
    yield from _workflow(folder, gate)
    if repository:
        yield _in_git(folder, gate, marked)
    yield _runner(gate)


def _requirements(folder: Path, gate: Gate) -> Iterator[Need]:
    pins = checkout.requirements_files(folder / gate.candidate)
    ours = checkout.requirements_files(folder / gate.requirements)
    text = "\n".join(map(text_of, pins))
    pinned = bool(checkout.PINNED.search(text) or checkout.PINNED_AT.search(text))
    yield Need("a pinned vLLM", pinned, _pin_it(folder, gate.candidate, text))
    if not re.search(r"uses:.*/pytest-energy@", gate.text):  # the action brings itself
        asked_for = any(re.search(r"^[ \t]*pytest-energy\b", text_of(p), re.M) for p in ours)
        write = f"write {package()} into {gate.requirements}"
        there = (folder / gate.requirements).exists()
        yield Need("the gate's requirements", asked_for, write if there else _INIT)
    of_workflow = re.findall("uses:.*", gate.text)
    for where, said in ((gate.requirements, map(text_of, ours)), ("the workflow", of_workflow)):
        if any(re.search(r"\bOWNER/", text) for text in said):
            what = f"the address of pytest-energy in {where}, which says OWNER"
            yield Need(what, False, "write there the account where pytest-energy lies")
    for path in (*pins[1:], *ours[1:]):
        if not path.exists():
            lost = os.path.relpath(path, folder)
            yield Need(f"{lost}, which a requirements file includes", False, f"write {lost}")


def package() -> str:
    """The requirement that installs this package elsewhere.

    From git, the commit installed here. What was installed from a folder or a file need not be on
    an index: its tag, at an address to be completed.
    """
    found = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        origin = importlib.metadata.distribution("pytest-energy").read_text("direct_url.json")
        found = json.loads(origin or "{}")
    if not found:
        return f"pytest-energy[report]=={__version__}"
    url, at = "https://github.com/OWNER/pytest-energy", f"v{__version__}"
    if "vcs_info" in found:
        url, at = found["url"], found["vcs_info"]["commit_id"]
    return f"pytest-energy[report] @ git+{url}@{at}"


def _pin_it(folder: Path, file: Path, text: str) -> str:
    asked = checkout.ASKED_FOR.search(text)
    if asked:
        return f'put the version that production runs in place of "{asked[0].strip()}" in {file}'
    there = (folder / file).exists()
    return f"write vllm== and the version that production runs into {file}" if there else _INIT


def _models(folder: Path, marked: Sequence[Marked]) -> Iterator[Need]:
    """Each model that a suite names, once."""
    for of in {(m.file, m.names["model"]): m for m in marked if "model" in m.names}.values():
        name, file = of.names["model"], os.path.relpath(of.file, folder)
        try:
            model = Model.resolve(name, of.file.parent, folder)
        except UsageError as error:
            what, _, remedy = str(error).partition("\n")
            yield Need(f"a model that {file} can use: {what}", False, remedy)
            continue
        if not Path(name).expanduser().is_absolute() and _is_outside(folder, model):
            remedy = f"copy it there, or name the runner's own folder (a whole path) in {file}"
            yield Need(f"the model {name} in this repository", False, remedy)
            continue
        yield Need(f"the model {model_in_words(name, model)}", True)
        if of.names.get("weights") not in SYNTHETIC and _is_lacked(folder, model):
            remedy = (
                f"in {file}, name its Hugging Face id or the runner's own folder (a whole path)"
            )
            yield Need(f"the weights of {name} in git, or on the runner", False, remedy)


def model_in_words(name: str, model: Model) -> str:
    """A model's name, and what it was taken for."""
    return f"{name}, {'a Hugging Face id' if model.config_sha256 is None else 'a folder'}"


def _is_lacked(folder: Path, model: Model) -> bool:
    """Whether a model's folder lies in the repository with files that a checkout would lack."""
    if model.config_sha256 is None or _is_outside(folder, model):
        return False
    place = Path(model.location).relative_to(folder.resolve())
    return bool(checkout.not_in_git(folder, [place])[0])


def _is_outside(folder: Path, model: Model) -> bool:
    """Whether a model's folder lies outside of the repository."""
    place = Path(model.location)
    return model.config_sha256 is not None and not place.is_relative_to(folder.resolve())


def _workflow(folder: Path, gate: Gate) -> Iterator[Need]:
    yield Need("a workflow that runs the gate", bool(gate.text), _INIT)
    if gate.missing:
        yield Need(f"{gate.missing}, which the workflow calls", False, _INIT)
    patterns = [pattern.replace("**/*", "*").replace("**", "*") for pattern in gate.starts]
    for path in checkout.requirements_files(folder / gate.candidate) if patterns else ():
        file = os.path.relpath(path, folder)
        if path.exists() and not any(fnmatch.fnmatchcase(file, p) for p in patterns):
            what = f"{file}, which pins, among the paths that start the workflow"
            yield Need(what, False, f"add {file} to: {', '.join(gate.starts)}")


def _in_git(folder: Path, gate: Gate, marked: Sequence[Marked]) -> Need:
    """What a checkout of CI would lack."""
    top = folder.resolve()
    wanted = [
        *checkout.requirements_files(folder / gate.candidate),
        *checkout.requirements_files(folder / gate.requirements),
        folder / gate.suites, folder / "conftest.py", folder / checkout.WORKFLOWS,
        folder / checkout.GITLAB, *_named_files(folder, marked),
    ]  # fmt: skip
    existing = [path.resolve() for path in wanted if path.exists()]
    places = dict.fromkeys(p.relative_to(top) for p in existing if p.is_relative_to(top))
    if not places:
        return Need("all of them in git", False, _INIT)
    lacking, ignored = checkout.not_in_git(folder, list(places))
    what = "all of them in git" + (", which ignores some" if ignored else "")
    add = shlex.join(["git", "add", *(["--force"] if ignored else []), *map(str, lacking)])
    return Need(what, not lacking, f'{add} && git commit -m "Energy gate"')


def _named_files(folder: Path, marked: Sequence[Marked]) -> Iterator[Path]:
    """Of each suite its prompts and, if the weights are synthetic, the model's config.json."""
    for of in marked:
        names = [of.names.get("prompts")]
        if of.names.get("weights") in SYNTHETIC and "model" in of.names:
            names.append(f"{of.names['model']}/config.json")
        for name in filter(None, names):
            paths = [place / name for place in (of.file.parent, folder)]
            yield next((path for path in paths if path.exists()), paths[0])


def _runner(gate: Gate) -> Need:
    """Another machine's state cannot be seen; one without a GPU is not the runner."""
    labels = f", labelled {gate.labels}" if gate.labels else ""
    if not listed_uuids():
        what = f"a runner{labels}, with uv and a GPU. It is not this machine, which has no GPU"
        return Need(what, None, "on the runner: uv --version && nvidia-smi -L")
    what = f"uv and a GPU, if this machine is the runner{labels}"
    return Need(what, shutil.which("uv") is not None, "pip install uv")
