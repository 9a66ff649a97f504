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

from pytest_energy.store.baseline import Baseline, EarlierBaseline
from pytest_energy.store.figures import rounded

_Engine = tuple[str | None, tuple[str, ...]]  # version, settings under test
_METRICS = (("joules_per_token", "J/token", 1, min), ("tokens_per_s", "tokens/s", -1, max))


class Drift(NamedTuple):
    """What holds an update up.

    Attributes:
        losses: that reach the tolerance, one line per metric.
        unlinked: versions of the engines that other GPUs have run, if neither this one is among
            them nor this GPU has an earlier baseline.
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
    if not before and known and _engine(new.as_history) not in known:
        return Drift(unlinked=tuple(sorted({str(vllm) for vllm, _ in known})))
    losses = []
    for metric, unit, worse, best in _METRICS:
        if not before or metric not in tolerance:
            continue
        figures = {state: float(getattr(state, metric)) for state, _ in before}
        for name, (old, where) in (
            ("best", best(before, key=lambda entry: figures[entry[0]])),
            ("oldest", min(before, key=lambda entry: entry[0].date or "")),
        ):
            change = getattr(new.summary, metric) / figures[old] - 1
            if worse * change >= tolerance[metric]:
                losses.append(
                    f"{unit} {100 * change:+.1f} % against the {name} entry{where} "
                    f"({figures[old]:g}, vLLM {old.vllm}, {old.date})"
                )
                break
    return Drift(tuple(losses))


def _carried(new: Baseline, elsewhere: Sequence[Baseline]) -> list[EarlierBaseline]:
    """The engines that other GPUs alone have run, with what they would take on this one."""
    rows = [(gpu, state) for gpu, of in enumerate((new, *elsewhere)) for state in _states(of)]
    newest = {_engine(state): state for _, state in sorted(rows, key=lambda row: row[1].date or "")}
    first = 1 + len(elsewhere)
    node_of = {engine: node for node, engine in enumerate(newest, first)}  # after those of the GPUs
    nodes = first + len(newest)
    links, design = np.zeros((nodes, nodes)), np.zeros((len(rows), nodes))
    for row, (gpu, state) in enumerate(rows):
        node = node_of[_engine(state)]
        links[gpu, node] = 1
        design[row, [gpu, node]] = 1
    _, groups = connected_components(links, directed=False)
    logs = [[math.log(state.joules_per_token), math.log(state.tokens_per_s)] for _, state in rows]
    levels = np.linalg.lstsq(design, np.asarray(logs))[0]
    accepted = max((state.date or "" for _, state in rows if state.update_reason), default="")
    here = {_engine(state) for state in _states(new)}
    carried = []
    for engine, state in newest.items():
        node = node_of[engine]
        if engine in here or groups[node] != groups[0] or (state.date or "") < accepted:
            continue
        energy, rate = (rounded(float(figure)) for figure in np.exp(levels[0] + levels[node]))
        carried.append(
            replace(
                state, joules_per_token=energy, tokens_per_s=rate, power_w=rounded(energy * rate)
            )
        )
    return carried


def _states(baseline: Baseline) -> list[EarlierBaseline]:
    return [*baseline.history, baseline.as_history]


def _engine(state: EarlierBaseline) -> _Engine:
    return state.vllm, state.settings_under_test
