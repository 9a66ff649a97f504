"""`pytest-energy init`: the files of a first gate, from what can be found out here."""

import argparse
import contextlib
import importlib.metadata
import importlib.resources
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_energy.cell.key import slugify
from pytest_energy.cell.model import Model, has_experts
from pytest_energy.commands import checkout, needs
from pytest_energy.commands.checkout import (
    GITLAB,
    OURS,
    PIN,
    PINNED,
    SUITES,
    VERSION,
    WORKFLOWS,
    text_of,
)
from pytest_energy.errors import UsageError
from pytest_energy.safety.files import expanded, write_atomically

_DESCRIPTION = """\
Write a suite, the requirements files of vLLM and of the gate, and the workflow
that compares each pull request with its base branch. What exists is left as it
is. GPU, vLLM, model and CI are looked for; an option names what was not found.

    pytest-energy init             write the files
    pytest-energy init --check     say what a green gate still needs
"""
_SKIPPED = (".", "node_modules", "venv", "site-packages")
_DEPTH = 3  # of folders in which a model is looked for
_SUITE = '''\
"""Fails if a token takes more energy than with the base branch's vLLM."""

import pytest


@pytest.mark.energy(
    model={model},
    weights="{weights}",
    batch_sizes=[1, 8, 64],
    input_tokens=256,  # a step stays inside the CUDA graphs
    output_tokens=256,
    engine_args={{"max_num_seqs": 256}},
)
def test_{name}(energy, throughput):
    pass
'''


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "init",
        help="write the files of a first gate, or check what it still needs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="a folder with a config.json, or a Hugging Face id"
    )
    parser.add_argument("--vllm", metavar="VERSION", help="the vLLM that production runs")
    parser.add_argument("--label", metavar="LABEL", help="of the runner with the GPU")
    parser.add_argument("--check", action="store_true", help="write nothing, and check")
    parser.set_defaults(
        run=run,
        failure="the files could not be written: {}.\n"
        "Free some space, or make the folder writable, and run this again.",
    )


def run(options: argparse.Namespace) -> int:
    """Write the files, or check what is missing.

    Raises:
        UsageError: something was not found, and no option names it; or an option names what is
            not there.
        OSError: a file could not be written.
    """
    if options.check:
        return needs.check(Path())
    checkout.is_a_repository(Path())
    found = _found(Path(), options.model, options.vllm, options.label)
    for path, text in wanted(Path(), found).items():
        if path.exists():
            print(f"{path} exists and is left as it is")
            continue
        write_atomically(path, text.encode())  # half of one would be left as it is the next time
        print(f"{path} written")
    print("Read them, and see what is still missing: pytest-energy init --check")
    return 0


@dataclass(frozen=True)
class Found:
    """What the files are made from.

    Attributes:
        model: as the suite names it.
        weights: the marker's.
        vllm: version.
        label: of the runner with the GPU.
    """

    model: str
    weights: str
    vllm: str
    label: str


def _found(folder: Path, model: str | None, vllm: str | None, label: str | None) -> Found:
    """Look for what is None, and say what was taken for what.

    Raises:
        UsageError: model or vLLM was not found, several are pinned, or a name cannot be used.
    """
    name, (version, pinned) = model or _model(folder), (vllm, "") if vllm else _vllm(folder)
    if name is None or version is None:
        raise UsageError(_unknown(folder, name, version))
    if not re.fullmatch(VERSION, version):
        raise UsageError(
            f"--vllm {version}: that is not a version of vLLM.\n"
            "Give the one that production runs, as in: pytest-energy init --vllm 0.20.2"
        )
    taken = Model.resolve(name, folder)
    is_folder = taken.config_sha256 is not None
    synthetic = is_folder and not any(Path(taken.location).glob("*.safetensors"))
    of = needs.model_in_words(name, taken) + (", synthetic weights" if synthetic else "")
    runner, why = (label, "") if label else _label(_uses_gitlab(folder))
    if re.search(r"[,\s\"'\\]", runner):
        raise UsageError(f"--label {runner!r}: that is not one label.\nGive one: --label h100")
    print(needs.said("model", of))
    print(needs.said("vLLM", f"{version}{pinned}"))
    print(needs.said("label", f"{runner}{why}"))
    weights = "auto"
    if synthetic:  # random ones spread tokens over experts
        weights = "random" if has_experts(Path(taken.location)) else "dummy"
    return Found(name, weights, version, runner)


def _unknown(folder: Path, model: str | None, version: str | None) -> str:
    """What was not found, and the command that names it all."""
    said = []
    if model is None:
        said.append(
            f"there is no model (a folder whose config.json names architectures) in "
            f"{folder.resolve()},\nand none in the cache of Hugging Face."
        )
    if version is None:
        said.append(
            "no requirements file pins vllm==VERSION, the version that production runs,\n"
            "and vLLM is not installed here."
        )
    return (
        "\n".join(said)
        + f"\nType: pytest-energy init --model {model or 'MODEL'} --vllm {version or 'VERSION'}"
    )


def wanted(folder: Path, found: Found) -> dict[Path, str]:
    """The files of a gate, with their content; `folder` is the top of the repository."""
    name = re.sub(r"[^a-z0-9]", "_", slugify(Path(found.model).name))
    suite = _SUITE.format(
        # As Python reads it; and with double quotes, as formatters write it.
        model=json.dumps(found.model, ensure_ascii=False),
        weights=found.weights,
        name=name,
    )
    files = {
        folder / SUITES / f"test_{name}.py": suite,
        folder / PIN: f"vllm=={found.vllm}\n",
        folder / OURS: f"{needs.package()}\n",
    }
    gpu = slugify(found.label)
    if _uses_gitlab(folder):
        text = _template("examples/gitlab-ci.yml").replace("[h100]", f'["{found.label}"]')
        files[folder / GITLAB] = text.replace("h100", gpu)
        return files
    for path in ("workflows/energy-gate.yml", "examples/energy.yml"):
        text = _template(path).replace('"h100"]', f'"{found.label}"]')
        files[folder / WORKFLOWS / Path(path).name] = text.replace("h100\n", f"{gpu}\n")
    return files


def _template(path: str) -> str:
    """A file of .github: in the package, or beside it in a checkout."""
    checkout = Path(__file__).parents[2] / ".github"
    for place in (importlib.resources.files("pytest_energy") / "ci", checkout):
        if (file := place.joinpath(path)).is_file():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(2, "not in the installed package", path)


def _model(folder: Path) -> str | None:
    """The first model in the repository, else in the cache of Hugging Face; None without."""
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(f for f in folders if not f.startswith(_SKIPPED))
        if len(inside.parts) >= _DEPTH:
            folders.clear()
        if "config.json" in names and '"architectures"' in text_of(Path(place) / "config.json"):
            return inside.as_posix()
    home = expanded(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    cached = sorted(hub.glob("models--*/snapshots/*/config.json"))
    names = [path.parents[2].name.removeprefix("models--").replace("--", "/") for path in cached]
    return names[0] if names else None


def _vllm(folder: Path) -> tuple[str | None, str]:
    """The version that requirements files pin, else the one installed here, and where; or None.

    Raises:
        UsageError: the files pin several.
    """
    files = [*sorted(folder.glob("*requirements*/*.txt")), *sorted(folder.glob("*req*.txt"))]
    included = (path for file in files for path in checkout.requirements_files(file))
    pins = {path: PINNED.findall(text_of(path)) for path in included}
    versions: set[str] = {version for found in pins.values() for version in found}
    if len(versions) > 1:
        listed = ", ".join(
            f"{' and '.join(found)} in {path}" for path, found in pins.items() if found
        )
        raise UsageError(
            f"several versions of vLLM are pinned: {listed}.\n"
            "Name the one that production runs: pytest-energy init --vllm VERSION"
        )
    if versions:
        return versions.pop(), f", pinned in {next(path for path in pins if pins[path])}"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("vllm"), ", installed here"
    return None, ""


def _label(gitlab: bool) -> tuple[str, str]:
    """A runner's label after the GPU, "h100" for "NVIDIA H100 80GB HBM3", and where it is from."""
    from pytest_energy.meters.nvml import list_gpus

    listed, file = ("CI/CD", GITLAB) if gitlab else ("Actions", WORKFLOWS / "energy.yml")
    own = f"if your runner has another (Settings, {listed}, Runners), write that into {file}"
    with contextlib.suppress(Exception):
        words = [word for word in list_gpus()[0].name.lower().split() if word != "nvidia"]
        return slugify(words[0]), f", after the GPU of this machine; {own}"
    return "gpu", f", as there is no GPU here to name it after; {own}"


def _uses_gitlab(folder: Path) -> bool:
    """Whether the repository lies at a GitLab, as far as its files tell."""
    if (folder / ".github").is_dir():
        return False
    remotes = checkout.git(folder, "remote", "--verbose") or ""
    return (folder / GITLAB).exists() or "gitlab" in remotes
