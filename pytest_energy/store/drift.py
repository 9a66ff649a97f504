"""Whether small losses add up: a new baseline against the engines that were stored before it. Pure.

On one GPU figures are compared as they are. GPUs of one model differ by more than any tolerance,
but ratios within a GPU carry to the next (docs/measurements.md), so ratios tell what an engine that
only other GPUs have run would take here: log figure = GPU + engine, fitted by least squares to all
GPUs that are linked by engines which two of them have run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components

from pytest_energy.measure.metric import metrics_of
from pytest_energy.store.baseline import Baseline, EarlierBaseline
from pytest_energy.store.figures import rounded

_Engine = tuple[str | None, tuple[str, ...]]  # version, settings under test
_METRICS = (
    *(("joules_per_token", "J/token", 1, min), ("tokens_per_s", "tokens/s", -1, max)),
    ("idle_power_w", "W at idle", 1, min),
)


class Drift(NamedTuple):
    """What holds an update up.

    Attributes:
        losses: that reach the tolerance, one line per metric.
        unlinked: versions of the engines that other GPUs have run, if this GPU has run none of
            them.
    """

    losses: tuple[str, ...] = ()
    unlinked: tuple[str, ...] = ()


def drift(new: Baseline, elsewhere: Sequence[Baseline], tolerance: Mapping[str, float]) -> Drift:
    """A new baseline against the best and the oldest engine before it.

    Those before the last loss that was accepted with a reason do not count.

    Args:
        new: with its history.
        elsewhere: baselines of the same cell on other GPUs of the same model; their figures do not
            count if the host sets the pace in one, since hosts share no ratios.
        tolerance: relative, by metric.
    """
    known = {_engine(state) for baseline in elsewhere for state in _states(baseline)}
    if any(baseline.is_host_bound for baseline in (new, *elsewhere)):
        elsewhere = ()
    accepted = max((i for i, state in enumerate(new.history) if state.update_reason), default=0)
    before = [(state, "") for state in new.history[accepted:]]
    before += [(state, " on other GPUs") for state in _carried(new, elsewhere)]
    linked = any(_engine(state) in known for state in _states(new))
    unlinked = () if linked else tuple(sorted({str(vllm) for vllm, _ in known}))
    losses = []
    asked = [metric.value for metric in metrics_of(new.key)]
    for metric, unit, worse, best in _METRICS:
        if not before or metric not in tolerance or metric not in asked:
            continue
        figures = {state: float(getattr(state, metric)) for state, _ in before}
        for name, (old, where) in (
            ("best", best(before, key=lambda entry: figures[entry[0]])),
            ("oldest", min(before, key=lambda entry: _date(entry[0]))),
        ):
            change = getattr(new.summary, metric) / figures[old] - 1
            if worse * change >= tolerance[metric]:
                losses.append(
                    f"{unit} {100 * change:+.1f} % against the {name} entry{where} "
                    f"({figures[old]:g}, vLLM {old.vllm}, {old.date})"
                )
                break
    return Drift(tuple(losses), unlinked)


def _carried(new: Baseline, elsewhere: Sequence[Baseline]) -> list[EarlierBaseline]:
    """The engines that other GPUs alone have run, with what they would take on this one."""
    rows = [(gpu, state) for gpu, of in enumerate((new, *elsewhere)) for state in _states(of)]
    in_order = sorted((state for _, state in rows), key=_date)
    newest = {_engine(state): state for state in in_order}
    first = 1 + len(elsewhere)
    node_of = {engine: node for node, engine in enumerate(newest, first)}  # after those of the GPUs
    nodes = first + len(newest)
    links, design = np.zeros((nodes, nodes)), np.zeros((len(rows), nodes))
    for row, (gpu, state) in enumerate(rows):
        node = node_of[_engine(state)]
        links[gpu, node] = 1
        design[row, [gpu, node]] = 1
    _, groups = connected_components(links, directed=False)
    names = ("power_w",) if new.key.is_idle else ("joules_per_token", "tokens_per_s")
    logs = [[math.log(getattr(state, name)) for name in names] for _, state in rows]
    levels = np.linalg.lstsq(design, np.asarray(logs))[0]
    accepted = max(
        (_date(state) for gpu, state in _accepted(rows) if groups[gpu] == groups[0]), default=""
    )
    here = {_engine(state) for state in _states(new)}
    carried = []
    for engine, state in newest.items():
        node = node_of[engine]
        if engine in here or groups[node] != groups[0] or _date(state) < accepted:
            continue
        figures = [rounded(float(figure)) for figure in np.exp(levels[0] + levels[node])]
        of_tokens = figures if len(figures) > 1 else (None, None)
        carried.append(
            replace(
                state,
                power_w=rounded(math.prod(figures)),
                joules_per_token=of_tokens[0],
                tokens_per_s=of_tokens[1],
            )
        )
    return carried


def _accepted(rows: Sequence[tuple[int, EarlierBaseline]]) -> list[tuple[int, EarlierBaseline]]:
    """The losses that were accepted with a reason, and on which GPU.

    A GPU's first baseline, if no other GPU had run its engine by then, has one for want of a link.
    """
    first = dict(reversed(rows))
    run_before = {
        (gpu, state)
        for gpu, state in rows
        for other, earlier in rows
        if other != gpu and _engine(earlier) == _engine(state) and _date(earlier) <= _date(state)
    }
    return [
        row
        for row in rows
        if row[1].update_reason and (row[1] != first[row[0]] or row in run_before)
    ]


def _date(state: EarlierBaseline) -> str:
    return state.date or ""


def _states(baseline: Baseline) -> list[EarlierBaseline]:
    return [*baseline.history, baseline.as_history]


def _engine(state: EarlierBaseline) -> _Engine:
    return state.vllm, state.settings_under_test
