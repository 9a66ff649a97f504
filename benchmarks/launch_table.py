"""Every recorded launch in one Markdown table, as docs/generated/launches.md shows it.

python benchmarks/launch_table.py recordings/h200-sxm-141gb
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pytest_energy.measure import measurement, spread
from pytest_energy.measure.change import Drift
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.recording import recording_file

Cells = Mapping[tuple[str, int, int], Sequence[Measurement]]


def measured(folder: Path) -> Cells:
    """Launches below `folder`, by date, of each label, number of tokens in, and batch size.

    The label is the folder that holds the launches; the number is 0 if prompts vary in length.
    """
    cells: dict[tuple[str, int, int], list[Measurement]] = {}
    for label in sorted({file.parent.parent for file in recording_file.find(folder)}):
        for periods in recording_file.read_launches([label]):
            m = measurement.measure(*periods)
            tokens_in, _ = m.key.workload.fixed_lengths or (0, 0)
            cell = (label.relative_to(folder).as_posix(), tokens_in, m.key.batch_size)
            cells.setdefault(cell, []).append(m)
    return {key: sorted(values, key=lambda m: m.launch_id) for key, values in sorted(cells.items())}


def gpu_rows(cells: Cells) -> list[str]:
    """One row per GPU, or set of GPUs: its host, and what was launched on it, in order."""
    gpus: dict[tuple[str, ...], dict[str, tuple[str, Measurement]]] = {}
    for (label, _, _), launches in cells.items():
        for m in launches:
            gpus.setdefault(m.environment.gpus, {})[m.launch_id] = label, m
    rows = ["| GPU | CPUs | from (UTC) | launches, in order |", "|---|---|---|---|"]
    for uuids, by_id in sorted(gpus.items(), key=lambda found: min(found[1])):
        ordered = [by_id[launch_id] for launch_id in sorted(by_id)]
        runs = [(label, len(list(of))) for label, of in groupby(label for label, _ in ordered)]
        first = ordered[0][1].environment
        rows.append(
            f"| {', '.join(uuid[:12] for uuid in uuids)} | {first.host.cpu_count} "
            f"| {str(first.date)[:16].replace('T', ' ')} "
            f"| {', '.join(f'{label} ({count})' for label, count in runs)} |"
        )
    return rows


def launch_rows(cells: Cells) -> list[str]:
    """One row per launch under load."""
    rows = [
        "| recording | tokens in | batch size | launch (UTC) | J/token | W | tokens/s | cycles "
        "| W, hot and idle | °C | SM MHz | power cap | drift of W | of tokens/s | faults |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (label, tokens_in, batch_size), launches in cells.items():
        for m in launches if batch_size else ():
            assert m.cycles is not None
            assert m.conditions.power_cap_share is not None
            assert m.steadiness is not None
            static = "-" if m.static_power_w is None else f"{m.static_power_w:.0f}"
            rows.append(
                f"| {label} | {tokens_in} | {batch_size} | {m.launch_id[9:13]} "
                f"| {m.joules_per_token:#.4g} | {m.power_w:.0f} | {m.tokens_per_s:,.0f} "
                f"| {len(m.cycles.time_s)} | {static} | {m.conditions.temperature_c:.0f} "
                f"| {m.conditions.sm_clock_mhz:.0f} | {m.conditions.power_cap_share:.0%} "
                f"| {_drift(m.steadiness.power_drift)} | {_drift(m.steadiness.pace_drift)} "
                f"| {', '.join(fault.partition(':')[0] for fault in m.faults)} |"
            )
    return rows


def idle_rows(cells: Cells) -> list[str]:
    """One row per engine left idle; empty if there is none."""
    rows = [
        f"| {label} | {m.launch_id[9:13]} | {m.environment.vllm} | {m.idle_power_w:.1f} "
        f"| {m.idle.without_engine_w:.1f} | {m.idle.cpu_cores:.3f} "
        f"| {m.conditions.temperature_c:.0f} |"
        for (label, _, batch_size), launches in cells.items()
        for m in launches
        if not batch_size and m.idle is not None
    ]
    heading = [
        "| idle | launch (UTC) | vLLM | W | W without the engine | CPU cores | °C |",
        "|---|---|---|---|---|---|---|",
    ]
    return heading * bool(rows) + rows


def _drift(found: Drift) -> str:
    """Over the launch, with two standard errors; of power at equal tokens/s."""
    rise = f"{spread.expm1(found.size):+.1%}".replace("-0.0%", "+0.0%")
    return f"{rise} ± {2 * found.error:.1%}"


def cell_rows(cells: Cells) -> list[str]:
    """One row per cell: geometric means, and standard deviations between its launches."""
    rows = [
        "| recording | tokens in | batch size | launches | J/token | sd | W | tokens/s | sd |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (label, tokens_in, batch_size), launches in cells.items():
        energy, power, rate = (
            [getattr(m, name) for m in launches]
            for name in (Metric.JOULES_PER_TOKEN.value, "power_w", Metric.TOKENS_PER_S.value)
        )
        rows.append(
            f"| {label} | {tokens_in} | {batch_size} | {len(launches)} "
            f"| {spread.geometric_mean(energy):#.4g} | {_deviation(energy)} "
            f"| {spread.geometric_mean(power):.0f} "
            f"| {spread.geometric_mean(rate):,.0f} | {_deviation(rate)} |"
        )
    return rows


def _deviation(values: Sequence[float]) -> str:
    between = spread.pooled([values])
    return "-" if between is None else f"{between.deviation:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print("\n".join(launch_rows(measured(arguments.folder))))


if __name__ == "__main__":
    main()
