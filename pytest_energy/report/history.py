"""How stored baselines changed from state to state."""

import math
from collections.abc import Sequence
from pathlib import Path

from pytest_energy.errors import EnergyError
from pytest_energy.measure import spread
from pytest_energy.measure.metric import Metric, metrics_of
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
        if entry.engines[0] and entry.is_of_baseline
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
        states = *baseline.history, baseline.as_history
        return [_earlier(baseline, state, floors) for state in states]
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
    def figure(mean: float | None, metric: Metric) -> Interval | None:
        return _by_noise_alone(mean, state.launches, floors[metric]) if mean else None

    return HistoryEntry(
        cell=reported_cell(baseline.key),
        gpu=reported_gpu(baseline.environment),
        date=state.date or "",
        vllm=state.vllm or "?",
        launches=state.launches,
        joules_per_token=figure(state.joules_per_token, Metric.JOULES_PER_TOKEN),
        power_w=_by_noise_alone(state.power_w, state.launches, floor_of_power(floors)),
        tokens_per_s=figure(state.tokens_per_s, Metric.TOKENS_PER_S),
        noise=floors[metrics_of(baseline.key)[0]].source,
        update_reason=state.update_reason,
    )


def _by_noise_alone(mean: float, launches: int, floor: NoiseFloor) -> Interval:
    """The interval of a mean over launches whose own values were not kept."""
    of_one = comparison.estimate([mean], floor)
    half = math.log(of_one.high / of_one.value) / math.sqrt(launches)
    return interval(mean, mean * spread.exp(-half), mean * spread.exp(half))
