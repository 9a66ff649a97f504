"""`pytest-energy bisect`: the release at which a cell got worse, and the settings that did it."""

import argparse
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_energy.commands import one_launch, releases
from pytest_energy.commands.report import add_noise_store, add_output
from pytest_energy.errors import UsageError
from pytest_energy.measure.metric import UNDER_LOAD, Metric

if TYPE_CHECKING:
    from pytest_energy.commands.bisect_search import Candidate
    from pytest_energy.verdict.bisection import Answer, Next

_WHEEL = re.compile(r"\bvllm(?:[-_]cpu)?(?:-|\s*===?\s*)([0-9][^-\s;,#]*)")

_DESCRIPTION = """\
Find the vLLM release at which a cell got worse. Good and bad are launched
alternately until the gate's rule calls bad regressed; then releases between
them, with as few launches as the noise allows, until one is found with 99 %
confidence. Settings that differ there are then set back, one at a time, and
the cost of each is reported.

    pytest-energy bisect --versions 0.22.0,0.22.1,0.23.0,0.24.0 \\
        -o bisection -- -k bs8
    pytest-energy bisect --requirements nightlies.txt -o bisection -- -k bs8

The releases are listed in order; the first is good and the last bad, unless
--good and --bad name others. The tests must select one cell. DIR gets the
recordings and bisection.json; with the same DIR a search that was interrupted
goes on. Exit status: 0 one release is found, 3 nothing to bisect, 4 several
releases share the change, 5 cannot tell, 1 if a launch failed, 2 if the command
line is wrong.
"""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "bisect",
        help="find the release at which a cell got worse",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = releases.add_options(parser)
    which.add_argument(
        "--requirements",
        type=Path,
        metavar="FILE",
        help="one requirement or wheel of vLLM per line, in order",
    )
    parser.add_argument("--good", metavar="A", help="the good release (default: the first)")
    parser.add_argument("--bad", metavar="B", help="the bad release (default: the last)")
    parser.add_argument(
        "--suites", default=Path("suites"), type=Path, metavar="PATH",
        help="tests of the cell (default: suites)",
    )  # fmt: skip
    parser.add_argument(
        "--metric", choices=[m.value for m in UNDER_LOAD], default=Metric.JOULES_PER_TOKEN.value,
        help="what got worse (default: joules_per_token)",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=_tolerance, metavar="SHARE",
        help="smallest loss that matters (default: the gate's, 0.03 or, of tokens/s, 0.10)",
    )  # fmt: skip
    add_noise_store(parser)
    parser.add_argument(
        "--minutes", type=releases.positive(float), default=math.inf, metavar="M",
        help="minutes that this call may use: no launch is begun that would pass them",
    )  # fmt: skip
    add_output(parser, "the recordings and the answer")
    parser.add_argument(
        "pytest_arguments", nargs="*", metavar="PYTEST ARGUMENT",
        help="further ones, after --: -- -k bs8",
    )  # fmt: skip
    parser.set_defaults(run=run, failure="the search was not kept: {}.\nGive another: -o DIR")


def run(options: argparse.Namespace) -> int:
    """Search, set settings back, and print and keep what was found.

    Raises:
        UsageError: releases cannot be had, or the tests select several cells.
        EnergyError: the good or the bad release cannot be launched, or a file is damaged.
        OSError: the folder cannot be used.
    """
    from pytest_energy.commands.bisect_search import Search
    from pytest_energy.commands.kept_launches import KeptLaunches
    from pytest_energy.commands.one_launch import Suite
    from pytest_energy.report import bisection
    from pytest_energy.safety.files import exclusively, write_atomically
    from pytest_energy.store.noise import NoiseStore

    suite = Suite(options.suites, tuple(options.pytest_arguments))
    one_launch.refuse_uncollected(suite)
    noise_store = NoiseStore(options.baselines)
    noise_store.check()
    search = Search(
        _candidates(options),
        KeptLaunches(options.output / "launches", suite),
        Metric(options.metric),
        options.tolerance,
        noise_store,
        options.minutes,
    )
    try:
        with exclusively(options.output):
            found = search.run()
    except KeyboardInterrupt:
        return one_launch.tell_interrupted()
    text = json.dumps(bisection.plain(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(options.output / "bisection.json", f"{text}\n".encode())
    print("\n".join(["", *bisection.lines(found)]))
    return _status(found.found)


def _status(found: "Answer | Next") -> int:
    from pytest_energy.verdict.bisection import Answer, Outcome

    statuses = {Outcome.FOUND: 0, Outcome.NOTHING: 3, Outcome.SPLIT: 4, Outcome.CANNOT_TELL: 5}
    return statuses[found.outcome if isinstance(found, Answer) else Outcome.CANNOT_TELL]


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share, as in 0.03")
    return value


def _candidates(options: argparse.Namespace) -> "list[Candidate]":
    """The releases from good to bad.

    Raises:
        UsageError: the list has no good and bad one, or one twice, or an interpreter has no vLLM.
    """
    from pytest_energy.commands.bisect_search import Candidate

    if options.requirements is not None:
        found = [_of_line(line, options) for line in _lines(options.requirements)]
    elif options.versions:
        found = [
            Candidate(version, f"vllm=={version}", options.python_version)
            for version in options.versions
        ]
    else:
        held = map(releases.of_python, options.python)
        found = [Candidate(release.version, release=release) for release in held]
    names = [candidate.name for candidate in found]
    twice = next((name for name, number in Counter(names).items() if number > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is in the list twice.\nGive each release once.")
    for option, name in (("good", options.good), ("bad", options.bad)):
        if name is not None and name not in names:
            raise UsageError(
                f"--{option} {name} is not in the list: {', '.join(names) or 'it is empty'}.\n"
                "List the releases in order: --versions A,B,C"
            )
    first = 0 if options.good is None else names.index(options.good)
    last = len(names) - 1 if options.bad is None else names.index(options.bad)
    if first >= last:
        raise UsageError(
            "the list holds no bad release after the good one.\n"
            "List releases in order, good first: --versions A,B,C, --requirements FILE or "
            "--python PATH for each"
        )
    return found[first : last + 1]


def _lines(requirements: Path) -> list[str]:
    """The requirements in a file.

    Raises:
        UsageError: it cannot be read, or has options of pip.
    """
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(
            f"{requirements} cannot be read: {why}.\n"
            "Give a file with one requirement or wheel of vLLM per line: --requirements FILE"
        ) from None
    found = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    option = next((line for line in found if line.startswith("-")), None)
    if option is not None:
        raise UsageError(
            f"{requirements} has an option, {option}, where each line is a release.\n"
            "Leave it out, and name an index to uv: export UV_INDEX=URL"
        )
    return found


def _of_line(line: str, options: argparse.Namespace) -> "Candidate":
    """A wheel's path is relative to the file."""
    from pytest_energy.commands.bisect_search import Candidate

    path = options.requirements.parent / line
    requirement = str(path.resolve()) if path.exists() else line
    version = _WHEEL.search(line.rpartition("/")[2])
    return Candidate(version[1] if version else line, requirement, options.python_version)
