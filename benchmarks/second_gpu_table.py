"""What a second GPU costs in J/token: the same model, workload and batch size on one GPU and on two, from recordings.

python benchmarks/second_gpu_table.py --one ONE_GPU_RECORDINGS … --two TWO_GPU_RECORDINGS …

A cell of the first folders is compared with the one of the second that differs from it in how many GPUs it is spread over
(tensor_parallel_size) and in nothing else. Intervals are 95 %, over launches, and rest on the launches' own spread alone.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_energy import recording, report, statistics
from pytest_energy.baselines import boards, mixed
from pytest_energy.cell import canonical_key
from pytest_energy.measurement import Measurement, mean_gpu_power_w, measure
from pytest_energy.statistics import Comparison

NO_FLOOR = statistics.NoiseFloor(0.0, 0.0)
_EQUAL = ("gpu_name", "power_limit_w", "vllm", "engine_args_under_test")
SPREAD_BY = "tensor_parallel_size"


def launches(folders: Sequence[Path], gpus: int) -> dict[str, list[Measurement]]:
    """Launches below `folders` by their cell's key, how it is spread left out, in order.

    Raises:
        ValueError: a launch is invalid, ran on another number of GPUs, or the launches of a cell are not of one engine and its boards.
    """
    cells: dict[str, list[Measurement]] = {}
    for turns in recording.read_launches(folders):
        m = measure(*turns)
        if not m.valid:
            raise ValueError(f"launch {m.launch_id} is invalid: {'; '.join(m.faults)}. Leave it out.")
        if len(boards(m.environment)) != gpus:
            raise ValueError(f"launch {m.launch_id} ran on {len(boards(m.environment))} GPUs, not on {gpus}")
        cells.setdefault(canonical_key(_unspread(m.key)), []).append(m)
    for found in cells.values():
        if differing := mixed([m.environment for m in found]):
            raise ValueError(f"the launches of one cell differ in {differing}: they are of no one engine")
    return cells


def _unspread(key: Mapping[str, Any]) -> dict[str, Any]:
    return {**key, "engine_args": {name: value for name, value in key["engine_args"].items() if name != SPREAD_BY}}


def rows(one: Mapping[str, Sequence[Measurement]], two: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """Markdown, one row per cell that was measured on one GPU and on two.

    Raises:
        ValueError: the two were not measured with the same GPU model, power limit, vLLM and settings, or by one launch each.
    """
    lines = [
        "| model | batch size | launches, 1 GPU and 2 | J/token, 1 GPU | 2 GPUs | change | W, 1 GPU | 2 GPUs | tokens/s, 1 GPU "
        "| 2 GPUs | change | the two GPUs' shares |",
        "|---|---:|---|---:|---:|---|---:|---:|---:|---:|---|---|",
    ]
    both = [key for key in one if key in two]
    for key in sorted(both, key=lambda k: (one[k][0].key["model"], one[k][0].key["batch_size"])):
        a, b = one[key], two[key]
        unequal = [name for name in _EQUAL if a[0].environment.get(name) != b[0].environment.get(name)]
        if unequal:
            raise ValueError(f"the launches on one GPU and on two differ in {', '.join(unequal)} besides")
        if len(a) + len(b) < 3:
            raise ValueError(f"one launch each of {a[0].key['model']} says nothing of how launches differ: give three of each")
        energy = statistics.compare([m.joules_per_token for m in b], [m.joules_per_token for m in a], NO_FLOOR)
        rate = statistics.compare([m.tokens_per_s for m in b], [m.tokens_per_s for m in a], NO_FLOOR)
        cells = [
            str(a[0].key["model"]),
            str(a[0].key["batch_size"]),
            f"{len(a)}, {len(b)}",
            *(f"{statistics.geometric_mean([m.joules_per_token for m in side]):#.4g}" for side in (a, b)),
            _change(energy),
            *(f"{sum(m.power_w for m in side) / len(side):,.0f}" for side in (a, b)),
            *(f"{statistics.geometric_mean([m.tokens_per_s for m in side]):,.0f}" for side in (a, b)),
            _change(rate),
            report.gpu_shares(mean_gpu_power_w(b)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _change(ratio: Comparison) -> str:
    return f"{report.percent(ratio.value)} ({report.percent(ratio.low)} to {report.percent(ratio.high)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=Path, nargs="+", required=True, help="recordings made on one GPU")
    parser.add_argument("--two", type=Path, nargs="+", required=True, help="recordings made on two")
    arguments = parser.parse_args()
    try:
        found = rows(launches(arguments.one, 1), launches(arguments.two, 2))
    except ValueError as error:
        sys.exit(str(error))
    if len(found) == 2:
        sys.exit("no cell was measured on one GPU and on two, with all else equal")
    print("\n".join(found))


if __name__ == "__main__":
    main()
