"""Results from where they come about: a judged test, a folder of recordings, the history of the baselines.

Intervals are those of the summary table: over launches, moderated by the runner's noise (docs/statistics.md). Power has no
noise of its own on file. Three launches and more speak for themselves; of fewer it is known that power = J/token × tokens/s,
so that its deviation is at most the sum of theirs, and that is taken.
"""

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pytest_energy import __version__
from pytest_energy.cell.key import CellKey
from pytest_energy.errors import EnergyError
from pytest_energy.measure import measurement, spread
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor
from pytest_energy.recording import recording_file
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.report import rows
from pytest_energy.report.results import (
    Cell,
    Entry,
    Gpu,
    HistoryEntry,
    Interval,
    Launch,
    Run,
    Side,
    Split,
    interval,
)
from pytest_energy.store.baselines import Baseline, Store
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import attribution, comparison
from pytest_energy.verdict.judgement import Judgement, Sample
from pytest_energy.verdict.rule import Verdict

Noise = Mapping[Metric, NoiseFloor]
_NO_NOISE = NoiseFloor(deviation=0.0, degrees_of_freedom=0, measured=True)
_SPEAK_FOR_THEMSELVES = 3


def noise_of(store: NoiseStore, key: CellKey, gpu_name: str, launch_ids: Sequence[str]) -> Noise:
    """The noise to state the intervals of these launches by."""
    return {metric: store.floor(key, gpu_name, metric, frozenset(launch_ids)) for metric in Metric}


def judged(
    judgement: Judgement, key: CellKey, name: str, noise: Noise, said: rows.Explanation
) -> Entry:
    """The entry of a judged test; the test's place and whether it passed are the caller's to add.

    Args:
        judgement: on the cell.
        key, name: the cell's.
        noise: the runner's; of the judged metric the judgement knows better.
        said: the judgement in words.
    """
    if judgement.noise is not None:
        noise = {**noise, judgement.metric: judgement.noise}
    sample, old, split, ratio = (
        judgement.sample,
        judgement.baseline,
        judgement.split,
        judgement.ratio,
    )
    environment = sample.launches[0].environment if sample else old.environment if old else None
    return Entry(
        run=0,
        cell=_cell(key, name),
        gpu=None if environment is None else _gpu(environment),
        metric=judgement.metric.value,
        verdict=judgement.verdict.value,
        green=judgement.verdict.green,
        tolerance=judgement.tolerance,
        new=_side_of_launches(sample.launches, noise) if sample else None,
        old=_side_of_baseline(old, noise) if old else None,
        paired=judgement.paired,
        co_resident=bool(sample and sample.launches[0].co_resident),
        ratio=interval(ratio.value, ratio.low, ratio.high) if ratio else None,
        split=Split(
            split.static_low,
            split.static_high,
            split.total,
            split.reading,  # type: ignore[arg-type]
        )
        if split
        else None,
        detects=_known(judgement.smallest_detected),
        noise=judgement.noise.source if judgement.noise else "",
        what=said.what,
        how_sure=said.how_sure,
        reasons=said.reasons,
        why=said.split,
        changed=said.changed,
        next=said.next,
    )


def compared(paths: Sequence[Path], noise_store: NoiseStore) -> tuple[Entry, ...]:
    """Recordings compared by engine, none of them judged: each engine with the first one given that was recorded in its cell.

    Launches belong to one engine that agree in GPU model, board, power limit, vLLM version and settings under test,
    wherever their files lie. Boards are not compared with each other, nor launches that had the GPU to themselves with launches
    beside a resident engine.

    Args:
        paths: files or folders, in the order of the engines.
        noise_store: for the intervals.

    Raises:
        RecordingError: a file is damaged, or a path holds none.
        NoiseError: a noise file is damaged.
    """
    entries = []
    for reference, *others in _engines(paths):
        for engine in others:
            entries += [_comparison(engine, reference, metric, noise_store) for metric in Metric]
        if not others:
            entries += [_comparison(reference, (), metric, noise_store) for metric in Metric]
    return tuple(entries)


def _comparison(
    new: Sequence[Measurement], old: Sequence[Measurement], metric: Metric, noise_store: NoiseStore
) -> Entry:
    key, gpu_name = new[0].key, new[0].environment.gpu_name
    left_out = [
        f"left out: launch {m.launch_id}: {fault}" for m in (*new, *old) for fault in m.faults
    ]
    valid_new, valid_old = [m for m in new if m.valid], [m for m in old if m.valid]
    noise = noise_of(noise_store, key, gpu_name, [m.launch_id for m in (*new, *old)])
    found = Judgement(
        metric, Verdict.INVALID, 1.0, ()
    )  # a carrier of figures; its verdict is dropped
    if valid_new:
        found = replace(found, sample=Sample.of(valid_new, noise), noise=noise[metric])
    if valid_new and valid_old:
        found = _against(found, Baseline.of(valid_old), noise[metric])
    name = key.name
    entry = judged(found, key, name, noise, rows.comparison(name, found, left_out))
    return replace(entry, verdict=None, green=None, tolerance=None)


def _against(found: Judgement, old: Baseline, noise: NoiseFloor) -> Judgement:
    """The figures of the new side by those of the old one."""
    sample, metric = found.sample, found.metric.value
    assert sample is not None
    return replace(
        found,
        baseline=old,
        ratio=comparison.compare(
            [getattr(m, metric) for m in sample.launches], getattr(old, metric), noise
        ),
        split=attribution.split(sample.launches, old),
        changed=tuple(attribution.what_changed(old.environment, sample.launches[-1].environment)),
    )


def _engines(paths: Sequence[Path]) -> list[list[list[Measurement]]]:
    """By cell and board the engines, in the order in which they were given; of each its launches, in order. A launch counts once."""
    found: dict[tuple[Any, ...], dict[str, dict[str, Measurement]]] = {}
    for path in paths:
        for periods in recording_file.read_launches([path]):
            first, environment = periods[0], periods[0].environment
            place = (
                (first.key.model, first.key.batch_size, first.key.canonical),
                (
                    environment.gpu_name,
                    environment.gpus,
                    environment.power_limit,
                    first.co_resident is not None,
                ),
            )
            engine = repr((environment.vllm, environment.engine_args_under_test))
            found.setdefault(place, {}).setdefault(engine, {})[first.launch_id] = (
                measurement.measure(*periods)
            )
    by_place = [engines for _, engines in sorted(found.items(), key=lambda item: item[0])]
    return [
        [[launch for _, launch in sorted(launches.items())] for launches in engines.values()]
        for engines in by_place
    ]


def run(
    source: Literal["live", "replay", "recordings", "baselines"],
    settings: str,
    exit_status: int | None = None,
) -> Run:
    """This run, now; at SOURCE_DATE_EPOCH where that is set, for reports that come out the same."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = (
        datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        if epoch.isdigit()
        else datetime.datetime.now(datetime.UTC)
    )
    return Run(moment.isoformat(timespec="seconds"), __version__, source, settings, exit_status)


def history_of(baselines: Path, entries: Sequence[Entry]) -> tuple[HistoryEntry, ...]:
    """The history of the baselines that some entry was compared with; none where the store is damaged, which the entries say."""
    places = {
        (entry.cell.key.canonical, entry.gpu) for entry in entries if entry.old and not entry.paired
    }
    try:
        states = history(Store(baselines), NoiseStore(baselines))
    except EnergyError:
        return ()
    return tuple(state for state in states if (state.cell.key.canonical, state.gpu) in places)


def history(store: Store, noise_store: NoiseStore) -> tuple[HistoryEntry, ...]:
    """All states of all baselines in the store, each cell's oldest first.

    Raises:
        BaselineError, NoiseError: a file is damaged.
    """
    return tuple(state for baseline in store.entries() for state in _states(baseline, noise_store))


def _states(baseline: Baseline, noise_store: NoiseStore) -> list[HistoryEntry]:
    noise = noise_of(
        noise_store,
        baseline.key,
        baseline.gpu_name,
        [launch.launch_id for launch in baseline.launches],
    )
    cell, gpu, source = (
        _cell(baseline.key, baseline.key.name),
        _gpu(baseline.environment),
        noise[Metric.JOULES_PER_TOKEN].source,
    )
    earlier = [
        HistoryEntry(
            cell=cell,
            gpu=gpu,
            date=str(entry.get("date") or ""),
            vllm=str(entry.get("vllm") or "?"),
            launches=int(entry["launches"]),
            joules_per_token=_by_noise_alone(
                entry["joules_per_token"], entry["launches"], noise[Metric.JOULES_PER_TOKEN]
            ),
            power_w=_by_noise_alone(entry["power_w"], entry["launches"], _noise_of_power(noise)),
            tokens_per_s=_by_noise_alone(
                entry["tokens_per_s"], entry["launches"], noise[Metric.TOKENS_PER_S]
            ),
            noise=source,
            update_reason=entry.get("update_reason"),
        )
        for entry in baseline.history
    ]
    now = _side_of_baseline(baseline, noise)
    newest = HistoryEntry(
        cell=cell,
        gpu=gpu,
        date=now.date,
        vllm=now.vllm,
        launches=len(now.launches),
        joules_per_token=now.joules_per_token,
        power_w=now.power_w,
        tokens_per_s=now.tokens_per_s,
        noise=source,
        update_reason=baseline.update_reason,
    )
    return [*earlier, newest]


def _by_noise_alone(mean: float, launches: int, noise: NoiseFloor) -> Interval:
    """The interval of a mean over so many launches whose own values are not kept any more."""
    of_one = comparison.estimate([mean], noise)
    half = math.log(of_one.high / of_one.value) / math.sqrt(launches)
    return interval(mean, mean * spread.exp(-half), mean * spread.exp(half))


def _side_of_launches(measurements: Sequence[Measurement], noise: Noise) -> Side:
    launches = [
        Launch(
            m.launch_id,
            m.joules_per_token,
            m.power_w,
            m.tokens_per_s,
            _known(m.static_power_w),
            measurement.mean_gpu_power_w([m]),
        )
        for m in measurements
    ]
    return _side(
        launches,
        max((m.environment for m in measurements), key=lambda e: str(e.date)),
        noise,
    )


def _side_of_baseline(baseline: Baseline, noise: Noise) -> Side:
    series = zip(
        baseline.launches,
        baseline.joules_per_token,
        baseline.power_w,
        baseline.tokens_per_s,
        strict=True,
    )
    launches = [
        Launch(launch.launch_id, jpt, power, rate, _known(launch.static_power_w))
        for launch, jpt, power, rate in series
    ]
    return _side(launches, baseline.environment, noise)


def _side(launches: Sequence[Launch], environment: Fingerprint, noise: Noise) -> Side:
    power = [launch.power_w for launch in launches]
    static = [launch.static_power_w for launch in launches if launch.static_power_w is not None]
    of_power = comparison.estimate(
        power, _NO_NOISE if len(power) >= _SPEAK_FOR_THEMSELVES else _noise_of_power(noise)
    )
    return Side(
        vllm=environment.vllm or "?",
        settings_under_test=environment.settings_under_test,
        date=environment.date or "",
        launches=tuple(launches),
        joules_per_token=_estimate(
            [launch.joules_per_token for launch in launches], noise[Metric.JOULES_PER_TOKEN]
        ),
        power_w=interval(math.fsum(power) / len(power), of_power.low, of_power.high),
        tokens_per_s=_estimate(
            [launch.tokens_per_s for launch in launches], noise[Metric.TOKENS_PER_S]
        ),
        static_power_w=math.fsum(static) / len(static) if len(static) == len(launches) else None,
    )


def _known(value: float | None) -> float | None:
    """The value, None where it says nothing: zero watts, or a change without bound."""
    return value if value is not None and 0 < value < 1e99 else None


def _estimate(values: Sequence[float], noise: NoiseFloor) -> Interval:
    estimate = comparison.estimate(values, noise)
    return interval(estimate.value, estimate.low, estimate.high)


def _noise_of_power(noise: Noise) -> NoiseFloor:
    energy, rate = noise[Metric.JOULES_PER_TOKEN], noise[Metric.TOKENS_PER_S]
    return NoiseFloor(
        deviation=energy.deviation + rate.deviation,
        degrees_of_freedom=min(energy.degrees_of_freedom, rate.degrees_of_freedom),
        measured=energy.measured and rate.measured,
    )


def _cell(key: CellKey, name: str) -> Cell:
    return Cell(
        name=name,
        model=key.model,
        engine=key.engine,
        batch_size=key.batch_size,
        input_tokens=_same_for_all(key.workload.input_tokens),
        output_tokens=_same_for_all(key.workload.output_tokens),
        key=key,
    )


def _same_for_all(length: Any) -> int | None:
    """A length of a key; None where requests differ in it."""
    return length if isinstance(length, int) else None


def _gpu(environment: Fingerprint) -> Gpu:
    limit = environment.power_limit_w
    return Gpu(
        name=environment.gpu_name,
        uuids=environment.gpus,
        power_limit_w=float(limit) if isinstance(limit, int | float) else None,
    )
