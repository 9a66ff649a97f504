"""The vLLM releases that a command launches, and the interpreters that hold them."""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pytest_energy.errors import UsageError


@dataclass(frozen=True)
class Release:
    """A vLLM release that can be launched.

    Attributes:
        version: of the vLLM that the interpreter has installed.
        python: the interpreter.
        lock: open as long as no other run may change its environment; None for the user's own.
    """

    version: str
    python: str
    lock: BinaryIO | None = None


def add_options(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add the options that name releases, of which one kind must be given; returns that group."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--python",
        action="append",
        metavar="PATH",
        default=[],
        help="interpreter of an environment with vLLM (repeatable, one for each release)",
    )
    which.add_argument(
        "--versions",
        type=versions,
        metavar="A,B,...",
        default=(),
        help="releases of vLLM, for which uv makes environments: 0.11.1,0.20.2",
    )
    parser.add_argument(
        "--python-version",
        default="3.12",
        metavar="X.Y",
        help="Python of these environments (default: 3.12)",
    )
    return which


def positive(kind: type) -> Any:
    """The type of an option that takes a positive number of this kind."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return number

    parse.__name__ = "number"  # argparse names it if the text is no number
    return parse


def versions(text: str) -> tuple[str, ...]:
    """Versions that commas separate.

    Raises:
        ArgumentTypeError: one is empty, or there twice.
    """
    found = tuple(word.strip() for word in text.split(","))
    if not all(found) or len({*found}) < len(found):
        raise argparse.ArgumentTypeError(f"{text} is not different versions, as in 0.11.1,0.20.2")
    return found


def of_python(python: str) -> Release:
    """The release that an interpreter holds.

    Raises:
        UsageError: it cannot be run, or holds no vLLM.
    """
    from pytest_energy.engines.installed import installed

    python = os.path.expanduser(python)  # noqa: PTH111 (Path would drop the ./ of a program)
    version = installed(python).vllm
    if version is None:
        raise UsageError(
            f"{python} has no vLLM.\n"
            "Give the interpreter of an environment with vLLM: --python /venv/bin/python"
        )
    return Release(version, python)


def made(requirement: str, python_version: str) -> Release:
    """A release in an environment that uv makes, which takes minutes unless it was made before.

    Args:
        requirement: a line of a requirements file, such as "vllm==0.20.2".
        python_version: of the environment.

    Raises:
        UsageError: uv could not do it.
        OSError: the cache folder cannot be used.
    """
    from pytest_energy.engines import environment

    requirements = environment.write_requirements([requirement])
    pins = environment.resolve(requirements, python_version)
    print(f"pytest-energy: making the environment of {requirement}", flush=True)
    python, lock = environment.make(requirements, python_version, pins)
    return Release(of_python(str(python)).version, str(python), lock)


def chosen(options: argparse.Namespace) -> Sequence[Release]:
    """The releases that were asked for, in the order given.

    Raises:
        UsageError: none was, two are the same, or one cannot be had.
        OSError: the cache folder cannot be used.
    """
    found = [
        *map(of_python, options.python),
        *(made(f"vllm=={version}", options.python_version) for version in options.versions),
    ]
    if not found:
        raise UsageError(
            "no release is named.\n"
            "Name interpreters that hold them, --python PATH, or versions: --versions A,B"
        )
    by_version: dict[str, Release] = {}
    for release in found:
        first = by_version.setdefault(release.version, release)
        if first is not release:
            raise UsageError(
                f"{first.python} and {release.python} both hold vLLM {release.version}, so their "
                "launches could not be told apart.\nGive each release once."
            )
    return found
