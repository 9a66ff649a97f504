"""Seven verdicts, their reasons and what explains a change."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import ASSUMED_NOISE, NoiseFloor
from pytest_energy.recording.fingerprint import Fingerprint, Host
from pytest_energy.recording.recording import Client, Distribution
from pytest_energy.report import explanation, rows, table
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import NearMiss, Store
from pytest_energy.verdict import comparison
from pytest_energy.verdict.attribution import what_changed
from pytest_energy.verdict.judge import judge
from pytest_energy.verdict.judgement import Judgement, Limits
from pytest_energy.verdict.planning import Plan
from pytest_energy.verdict.rule import DEFAULT_TOLERANCE, Terms, Verdict, on_ratio
from pytest_energy.verdict.variation import variation
from tests import simulated
from tests.simulated import UUID, client, recording

STATIC_W, DYNAMIC_J = 120.0, 0.38
TOLERANCE = {metric.value: limit for metric, limit in DEFAULT_TOLERANCE.items()}
NOISE = {
    Metric.JOULES_PER_TOKEN: NoiseFloor(0.01, 10, measured=True),
    Metric.TOKENS_PER_S: NoiseFloor(0.02, 10, measured=True),
    Metric.IDLE_POWER_W: NoiseFloor(0.02, 10, measured=True),
}


def launches(
    cell: Cell,
    power_w: Sequence[float],
    tokens_per_s: Sequence[float],
    name: str = "candidate",
    **kwargs: Any,
) -> list[Measurement]:
    return [
        measure(
            recording(
                cell, launch_id=f"{name}-{i}", power_w=p, tokens_per_s=r, cycles=12.5, **kwargs
            )
        )
        for i, (p, r) in enumerate(zip(power_w, tokens_per_s, strict=True))
    ]


def at_pace(
    cell: Cell, tokens_per_s: float, dynamic_j: float = DYNAMIC_J, name: str = "candidate"
) -> list[Measurement]:
    """Three launches of an engine whose power is static + dynamic × throughput."""
    power_w = STATIC_W + dynamic_j * tokens_per_s
    return launches(cell, [power_w, power_w * 1.002, power_w * 0.998], [tokens_per_s] * 3, name)


@pytest.fixture
def baseline(cell: Cell, tmp_path: Path) -> Baseline:
    store = Store(tmp_path)
    store.update(at_pace(cell, 1000.0, name="reference"), TOLERANCE)
    found = store.find(cell.key, "simulated GPU", [UUID])
    assert found is not None
    return found


def verdict(
    cell: Cell, baseline: Baseline | None, energy: float = 1.0, rate: float = 1.0, **kwargs: Any
) -> Judgement:
    """The verdict on three launches with J/token and tokens/s changed by these factors."""
    metric = kwargs.pop("metric", Metric.JOULES_PER_TOKEN)
    tokens_per_s = 1000.0 * rate
    measured = at_pace(cell, tokens_per_s, (0.5 * energy * tokens_per_s - STATIC_W) / tokens_per_s)
    limits = Limits(**{f.name: kwargs.pop(f.name, None) for f in fields(Limits)})
    return judge(metric, measured, baseline, limits, **{"noise": NOISE, **kwargs})


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, Verdict.PASS),
        (1.01, Verdict.PASS),
        (0.98, Verdict.PASS),
        (1.025, Verdict.INCONCLUSIVE),
        (1.06, Verdict.REGRESSED),
        (0.94, Verdict.IMPROVED),
    ],
)
def test_energy(cell: Cell, baseline: Baseline, factor: float, expected: Verdict) -> None:
    judged = verdict(cell, baseline, energy=factor)
    assert judged.verdict is expected
    assert judged.change == pytest.approx(factor - 1, abs=0.002)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, Verdict.PASS), (0.95, Verdict.PASS), (0.85, Verdict.REGRESSED), (1.2, Verdict.IMPROVED)],
)
def test_throughput(cell: Cell, baseline: Baseline, factor: float, expected: Verdict) -> None:
    assert verdict(cell, baseline, rate=factor, metric=Metric.TOKENS_PER_S).verdict is expected


def test_tolerance_is_the_tests_own(cell: Cell, baseline: Baseline) -> None:
    assert verdict(cell, baseline, energy=1.06, tolerance=0.10).verdict is Verdict.PASS
    assert verdict(cell, baseline, energy=1.025, tolerance=0.02).verdict is not Verdict.PASS


def test_unequal_launches_are_inconclusive(cell: Cell, baseline: Baseline) -> None:
    judged = judge(
        Metric.JOULES_PER_TOKEN,
        launches(cell, [440, 500, 560], [1000] * 3),
        baseline,
        noise=NOISE,
    )
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert "cannot be excluded" in judged.reasons[0]
    assert "differ far more than the runner's measured noise" in judged.reasons[1]


def test_a_change_that_may_be_chance_is_inconclusive(cell: Cell, baseline: Baseline) -> None:
    judged = judge(
        Metric.JOULES_PER_TOKEN,
        launches(cell, [480, 520, 580], [1000] * 3),
        baseline,
        noise=NOISE,
    )
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert "reaches the tolerance" in judged.reasons[0]


def test_one_launch_carries_less_than_three(cell: Cell, baseline: Baseline) -> None:
    dearer = launches(cell, [507.0] * 3, [1000.0] * 3)
    assert judge(Metric.JOULES_PER_TOKEN, dearer, baseline, noise=NOISE).verdict is Verdict.PASS
    assert (
        judge(Metric.JOULES_PER_TOKEN, dearer[:1], baseline, noise=NOISE).verdict
        is Verdict.INCONCLUSIVE
    )
    assert (
        judge(Metric.JOULES_PER_TOKEN, at_pace(cell, 1000, 0.5)[:1], baseline, noise=NOISE).verdict
        is Verdict.REGRESSED
    )


def explain(cell: Cell, judged: Judgement, rerun: str, replayed: bool) -> str:
    return explanation.failure(judged, explanation.explain(cell.name, judged, rerun, replayed))


def test_with_more_launches_to_come_one_is_never_a_regression(
    cell: Cell, baseline: Baseline
) -> None:
    dearer = at_pace(cell, 1000, 0.9)
    verdicts = [
        judge(
            Metric.JOULES_PER_TOKEN, dearer[:n], baseline, terms=Terms(budget=5), noise=NOISE
        ).verdict
        for n in (1, 2)
    ]
    assert verdicts == [Verdict.INCONCLUSIVE, Verdict.REGRESSED]


def test_an_assumed_noise_asks_for_more_before_an_alarm(cell: Cell, baseline: Baseline) -> None:
    """Of launches that vary by a few percent three do not show a change of six."""
    dearer = launches(cell, [520.0, 530.0, 540.0], [1000.0] * 3)
    shared = Terms(comparisons=32)
    measured = judge(Metric.JOULES_PER_TOKEN, dearer, baseline, terms=shared, noise=NOISE)
    assert measured.verdict is Verdict.REGRESSED
    judged = judge(Metric.JOULES_PER_TOKEN, dearer, baseline, terms=shared)
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert "pytest-energy noise a.py" in explain(cell, judged, "pytest a.py", replayed=False)


INTERLEAVE = "interleave both engines on this GPU: --energy-reference-python PYTHON (docs/usage.md)"
LARGER_BASELINE = (
    "measure a larger baseline, with its engine: pytest a.py --energy-update --energy-launches 7"
)
NONE_WILL = "set another tolerance in the test, as more launches will not decide"


@pytest.mark.parametrize(
    ("plan", "replayed", "changes", "ways"),
    [
        (
            Plan(1, 6, 3, 7),
            False,
            {},
            [
                "measure with more launches: pytest a.py --energy-launches 6",
                f"or {LARGER_BASELINE}",
                f"or {INTERLEAVE}",
            ],
        ),
        (
            Plan(1, 6, 3, 3),
            True,
            {},
            ["record 5 more launches and replay all of them together", f"or {INTERLEAVE}"],
        ),
        (
            Plan(3, 4),
            True,
            {"paired": True},
            ["record 1 more pair and replay all of them together"],
        ),
        (
            None,
            True,
            {"paired": True},
            ["record more pairs and replay all of them together"],
        ),
        (
            None,
            False,
            {"blind": True},
            [
                "find what makes its launches differ so much: pytest-energy doctor",
                f"or {INTERLEAVE}",
            ],
        ),
        (Plan(5, None, 3, 7), False, {}, [LARGER_BASELINE, f"or {INTERLEAVE}"]),
        (Plan(5, None, 3, 7), True, {}, [LARGER_BASELINE, f"or {INTERLEAVE}"]),
        (Plan(1, None, 3, 3), False, {}, [NONE_WILL]),
        (Plan(1, None, 3, 3), True, {}, [NONE_WILL]),
        (Plan(3, None), True, {"paired": True}, [NONE_WILL]),
        (
            Plan(3, None, 3),
            False,
            {"noise": ASSUMED_NOISE[Metric.JOULES_PER_TOKEN]},
            ["measure this runner's noise once: pytest-energy noise a.py", f"or {NONE_WILL}"],
        ),
    ],
)
def test_an_inconclusive_cell_says_what_decides_or_that_nothing_will(
    cell: Cell,
    baseline: Baseline,
    plan: Plan | None,
    replayed: bool,
    changes: dict[str, Any],
    ways: list[str],
) -> None:
    dearer = launches(cell, [507.0], [1000.0])
    judged = judge(Metric.JOULES_PER_TOKEN, dearer, baseline, noise=NOISE)
    assert judged.verdict is Verdict.INCONCLUSIVE
    said = explanation.explain(
        cell.name, replace(judged, plan=plan, **changes), "pytest a.py", replayed
    )
    assert list(said.next) == ways


@pytest.mark.parametrize(
    ("changed", "paired", "advice"),
    [
        (["vllm: 1 → 2"], False, "take back what changed, one at a time, until it passes"),
        (["vllm: 1 → 2"], True, "take back what changed, one at a time, until it passes"),
        (
            ["temperature_c: 50 → 60"],
            False,
            "check the machine, as nothing recorded differs: pytest-energy doctor",
        ),
        (
            [],
            True,
            "compare both environments, as nothing recorded differs: pip freeze, variables",
        ),
    ],
)
def test_a_regression_that_nobody_meant_has_a_next_step(
    cell: Cell, baseline: Baseline, changed: list[str], paired: bool, advice: str
) -> None:
    judged = replace(
        judge(Metric.JOULES_PER_TOKEN, at_pace(cell, 500), baseline, noise=NOISE),
        changed=tuple(changed),
        paired=paired,
    )
    said = explanation.explain(cell.name, judged, "pytest a.py", replayed=False).next
    assert said[-2].startswith("if the change is intended: ")
    assert said[-1] == f"if it is not: {advice}"


def test_many_comparisons_share_the_level(cell: Cell, baseline: Baseline) -> None:
    """What is surely worse when judged alone may be chance among a thousand."""
    dearer = launches(cell, [519.0] * 3, [1000.0] * 3)
    assert (
        judge(Metric.JOULES_PER_TOKEN, dearer, baseline, noise=NOISE).verdict is Verdict.REGRESSED
    )
    judged = judge(
        Metric.JOULES_PER_TOKEN, dearer, baseline, terms=Terms(comparisons=10_000), noise=NOISE
    )
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert "may be chance" in judged.reasons[0]


@pytest.mark.parametrize("noise", [ASSUMED_NOISE, NOISE])
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("candidate", [1, 2, 3, 6])
def test_for_every_number_of_launches_some_data_make_the_gate_fire(
    metric: Metric, candidate: int, noise: Any
) -> None:
    worse = 100.0 if metric.is_cost else 0.01
    ratio = comparison.compare([worse] * candidate, [1.0] * 3, noise[metric])
    levels = Terms(comparisons=100).levels(candidate)
    assert on_ratio(metric, ratio, DEFAULT_TOLERANCE[metric], levels) is Verdict.REGRESSED


def test_a_pass_says_what_would_have_been_detected(cell: Cell, baseline: Baseline) -> None:
    judged = verdict(cell, baseline)
    assert judged.smallest_detected is not None
    assert 0.03 < judged.smallest_detected < 0.07
    assert verdict(cell, baseline, energy=1 + judged.smallest_detected).verdict is Verdict.REGRESSED
    shown = table.table([rows.row(cell, judged)])[-1][0].split()
    assert shown[-2:] == ["pass", f"{100 * judged.smallest_detected:+.1f}"]


def test_a_gate_that_cannot_fire_does_not_pass(cell: Cell, baseline: Baseline) -> None:
    loud = {**NOISE, Metric.TOKENS_PER_S: NoiseFloor(0.3, 4, measured=True)}
    judged = verdict(
        cell, baseline, rate=1.9, metric=Metric.TOKENS_PER_S, tolerance=0.9, noise=loud
    )
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert judged.blind
    assert "could not catch even a doubling" in judged.reasons[0]


values = st.floats(0.5, 2.0)
candidates, references = (
    st.lists(values, min_size=1, max_size=5),
    st.lists(values, min_size=3, max_size=5),
)
all_terms = st.builds(Terms, st.integers(1, 40))
noises = st.sampled_from([ASSUMED_NOISE, NOISE])


def on_values(
    metric: Metric, candidate: Sequence[float], reference: Sequence[float], terms: Terms, noise: Any
) -> Verdict:
    ratio = comparison.compare(candidate, reference, noise[metric])
    return on_ratio(metric, ratio, DEFAULT_TOLERANCE[metric], terms.levels(len(candidate)))


@given(candidates, references, all_terms, noises)
def test_swapping_sides_mirrors_a_change_in_energy(
    candidate: list[float], reference: list[float], terms: Terms, noise: Any
) -> None:
    mirrored = {Verdict.REGRESSED: Verdict.IMPROVED, Verdict.IMPROVED: Verdict.REGRESSED}
    one = on_values(Metric.JOULES_PER_TOKEN, candidate, reference, terms, noise)
    other = on_values(Metric.JOULES_PER_TOKEN, reference, candidate, terms, noise)
    assert mirrored.get(one) == (other if other in mirrored else None)


@given(candidates, references, all_terms, noises, st.sampled_from(UNDER_LOAD), st.integers(-20, 20))
def test_scaling_both_sides_changes_no_verdict(
    candidate: list[float],
    reference: list[float],
    terms: Terms,
    noise: Any,
    metric: Metric,
    power_of_two: int,
) -> None:
    factor = 2.0**power_of_two  # exact, so that no verdict on the edge turns by rounding
    scaled = on_values(
        metric, [v * factor for v in candidate], [v * factor for v in reference], terms, noise
    )
    assert {on_values(metric, candidate, reference, terms, noise), scaled} != {
        Verdict.REGRESSED,
        Verdict.PASS,
    }
    before, after = (
        comparison.compare(a, b, noise[metric])
        for a, b in (
            (candidate, reference),
            ([v * factor for v in candidate], [v * factor for v in reference]),
        )
    )
    assert after.value == pytest.approx(before.value, rel=1e-12)
    assert after.standard_error == pytest.approx(before.standard_error, rel=1e-6, abs=1e-12)


@given(candidates, references, all_terms, noises, st.sampled_from(UNDER_LOAD), st.integers(2, 4))
def test_repeating_the_same_evidence_never_turns_a_clear_verdict_round(
    candidate: list[float],
    reference: list[float],
    terms: Terms,
    noise: Any,
    metric: Metric,
    times: int,
) -> None:
    once, repeated = (
        on_values(metric, candidate, reference, terms, noise),
        on_values(metric, candidate * times, reference * times, terms, noise),
    )
    opposite = {
        Verdict.REGRESSED: {Verdict.PASS, Verdict.IMPROVED},
        Verdict.IMPROVED: {Verdict.REGRESSED},
        Verdict.PASS: {Verdict.REGRESSED},
    }
    assert repeated not in opposite.get(once, set())


def test_no_baseline(cell: Cell) -> None:
    assert verdict(cell, None).verdict is Verdict.NO_BASELINE


def test_another_gpu_model_is_not_comparable(cell: Cell) -> None:
    judged = verdict(
        cell,
        None,
        near_misses=[NearMiss("one was measured on another GPU model, NVIDIA H100", True)],
    )
    assert judged.verdict is Verdict.NOT_COMPARABLE
    assert "NVIDIA H100" in judged.reasons[0]


def test_energy_of_a_module_is_not_comparable_with_that_of_a_gpu(
    cell: Cell, baseline: Baseline
) -> None:
    module = launches(cell, [500] * 3, [1000] * 3, environment={"energy_scope": "module"})
    judged = judge(Metric.JOULES_PER_TOKEN, module, baseline)
    assert judged.verdict is Verdict.NOT_COMPARABLE
    assert judged.reasons == (
        "one was measured by the energy counter of a GPU, the other by that of a module "
        "(GPU, CPU and memory): they cannot be compared",
    )


def test_another_power_limit_is_not_comparable(cell: Cell, baseline: Baseline) -> None:
    capped = launches(cell, [500] * 3, [1000] * 3, environment={"power_limit_w": 500.0})
    judged = judge(Metric.JOULES_PER_TOKEN, capped, baseline)
    assert judged.verdict is Verdict.NOT_COMPARABLE
    assert "500.0 W" in judged.reasons[0]
    assert "700.0 W" in judged.reasons[0]


def test_one_invalid_launch_spoils_the_verdict(cell: Cell, baseline: Baseline) -> None:
    measured = [
        *at_pace(cell, 1000),
        measure(recording(cell, launch_id="bad", faults=["foreign_process: pid 7"])),
    ]
    judged = judge(Metric.JOULES_PER_TOKEN, measured, baseline)
    assert judged.verdict is Verdict.INVALID
    assert judged.reasons == ("launch bad: foreign_process: pid 7",)


def test_power_budget(cell: Cell, baseline: Baseline) -> None:
    judged = verdict(cell, baseline, max_power_w=450)
    assert judged.verdict is Verdict.REGRESSED
    assert "budget of 450 W" in judged.reasons[0]
    message = explain(cell, judged, "pytest a.py", replayed=False)
    assert "raise max_power_w" in message
    assert "--energy-update" not in message
    assert verdict(cell, baseline, max_power_w=550).verdict is Verdict.PASS


def of_clients(cell: Cell, power_w: float, *seen: Client) -> list[Measurement]:
    """One launch of a server for each account of its clients."""
    served = replace(cell, engine="server")
    made = [
        recording(served, launch_id=f"{power_w}-{i}", power_w=power_w + i, cycles=12.5)
        for i in range(len(seen))
    ]
    return [
        measure(replace(recorded, client=account))
        for recorded, account in zip(made, seen, strict=True)
    ]


@pytest.fixture
def of_server(cell: Cell, tmp_path: Path) -> Baseline:
    """The baseline of a server at 500 W."""
    store, served = Store(tmp_path), replace(cell, engine="server")
    store.update(of_clients(cell, 500, *[client(19_000)] * 3), TOLERANCE)
    found = store.find(served.key, "simulated GPU", [UUID])
    assert found is not None
    return found


SLOW = client(19_000, inter_token=Distribution((8_000, 90_000), (9_800, 200)))
FAST = client(19_000)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_itl_ms": 50.0},
            "the inter-token latency of 90.0 ms (99th percentile, median of 3 launches) "
            "is over the limit of 50 ms",
        ),
        (
            {"max_ttft_ms": 30.0},
            "the time to first token of 40.0 ms (99th percentile, median of 3 launches) "
            "is over the limit of 30 ms",
        ),
    ],
)
def test_an_energy_gain_that_breaks_a_latency_limit_fails_for_that(
    cell: Cell, of_server: Baseline, limits: dict[str, float], message: str
) -> None:
    measured = of_clients(cell, 400, SLOW, SLOW, SLOW)
    assert (
        judge(Metric.JOULES_PER_TOKEN, measured, of_server, noise=NOISE).verdict is Verdict.IMPROVED
    )
    judged = judge(Metric.JOULES_PER_TOKEN, measured, of_server, Limits(**limits), noise=NOISE)
    assert judged.verdict is Verdict.REGRESSED
    assert judged.reasons[0].startswith(message)
    said = explain(replace(cell, engine="server"), judged, "pytest a.py", replayed=False)
    assert message in said
    assert f"raise {next(iter(limits))} in the test" in said
    assert "--energy-update" not in said
    # tokens/s has its own test, which the limit does not fail.
    assert (
        judge(Metric.TOKENS_PER_S, measured, of_server, Limits(**limits), noise=NOISE).verdict
        is Verdict.PASS
    )


def test_latencies_within_their_limits_change_nothing(cell: Cell, of_server: Baseline) -> None:
    limits = {"max_itl_ms": 8.0, "max_ttft_ms": 40.0}
    judged = judge(
        Metric.JOULES_PER_TOKEN,
        of_clients(cell, 400, FAST, FAST, FAST),
        of_server,
        Limits(**limits),
        noise=NOISE,
    )
    assert judged.verdict is Verdict.IMPROVED


def test_one_slow_launch_breaks_no_limit(cell: Cell, of_server: Baseline) -> None:
    limits = Limits(max_itl_ms=50.0)

    def after(*seen: Client) -> Verdict:
        return judge(
            Metric.JOULES_PER_TOKEN,
            of_clients(cell, 400, *seen),
            of_server,
            limits,
            Terms(budget=5),
            NOISE,
        ).verdict

    assert after(SLOW) is after(SLOW, SLOW) is Verdict.INCONCLUSIVE
    assert after(SLOW, FAST, FAST) is Verdict.IMPROVED
    assert after(SLOW, FAST, SLOW) is Verdict.REGRESSED
    only = judge(
        Metric.JOULES_PER_TOKEN,
        of_clients(cell, 400, SLOW),
        of_server,
        limits,
        Terms(budget=1),
        NOISE,
    )
    assert only.verdict is Verdict.REGRESSED


def test_a_limit_of_latencies_that_were_not_recorded(cell: Cell, of_server: Baseline) -> None:
    measured = of_clients(cell, 500, FAST, FAST, client(19_000, inter_token=Distribution((), ())))
    judged = judge(
        Metric.JOULES_PER_TOKEN, measured, of_server, Limits(max_itl_ms=50.0), noise=NOISE
    )
    assert judged.verdict is Verdict.INVALID
    assert "no latencies were recorded" in judged.reasons[0]


def test_swapping_sides_turns_regressed_into_improved(cell: Cell, tmp_path: Path) -> None:
    cheap, dear = at_pace(cell, 1000, 0.38, "cheap"), at_pace(cell, 1000, 0.45, "dear")
    verdicts = []
    for name, reference, candidate in (("a", cheap, dear), ("b", dear, cheap)):
        store = Store(tmp_path / name)
        store.update(reference, TOLERANCE)
        verdicts.append(
            judge(
                Metric.JOULES_PER_TOKEN,
                candidate,
                store.find(cell.key, "simulated GPU", [UUID]),
                noise=NOISE,
            ).verdict
        )
    assert verdicts == [Verdict.REGRESSED, Verdict.IMPROVED]


def test_a_slower_engine_reads_as_static_energy(cell: Cell, baseline: Baseline) -> None:
    judged = judge(Metric.JOULES_PER_TOKEN, at_pace(cell, 500), baseline, noise=NOISE)
    assert judged.verdict is Verdict.REGRESSED
    assert judged.split is not None
    assert judged.split.reading == "static"
    assert judged.split.static_low < judged.split.total < judged.split.static_high


def test_more_work_per_token_reads_as_dynamic_energy(cell: Cell, baseline: Baseline) -> None:
    judged = judge(Metric.JOULES_PER_TOKEN, at_pace(cell, 1000, 0.5), baseline)
    assert judged.split is not None
    assert judged.split.reading == "dynamic"


@pytest.mark.parametrize(
    ("name", "value"), [("sm_clock_mhz", 1500.0), ("temperature_c", 80.0), ("power_cap_share", 0.9)]
)
def test_no_reading_where_conditions_differ(
    cell: Cell, baseline: Baseline, name: str, value: float
) -> None:
    measured = [
        replace(m, conditions=replace(m.conditions, **{name: value})) for m in at_pace(cell, 500)
    ]
    assert judge(Metric.JOULES_PER_TOKEN, measured, baseline).split is None


def test_what_changed_tells_what_matters_first() -> None:
    reference, candidate = (
        simulated.fingerprint(
            date=n, driver=n, vllm=n, gpu_uuids=(n,), host=Host(load_1min=float(n), cpu_model=n)
        )
        for n in ("1", "2")
    )
    assert what_changed(reference, candidate) == [
        "vllm: 1 → 2",
        "driver: 1 → 2",
        "host.cpu_model: 1 → 2",
    ]


def test_kernels_that_the_engine_chose_are_told_where_both_sides_know_theirs() -> None:
    """As vLLM 0.20 chose FlashInfer's for experts, which is slower on Hopper (vllm#41306)."""
    before, after = (
        simulated.fingerprint(
            vllm=vllm, kernels={"attention_backend": "FLASH_ATTN", "moe_backend": kernel}
        )
        for vllm, kernel in (("0.19.0", "triton"), ("0.20.0", "flashinfer_cutlass"))
    )
    assert Fingerprint.from_plain(before.plain) == before
    assert what_changed(before, after) == [
        "moe_backend: triton → flashinfer_cutlass",
        "vllm: 0.19.0 → 0.20.0",
    ]
    assert what_changed(replace(before, kernels=None), after) == ["vllm: 0.19.0 → 0.20.0"]


def test_an_argument_is_told_once_as_the_setting_that_it_gave() -> None:
    def started(arguments: dict[str, Any], settings: dict[str, Any]) -> Fingerprint:
        return simulated.fingerprint(engine_args_under_test=arguments, engine_settings=settings)

    reference = started({"seed": 1}, {"async_scheduling": True, "block_size": 16})
    candidate = started(
        {"seed": 2, "async_scheduling": False, "block_size": 16},
        {"async_scheduling": False, "block_size": 16},
    )
    assert what_changed(reference, candidate) == [
        "async_scheduling: True → False",
        "block_size: None → 16",
        "seed: 1 → 2",
    ]


def test_the_message_says_what_how_sure_why_and_what_next(cell: Cell, baseline: Baseline) -> None:
    judged = judge(Metric.JOULES_PER_TOKEN, at_pace(cell, 500), baseline, noise=NOISE)
    message = explain(cell, judged, "pytest a.py", replayed=False)
    lines = (
        ("REGRESSED: tiny bs=8 64/250, J/token ", "+24.0 % vs the baseline's "),
        ("how sure: 95 % interval +", "tolerance 3.0 %; 3 launches against 3 of vLLM "),
        ("power 310 W (-", "power fell, but", "static"),
        ("what changed: GPU waits longer (16 ms a step instead of 8, ", "; no recorded version"),
        ("next: measure again: pytest a.py",),
        ("next: if the change is intended: pytest a.py --energy-update", "-reason WHY"),
        ("next: if it is not: check the machine",),
    )
    for line, parts in zip(message.splitlines(), lines, strict=True):
        assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize("replayed", [True, False])
def test_every_verdict_but_pass_says_what_to_type(
    cell: Cell, baseline: Baseline, replayed: bool
) -> None:
    for judged in (
        verdict(cell, baseline, energy=1.1),
        verdict(cell, None),
        judge(Metric.JOULES_PER_TOKEN, launches(cell, [440, 500, 560], [1000] * 3), baseline),
        verdict(cell, None, near_misses=[NearMiss("another GPU model", True)]),
    ):
        assert "next: " in explain(cell, judged, "pytest a.py", replayed)


def interleaved(
    cell: Cell, powers_w: Sequence[float], name: str, periods: Sequence[int]
) -> Measurement:
    """A launch of periods at 1,000 tokens/s, with their power and places in the pair's order."""
    parts = [
        recording(cell, name, power_w, cycles=5.5, start_s=1000 * (1 + place))
        for power_w, place in zip(powers_w, periods, strict=True)
    ]
    return measure(*(replace(part, period=period) for period, part in enumerate(parts)))


def test_periods_and_pairs_vary_apart(cell: Cell) -> None:
    """Ends of 500 and 510 W about a middle of 505 W, pair for pair: periods vary, pairs do not."""
    reference = [interleaved(cell, [500, 510], f"reference-{i}", [0, 2]) for i in range(3)]
    candidate = [interleaved(cell, [505], f"candidate-{i}", [1]) for i in range(3)]
    found = variation(Metric.JOULES_PER_TOKEN, candidate, reference)
    assert found is not None
    assert found.periods.deviation == pytest.approx(
        math.log(505 / 500 * 510 / 505) / math.sqrt(2), rel=0.01
    )
    assert found.periods.degrees_of_freedom == 3
    assert found.pairs.deviation == pytest.approx(0, abs=1e-6)
    assert found.by_periods == pytest.approx(found.periods.deviation / math.sqrt(2))
    swapped = variation(Metric.JOULES_PER_TOKEN, reference, candidate)
    assert swapped is not None
    assert swapped.periods.deviation == pytest.approx(found.periods.deviation)
