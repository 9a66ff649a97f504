"""`pytest-energy init`: the files of a first gate, from what can be found out here."""

import argparse
import contextlib
import importlib.metadata
import importlib.resources
import os
import re
from pathlib import Path
from typing import Any

from pytest_energy import __version__
from pytest_energy.cell.key import slugify
from pytest_energy.commands import needs
from pytest_energy.commands.needs import GITLAB, OURS, PIN, PINNED, WORKFLOWS, text_of
from pytest_energy.errors import UsageError

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
    model={model!r},
    weights={weights!r},
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
    parser.set_defaults(run=run, failure="the files could not be written")


def run(options: argparse.Namespace) -> int:
    """Write the files, or check what is missing.

    Raises:
        UsageError: something was not found, and no option names it.
        OSError: a file could not be written.
    """
    if options.check:
        return needs.check(Path())
    files = wanted(Path(), options.model, options.vllm, options.label)
    for path, text in files.items():
        if path.exists():
            print(f"{path} exists and is left as it is")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{path} written")
    print("Read them, commit them, and see what is still missing: pytest-energy init --check")
    return 0


def _unknown(folder: Path, model: str | None, version: str | None) -> str:
    """What was not found, and the command that names it all."""
    said = []
    if model is None:
        said.append(
            f"there is no model's folder (a config.json with its architectures) in "
            f"{folder.resolve()}, and no model in the cache of Hugging Face."
        )
    if version is None:
        said.append(
            "neither a requirements file pins vllm==VERSION, nor is vLLM installed here; it is the "
            "version that production runs."
        )
    return (
        "\n".join(said)
        + f"\nType: pytest-energy init --model {model or 'MODEL'} --vllm {version or 'VERSION'}"
    )


def wanted(
    folder: Path, model: str | None = None, vllm: str | None = None, label: str | None = None
) -> dict[Path, str]:
    """The files of a gate, with their content.

    Args:
        folder: top of the repository.
        model, vllm, label: what is known; None to look for it.

    Raises:
        UsageError: model or vLLM was not found, or several are pinned.
    """
    found, version = model or _model(folder), vllm or _vllm(folder)
    if found is None or version is None:
        raise UsageError(_unknown(folder, found, version))
    own = (folder / found).is_dir() and not any((folder / found).glob("*.safetensors"))
    name = re.sub(r"[^a-z0-9]", "_", slugify(Path(found).name))
    suite = _SUITE.format(
        model=found,
        weights="dummy" if own else "auto",
        name=name,
    )
    files = {
        folder / "suites" / f"test_{name}.py": suite,
        folder / PIN: f"vllm=={version}\n",
        folder / OURS: f"pytest-energy[report]=={__version__}\n",
    }
    runner = label or _label()
    if _uses_gitlab(folder):
        files[folder / GITLAB] = _template("examples/gitlab-ci.yml").replace("h100", runner)
        return files
    for path in ("workflows/energy-gate.yml", "examples/energy.yml"):
        text = _template(path).replace('"h100"]', f'"{runner}"]')
        files[folder / WORKFLOWS / Path(path).name] = text
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
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    cached = sorted(hub.glob("models--*/snapshots/*/config.json"))
    names = [path.parents[2].name.removeprefix("models--").replace("--", "/") for path in cached]
    return names[0] if names else None


def _vllm(folder: Path) -> str | None:
    """The version that requirements files pin, else the one installed here; None without.

    Raises:
        UsageError: the files pin several.
    """
    files = [*sorted(folder.glob("*requirements*/*.txt")), *sorted(folder.glob("*req*.txt"))]
    pins = {path: PINNED.findall(text_of(path)) for path in files}
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
        return versions.pop()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("vllm")
    return None


def _label() -> str:
    """A runner's label after the GPU: "h100" for "NVIDIA H100 80GB HBM3"."""
    from pytest_energy.meters.nvml import list_gpus

    with contextlib.suppress(Exception):
        words = [word for word in list_gpus()[0].name.lower().split() if word != "nvidia"]
        return slugify(words[0])
    return "gpu"


def _uses_gitlab(folder: Path) -> bool:
    """Whether the repository lies at a GitLab, as far as its files tell."""
    if (folder / ".github").is_dir():
        return False
    return (folder / GITLAB).exists() or "gitlab" in text_of(folder / ".git" / "config")
