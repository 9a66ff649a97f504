"""Every recorded launch in one Markdown table, and how much launches differ: what docs/measurements.md shows.

python benchmarks/launch_table.py recordings/h200-sxm-141gb
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from pytest_energy import measurement, recording
from pytest_energy.measurement import Measurement


def measured(folder: Path) -> dict[tuple[str, int], list[Measurement]]:
    """All launches below `folder` by label (the folder's name) and batch size, in order of their date."""
    cells: dict[tuple[str, int], list[Measurement]] = {}
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        for file in recording.find(label):
            recorded = recording.read(file)
            cells.setdefault((label.name, int(recorded.key["batch_size"])), []).append(measurement.measure(recorded))
    return {key: sorted(values, key=lambda m: m.launch_id) for key, values in sorted(cells.items())}


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation of the logarithms."""
    logs = [math.log(value) for value in values]
    mean = math.fsum(logs) / len(logs)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (len(logs) - 1))


def launch_rows(cells: dict[tuple[str, int], list[Measurement]]) -> list[str]:
    """One row per launch."""
    rows = [
        "| recording | batch size | launch (UTC) | J/token | W | tokens/s | cycles | W, hot and idle | °C | SM MHz | power cap |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (label, batch_size), launches in cells.items():
        for m in launches:
            assert m.cycles is not None
            assert m.conditions.power_cap_share is not None
            rows.append(
                f"| {label} | {batch_size} | {m.launch_id[9:13]} | {m.joules_per_token:#.4g} | {m.power_w:.0f} "
                f"| {m.tokens_per_s:,.0f} | {len(m.cycles.time_s)} | {m.static_power_w:.0f} | {m.conditions.temperature_c:.0f} "
                f"| {m.conditions.sm_clock_mhz:.0f} | {m.conditions.power_cap_share:.0%} |"
            )
    return rows


def spread_rows(cells: dict[tuple[str, int], list[Measurement]], labels: Sequence[str]) -> list[str]:
    """Standard deviations between launches of the same settings, pooled by batch size; `labels` that are one engine share a name."""
    pooled: dict[int, list[tuple[int, float, float]]] = {}
    groups: dict[tuple[str, int], list[Measurement]] = {}
    for (label, batch_size), launches in cells.items():
        if label in labels:
            groups.setdefault((label.removesuffix("-gate"), batch_size), []).extend(launches)
    for (_, batch_size), launches in groups.items():
        degrees = len(launches) - 1
        if degrees:
            energy = deviation([m.joules_per_token for m in launches])
            rate = deviation([m.tokens_per_s for m in launches])
            pooled.setdefault(batch_size, []).append((degrees, energy, rate))
    rows = ["| batch size | degrees of freedom | J/token | tokens/s |", "|---|---|---|---|"]
    everything = [entry for entries in pooled.values() for entry in entries]
    for name, entries in [*((str(size), pooled[size]) for size in sorted(pooled)), ("all", everything)]:
        total = sum(degrees for degrees, _, _ in entries)
        energy, rate = (math.sqrt(sum(entry[0] * entry[i] ** 2 for entry in entries) / total) for i in (1, 2))
        rows.append(f"| {name} | {total} | {energy:.2%} | {rate:.2%} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unchanged", nargs="+", default=["vllm-0.20.2", "vllm-0.25.1", "vllm-0.25.1-gate"], metavar="LABEL")
    arguments = parser.parse_args()
    cells = measured(arguments.folder)
    print("\n".join(launch_rows(cells)), end="\n\n")
    print("\n".join(spread_rows(cells, arguments.unchanged)))


if __name__ == "__main__":
    main()
