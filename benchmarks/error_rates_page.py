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

`python -m benchmarks.gate_error_rates --runs {runs}` (seeded; twenty minutes on two cores) judges
simulated launches by the gate's own code. *Deviation* is that of J/token between launches of one
engine; *recorded* means the deviations found on the H200 (0.52, 0.74, 1.82 and 0.39 % at batch
sizes 1, 8, 64 and 256), *upper 95 % limit* those at the upper end of their intervals. tokens/s
varies 1.7 times as much, against it (r = −0.9).

For our gate: *false alarm* is the share of unchanged suites (16 cells, both metrics) with a
regressed cell; *red, undecided* the share that is red only because a cell is inconclusive;
*launches* the mean per cell of an unchanged suite; −3% to +30% the share of cells that are called
regressed by their J/token if it changed by so much. Baselines hold three launches unless the title
says otherwise.

Other tools judge the same kind of launches, three on each side, six cycles each: pytest-benchmark's
`--benchmark-compare-fail=mean:5%`, `asv compare` (Mann-Whitney U on all cycles, p < 0.002, by asv's
own code, and a factor of 1.1), and github-action-benchmark's alert at 200 %. The second row of each
pair has the factor that gives 1 % false alarms per suite at that very deviation, found on 20,000
unchanged cells: knowledge that no user of these tools has.
"""
_INTERLEAVED = """\
## Interleaved engines

`python -m benchmarks.interleaved_error_rates --runs {runs}` (seeded; seven minutes on one core): a
suite of 16 cells without a baseline, both engines launched in pairs, judged after three and five
pairs. All of the noise between launches is simulated as noise between periods, which the gate then
detects. *Pairs* is the mean per cell of an unchanged suite; the tolerance is 3 % for J/token and
5 % for tokens/s, whose noise is 1.7 times as large.
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
