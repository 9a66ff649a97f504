"""Recording → whole cycles: when each began and ended, and what it held. Pure.

    tokens     0 ······ C ······ 2C ······ 3C ······ 4C ······ 5C ··  stop   C = batch × output
               │ warm-up │ cycle 1 │ cycle 2 │ cycle 3 │ cycle 4 │        │ hot, no load │
    energy          E(t₁)     E(t₂)     E(t₃)     E(t₄)     E(t₅)           static power

A cycle's ends fall between counter updates, so the energy there is interpolated. If requests
differ in length there are no such cycles, and *blocks* take their place: equal numbers of finished
requests (batch means). A block ends with the step that finishes its last request and holds one pass
of the requests (pytest_energy.cell.workload). Blocks hold nearly equal work but not equal numbers
of tokens, so J/token is the ratio of their sums. Elsewhere "cycle" means either.

    finished   0 ··· B ······ B+P ······ B+2P ······ B+3P ······ B+4P ··  stop     B = batch size
               │  warm-up     │ block 1  │ block 2   │ block 3   │         P = requests of a pass

Of an engine at idle they are equal parts of the time, and hold no tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_energy.cell import cell
from pytest_energy.measure.metric import Metric
from pytest_energy.recording.counters import span_ns, update_times_ns
from pytest_energy.recording.recording import GpuTrace, Recording

IDLE_PARTS = 10
FIGURES = 1e-9, 1e12  # the J/token, W and tokens/s of any engine lie within


@dataclass(frozen=True)
class Cycles:
    """Whole cycles, or blocks, in steady state; all of shape (cycles,).

    `tokens` are equal in cycles, and not in blocks.
    """

    energy_j: tuple[float, ...]
    time_s: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def weights(self) -> tuple[int, ...]:
        """The tokens of each if they differ; empty if they do not."""
        return self.tokens if len(set(self.tokens)) > 1 else ()

    @property
    def joules_per_token(self) -> tuple[float, ...]:
        """Energy of each cycle over its tokens."""
        return tuple(
            energy / tokens for energy, tokens in zip(self.energy_j, self.tokens, strict=True)
        )

    @property
    def power_w(self) -> tuple[float, ...]:
        """Mean power in each cycle."""
        return tuple(energy / time for energy, time in zip(self.energy_j, self.time_s, strict=True))

    def of(self, metric: Metric) -> tuple[float, ...]:
        """The figure of each cycle."""
        name = "power_w" if metric is Metric.IDLE_POWER_W else metric.value
        return tuple(getattr(self, name))

    @property
    def tokens_per_s(self) -> tuple[float, ...]:
        """Tokens generated per second in each cycle."""
        return tuple(tokens / time for tokens, time in zip(self.tokens, self.time_s, strict=True))


def request_lengths(recording: Recording) -> Sequence[tuple[int, int]]:
    """Tokens in and out of the requests; one entry if all are alike."""
    if recording.requests is not None:
        return tuple(
            zip(recording.requests.input_tokens, recording.requests.output_tokens, strict=True)
        )
    lengths = recording.key.workload.fixed_lengths
    assert lengths is not None
    return (lengths,)


def whole_cycles(recording: Recording) -> tuple[int, float]:
    """How many whole cycles after the warm-up a recording holds, and their time in seconds."""
    boundaries_ns, _ = boundaries(recording)
    if not len(boundaries_ns):
        return 0, 0.0
    return len(boundaries_ns) - 1, float(np.ptp(boundaries_ns)) / 1e9


def boundaries(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """When the warm-up and each whole cycle after it ended, and the tokens generated until then.

    Shapes (cycles + 1,); empty if not even the warm-up is over.
    """
    time_ns = np.asarray(recording.tokens.time_ns, dtype=np.int64)
    total = np.cumsum(np.asarray(recording.tokens.tokens, dtype=np.int64))
    if not len(total):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    ends = _cycle_ends if recording.requests is None else _block_ends
    ends = _idle_ends if recording.key.is_idle else ends
    ends_ns, tokens = ends(recording, time_ns, total)
    for gpu in recording.gpus:
        if gpu.counter.changed_ns:
            first, last = _counted_ns(recording, gpu)
            inside = (ends_ns >= first) & (ends_ns <= last)
            ends_ns, tokens = ends_ns[inside], tokens[inside]
    return ends_ns, tokens


def _counted_ns(recording: Recording, gpu: GpuTrace) -> tuple[int, int]:
    """The time whose energy can be interpolated.

    Not between two updates of which one lies outside the load: power is not even there.
    """
    if recording.key.is_idle:
        return span_ns(gpu)
    updates = update_times_ns(gpu)
    under_load = updates[
        (updates >= recording.tokens.time_ns[0]) & (updates <= recording.load_stopped_ns)
    ]
    return (int(under_load[0]), int(under_load[-1])) if len(under_load) else (1, 0)


def _cycle_ends(
    recording: Recording, time_ns: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Times at which the token counter passed C, 2C, 3C …; the first cycle is warm-up."""
    ((_, output_tokens),) = request_lengths(recording)
    cycle_tokens = recording.key.batch_size * output_tokens
    # Within a step the tokens come about evenly. Times are relative, so that no ns is rounded away.
    marks = np.arange(1, total[-1] // cycle_tokens + 1) * cycle_tokens
    relative_ns = np.interp(marks, total, (time_ns - time_ns[0]).astype(float))
    return np.asarray(time_ns[0] + np.rint(relative_ns).astype(np.int64)), marks


def _idle_ends(
    recording: Recording, time_ns: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Equal parts of the time that an engine was at idle; empty if it was not for long enough."""
    spent_ns = time_ns[-1] - time_ns[0]
    if spent_ns < cell.IDLE_S * 1e9:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    ends_ns = time_ns[0] + np.arange(IDLE_PARTS + 1) * spent_ns // IDLE_PARTS
    return ends_ns, np.zeros(IDLE_PARTS + 1, dtype=np.int64)


def _block_ends(
    recording: Recording, time_ns: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The steps in which request B + P, B + 2P, … finished.

    The first wave of B and the pass after it are warm-up.
    """
    assert recording.requests is not None
    batch_size = recording.key.batch_size
    pass_requests = len(recording.requests.output_tokens)
    finished = np.cumsum(np.asarray(recording.tokens.finished, dtype=np.int64))
    blocks = min((int(finished[-1]) - batch_size) // pass_requests, len(finished))
    marks = batch_size + pass_requests * np.arange(1, blocks + 1)
    steps = np.searchsorted(finished, marks)
    ends_ns, tokens = time_ns[steps], total[steps]
    # No engine does this, a damaged recording may.
    if (np.diff(ends_ns) <= 0).any() or (np.diff(tokens) <= 0).any():
        return ends_ns[:0], tokens[:0]
    return ends_ns, tokens
