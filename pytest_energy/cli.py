"""The command `pytest-energy`: what is no test run by itself. Cells are defined by tests, so pytest does the work."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

NOISE = """\
Measure how much launches of an unchanged engine differ on this runner, and add it to BASELINES/GPU/noise/.

Every other argument is pytest's: which tests' cells to launch (-k "bs8 or bs64"), --energy-launches N for the number of
launches in this call, --energy-python for the interpreter whose vLLM is launched, or --energy-replay DIR to add recordings
that exist. Calls add up: 11 launches of one engine on one board give the 10 degrees of freedom from which on the gate judges
a cell by its own noise.

    pytest-energy noise suites -k "bs8 or bs64" --energy-launches 6 --energy-python /venvs/vllm/bin/python
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point; ends with pytest's exit status."""
    parser = argparse.ArgumentParser(prog="pytest-energy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "noise",
        help="measure this runner's noise between engine launches",
        description=NOISE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="pytest-energy noise [PYTEST ARGUMENTS]",
    )
    _, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    # In a fresh interpreter: pytest wants to import plugins itself.
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "--energy-noise", *rest])


if __name__ == "__main__":
    main()
