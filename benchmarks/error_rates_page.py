"""docs/generated/error-rates.md, from the simulations' results.

    python -m benchmarks.error_rates_page

The six scripts benchmarks/*_error_rates.py simulate; tests/test_docs.py holds the page to their
results.
"""

import json
from pathlib import Path

from benchmarks import (
    bisect_error_rates,
    chart_error_rates,
    fleet_error_rates,
    gate_error_rates,
    interleaved_error_rates,
    steadiness_error_rates,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "generated" / "error-rates.md"
_GATE = """\
# Error rates

Written by `python -m benchmarks.error_rates_page`.

`python -m benchmarks.gate_error_rates --runs {runs}` (seeded) judges
simulated launches by the gate's own rule. *Deviation* is that of J/token between launches of one
engine; tokens/s varies 1.7 times as much, against it (r = −0.9). The first table and that of four
cells rest on {runs} runs of the suite, the others on a tenth; those of changed engines on 4,000
cells.

*False alarm* is the share of unchanged suites (16 cells, both metrics) with a regressed cell; *red,
undecided* the share that is red only because a cell is inconclusive; *launches* the mean per cell
of an unchanged suite; −3% to +30% the share of cells that are called regressed by their J/token if
it changed by so much. Baselines hold three launches, and noise is measured with ten degrees of
freedom, unless the title says otherwise. Cells that differ have five each of their own; the first
cell, which is the one that is noisier or quieter than the rest, or one of eight, also without.

Other tools judge the same kind of launches, three on each side, six cycles each: pytest-benchmark's
`--benchmark-compare-fail=mean:5%`, `asv compare` (Mann-Whitney U on all cycles, p < 0.002, by asv's
own code, and a factor of 1.1), and github-action-benchmark's alert at 200 %. The second row of each
pair has the factor that gives 1 % false alarms per suite at that very deviation, found on 20,000
unchanged cells: knowledge that no user of these tools has.
"""
_INTERLEAVED = """\
## Interleaved engines

`python -m benchmarks.interleaved_error_rates --runs {runs}` (seeded): a
suite of 16 cells without a baseline, both engines launched in pairs, judged after three and five
pairs. All of the noise between launches is simulated as noise between periods, which the gate then
detects. The first table rests on {runs} runs, the others on a tenth. *Pairs* is the mean per cell
of an unchanged suite; the tolerance is 3 % for J/token and 5 % for tokens/s, whose noise is 1.7
times as large.
"""
_FLEET = """\
## A fleet of GPUs

`python -m benchmarks.fleet_error_rates --runs {runs}` (seeded; some ten minutes of one core):
J/token differs by 3 % (standard deviation) between GPUs of one model, and by 1.5 % more from cell
to cell; tokens/s varies twice as much between launches as J/token (r = −0.9), and is the same on
all GPUs. Noise is known to ten degrees of freedom. A GPU that the store knows has a baseline of
five launches. On an unknown one the reference is launched first, twice, and then once more with
each further launch of the candidate, up to five times; cells that are decided get no more launches.
Each row rests on {runs} unchanged runs and as many with +4 % in one cell.

*False alarm*, *red*, and *after one launch* (of the candidate) are shares of unchanged runs,
*launches* and *of the reference* their means, *s* their seconds on the GPU: 150 for a launch of
four cells, and 70 more for an engine's first. None of this depends on the size of the fleet, for a
run compares launches on its own GPU alone; what all of a fleet's GPUs together come to follows.
"""
_STEADINESS = """\
## Steadiness

`python -m benchmarks.steadiness_error_rates --runs {runs}` (seeded) simulates launches of twenty
seconds with the noise of recorded ones of unaltered engines: of {recorded} launches in {cells}
cells, *pace* and *power* (at equal pace) are the median deviation of a part; *wanders* is the share
of the variance of pace that has the correlation time beside it, estimated from the autocorrelation;
the rest is independent. *Unsteady* is the share of {runs} undisturbed launches that are called so;
under *2 s* and *5 s* (a fifth as many) all of the variance has that correlation time, which no cell
shows. Then the same of disturbed launches: pace halved from cycle 4.5 on, 50 W more from 45 % of
the window on, and power that rises by 2 % along a straight line; *reported* is the share of these
whose drift is.

In the second table pace falls for some seconds, at a random time, and power by half as much (on a
logarithmic scale). It shows the share that is called unsteady, and the 95th percentile of what the
others' J/token is too high by. Each rests on a twentieth of {runs} launches.
"""
_CHART = """\
## The chart of a GPU

`python -m benchmarks.chart_error_rates --runs {runs}` (seeded): the reference is launched once a
day on a GPU whose band begins with eight launches. The error of that band is in the figures: it is
the mean and deviation of the launches so far. Launches of a cell deviate by 0.5 % unless the row
says otherwise, half of the variance being common to all cells. *False alarm* is the share of months
with one; the other columns say how often a change is found within a month, and the median day. The
first row rests on {runs} runs, the others, and all changes, on a tenth.
"""
_BISECT = """\
## The search for a release

`python -m benchmarks.bisect_error_rates --runs {runs}` (seeded): `pytest-energy bisect` among as
many releases, the good and the bad one included. J/token rises at a release drawn at random, or at
two, by half each, or by as much at every release. *Right* is an answer that names the release, both
of two, or none if there is none: a steady rise has no release that could be named, and without a
change there is nothing to bisect. *Wrong* is any other name, and one of two that is said to be the
only one. The rest *cannot tell*. Launches are those of all releases, failed ones included; GPUs
drift along a straight line over twenty launches. Noise is known to ten degrees of freedom, but for
the row in which it is assumed to be 1 %. A step as large as the tolerance, +3 %, does not reach it
in half of all launches. Each row rests on {runs} runs.
"""


def page() -> str:
    """As it is written."""
    gate, interleaved, fleet, steady, chart, bisect = (
        json.loads((RESULTS / f"{name}-error-rates.json").read_text())
        for name in ("gate", "interleaved", "fleet", "steadiness", "chart", "bisect")
    )
    recorded = sum(len(row["cell"]["launches"]) for row in steady["cells"])
    parts = (
        _GATE.format(runs=gate["runs"]),
        *gate_error_rates.tables(gate["ours"], gate["others"]),
        _INTERLEAVED.format(runs=interleaved["runs"]),
        *interleaved_error_rates.table(interleaved["rows"]),
        _FLEET.format(runs=fleet["runs"]),
        *fleet_error_rates.tables(fleet["rows"]),
        _STEADINESS.format(runs=steady["runs"], recorded=recorded, cells=len(steady["cells"])),
        *steadiness_error_rates.tables(steady["cells"]),
        _CHART.format(runs=chart["runs"]),
        *chart_error_rates.table(chart["rows"]),
        "",
        _BISECT.format(runs=bisect["runs"]),
        *bisect_error_rates.table(bisect["rows"]),
    )
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
