"""How stored baselines changed from state to state."""

import math
from collections.abc import Sequence
from pathlib import Path

from pytest_energy.errors import EnergyError
from pytest_energy.measure import spread
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor
from pytest_energy.report.results import Entry, HistoryEntry, Interval, interval
from pytest_energy.report.sides import (
    Floors,
    floor_of_power,
    floors_of,
    reported_cell,
    reported_gpu,
    side_of_baseline,
)
from pytest_energy.store.baseline import Baseline, EarlierBaseline
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import comparison


def history_of(baselines: Path, entries: Sequence[Entry]) -> tuple[HistoryEntry, ...]:
    """The history of the baselines that entries were compared with.

    Empty if the store is damaged, which the entries' own verdicts say.
    """
    compared = {
        (entry.cell.key.canonical, entry.gpu)
        for entry in entries
        if entry.reference and entry.is_of_baseline
    }
    try:
        states = history(Store(baselines), NoiseStore(baselines))
    except EnergyError:
        return ()
    return tuple(s for s in states if (s.cell.key.canonical, s.gpu) in compared)


def history(store: Store, noise_store: NoiseStore) -> tuple[HistoryEntry, ...]:
    """All states of all baselines in the store, each cell's oldest first.

    Raises:
        BaselineError, NoiseError: a file is damaged.
    """
    return tuple(state for baseline in store.entries() for state in _states(baseline, noise_store))


def _states(baseline: Baseline, noise_store: NoiseStore) -> list[HistoryEntry]:
    floors = floors_of(
        noise_store,
        baseline.key,
        baseline.gpu_name,
        [launch.launch_id for launch in baseline.launches],
    )
    if baseline.key.is_idle:
        return _at_idle(baseline, floors[Metric.IDLE_POWER_W])
    newest = side_of_baseline(baseline, floors)
    return [
        *(_earlier(baseline, state, floors) for state in baseline.history),
        HistoryEntry(
            cell=reported_cell(baseline.key),
            gpu=reported_gpu(baseline.environment),
            date=newest.date,
            vllm=newest.vllm,
            launches=len(newest.launches),
            joules_per_token=newest.joules_per_token,
            power_w=newest.power_w,
            tokens_per_s=newest.tokens_per_s,
            noise=floors[Metric.JOULES_PER_TOKEN].source,
            update_reason=baseline.update_reason,
        ),
    ]


def _earlier(baseline: Baseline, state: EarlierBaseline, floors: Floors) -> HistoryEntry:
    energy, rate = floors[Metric.JOULES_PER_TOKEN], floors[Metric.TOKENS_PER_S]
    launches = state.launches
    assert state.joules_per_token is not None
    assert state.tokens_per_s is not None
    return HistoryEntry(
        cell=reported_cell(baseline.key),
        gpu=reported_gpu(baseline.environment),
        date=state.date or "",
        vllm=state.vllm or "?",
        launches=launches,
        joules_per_token=_by_noise_alone(state.joules_per_token, launches, energy),
        power_w=_by_noise_alone(state.power_w, launches, floor_of_power(floors)),
        tokens_per_s=_by_noise_alone(state.tokens_per_s, launches, rate),
        noise=energy.source,
        update_reason=state.update_reason,
    )


def _at_idle(baseline: Baseline, floor: NoiseFloor) -> list[HistoryEntry]:
    return [
        HistoryEntry(
            cell=reported_cell(baseline.key),
            gpu=reported_gpu(baseline.environment),
            date=state.date or "",
            vllm=state.vllm or "?",
            launches=state.launches,
            joules_per_token=None,
            tokens_per_s=None,
            power_w=_by_noise_alone(state.power_w, state.launches, floor),
            noise=floor.source,
            update_reason=state.update_reason,
        )
        for state in (*baseline.history, baseline.as_history)
    ]


def _by_noise_alone(mean: float, launches: int, floor: NoiseFloor) -> Interval:
    """The interval of a mean over launches whose own values were not kept."""
    of_one = comparison.estimate([mean], floor)
    half = math.log(of_one.high / of_one.value) / math.sqrt(launches)
    return interval(mean, mean * spread.exp(-half), mean * spread.exp(half))
