"""`pytest-energy history`: a report of how stored baselines changed."""

import argparse
import os
from pathlib import Path
from typing import Any

from pytest_energy.commands import report
from pytest_energy.commands.doctor import add_gpu_cache
from pytest_energy.errors import ResultsError

_DESCRIPTION = """\
Write the same files as `report` from the history of stored baselines: how
J/token of a model moved from release to release at each batch size. Print
where the control charts stand of the GPUs among them that this machine has
measured the reference on.

    pytest-energy history baselines/ -o history
"""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "history",
        help="report how stored baselines changed",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("baselines", type=Path, metavar="BASELINES", help="the store of baselines")
    report.add_output(parser)
    add_gpu_cache(parser)
    parser.set_defaults(run=run, failure=report.NOT_WRITTEN)


def run(options: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        EnergyError: the store holds no baselines or a damaged one, or the report cannot be made.
        OSError: a file could not be written.
    """
    from pytest_energy.report import collect, gpu_chart, publish, results
    from pytest_energy.report.history import history
    from pytest_energy.store import gpu_cache
    from pytest_energy.store.baselines import Store
    from pytest_energy.store.noise import NoiseStore

    baselines = options.baselines
    publish.refuse_if_impossible(options.output)
    if (baselines / "noise").is_dir():
        raise ResultsError(
            f"{baselines} holds the files of one GPU model.\n"
            f"Give the store, which is the folder above: pytest-energy history {baselines.parent}"
        )
    states = history(Store(baselines), NoiseStore(baselines))
    if not states:
        raise ResultsError(
            f"{baselines} holds no baselines (GPU/MODEL.json).\n"
            "Give the folder that pytest --energy-update wrote."
        )
    made = collect.run("baselines", f"baselines in {os.path.relpath(baselines)}")
    report.write(results.Results(results.SCHEMA_VERSION, (made,), (), states), options.output)
    stored = {tuple(sorted(state.gpu.uuids)) for state in states}
    for launches in gpu_cache.existing(options.gpu_cache).all_launches():
        if launches.gpus in stored:
            print(f"{gpu_chart.named(launches.gpus)}: {gpu_chart.with_change(launches)}")
    return 0
