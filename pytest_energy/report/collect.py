"""Entries of results.json: from a judged test, or from recordings that are only compared."""

import datetime
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_energy import __version__
from pytest_energy.cell.key import CellKey
from pytest_energy.measure import measurement
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric, metrics_of
from pytest_energy.recording import recording_file
from pytest_energy.report import sides
from pytest_energy.report.explanation import Explanation, explain_compared
from pytest_energy.report.launches import left_out_lines
from pytest_energy.report.results import Entry, ReportedSplit, Run, Source, interval
from pytest_energy.report.sides import Floors
from pytest_energy.safety import untrusted
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import attribution, comparison
from pytest_energy.verdict.attribution import Split
from pytest_energy.verdict.judgement import Compared, Judgement, Sample
from pytest_energy.verdict.slowdown import slowdown


def entry_of(judgement: Judgement, key: CellKey, floors: Floors, said: Explanation) -> Entry:
    """The entry of a judged test; its place and whether it passed are the caller's to add.

    Args:
        judgement: on the cell.
        key: the cell's.
        floors: the runner's noise; the judgement's own replaces that of its metric.
        said: the judgement in words.
    """
    return replace(
        _entry(judgement, key, floors, said),
        verdict=judgement.verdict.value,
        green=judgement.verdict.green,
        tolerance=judgement.tolerance,
        reference_from=judgement.reference_from,
        detects=sides.known(judgement.smallest_detected),
    )


Engines = Sequence[Sequence[Sequence[Measurement]]]


def compared(engines: Engines, noise_store: NoiseStore) -> tuple[Entry, ...]:
    """Recordings compared by engine, not judged: each with the first one given for its cell.

    Different GPUs are never compared, nor launches that had the GPU to themselves with launches
    that shared it with a co-resident engine.

    Args:
        engines: as `read` gives them.
        noise_store: for the intervals.

    Raises:
        NoiseError: a noise file is damaged.
    """
    entries = []
    for reference, *others in engines:
        for engine in others:
            entries += [
                _comparison(engine, reference, metric, noise_store)
                for metric in metrics_of(reference[0].key)
            ]
        if not others:
            entries += [
                _comparison(reference, (), metric, noise_store)
                for metric in metrics_of(reference[0].key)
            ]
    return tuple(entries)


def read(paths: Sequence[Path]) -> list[list[list[Measurement]]]:
    """By cell and GPU the engines in the order given, and their launches; each launch once.

    Launches belong to one engine if they agree in GPU model, GPU, power limit, vLLM version and
    settings under test, wherever their files lie.

    Args:
        paths: files or folders, in the order of the engines.

    Raises:
        RecordingError: a file is damaged, or a path holds none.
    """
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
            launches = found.setdefault(place, {}).setdefault(engine, {})
            launches[first.launch_id] = measurement.measure(*periods)
    by_place = [engines for _, engines in sorted(found.items(), key=lambda item: item[0])]
    return [
        [[launch for _, launch in sorted(launches.items())] for launches in engines.values()]
        for engines in by_place
    ]


def run(source: Source, settings: str, exit_status: int | None = None) -> Run:
    """This run, dated with SOURCE_DATE_EPOCH if that is set, for reproducible reports."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = (
        datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        if epoch.isdigit()
        else datetime.datetime.now(datetime.UTC)
    )
    shown = untrusted.encodable(settings)
    return Run(moment.isoformat(timespec="seconds"), __version__, source, shown, exit_status)


def _entry(found: Compared, key: CellKey, floors: Floors, said: Explanation) -> Entry:
    candidate, reference, ratio, split = (
        found.candidate,
        found.reference,
        found.ratio,
        found.split,
    )
    if found.noise is not None:
        floors = {**floors, found.metric: found.noise}
    launches = candidate.launches if candidate else ()
    environment = (
        launches[0].environment if launches else reference.environment if reference else None
    )
    at_idle = key.is_idle
    return Entry(
        run=0,
        cell=sides.reported_cell(key),
        gpu=None if environment is None else sides.reported_gpu(environment),
        metric=found.metric.value,
        candidate=sides.side_of_launches(launches, floors) if launches and not at_idle else None,
        reference=sides.side_of_baseline(reference, floors) if reference and not at_idle else None,
        idle=sides.idle_of(candidate, reference) if at_idle else None,
        paired=found.paired,
        co_resident=bool(launches and launches[0].co_resident),
        ratio=interval(ratio.value, ratio.low, ratio.high) if ratio else None,
        split=_reported_split(split) if split else None,
        noise=found.noise.source if found.noise else "",
        what=said.what,
        how_sure=said.how_sure,
        reasons=said.reasons,
        why=said.split,
        changed=said.changed,
        next=said.next,
    )


def _reported_split(split: Split) -> ReportedSplit:
    return ReportedSplit(
        split.static_low,
        split.static_high,
        split.total,
        split.reading,  # type: ignore[arg-type]
    )


def _comparison(
    candidate: Sequence[Measurement],
    reference: Sequence[Measurement],
    metric: Metric,
    noise_store: NoiseStore,
) -> Entry:
    key, gpu_name = candidate[0].key, candidate[0].environment.gpu_name
    launches = (*candidate, *reference)
    left_out = left_out_lines(launches)
    floors = sides.floors_of(noise_store, key, gpu_name, [m.launch_id for m in launches])
    kept = [m for m in reference if m.valid]
    found = _compare([m for m in candidate if m.valid], kept, metric, floors)
    entry = _entry(found, key, floors, explain_compared(key.name, found, left_out))
    if found.reference is None or key.is_idle:
        return entry
    # Its launches are known in full, other than those of a stored baseline.
    return replace(entry, reference=sides.side_of_launches(kept, floors))


def _compare(
    candidate: Sequence[Measurement],
    reference: Sequence[Measurement],
    metric: Metric,
    floors: Floors,
) -> Compared:
    """The figures of valid launches; of one side alone if the other has none."""
    if not candidate:
        return Compared(metric)
    sample, noise = Sample.of(candidate, floors), floors[metric]
    if not reference:
        return Compared(metric, sample, noise=noise)
    baseline = Baseline.of(reference)
    values = [getattr(m, metric.value) for m in candidate]
    return Compared(
        metric,
        candidate=sample,
        reference=baseline,
        ratio=comparison.compare(values, getattr(baseline, metric.value), noise),
        split=attribution.split(candidate, baseline),
        slowdown=slowdown(candidate, baseline),
        cached=attribution.cached_shares(candidate, baseline),
        noise=noise,
        changed=tuple(attribution.what_changed(baseline.environment, candidate[-1].environment)),
    )
