"""What is gathered around the rule: preconditions, limits, reasons in words, stores."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import BaselineError
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor, Spread
from pytest_energy.store.baselines import Baseline, NearMiss, Store
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict.comparison import Comparison, compare, estimate
from pytest_energy.verdict.judge import Judge, judge
from pytest_energy.verdict.judgement import NO_LIMITS, Judgement, Limits, Sample
from pytest_energy.verdict.planning import launches_of_baseline
from pytest_energy.verdict.preconditions import case_of
from pytest_energy.verdict.reasons import in_words, planned
from pytest_energy.verdict.rule import Case, Decision, Levels, Terms, Verdict
from pytest_energy.verdict.variation import Variation, variation
from tests.simulated import GPU_NAME, UUID, client
from tests.unit.figures import PAUSED, environment, launches, measurement

ENERGY, RATE = Metric.JOULES_PER_TOKEN, Metric.TOKENS_PER_S
OTHER = "GPU-11111111-1111-1111-1111-111111111111"
NOISE = {
    ENERGY: NoiseFloor(0.01, 10, measured=True),
    RATE: NoiseFloor(0.02, 10, measured=True),
}
TOLERANCE = {"joules_per_token": 0.03, "tokens_per_s": 0.1}


@pytest.fixture
def reference(cell: Cell) -> list[Measurement]:
    return launches(cell, [0.5] * 3, "reference")


def judged(
    candidate: Sequence[Measurement],
    reference: Sequence[Measurement] = (),
    metric: Metric = ENERGY,
    **kwargs: Any,
) -> Judgement:
    baseline = Baseline.of(reference) if reference else None
    return judge(metric, candidate, baseline, **{"noise": NOISE, **kwargs})


def of_energies(cell: Cell, energies: Sequence[float], reference: Any, **kwargs: Any) -> Judgement:
    return judged(launches(cell, energies), reference, **kwargs)


@pytest.mark.parametrize(("warmer_c", "told"), [(-9.0, True), (3.9, False), (4.0, True)])
def test_another_temperature_is_told(
    cell: Cell, reference: list[Measurement], warmer_c: float, told: bool
) -> None:
    before_c = reference[0].conditions.temperature_c
    assert before_c is not None
    now_c = before_c + warmer_c
    candidate = [
        replace(m, conditions=replace(m.conditions, temperature_c=now_c))
        for m in launches(cell, [0.5] * 3)
    ]
    expected = (f"temperature_c: {before_c:.0f} → {now_c:.0f}",) if told else ()
    assert judged(candidate, reference).changed == expected


@pytest.mark.parametrize("unknown", ["candidate", "reference"])
def test_a_temperature_is_compared_if_both_sides_have_one(
    cell: Cell, reference: list[Measurement], unknown: str
) -> None:
    sides = {"candidate": launches(cell, [0.5] * 3), "reference": reference}
    conditions = replace(reference[0].conditions, temperature_c=None)
    sides[unknown] = [replace(m, conditions=conditions) for m in sides[unknown]]
    assert judged(**sides).changed == ()


def test_a_pass_has_no_reasons_and_all_figures(cell: Cell, reference: list[Measurement]) -> None:
    candidate = launches(
        cell, [0.50, 0.505, 0.495], environment=environment(vllm="2"), tokens_per_s=990.0
    )
    candidate[0] = replace(candidate[0], environment=environment(vllm="3"))
    found = judged(candidate, reference)
    baseline = Baseline.of(reference)
    assert found.verdict is Verdict.PASS
    assert found.reasons == found.broken_limits == ()
    assert not found.by_limits_alone
    assert found.tolerance == 0.03
    values = [m.joules_per_token for m in candidate]
    assert found.ratio == compare(values, baseline.joules_per_token, NOISE[ENERGY])
    assert found.change == pytest.approx(-1 / 30_000, rel=0.01)
    assert found.metric is ENERGY
    assert found.candidate == Sample.of(candidate, NOISE)
    assert found.candidate.launches == tuple(candidate)
    assert found.candidate.joules_per_token == estimate(values, NOISE[ENERGY])
    assert found.candidate.tokens_per_s == estimate([990.0] * 3, NOISE[RATE])
    assert found.candidate.power_w == pytest.approx(495.0)
    assert found.reference == baseline
    assert found.noise is NOISE[ENERGY]
    assert found.changed == ("vllm: 1 → 2",)  # of the last launch
    assert found.split is not None
    assert found.variation is None
    assert not found.paired
    assert not found.undecided
    assert not found.blind


def test_without_a_noise_one_is_assumed(cell: Cell, reference: list[Measurement]) -> None:
    found = judge(ENERGY, launches(cell, [0.5] * 3), Baseline.of(reference))
    assert found.noise is ASSUMED_NOISE[ENERGY]


def test_every_fault_of_every_launch_is_a_reason(cell: Cell, reference: list[Measurement]) -> None:
    candidate = launches(cell, [0.5] * 3)
    candidate[0] = replace(candidate[0], faults=("throttled: hot", "gpu_lost: gone"))
    candidate[2] = replace(candidate[2], faults=("suspended: 3 s",))
    found = judged(candidate, reference)
    assert found.verdict is Verdict.INVALID
    assert found.reasons == (
        "launch candidate-0: throttled: hot",
        "launch candidate-0: gpu_lost: gone",
        "launch candidate-2: suspended: 3 s",
    )
    assert found.candidate is found.ratio is found.noise is found.change is None
    assert found.reference is not None
    case = case_of(ENERGY, candidate, found.reference, NO_LIMITS, Terms(), NOISE[ENERGY], ())
    assert case == Case(ENERGY, 0.03, (), (), NOISE[ENERGY], list(found.reasons))


@pytest.mark.parametrize(
    ("near_misses", "verdict", "reasons"),
    [
        ((), Verdict.NO_BASELINE, ("no baseline is stored for this cell",)),
        (
            (NearMiss("one differs in seed", False), NearMiss("another", False)),
            Verdict.NO_BASELINE,
            ("no baseline fits: one differs in seed", "no baseline fits: another"),
        ),
        (
            (NearMiss("one differs in seed", False), NearMiss("another GPU", True)),
            Verdict.NOT_COMPARABLE,
            ("no baseline fits: one differs in seed", "no baseline fits: another GPU"),
        ),
    ],
)
def test_without_a_reference(
    cell: Cell, near_misses: Sequence[NearMiss], verdict: Verdict, reasons: tuple[str, ...]
) -> None:
    found = judged(launches(cell, [0.5]), near_misses=near_misses)
    assert (found.verdict, found.reasons) == (verdict, reasons)
    assert found.candidate is not None
    assert found.reference is found.ratio is found.split is found.noise is None
    assert found.changed == ()
    over = judged(launches(cell, [0.5]), near_misses=near_misses, limits=Limits(max_power_w=1.0))
    assert (over.verdict, over.broken_limits) == (verdict, ())


def test_near_misses_are_of_no_interest_if_there_is_a_reference(
    cell: Cell, reference: list[Measurement]
) -> None:
    found = of_energies(cell, [0.5] * 3, reference, near_misses=[NearMiss("another GPU", True)])
    assert found.verdict is Verdict.PASS


def test_a_launch_beside_a_resident_engine_needs_its_pair(
    cell: Cell, reference: list[Measurement]
) -> None:
    candidate = launches(cell, [0.5] * 3, co_resident=(PAUSED,))
    alone = judged(candidate, reference)
    assert alone.verdict is Verdict.NOT_COMPARABLE
    assert alone.reasons == (
        "it was measured with another engine co-resident on the GPU, "
        "and a baseline is measured without one",
    )
    assert judged(candidate, near_misses=[]).verdict is Verdict.NOT_COMPARABLE
    paired = judged(candidate, reference, terms=Terms(paired=True))
    assert paired.verdict is Verdict.PASS
    assert paired.paired


def test_interleaved_engines_ran_on_the_same_gpu(cell: Cell) -> None:
    elsewhere = launches(cell, [0.5] * 3, "reference", environment=environment(gpu_uuids=(OTHER,)))
    found = of_energies(cell, [0.5] * 3, elsewhere, terms=Terms(paired=True))
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert found.reasons == (f"the reference ran on another GPU, {OTHER}, the candidate on {UUID}",)
    assert found.noise is None
    two = environment(gpu_uuids=(UUID, OTHER))
    (reason,) = judged(
        launches(cell, [0.5] * 3, environment=two), elsewhere, terms=Terms(paired=True)
    ).reasons
    assert reason.endswith(f"the candidate on {UUID} and {OTHER}")


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (700.0, 700.0, True),
        (700.0, 701.0, True),
        (700.0, 699.0, True),
        (700.0, 701.5, False),
        (700.0, 698.5, False),
        (700.0, None, False),
        (None, 700.0, False),
        (None, None, True),
        ((700.0, 500.0), (700.0, 500.0), True),
        ((700.0, 500.0), (700.0, 400.0), False),
        ((700.0, 500.0), 700.0, False),
    ],
)
def test_launches_are_compared_under_the_same_power_limit(
    cell: Cell, before: Any, now: Any, same: bool
) -> None:
    reference = launches(
        cell, [0.5] * 3, "reference", environment=environment(power_limit_w=before)
    )
    candidate = launches(cell, [0.5] * 3)
    candidate[0] = replace(candidate[0], environment=environment(power_limit_w=before))
    candidate[2] = replace(candidate[2], environment=environment(power_limit_w=now))
    candidate[1] = replace(candidate[1], environment=environment(power_limit_w=before))
    found = judged(candidate, reference)
    assert found.verdict is (Verdict.PASS if same else Verdict.NOT_COMPARABLE)
    if not same:
        limits = candidate[2].environment.power_limit, reference[0].environment.power_limit
        assert found.reasons == (
            f"the power limit is {limits[0]}, the baseline's was {limits[1]}: "
            "energy under different limits cannot be compared",
        )


@pytest.mark.parametrize(("budget_w", "broken"), [(499.9, True), (500.1, False)])
def test_the_power_budget_is_of_the_mean_power(
    cell: Cell, reference: list[Measurement], budget_w: float, broken: bool
) -> None:
    candidate = [
        measurement(cell, "a", 0.5, 900.0),
        measurement(cell, "b", 0.5, 1000.0),
        measurement(cell, "c", 0.5, 1100.0),
    ]
    found = judged(candidate, reference, limits=Limits(max_power_w=budget_w))
    assert found.verdict is (Verdict.REGRESSED if broken else Verdict.PASS)
    assert found.by_limits_alone is broken
    assert found.broken_limits == (("max_power_w",) if broken else ())
    if broken:
        assert found.reasons == ("power 500.0 W is over the budget of 499.9 W (max_power_w)",)
    of_rate = judged(candidate, reference, RATE, limits=Limits(max_power_w=budget_w))
    assert of_rate.broken_limits == ()


def test_a_power_as_large_as_its_budget_is_within_it(
    cell: Cell, reference: list[Measurement]
) -> None:
    candidate = launches(cell, [0.5] * 3)
    exact = Limits(max_power_w=candidate[0].power_w)
    assert judged(candidate, reference, limits=exact).broken_limits == ()


def served(cell: Cell, *p99_ms: float, **changes: Any) -> list[Measurement]:
    """Launches of a server with this inter-token latency; the time to first token is 40 ms."""
    return [
        measurement(
            replace(cell, engine="server"),
            f"served-{i}",
            clients=(
                client(1, inter_token=replace(client(1).inter_token, value_us=(v * 1000,) * 2)),
            ),
            **changes,
        )
        for i, v in enumerate(p99_ms)
    ]


def test_latencies_count_by_the_median_of_launches(
    cell: Cell, reference: list[Measurement]
) -> None:
    limits = Limits(max_itl_ms=50.0, max_ttft_ms=39.0)
    slow = judged(served(cell, 8, 60, 80), reference, limits=limits)
    assert slow.verdict is Verdict.REGRESSED
    assert slow.broken_limits == ("max_ttft_ms", "max_itl_ms")
    assert slow.reasons == (
        "the time to first token of 40.0 ms (99th percentile, median of 3 launches) "
        "is over the limit of 39 ms (max_ttft_ms)",
        "the inter-token latency of 60.0 ms (99th percentile, median of 3 launches) "
        "is over the limit of 50 ms (max_itl_ms)",
    )
    exact = Limits(max_itl_ms=60.0, max_ttft_ms=40.0)
    assert judged(served(cell, 8, 60, 80), reference, limits=exact).broken_limits == ()
    (reason,) = judged(served(cell, 60), reference, limits=Limits(max_itl_ms=50.0)).reasons
    assert reason.startswith("the inter-token latency of 60.0 ms (99th percentile) is over")
    reason, *_ = judged(served(cell, 60, 80), reference, limits=Limits(max_itl_ms=50.0)).reasons
    assert "70.0 ms (99th percentile, median of 2 launches)" in reason


def test_limits_of_latencies_need_latencies(cell: Cell, reference: list[Measurement]) -> None:
    candidate = [*served(cell, 8), *launches(cell, [0.5])]
    found = judged(candidate, reference, limits=Limits(max_ttft_ms=50.0))
    assert found.verdict is Verdict.INVALID
    assert found.reasons == (
        "launch candidate-0: no latencies were recorded, so the test's latency limits "
        "cannot be checked",
    )
    of_rate = judged(candidate, reference, RATE, limits=Limits(max_ttft_ms=50.0))
    assert of_rate.verdict is not Verdict.INVALID


@pytest.mark.parametrize(
    ("energies", "metric", "paired", "reason"),
    [
        (
            [0.512],
            ENERGY,
            False,
            "with 1 launch a rise as large as the tolerance of 3.0 % cannot be excluded",
        ),
        (
            [0.512] * 2,
            ENERGY,
            False,
            "with 2 launches a rise as large as the tolerance of 3.0 % cannot be excluded",
        ),
        (
            [0.51, 0.515, 0.512],
            ENERGY,
            True,
            "with 3 pairs a rise as large as the tolerance of 3.0 % cannot be excluded",
        ),
        (
            [0.52] * 2,
            ENERGY,
            False,
            "the change reaches the tolerance of 3.0 %, but with 2 launches "
            "a change of up to 4.2 % may be chance",
        ),
    ],
)
def test_what_is_open_is_said_in_words(
    cell: Cell,
    reference: list[Measurement],
    energies: list[float],
    metric: Metric,
    paired: bool,
    reason: str,
) -> None:
    terms = Terms(comparisons=100, paired=paired)
    found = of_energies(cell, energies, reference, metric=metric, terms=terms)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.undecided
    assert found.plan is not None
    assert found.reasons == (reason, planned(found.plan))


def test_a_fall_of_throughput_is_called_so(cell: Cell, reference: list[Measurement]) -> None:
    candidate = launches(cell, [0.5], tokens_per_s=915.0)
    reason, _ = judged(candidate, reference, RATE).reasons
    assert reason == "with 1 launch a fall as large as the tolerance of 10.0 % cannot be excluded"


def test_noise_that_does_not_fit_is_a_reason(cell: Cell, reference: list[Measurement]) -> None:
    discarded = (
        "the launches differ far more than the runner's measured noise: only their own spread is "
        "used"
    )
    found = of_energies(cell, [0.4, 0.5, 0.63], reference)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons[1] == discarded
    clear = of_energies(cell, [5.0, 4.0, 6.0], reference)
    assert clear.verdict is Verdict.REGRESSED
    assert clear.reasons == (discarded,)


def test_what_chance_can_double_says_nothing_yet(cell: Cell, reference: list[Measurement]) -> None:
    loud = {**NOISE, ENERGY: NoiseFloor(0.5, 4, measured=True)}
    (reason,) = of_energies(cell, [0.6], reference, noise=loud).reasons
    assert reason == (
        "the change reaches the tolerance of 3.0 %, but with 1 launch it cannot be told from chance"
    )


@pytest.mark.parametrize(
    ("loss", "deviation", "words"),
    [
        (math.log(1.5), 0.1, "the change reaches the tolerance of 50.0 %"),
        (0.999 * math.log(1.5), 0.1, "with 3 launches a rise"),
        (0.41, 0.1, "the change reaches the tolerance of 50.0 %"),
        (0.41, 0.13, "a change of up to 98.9 % may be chance"),
        (0.41, 0.14, "it cannot be told from chance"),
        (0.41, 0.2, "it cannot be told from chance"),
    ],
)
def test_words_on_the_edge(loss: float, deviation: float, words: str) -> None:
    spread = Spread(deviation, 10)
    ratio = Comparison(1.5 if loss == math.log(1.5) else math.exp(loss), 3, 1.0, spread)
    levels = Levels(alarm=float(stats.t.sf(5.288, 10)), miss=0.05)
    decision = Decision(Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, ratio=ratio, levels=levels)
    (reason,) = in_words(Case(ENERGY, 0.5, (), (), NOISE[ENERGY]), decision, paired=False)
    assert words in reason


def test_a_doubling_by_chance_says_nothing_yet() -> None:
    class Doubled(Comparison):
        def bound(self, probability: float) -> float:
            return math.log(2) * probability

    ratio = Doubled(1.5, 3, 1.0, Spread(0.1, 10))
    decision = Decision(
        Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, ratio=ratio, levels=Levels(0.0, 0.05)
    )
    (reason,) = in_words(Case(ENERGY, 0.03, (), (), NOISE[ENERGY]), decision, paired=False)
    assert reason.endswith("it cannot be told from chance")


def test_a_gate_that_cannot_fire_says_so(cell: Cell, reference: list[Measurement]) -> None:
    loud = {**NOISE, ENERGY: NoiseFloor(0.05, 10, measured=True)}
    found = of_energies(cell, [0.5] * 3, reference, noise=loud, limits=Limits(tolerance=1.1))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.blind
    assert found.reasons == ("this gate could not catch even a doubling: launches differ too much",)


def test_broken_limits_come_before_what_is_open(cell: Cell, reference: list[Measurement]) -> None:
    found = of_energies(cell, [0.512], reference, limits=Limits(max_power_w=400.0))
    assert found.verdict is Verdict.REGRESSED
    assert found.by_limits_alone
    assert [reason.split()[0] for reason in found.reasons] == ["power", "with"]
    worse = of_energies(cell, [0.7] * 3, reference, limits=Limits(max_power_w=400.0))
    assert not worse.by_limits_alone
    assert worse.broken_limits == ("max_power_w",)


def test_too_few_pairs_leave_the_noise_to_be_measured(
    cell: Cell, reference: list[Measurement]
) -> None:
    found = judged(
        launches(cell, [0.5] * 2), reference[:2], terms=Terms(paired=True), vary="variation"
    )
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.noise is NOISE[ENERGY]
    assert found.ratio is None
    assert found.variation == "variation"


# -- with stores -----------------------------------------------------------------------------------


def stored(folder: Path, *sides: Sequence[Measurement]) -> Judge:
    store = Store(folder)
    for measured in sides:
        store.update(measured, TOLERANCE)
    return Judge(store, NoiseStore(folder), comparisons=4, paired=False)


def test_the_baseline_of_the_same_gpu_is_found_and_remembered(
    cell: Cell, reference: list[Measurement], tmp_path: Path
) -> None:
    elsewhere = launches(cell, [0.9] * 3, "elsewhere", environment=environment(gpu_uuids=(OTHER,)))
    judges = stored(tmp_path, elsewhere, reference)
    candidate = launches(cell, [0.501] * 3)
    found = judges.judge(ENERGY, NO_LIMITS, candidate, budget=5)
    assert found.reference == Baseline.of(reference)
    assert found.verdict is Verdict.PASS
    terms = Terms(4, 5)
    again = judge(ENERGY, candidate, found.reference, NO_LIMITS, terms, ASSUMED_NOISE)
    assert found.smallest_detected == again.smallest_detected
    judges.store.update(launches(cell, [0.45] * 3, "newer"), TOLERANCE)
    assert judges.judge(ENERGY, NO_LIMITS, candidate).reference == found.reference
    here_too = launches(cell, [0.9] * 3, environment=environment(gpu_uuids=(OTHER,)))
    assert judges.judge(ENERGY, NO_LIMITS, here_too).reference == Baseline.of(elsewhere)


def test_near_misses_of_the_store_are_reported(
    cell: Cell, reference: list[Measurement], tmp_path: Path
) -> None:
    judges = stored(tmp_path, reference)
    elsewhere = launches(cell, [0.5], environment=environment(gpu_uuids=(OTHER,)))
    found = judges.judge(ENERGY, NO_LIMITS, elsewhere)
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert UUID in found.reasons[0]


def test_the_limits_of_the_test_are_kept(
    cell: Cell, reference: list[Measurement], tmp_path: Path
) -> None:
    judges = stored(tmp_path, reference)
    limits = Limits(tolerance=0.5, max_power_w=400.0)
    found = judges.judge(ENERGY, limits, launches(cell, [0.5] * 3))
    assert found.tolerance == 0.5
    assert found.broken_limits == ("max_power_w",)


def test_the_runners_noise_is_that_of_other_launches(
    cell: Cell, reference: list[Measurement], tmp_path: Path
) -> None:
    """What the compared launches say of the noise is in the comparison already."""
    others = launches(cell, [0.5, 0.52, 0.51, 0.5, 0.53, 0.49, 0.51], "other")
    candidate = launches(cell, [0.5, 0.9, 0.2])
    judges = stored(tmp_path, reference)
    judges.noise_store.add(others)
    before = judges.judge(ENERGY, NO_LIMITS, candidate).noise
    judges.noise_store.add(candidate)
    judges.noise_store.add(reference)
    after = judges.judge(ENERGY, NO_LIMITS, candidate).noise
    assert before is not None
    assert before.measured
    assert before.degrees_of_freedom == 6
    assert after == before


@pytest.mark.parametrize(
    ("metric", "limits", "paired", "tolerance", "needed"),
    [
        (ENERGY, NO_LIMITS, False, 0.03, 6),
        (ENERGY, Limits(tolerance=0.05), False, 0.05, 3),
        (RATE, NO_LIMITS, False, 0.10, 5),
        (RATE, NO_LIMITS, True, 0.05, None),
    ],
)
def test_a_baseline_is_as_large_as_the_runners_noise_asks(
    cell: Cell,
    tmp_path: Path,
    metric: Metric,
    limits: Limits,
    paired: bool,
    tolerance: float,
    needed: int | None,
) -> None:
    """The noise is that of its other launches: the one that is measured is far off."""
    deviations = {ENERGY: 0.0069, RATE: 0.0242}
    measured = measurement(cell, "measured", 0.9, 1800.0)
    off = {of: math.sqrt(15 / 16) * deviation for of, deviation in deviations.items()}
    others = [
        measurement(
            cell,
            f"other-{i}",
            0.5 * math.exp((-1) ** i * off[ENERGY]),
            1000 * math.exp((-1) ** i * off[RATE]),
        )
        for i in range(16)
    ]
    judges = replace(stored(tmp_path), paired=paired)
    judges.noise_store.add([*others, measured])
    assert judges.launches_of_baseline(metric, limits, measured) == needed
    limit = math.log1p(tolerance) if metric is ENERGY else -math.log1p(-tolerance)
    floor = NoiseFloor(deviations[metric], 15, measured=True)
    assert launches_of_baseline(limit, floor) == needed


def test_the_size_of_a_baseline_is_open_where_no_noise_was_measured(
    cell: Cell, tmp_path: Path
) -> None:
    judges = stored(tmp_path)
    assert judges.launches_of_baseline(ENERGY, NO_LIMITS, launches(cell, [0.5])[0]) is None


def test_what_could_not_be_measured_is_invalid(cell: Cell, tmp_path: Path) -> None:
    judges = stored(tmp_path)
    found = judges.invalid(RATE, Limits(), ["the engine died", "and nothing is left"])
    assert found == Judgement(
        metric=RATE,
        verdict=Verdict.INVALID,
        tolerance=0.10,
        reasons=("the engine died", "and nothing is left"),
    )
    paired = replace(judges, paired=True).invalid(RATE, Limits(), [])
    assert (paired.tolerance, paired.paired) == (0.05, True)
    assert judges.invalid(RATE, Limits(tolerance=0.2), []).tolerance == 0.2


@pytest.fixture
def paired(tmp_path: Path) -> Judge:
    return Judge(Store(tmp_path), NoiseStore(tmp_path), comparisons=4, paired=True)


def test_the_interleaved_engine_is_the_reference(
    cell: Cell, reference: list[Measurement], paired: Judge
) -> None:
    found = paired.judge(ENERGY, NO_LIMITS, launches(cell, [0.5] * 3), reference, budget=3)
    assert found.verdict is Verdict.PASS
    assert found.reference == Baseline.of(reference)
    assert found.paired
    assert found.variation is None  # launches that are no periods


def test_a_damaged_store_is_no_matter_for_interleaved_engines(
    cell: Cell, reference: list[Measurement], paired: Judge
) -> None:
    file = paired.store.folder / "gpu" / "model.json"
    file.parent.mkdir()
    file.write_text("no JSON")
    with pytest.raises(BaselineError):
        paired.store.entries()
    found = paired.judge(ENERGY, NO_LIMITS, launches(cell, [0.5] * 3), reference)
    assert found.verdict is Verdict.PASS


def test_a_fault_of_the_reference_names_its_side(
    cell: Cell, reference: list[Measurement], paired: Judge
) -> None:
    reference[1] = replace(reference[1], faults=("throttled: hot",))
    found = paired.judge(ENERGY, Limits(tolerance=0.2), launches(cell, [0.5] * 3), reference)
    assert found.verdict is Verdict.INVALID
    assert found.reasons == ("reference, launch reference-1: throttled: hot",)
    assert found.tolerance == 0.2


@pytest.mark.parametrize("resident", ["candidate", "reference"])
def test_both_sides_or_none_are_co_resident(
    cell: Cell, reference: list[Measurement], paired: Judge, resident: str
) -> None:
    candidate = launches(cell, [0.5] * 3)
    with_other = {"candidate": candidate, "reference": reference}[resident]
    with_other[:] = [replace(m, co_resident=(PAUSED,)) for m in with_other]
    found = paired.judge(ENERGY, NO_LIMITS, candidate, reference)
    assert found.verdict is Verdict.INVALID
    assert found.reasons == (
        "only one side was measured with the other engine co-resident, so they are not pairs",
    )


def test_what_periods_show_of_the_noise_counts(
    cell: Cell, paired: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spread that periods show raises the floor: of each metric by its own."""
    shown = {
        metric: Variation(Spread(0.2, 5), Spread(0.1, 2), by_periods=0.06 * math.sqrt(2))
        for metric in UNDER_LOAD
    }
    shown[RATE] = replace(shown[RATE], by_periods=0.09 * math.sqrt(2))
    monkeypatch.setattr(
        "pytest_energy.verdict.judge.variation", lambda metric, *sides: shown[metric]
    )
    sides = [launches(cell, [0.5] * 3, name) for name in ("candidate", "reference")]
    found = paired.judge(ENERGY, NO_LIMITS, *sides)
    assert found.variation is shown[ENERGY]
    assert found.noise is not None
    assert found.noise.deviation == pytest.approx(0.06)
    assert found.candidate is not None
    half = found.candidate.tokens_per_s.relative_half_width
    assert half == pytest.approx(estimate([1000.0] * 3, NoiseFloor(0.09, 3)).relative_half_width)


def test_invalid_or_unequal_launches_show_no_variation(
    cell: Cell, reference: list[Measurement], paired: Judge
) -> None:
    candidate = launches(cell, [0.5] * 3)
    candidate[1] = replace(candidate[1], faults=("throttled: hot",), cycles=None)
    assert paired.judge(ENERGY, NO_LIMITS, candidate, reference).verdict is Verdict.INVALID
    assert variation(ENERGY, reference, reference) is None
    few = paired.judge(ENERGY, NO_LIMITS, launches(cell, [0.5] * 2), reference)
    assert few.variation is None


def test_the_gpu_model_of_the_candidate_is_looked_up(
    cell: Cell, reference: list[Measurement], tmp_path: Path
) -> None:
    judges = stored(tmp_path, reference)
    found = judges.judge(
        ENERGY, NO_LIMITS, launches(cell, [0.5], environment=environment(gpu_name="another"))
    )
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert GPU_NAME in found.reasons[0]
