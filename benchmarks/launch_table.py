"""Every recorded launch in one Markdown table: what docs/measurements.md shows.

python benchmarks/launch_table.py recordings/h200-sxm-141gb
"""

import argparse
from pathlib import Path

from pytest_energy.measure import measurement
from pytest_energy.measure.measurement import Measurement
from pytest_energy.recording import recording


def measured(folder: Path) -> dict[tuple[str, int], list[Measurement]]:
    """All launches below `folder` by label (the folder that holds the launch) and batch size, in order of their date."""
    cells: dict[tuple[str, int], list[Measurement]] = {}
    for label in sorted({file.parent.parent for file in recording.find(folder)}):
        for periods in recording.read_launches([label]):
            m = measurement.measure(*periods)
            cells.setdefault((label.relative_to(folder).as_posix(), m.key.batch_size), []).append(m)
    return {key: sorted(values, key=lambda m: m.launch_id) for key, values in sorted(cells.items())}


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
            static = "-" if m.static_power_w is None else f"{m.static_power_w:.0f}"
            rows.append(
                f"| {label} | {batch_size} | {m.launch_id[9:13]} | {m.joules_per_token:#.4g} | {m.power_w:.0f} "
                f"| {m.tokens_per_s:,.0f} | {len(m.cycles.time_s)} | {static} | {m.conditions.temperature_c:.0f} "
                f"| {m.conditions.sm_clock_mhz:.0f} | {m.conditions.power_cap_share:.0%} |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print("\n".join(launch_rows(measured(arguments.folder))))


if __name__ == "__main__":
    main()
