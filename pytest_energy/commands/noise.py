"""`pytest-energy noise`: pytest with --energy-noise, because tests define what is launched."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

_DESCRIPTION = """\
Measure how much launches of an unchanged engine differ on this runner, and add
the result to BASELINES/GPU/noise/.

All other arguments are pytest's: -k "bs8 or bs64" selects cells,
--energy-launches N sets the number of launches of this call, --energy-python
PATH names the interpreter whose vLLM is launched, and --energy-replay DIR adds
recordings instead. Calls add up: after six launches of one engine on one GPU
(better eleven) the gate judges a cell by its own noise.

    pytest-energy noise suites -k "bs8 or bs64" --energy-launches 6
"""


def add(commands: Any) -> None:
    """Add the command's help; its arguments are pytest's."""
    commands.add_parser(
        "noise",
        help="measure this runner's noise between engine launches",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="pytest-energy noise [PYTEST ARGUMENTS]",
    )


def run(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by pytest, which needs a fresh interpreter to import its plugins."""
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "--energy-noise", *arguments])
