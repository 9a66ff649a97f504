"""The command `pytest-energy`; each of its commands has a file of its own."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from pytest_energy import __version__
from pytest_energy.commands import (
    bisect,
    doctor,
    fleet,
    gate,
    history,
    init,
    noise,
    report,
    sweep,
)
from pytest_energy.errors import EnergyError, UsageError
from pytest_energy.safety import plainly
from pytest_energy.safety.files import in_words

_DESCRIPTION = "Set up a gate, judge a pinned vLLM, check a runner, report on what was found."


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Returns:
        The exit status: 0, 1 with a message on stderr if the command failed, 2 for a wrong command
        line, 141 if its output has no reader, or what the command itself returns.
    """
    plainly.show(sys.stdout, sys.stderr)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["noise"] and not {"-h", "--help"} & set(given):
        noise.run(given[1:])
    parser = argparse.ArgumentParser(prog="pytest-energy", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"pytest-energy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (init, gate, sweep, bisect, noise, report, history, fleet, doctor):
        command.add(commands)
    if not given:
        parser.print_help(sys.stderr)
        return 2
    options, unknown = parser.parse_known_args(given)
    if unknown:  # refused with the usage of the command, where parse_args shows that of all
        instead = (
            gate.misplaced(given, unknown, options) if hasattr(options, "pytest_arguments") else ""
        )
        refusing = commands.choices.get(given[0], parser)
        refusing.error(f"unrecognized arguments: {' '.join(unknown)}{instead}")
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is buffered
        print("pytest-energy: not all of its output was read", file=sys.stderr)
        return 128 + signal.SIGPIPE
    except UsageError as error:
        print(f"pytest-energy: {error}", file=sys.stderr)
        return 2
    except EnergyError as error:
        print(f"pytest-energy: {error}", file=sys.stderr)
    except OSError as error:
        print("pytest-energy:", options.failure.format(in_words(error)), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
