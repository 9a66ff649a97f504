"""How precise an interleaved comparison is, and the same launches compared as with a baseline.

python benchmarks/modes_table.py recordings/h100-sxm-80gb/vllm-0.25.1-against-itself ...

Each folder holds the launches of the candidate (`candidate` or `new`) and of the `reference`.
Deviations are those of candidate ÷ reference: between neighbouring periods, between pairs, between
pairs if only their periods varied, and between two launches taken at random. All rest on the
launches' own spread, not on stored noise.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from pytest_energy.measure import spread
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.recording import recording_file
from pytest_energy.report.words import UNIT
from pytest_energy.verdict import comparison
from pytest_energy.verdict.variation import variation

NO_FLOOR = spread.NoiseFloor(0.0, 0.0)


def launches(folder: Path) -> dict[str, list[Measurement]]:
    """Launches below `folder` by cell key, in order."""
    cells: dict[str, list[Measurement]] = {}
    for periods in recording_file.read_launches([folder]):
        cells.setdefault(periods[0].key.canonical, []).append(measure(*periods))
    return cells


def rows(folders: Sequence[Path]) -> list[str]:
    """Markdown, one row per cell and metric."""
    lines = [
        "| cell | metric | pairs | change | between periods | between pairs "
        "| by periods alone | launches apart | interval, interleaved | apart |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for folder in folders:
        candidate = folder / "candidate"
        new = launches(candidate if candidate.exists() else folder / "new")
        old = launches(folder / "reference")
        for key in sorted(new, key=lambda k: (new[k][0].key.model, new[k][0].key.batch_size)):
            for metric in Metric:
                a, b = ([getattr(m, metric.value) for m in side[key]] for side in (new, old))
                paired, apart = (
                    comparison.compare_pairs(a, b, NO_FLOOR),
                    comparison.compare(a, b, NO_FLOOR),
                )
                found = variation(metric, new[key], old[key])
                assert found is not None
                name = f"{new[key][0].key.model} bs={new[key][0].key.batch_size}"
                lines.append(
                    f"| {name} | {UNIT[metric]} | {len(a)} | {paired.value - 1:+.1%} | {found.periods.deviation:.2%} "
                    f"| {found.pairs.deviation:.2%} | {found.by_periods:.2%} | {math.sqrt(2) * apart.spread.deviation:.2%} "
                    f"| ±{paired.relative_half_width:.1%} | ±{apart.relative_half_width:.1%} |"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    print("\n".join(rows(parser.parse_args().folders)))


if __name__ == "__main__":
    main()
