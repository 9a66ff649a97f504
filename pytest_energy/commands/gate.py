"""`pytest-energy gate`: pytest with the engines that requirements files pin."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytest_energy.commands import one_launch
from pytest_energy.commands.report import add_output
from pytest_energy.errors import UsageError

_RECORDINGS = "recordings"
_NOTHING_SELECTED = 5  # pytest.ExitCode.NO_TESTS_COLLECTED

_DESCRIPTION = """\
Make the environments that requirements files pin, with uv, and run the suite
in them: the candidate's engine interleaved with the reference's, which needs
no baseline, or with --baselines against what is stored. On a GPU that no
baseline is of, their vLLM is installed and measured, too. The exit status tells
the verdict: 10 regressed, 11 invalid, 12 not comparable, 13 no baseline,
14 inconclusive; 1 if anything else failed; 2, 4 or 5 if nothing was judged.

    pytest-energy gate --candidate requirements/vllm.txt \\
        --reference base/vllm.txt -o results
    pytest-energy gate --candidate requirements/vllm.txt \\
        --baselines baselines -o results -- -k "bs8 or bs64"

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
    parser.add_argument(
        "--reference", type=Path, metavar="FILE", help="pins the vLLM to compare with"
    )
    parser.add_argument("--baselines", type=Path, metavar="DIR", help="the store to compare with")
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
    parser.set_defaults(
        run=run,
        failure="the environments could not be made: {}.\n"
        "Free some space, or keep them elsewhere: export XDG_CACHE_HOME=/path/to/caches",
    )


def run(options: argparse.Namespace) -> int:
    """Make the environments and become pytest, so that signals reach it.

    Raises:
        UsageError: there are no tests, an environment could not be made, or holds no vLLM.
        OSError: a folder cannot be used.
    """
    from pytest_energy.engines import environment

    _refuse(options)
    # Joined, because pytest takes a path that stands alone for one of tests.
    arguments = [
        "-pno:cacheprovider",
        "--energy-exit-status=verdict",
        f"--energy-record={options.output / _RECORDINGS}",
        f"--energy-report={options.output / 'report'}",
    ]
    files = [("--energy-python", options.candidate)]
    if options.baselines is not None:
        arguments.append(f"--energy-baselines={options.baselines}")
    if options.reference is not None:
        files.append(("--energy-reference-python", options.reference))
    else:
        arguments.append("--energy-reference-install")
    pythons = [f"{option}={sys.executable}" for option, _ in files]
    _collect(options, [*arguments, *pythons])
    # All are resolved before any is made, which takes minutes in which a branch may move.
    resolved = [environment.resolve(file, options.python_version) for _, file in files]
    locks, made = [], set()  # locks stay open in pytest
    for (option, file), pins in zip(files, resolved, strict=True):
        commits = environment.commits(pins).items()
        built = "".join(f", {name} at commit {commit[:12]}" for name, commit in commits)
        print(f"pytest-energy: making the environment of {file}{built}", flush=True)
        python, lock = environment.make(file, options.python_version, pins)
        if not environment.has_vllm(python):
            raise UsageError(f"{file} asks for no vLLM.\nWrite it there: vllm==VERSION")
        arguments.append(f"{option}={python}")
        locks.append(lock)
        made.add(python)
    if len(files) > len(made):
        same = "both files resolve to the same packages: one engine against itself"
        print(f"pytest-energy: {same}", flush=True)
    _become_pytest(options, [*arguments, f"--junitxml={options.output / 'junit.xml'}"])


def _refuse(options: argparse.Namespace) -> None:
    """Refuse what is wrong whatever the tests are."""
    if options.reference is None and options.baselines is None:
        raise UsageError(
            "there is nothing to compare with.\n"
            "Name what pins the other vLLM, or the store: --reference FILE, --baselines DIR"
        )
    recordings = options.output / _RECORDINGS
    if recordings.exists():
        raise UsageError(
            f"{recordings} exists, from a run before, whose launches would count as this one's.\n"
            "Remove it, or give another folder: --output DIR"
        )
    one_launch.refuse_without_tests(options.suites)


def _command(options: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
    tests = str(options.suites), *options.pytest_arguments
    return [sys.executable, "-m", "pytest", *arguments, *tests]


def _become_pytest(options: argparse.Namespace, arguments: Sequence[str]) -> NoReturn:
    os.execv(sys.executable, _command(options, arguments))


def _collect(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Let pytest refuse what it would refuse when the environments, which take minutes, are made.

    Args:
        options: of the command.
        arguments: pytest's, with any interpreter for those to be made.
    """
    collecting = [*arguments, "--collect-only", "--quiet"]
    not_for_github = {k: value for k, value in os.environ.items() if k != "GITHUB_OUTPUT"}
    status = subprocess.run(
        _command(options, collecting),
        env=not_for_github, stdin=subprocess.DEVNULL, capture_output=True, check=False,
    ).returncode  # fmt: skip
    if status == 0:
        return
    if status == _NOTHING_SELECTED:
        by = f"{os.environ.get('PYTEST_ADDOPTS', '')} {shlex.join(options.pytest_arguments)}"
        print(
            f"pytest-energy: no test in {options.suites} is selected by: {by.strip() or 'its name'}"
            f"\nList the tests, and select some by their names, as in -k bs8: "
            f"pytest {options.suites} --collect-only --quiet",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    _become_pytest(options, collecting)  # which tells why, and GitHub its status


def misplaced(given: Sequence[str], unknown: Sequence[str], options: argparse.Namespace) -> str:
    """What to type instead of pytest's arguments without -- before them."""
    pytests = [word for word in given if word in {*unknown, *options.pytest_arguments}]
    own = [word for word in given if word not in {*pytests, "--"}]
    words = ["pytest-energy", *own, "--", *(word for word in pytests if word != "--")]
    return f"\nArguments of pytest follow --, as in: {shlex.join(words)}"
