"""`pytest-energy gate`: pytest with the engines that requirements files pin."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pytest_energy.commands.report import add_output

_DESCRIPTION = """\
Make the environments that requirements files pin, with uv, and run the suite in them: the
candidate's engine interleaved with the reference's, which needs no baseline, or with --baselines
against what is stored. The exit status tells the verdict: 10 regressed, 11 invalid, 12 not
comparable, 13 no baseline, 14 inconclusive; 1 if anything else failed; 2 if nothing was run.

    pytest-energy gate --candidate requirements/vllm.txt --reference base/vllm.txt -o results
    pytest-energy gate --candidate requirements/vllm.txt --baselines baselines -o results -- -k bs8

DIR gets the recordings, the report and junit.xml.
"""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "gate",
        help="judge the vLLM that a requirements file pins",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--candidate", required=True, type=Path, metavar="FILE", help="pins the vLLM under test"
    )
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument(
        "--reference", type=Path, metavar="FILE", help="pins the vLLM to compare with"
    )
    against.add_argument("--baselines", type=Path, metavar="DIR", help="the store to compare with")
    parser.add_argument(
        "--suites",
        default=Path("suites"),
        type=Path,
        metavar="PATH",
        help="tests to run (default: suites)",
    )
    parser.add_argument(
        "--python-version",
        default="3.12",
        metavar="X.Y",
        help="Python of both environments (default: 3.12)",
    )
    add_output(parser, "the results")
    parser.add_argument(
        "pytest_arguments",
        nargs="*",
        metavar="PYTEST ARGUMENT",
        help='further ones, after --: -- -k "bs8 or bs64"',
    )
    parser.set_defaults(run=run, failure="the environments could not be made")


def run(options: argparse.Namespace) -> int:
    """Make the environments and become pytest, so that signals reach it.

    Raises:
        UsageError: an environment could not be made, or holds no vLLM.
        OSError: a folder cannot be used.
    """
    from pytest_energy.engines import environment
    from pytest_energy.errors import UsageError

    recordings = options.output / "recordings"
    if recordings.exists():
        raise UsageError(
            f"{recordings} exists, from a run before, whose launches would count as this one's.\n"
            "Remove it, or give another folder: --output DIR"
        )
    # Joined, because pytest takes a path that stands alone for one of tests.
    arguments = [
        "-pno:cacheprovider",
        "--energy-exit-status=verdict",
        f"--energy-record={recordings}",
        f"--energy-report={options.output / 'report'}",
        f"--junitxml={options.output / 'junit.xml'}",
    ]
    files = [("--energy-python", options.candidate)]
    if options.reference is not None:
        files.append(("--energy-reference-python", options.reference))
    else:
        arguments.append(f"--energy-baselines={options.baselines}")
    # All are resolved before any is made, which takes minutes in which a branch may move.
    resolved = [environment.resolve(file, options.python_version) for _, file in files]
    locks, pythons = [], set()  # locks stay open in pytest
    for (option, file), pins in zip(files, resolved, strict=True):
        commits = environment.commits(pins).items()
        built = "".join(f", {name} at commit {commit[:12]}" for name, commit in commits)
        print(f"pytest-energy: making the environment of {file}{built}", flush=True)
        python, lock = environment.make(file, options.python_version, pins)
        if not environment.has_vllm(python):
            raise UsageError(f"{file} asks for no vLLM.\nWrite it there: vllm==VERSION")
        arguments.append(f"{option}={python}")
        locks.append(lock)
        pythons.add(python)
    if len(files) > len(pythons):
        same = "both files resolve to the same packages: one engine against itself"
        print(f"pytest-energy: {same}", flush=True)
    arguments += [str(options.suites), *options.pytest_arguments]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])
