"""How precise an interleaved comparison is, and the same launches compared as with a baseline.

python -m benchmarks.interleaving_table recordings/h100-sxm-80gb/vllm-0.25.1-against-itself ...

Each folder holds the launches of the `candidate` and of the `reference`.
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
from pytest_energy.measure.metric import UNDER_LOAD, Metric
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
        candidate = launches(folder / "candidate")
        reference = launches(folder / "reference")
        for key, cell in sorted(candidate.items(), key=lambda item: _place(item[1][0])):
            lines += [_row(metric, cell, reference[key]) for metric in UNDER_LOAD]
    return lines


def _place(measured: Measurement) -> tuple[str, int]:
    return measured.key.model, measured.key.batch_size


def _row(metric: Metric, candidate: Sequence[Measurement], reference: Sequence[Measurement]) -> str:
    values = [[getattr(m, metric.value) for m in side] for side in (candidate, reference)]
    paired = comparison.compare_pairs(*values, NO_FLOOR)
    apart = comparison.compare(*values, NO_FLOOR)
    found = variation(metric, candidate, reference)
    assert found is not None
    figures = (
        "{} bs={}".format(*_place(candidate[0])),
        UNIT[metric],
        str(paired.launches),
        f"{paired.value - 1:+.1%}",
        f"{found.periods.deviation:.2%}",
        f"{found.pairs.deviation:.2%}",
        f"{found.by_periods:.2%}",
        f"{math.sqrt(2) * apart.spread.deviation:.2%}",
        f"±{paired.half_width:.1%}",
        f"±{apart.half_width:.1%}",
    )
    return f"| {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    print("\n".join(rows(parser.parse_args().folders)))


if __name__ == "__main__":
    main()
