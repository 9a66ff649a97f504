"""What a comparison says, in words. Pure."""

from pytest_energy.measure.spread import expm1
from pytest_energy.verdict.comparison import Comparison
from pytest_energy.verdict.planning import MOST_LAUNCHES, Plan
from pytest_energy.verdict.rule import Case, Decision, Verdict, loss, on_ratio, tolerated


def in_words(case: Case, decision: Decision, paired: bool) -> list[str]:
    """What there is to say of the comparison alone."""
    ratio, levels = decision.ratio, decision.levels
    if ratio is None:
        return []
    assert levels is not None
    if decision.by_comparison is not Verdict.INCONCLUSIVE:
        return _notes(ratio)
    if on_ratio(case.metric, ratio, case.tolerance, levels) is Verdict.PASS:
        return [
            "this gate could not catch even a doubling: launches differ too much",
        ]
    unit = "pair" if paired else "launch"
    plural = "s" if paired else "es"
    launches = f"{ratio.launches} {unit}{plural if ratio.launches > 1 else ''}"
    if loss(case.metric, ratio) < tolerated(case.metric, case.tolerance):
        name = "rise" if case.metric.is_cost else "fall"
        reason = (
            f"with {launches} a {name} as large as the tolerance of {100 * case.tolerance:.1f} % "
            "cannot be excluded"
        )
    else:
        by_chance = expm1(ratio.bound(1 - levels.alarm))
        chance = (
            f"with {launches} a change of up to {100 * by_chance:.1f} % may be chance"
            if by_chance < 1
            else f"with {launches} it cannot be told from chance"
        )
        reason = f"the change reaches the tolerance of {100 * case.tolerance:.1f} %, but {chance}"
    return [reason, *_notes(ratio)]


def planned(plan: Plan) -> str:
    """What would decide."""
    one, many = (
        ("pair of launches", "pairs of launches")
        if plan.stored is None
        else ("launch of the candidate", "launches of the candidate")
    )
    of_baseline = (
        f"against a baseline of {plan.baseline} launches (it has {plan.stored}) one launch of an "
        "unchanged engine passes"
    )
    if plan.candidate is not None:
        more = plan.candidate - plan.made
        text = f"in 9 of 10 cases {more} more {one if more == 1 else many} would decide"
        return f"{text}, and {of_baseline}" if plan.baseline_is_short else text
    none = f"no number of {many} up to {MOST_LAUNCHES} would decide"
    if plan.baseline_is_short:
        return f"{none}: the baseline is short; {of_baseline} in 9 of 10 cases"
    return f"{none}: the change is too close to the tolerance" if plan.baseline else none


def _notes(ratio: Comparison) -> list[str]:
    if not ratio.floor_discarded:
        return []
    return [
        "the launches differ far more than the runner's measured noise: "
        "only their own spread is used"
    ]
