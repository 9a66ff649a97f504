"""One upgrade on several GPUs: its change in J/token over the fleet, by a random-effects model.

The log ratio of a GPU in a cell is that cell's mean + what the GPU shares in all its cells + the
rest, which holds GPU × cell and the noise of launches; GPUs are a sample. Fitted by REML with
statsmodels. The interval has Student's t with GPUs - 1 degrees of freedom (after Hartung and Knapp
2001, Statistics in Medicine 20, 1771-1782), since so few GPUs say little of how they differ.
"""

import math
import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from pytest_energy.errors import ResultsError, UsageError
from pytest_energy.measure.spread import CONFIDENCE
from pytest_energy.report.gpu_chart import named
from pytest_energy.report.results import Entry, ReportedSide
from pytest_energy.report.table import fitted, wrapped
from pytest_energy.report.words import count, percent

MIN_GPUS = 3
_COLUMNS = "GPU", "J/token, %", "verdict"
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Upgrade:
    """An upgrade as the GPUs saw it.

    Attributes:
        candidate, reference: engines.
        gpu_name: the GPUs' model.
        logs: mean log ratio of J/token by GPU (UUIDs) and cell, the same cells for each.
        verdicts: how many of each, by GPU.
    """

    candidate: str
    reference: str
    gpu_name: str
    logs: dict[tuple[str, ...], dict[str, float]]
    verdicts: dict[tuple[str, ...], Counter[str]]


@dataclass(frozen=True)
class Pooled:
    """Mean log ratio over the fleet, the half width of its 95 % interval, and each GPU's."""

    mean: float
    half: float
    of_gpus: dict[tuple[str, ...], float]


def upgrade(entries: Sequence[Entry]) -> Upgrade:
    """What the runs have found.

    Raises:
        ResultsError: they are not of one upgrade on three GPUs or more of one model.
    """
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    verdicts: dict[tuple[str, ...], Counter[str]] = {}
    engines, names = set(), set()
    for entry in entries:
        if entry.gpu is None or not entry.candidate or not entry.reference:
            continue
        gpus = tuple(sorted(entry.gpu.uuids))
        verdicts.setdefault(gpus, Counter())[entry.verdict or "compared"] += 1
        engines.add((entry.candidate.engine, entry.reference.engine))
        names.add(entry.gpu.name)
        if entry.metric == "joules_per_token":
            log = _mean_log(entry.candidate) - _mean_log(entry.reference)
            found.setdefault(gpus, {}).setdefault(entry.cell.key.canonical, []).append(log)
    if len(found) < MIN_GPUS:
        raise ResultsError(
            f"the files compare engines on {count(len(found), 'GPU')}; pooling needs {MIN_GPUS} or "
            "more.\nGive the results.json of a run on each: --verdicts ONE TWO THREE"
        )
    cells = set.intersection(*(set(of) for of in found.values()))
    if not cells:
        raise ResultsError(
            f"the {len(found)} GPUs have no cell in common.\nGive runs of the same tests."
        )
    if len(engines) > 1 or len(names) > 1:
        several = [f"{new} against {old}" for new, old in engines] if len(engines) > 1 else names
        raise ResultsError(
            f"the files are not of one upgrade on one GPU model: {', '.join(sorted(several))}.\n"
            "Give the results.json of one upgrade."
        )
    (candidate, reference), *_ = engines
    means = {
        gpu: {cell: statistics.fmean(of[cell]) for cell in sorted(cells)}
        for gpu, of in found.items()
    }
    return Upgrade(candidate, reference, names.pop(), means, verdicts)


def _mean_log(side: ReportedSide) -> float:
    return statistics.fmean(math.log(launch.joules_per_token) for launch in side.launches)


def pooled(logs: dict[tuple[str, ...], dict[str, float]]) -> Pooled:
    """The change over the fleet, the mean of its cells.

    Args:
        logs: mean log ratio by GPU and cell, of at least three GPUs with the same cells.

    Raises:
        UsageError: statsmodels is not installed.
    """
    model = _mixed_model()
    names = sorted(next(iter(logs.values())))
    gpus, cells = len(logs), len(names)
    table = np.array([[of[cell] for cell in names] for of in logs.values()])
    own, mean = table.mean(axis=1), float(table.mean())
    error = float(own.std(ddof=1)) / math.sqrt(gpus)  # all there is to know of one cell
    if cells > 1 and np.ptp(table - own[:, None] - table.mean(axis=0) + mean) > _ROUNDING:
        # Each cell against the last, adding up to 0: the first coefficient is the mean of cells.
        contrasts = np.vstack([np.eye(cells - 1), -np.ones(cells - 1)])
        design = np.tile(np.hstack([np.ones((cells, 1)), contrasts]), (gpus, 1))
        groups = np.repeat(np.arange(gpus), cells)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a variance that is 0
            fit = model(table.ravel(), design, groups=groups).fit(reml=True)
        mean = float(fit.fe_params[0])
        between = float(np.asarray(fit.cov_re)[0, 0])  # its own errors are undefined if this is 0
        error = math.sqrt((between + float(fit.scale) / cells) / gpus)
    of_gpus = dict(zip(logs, map(float, own), strict=True))
    quantile = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2))
    return Pooled(mean, quantile * error, of_gpus)


def _mixed_model() -> Any:
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ImportError:
        raise UsageError(
            "--verdicts needs statsmodels, which is not installed.\n"
            "Install it: pip install 'pytest-energy[fleet]'"
        ) from None
    return MixedLM


def lines(of: Upgrade, found: Pooled) -> list[str]:
    """The upgrade in WIDTH columns, the worst GPU first."""
    worst_first = sorted(found.of_gpus, key=lambda gpu: found.of_gpus[gpu], reverse=True)
    texts = [_COLUMNS]
    for gpu in worst_first:
        verdicts = ", ".join(f"{number} {name}" for name, number in of.verdicts[gpu].most_common())
        change = percent(math.exp(found.of_gpus[gpu])).removesuffix(" %")
        texts.append((named(gpu), change, verdicts))
    low, high = (percent(math.exp(found.mean + half)) for half in (-found.half, found.half))
    change = f"{percent(math.exp(found.mean))} ({low.removesuffix(' %')} to {high})"
    worst = f"{named(worst_first[0])}, {percent(math.exp(found.of_gpus[worst_first[0]]))}"
    number = count(len(of.logs[worst_first[0]]), "cell")
    title = f"{of.candidate} against {of.reference} on {len(of.logs)} GPUs, {of.gpu_name}, {number}"
    conclusion = f"J/token over the fleet: {change}, by a random-effects model; worst: {worst}"
    return [wrapped(title), *fitted(texts), wrapped(conclusion)]
