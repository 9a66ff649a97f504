"""docs/generated/error-rates.md, from the simulations' results.

    python -m benchmarks.error_rates_page

benchmarks/gate_error_rates.py and benchmarks/interleaved_error_rates.py simulate;
tests/test_docs.py holds the page to their results.
"""

import json
from pathlib import Path

from benchmarks import gate_error_rates, interleaved_error_rates

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


def page() -> str:
    """As it is written."""
    gate = json.loads((RESULTS / "gate-error-rates.json").read_text())
    interleaved = json.loads((RESULTS / "interleaved-error-rates.json").read_text())
    parts = (
        _GATE.format(runs=gate["runs"]),
        *gate_error_rates.tables(gate["ours"], gate["others"]),
        _INTERLEAVED.format(runs=interleaved["runs"]),
        *interleaved_error_rates.table(interleaved["rows"]),
    )
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
