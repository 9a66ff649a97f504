"""Energy of prefill and decode: J per input and per output token, from differing mixes. Pure.

    energy = J per input token × prompt tokens computed + J per output token × tokens generated

Static power × time is no third term: time is such a sum, too, so that no mix tells it from the two
others; each figure holds its share. The batch size is one, because decoding reads the weights once
a step for all requests. There are three ways to tell them:

- *Prompts alone*: a request for one token ends with its prompt's last step, so that all is prefill.
- *Cells* of one engine, GPU and batch size whose requests differ in length: J/token is a straight
  line over the input tokens per output token, with launches as its points.
- *Windows* between the energy counter's updates (half a second) within each launch: one may hold
  two prompts, the next three. An update lies anywhere between two reads. What windows hold is
  therefore its mean over these times: the error that is left is independent of it, so that it
  does not flatten the regression (Berkson 1950, J. Am. Stat. Assoc. 45:164).
  Launches are the sample: the interval is that of the mean over launches.

Refused is what these do not tell: mixes too alike, cells that the host holds up (their time is no
sum over tokens), cells that lie on no line, and figures with an interval of half their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc, stdtrit

from pytest_energy.measure.limits import in_chunks
from pytest_energy.measure.spread import CONFIDENCE
from pytest_energy.measure.window import Window
from pytest_energy.recording.counters import update_times_ns

MIN_LAUNCHES = 3  # of a cell
_APART = 2.0  # the largest input tokens per output token over the smallest
_DIFFERENT = 0.25  # prompts, of how many windows hold: standard deviation at equal output
_WIDEST = 0.5  # half an interval over its figure
_NO_LINE = 0.01  # p of the lack of fit
_FEW = 10  # windows of a launch
_WITHIN = (np.arange(8) + 0.5) / 8  # times between the reads around an update


@dataclass(frozen=True)
class Mix:
    """How the energy of one launch's windows follows what they hold.

    Attributes:
        joules_per_input_token, joules_per_output_token: least squares, J.
        prompts: standard deviation of the prompts that windows of equal output hold.
    """

    joules_per_input_token: float
    joules_per_output_token: float
    prompts: float


@dataclass(frozen=True)
class Figure:
    """J per token with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PrefillDecode:
    """Energy per input token that is computed, and per output token, at one batch size, J.

    That per output token is None for prompts alone.
    """

    joules_per_input_token: Figure
    joules_per_output_token: Figure | None = None


@dataclass(frozen=True)
class CellLaunches:
    """Launches of one cell whose requests are all alike.

    Attributes:
        input_tokens, output_tokens: of each request.
        joules_per_token: of each launch.
        host_bound: whether the host holds up any of them.
    """

    input_tokens: int
    output_tokens: int
    joules_per_token: tuple[float, ...]
    host_bound: bool

    @property
    def mix(self) -> float:
        """Input tokens per output token."""
        return self.input_tokens / self.output_tokens


def mix_of(windows: Sequence[Window]) -> Mix | None:
    """How a launch's energy follows its mix of input and output tokens.

    None if it is not known which step computed which prompt tokens (a server, V0, lengths that
    vary, prompts in chunks, a prefix cache), on several GPUs, or for few counter updates.
    """
    first = windows[0].recording
    lengths, arguments = first.key.workload.fixed_lengths, first.key.engine_args
    if (
        lengths is None
        or len(first.gpus) > 1
        or first.key.engine != "offline"
        or first.environment.is_v0
        or arguments.get("enable_prefix_caching") is not False
        or in_chunks(first, lengths[0])
    ):
        return None
    parts = [_between_updates(window, lengths[0]) for window in windows]
    held, energy_j = (np.concatenate([part[i] for part in parts]) for i in range(2))
    tokens_in, tokens_out = held.T
    if len(held) < _FEW or not tokens_out.any():
        return None
    apart = tokens_in - tokens_out * (tokens_in @ tokens_out) / (tokens_out @ tokens_out)
    per_token, *_ = np.linalg.lstsq(held, energy_j, rcond=None)
    prompts = math.sqrt(float((apart**2).mean())) / lengths[0]
    return Mix(float(per_token[0]), float(per_token[1]), prompts)


def _between_updates(window: Window, input_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output tokens between updates, and J; shapes (windows, 2) and (windows,)."""
    (gpu,), counter = window.recording.gpus, window.recording.tokens
    updates = update_times_ns(gpu)
    inside = (updates >= window.span_ns[0]) & (updates <= window.span_ns[1])
    before, after, energy_mj = (
        np.asarray(values, dtype=np.int64)[inside]
        for values in (gpu.counter.unchanged_ns, gpu.counter.changed_ns, gpu.counter.energy_mj)
    )
    time_ns = np.asarray(counter.time_ns, dtype=np.int64)
    tokens = np.asarray(counter.tokens, dtype=np.int64)
    finished = np.asarray(counter.finished, dtype=np.int64)
    prompts = np.r_[tokens[:1], np.maximum(0, tokens[1:] - tokens[:-1] + finished[:-1])]
    # Relative times, so that no ns is rounded away; shape (updates, times between its reads).
    possible = (before - time_ns[0])[:, None] + (after - before)[:, None] * _WITHIN
    until = [
        np.interp(possible, time_ns - time_ns[0], np.cumsum(counts)).mean(axis=1)
        for counts in (input_tokens * prompts, tokens)
    ]
    return np.diff(np.stack(until, axis=1), axis=0), np.diff(energy_mj) / 1e3


def of_windows(launches: Sequence[Mix]) -> PrefillDecode | str:
    """The estimate from within launches of one cell, or why there is none."""
    if len(launches) < MIN_LAUNCHES:
        return f"{MIN_LAUNCHES} launches needed, {len(launches)} found"
    prompts = float(np.mean([launch.prompts for launch in launches]))
    if prompts < _DIFFERENT:
        return (
            "windows between counter updates hold equally many prompts "
            f"(to {prompts:.2f}; they must differ by {_DIFFERENT})"
        )
    inputs = [launch.joules_per_input_token for launch in launches]
    outputs = [launch.joules_per_output_token for launch in launches]
    return _told(_mean(inputs), _mean(outputs))


def _mean(values: Sequence[float]) -> Figure:
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return _figure(mean, error, len(values) - 1)


def _figure(value: float, error: float, degrees: float) -> Figure:
    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error
    return Figure(value, value - half, value + half)


def of_prompts(cell: CellLaunches) -> PrefillDecode | str:
    """The energy of a cell of requests for one token, or why it is not told."""
    launches = cell.joules_per_token
    if len(launches) < MIN_LAUNCHES:
        return f"{MIN_LAUNCHES} launches needed, {len(launches)} found"
    return _told(_mean([joules / cell.mix for joules in launches]), None)


def _told(inputs: Figure, outputs: Figure | None) -> PrefillDecode | str:
    for figure, name in ((inputs, "input"), (outputs, "output")):
        if figure is None:
            continue
        if figure.low <= 0 or figure.high - figure.value > _WIDEST * figure.value:
            return (
                f"J per {name} token is not told: {figure.value:.3g}, 95 % interval "
                f"{figure.low:.3g} to {figure.high:.3g}, more than half of it either way"
            )
    return PrefillDecode(inputs, outputs)


def of_cells(cells: Sequence[CellLaunches]) -> PrefillDecode | str:
    """The line through cells that differ in their lengths alone, or why there is none.

    Args:
        cells: two or more, of one engine, GPU and batch size.
    """
    mixes = np.array([cell.mix for cell in cells])
    few = min(len(cell.joules_per_token) for cell in cells)
    if few < MIN_LAUNCHES:
        return f"{MIN_LAUNCHES} launches of each cell needed, {few} found"
    if mixes.max() < _APART * mixes.min():
        return (
            f"input tokens per output token must differ by a factor of {_APART:g}, "
            f"not of {mixes.max() / mixes.min():.2g}"
        )
    if held := [f"{c.input_tokens}/{c.output_tokens}" for c in cells if c.host_bound]:
        return f"the host decides the pace of {', '.join(held)}, and so what a prompt takes"
    return _line(cells, mixes)


def _line(cells: Sequence[CellLaunches], mixes: np.ndarray) -> PrefillDecode | str:
    """Weighted least squares: launches of a cell vary by a share of its J/token, equal for all."""
    counts = np.array([len(cell.joules_per_token) for cell in cells])
    means = np.array([np.mean(cell.joules_per_token) for cell in cells])
    squares = math.fsum(
        float(((np.array(cell.joules_per_token) / mean - 1) ** 2).sum())
        for cell, mean in zip(cells, means, strict=True)
    )
    degrees = int(counts.sum()) - len(cells)
    variance = squares / degrees
    design = np.stack([mixes, np.ones(len(cells))], axis=1) * (np.sqrt(counts) / means)[:, None]
    target = np.sqrt(counts)
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    missed, spare = float(((target - design @ coefficients) ** 2).sum()), len(cells) - 2
    if spare and missed > 0:
        p = float(fdtrc(spare, degrees, missed / spare / variance)) if variance else 0.0
        if p < _NO_LINE:
            return f"J/token is no straight line over these cells (lack of fit, p = {p:.1g})"
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    inputs, outputs = (
        _figure(float(value), float(error), degrees)
        for value, error in zip(coefficients, errors, strict=True)
    )
    return _told(inputs, outputs)
