"""What a server adds to the offline engine, at each batch size.

python benchmarks/server_table.py SERVER_RECORDINGS=OFFLINE_RECORDINGS ...

Each argument names the launches of the server and of the offline engine on one GPU. They are paired
in the order in which they were made, and the pair is the unit: differences between GPUs, and drift,
cancel.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.interleaving_table import NO_FLOOR
from pytest_energy.measure import spread
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.recording import recording_file
from pytest_energy.verdict import comparison

Pair = tuple[Measurement, Measurement]  # of the server and of the offline engine


def launches(folder: Path) -> dict[int, list[Measurement]]:
    """Launches below `folder` by batch size, in the order in which they were made."""
    cells: dict[int, list[Measurement]] = {}
    for periods in sorted(
        recording_file.read_launches([folder]), key=lambda periods: periods[0].launch_id
    ):
        cells.setdefault(periods[0].key.batch_size, []).append(measure(*periods))
    return cells


def pairs(folders: Sequence[tuple[Path, Path]]) -> dict[int, list[Pair]]:
    """By batch size, over all GPUs.

    Raises:
        ValueError: there are not as many launches of the one as of the other.
    """
    paired: dict[int, list[Pair]] = {}
    for server, offline in folders:
        old = launches(offline)
        for batch_size, new in launches(server).items():
            paired.setdefault(batch_size, []).extend(zip(new, old.get(batch_size, ()), strict=True))
    return dict(sorted(paired.items()))


def rows(paired: dict[int, list[Pair]]) -> list[str]:
    """Markdown: geometric means, what the server adds with its 95 % interval, latencies."""
    lines = [
        "| batch size | pairs | J/token: offline | server | it adds "
        "| W: offline | server | it adds | tokens/s: offline | server | it adds "
        "| time to first token, ms: p50, p99 | inter-token latency, ms: p50, p99 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for batch_size, cells in paired.items():
        columns = []
        for name, form in (
            (Metric.JOULES_PER_TOKEN.value, "#.4g"),
            ("power_w", ".0f"),
            (Metric.TOKENS_PER_S.value, ",.0f"),
        ):
            new, old = (
                [getattr(side, name) for side in sides] for sides in zip(*cells, strict=True)
            )
            added = comparison.compare_pairs(new, old, NO_FLOOR)
            means = [spread.geometric_mean(values) for values in (old, new)]
            columns += [
                *(format(mean, form) for mean in means),
                f"{added.value - 1:+.1%} ± {added.half_width:.1%}",
            ]
        for name in ("ttft", "itl"):
            latency = [server.latencies_ms[name] for server, _ in cells]
            columns.append(
                ", ".join(
                    f"{np.mean([values[percentile] for values in latency]):#.3g}"
                    for percentile in ("p50", "p99")
                )
            )
        lines.append(f"| {batch_size} | {len(cells)} | {' | '.join(columns)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", metavar="SERVER=OFFLINE")
    given = [argument.partition("=") for argument in parser.parse_args().folders]
    print("\n".join(rows(pairs([(Path(server), Path(offline)) for server, _, offline in given]))))


if __name__ == "__main__":
    main()
