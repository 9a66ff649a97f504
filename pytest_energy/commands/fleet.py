"""`pytest-energy fleet`: the GPUs of a store, and of this machine, side by side."""

import argparse
from pathlib import Path
from typing import Any

from pytest_energy.commands.doctor import add_gpu_cache
from pytest_energy.errors import ResultsError

_DESCRIPTION = """\
Show the GPUs that engines were measured on side by side: J/token of each cell
relative to the fleet's median, static power, when each GPU was last seen, and
whether this machine's GPUs are still in their band. Launches are the
baselines' in the store and the reference's that this machine keeps; only those
of the same engine are compared. Nothing is measured or written.

With --verdicts: the results.json of one upgrade's runs on three GPUs or more,
as one change of J/token with its interval, and the worst GPU.

    pytest-energy fleet baselines
    pytest-energy fleet --verdicts */results.json
"""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "fleet",
        help="show the GPUs of a store side by side",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "store",
        nargs="?",
        type=Path,
        default=Path("baselines"),
        metavar="STORE",
        help="the store of baselines (default: baselines)",
    )
    add_gpu_cache(parser)
    parser.add_argument(
        "--verdicts",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="pool one upgrade's results.json over GPUs (needs pytest-energy[fleet])",
    )
    parser.set_defaults(run=run, failure="the fleet was not shown: {}.")


def run(options: argparse.Namespace) -> int:
    """Print the GPUs.

    Raises:
        EnergyError: a file is damaged, or there is nothing to show.
    """
    if options.verdicts:
        from pytest_energy.report import fleet_verdicts, results_file

        read = [results_file.read(path) for path in options.verdicts]
        upgrade = fleet_verdicts.upgrade([entry for of in read for entry in of.entries])
        pooled = fleet_verdicts.pooled(upgrade.logs)
        print("\n".join(fleet_verdicts.lines(upgrade, pooled)))
        return 0
    from pytest_energy.report import fleet
    from pytest_energy.store import gpu_cache
    from pytest_energy.store.baselines import Store

    cache = gpu_cache.existing(options.gpu_cache)
    cached = cache.all_launches()
    found = fleet.groups(Store(options.store).entries(), cached)
    if not found:
        raise ResultsError(
            f"{options.store} holds no baselines of engines under load (GPU/MODEL.json), and "
            f"{cache.folder} no launches."
            "\nGive the folder that pytest --energy-update wrote: pytest-energy fleet STORE"
        )
    print("\n".join(fleet.lines(found, cached, cache.damaged())))
    return 0
