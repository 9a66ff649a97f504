"""What limits a cell: which steps hold prompts, which run outside CUDA graphs, what the host costs.

All from recordings of the offline engine: a server's steps are not seen. Only V1 engines are read,
whose prompts share steps with what others generate, if their captured sizes are known. Pure.

A step's prompts are its tokens less those of the step before, plus the requests that ended there.
With asynchronous scheduling the host launches step k while the GPU runs step k − 1, and takes the
results of k − 1 only then. So the step *before* a prompt returns late if launching the prompt's
step takes the host longer than the GPU needs. That time is given to the prompt's step.

Who decides a step's time shows in how much it varies: in the launches in recordings/ steps of a
kind (with as many prompts) vary by 0.2 to 7 % if the GPU does, by 8 to 66 % if the host does
(robust spread). Being outside a graph is not enough: a 70B model's prompts are, and the GPU
decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_energy.measure.window import Window
from pytest_energy.recording.recording import Recording
from pytest_energy.recording.series import FAR

_MOST_CAPTURED = 512  # tokens, of vLLM's default: min(2 × max_num_seqs, 512)
_WITHOUT_GRAPHS = "NONE"
_VARIES = 0.075  # robust relative spread of a kind of step
_FEW = 8  # steps of a kind; their spread says little
_HOST_BOUND = 0.05  # of the time; quiet cells have 0 to 2 %, others 6 % and more
_IQR_TO_DEVIATION = 1.349


@dataclass(frozen=True)
class StepTimes:
    """What the steps of a launch held, and how long they took. Shares are of 1.

    Attributes:
        captured_tokens: the largest step that runs in a CUDA graph; 0 without graphs.
        steps_per_token: engine steps for each token that all requests together got.
        steps_with_prompt, steps_with_prompts: share of the steps that hold at least one prompt, at
            least two.
        steps_outside: share of the steps outside graphs.
        time_outside: share of the time that they take, with what they hold the step before back.
        time_with_prompt: share of the time of steps with a prompt, likewise.
        host_bound: share of the time of kinds of steps whose times vary as only the host's do.
        step_ms: the median step without a prompt; None if each holds one.
        prompt_ms: what a prompt adds: a step with one and the step before it, less two without; its
            own step included. None without such steps.
    """

    captured_tokens: int
    steps_per_token: float
    steps_with_prompt: float
    steps_with_prompts: float
    steps_outside: float
    time_outside: float
    time_with_prompt: float
    host_bound: float
    step_ms: float | None
    prompt_ms: float | None

    @property
    def is_host_bound(self) -> bool:
        """Whether the pace of the host decides enough of the time to vary between launches."""
        return is_host_bound(self.host_bound)


def is_host_bound(share: float) -> bool:
    """Whether so large a share of host-bound time makes launches differ."""
    return share > _HOST_BOUND


def cached_share(periods: Sequence[Recording]) -> float | None:
    """Of the tokens of a launch's prompts those from the prefix cache; None if not counted."""
    counted = [period.prefix_cache for period in periods if period.prefix_cache is not None]
    prompt_tokens = sum(period.prompt_tokens for period in counted)
    if len(counted) < len(periods) or not prompt_tokens:
        return None
    return sum(period.cached_tokens for period in counted) / prompt_tokens


def computed_tokens(input_tokens: int, cached: float | None) -> int:
    """Tokens of a prompt that are computed if such a share of them is cached; None for none."""
    return input_tokens - round(input_tokens * (cached or 0.0))


def in_chunks(recording: Recording, of_prompt: int) -> bool:
    """Whether a prompt's step has no room for so many tokens and what the others generate."""
    lengths = recording.key.workload.fixed_lengths
    generated = recording.key.batch_size - 1 if lengths is None or lengths[1] > 1 else 0
    budget = _setting(_sources(recording), "max_num_batched_tokens")
    return budget is not None and of_prompt + generated > budget


def step_times(windows: Sequence[Window]) -> StepTimes | None:
    """What limits a launch, over all its windows.

    None if the engine does not show its steps, if requests differ in length, if it is not known
    which steps hold prompts or run in CUDA graphs or what a prefix cache served, or if prompts are
    computed in chunks, of which only the last one shows. The last step of a window and the first of
    the next count as if they followed each other, one pair of thousands.
    """
    first = windows[0].recording
    lengths, captured = first.key.workload.fixed_lengths, captured_tokens(first)
    if first.key.engine != "offline" or first.environment.is_v0:
        return None
    if lengths is None or captured is None:
        return None
    steps = [_steps(window) for window in windows]
    took_ms, tokens, prompts = (np.concatenate([s[i] for s in steps]) for i in range(3))
    if not tokens.sum() or not took_ms.sum():
        return None
    cached = cached_share([window.recording for window in windows])
    if first.key.workload.shared_prefix_tokens and cached is None:
        return None
    of_prompt = computed_tokens(lengths[0], cached)
    if in_chunks(first, of_prompt):
        return None
    outside = prompts * (of_prompt - 1) + tokens > captured
    return _of_steps(took_ms, tokens, prompts, outside, captured)


def captured_tokens(recording: Recording) -> int | None:
    """The largest step, in tokens, that runs in a CUDA graph; 0 without graphs.

    As the engine resolved it: None if it did not say. Of recordings that do not hold that, as vLLM
    derives it.
    """
    sources = _sources(recording)
    mode = next((str(s["cudagraph_mode"]) for s in sources if s.get("cudagraph_mode")), "")
    eager = any(source.get("enforce_eager") for source in sources)
    if eager or mode.upper() == _WITHOUT_GRAPHS:
        return 0
    for source in sources:
        listed = source.get("cudagraph_capture_sizes")
        sizes = [size for size in listed if type(size) is int] if isinstance(listed, list) else []
        if sizes:
            return max(0, min(max(sizes), FAR))
    largest, batch_size = (
        _setting(sources, name) for name in ("max_cudagraph_capture_size", "max_num_seqs")
    )
    if largest is not None:
        return largest
    if "max_cudagraph_capture_size" in recording.environment.engine_settings:
        return None
    return _MOST_CAPTURED if batch_size is None else min(2 * batch_size, _MOST_CAPTURED)


def _sources(recording: Recording) -> list[Mapping[str, Any]]:
    """Where settings stand, those that the engine resolved first."""
    environment = recording.environment
    found: list[Mapping[str, Any]] = [
        environment.engine_settings,
        environment.engine_args_under_test,
        recording.key.engine_args,
    ]
    nested = [source.get("compilation_config") for source in found]
    return found + [config for config in nested if isinstance(config, Mapping)]


def _setting(sources: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """A setting that is a number; None if no source has it."""
    given = [source[name] for source in sources if type(source.get(name)) is int]
    return max(0, min(given[0], FAR)) if given else None


def _steps(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the steps that returned in a window: ms that each took, its tokens and its prompts."""
    counter = window.recording.tokens
    time_ns = np.asarray(counter.time_ns, dtype=np.int64)
    tokens = np.asarray(counter.tokens, dtype=np.int64)
    finished = np.asarray(counter.finished, dtype=np.int64)
    start_ns, end_ns = window.span_ns
    inside = (time_ns[1:] > start_ns) & (time_ns[1:] <= end_ns)
    prompts = np.maximum(0, tokens[1:] - tokens[:-1] + finished[:-1])
    return (np.diff(time_ns) / 1e6)[inside], tokens[1:][inside], prompts[inside]


def _of_steps(
    took_ms: np.ndarray,
    tokens: np.ndarray,
    prompts: np.ndarray,
    outside: np.ndarray,
    captured: int,
) -> StepTimes:
    kind = np.minimum(prompts, 2)
    usual_ms = _usual_ms(took_ms, kind)
    # Step k holds back the return of step k − 1 if launching it takes the host longer.
    heavier = (prompts[1:] > prompts[:-1]) | (outside[1:] & ~outside[:-1])
    late_ms = np.maximum(0.0, took_ms[:-1] - usual_ms[kind[:-1]])
    given_ms = np.r_[0.0, np.where(heavier, late_ms, 0.0)]
    cost_ms = took_ms + given_ms
    cost_ms[:-1] -= given_ms[1:]
    total_ms = float(took_ms.sum())
    single = (prompts[1:] == 1) & (prompts[:-1] == 0)
    both_ms = (took_ms[1:] + took_ms[:-1])[single]
    return StepTimes(
        captured_tokens=captured,
        steps_per_token=len(took_ms) / float(tokens.sum()),
        steps_with_prompt=float((prompts > 0).mean()),
        steps_with_prompts=float((prompts > 1).mean()),
        steps_outside=float(outside.mean()),
        time_outside=float(cost_ms[outside].sum()) / total_ms,
        time_with_prompt=float(cost_ms[prompts > 0].sum()) / total_ms,
        host_bound=_host_bound_ms(cost_ms, prompts) / total_ms,
        step_ms=float(usual_ms[0]) if (prompts == 0).any() else None,
        prompt_ms=float(both_ms.mean() - usual_ms[0]) if single.any() else None,
    )


def _host_bound_ms(cost_ms: np.ndarray, prompts: np.ndarray) -> float:
    """Time of the kinds of steps that vary with the host; of rare kinds, as of single prompts."""
    with_one = _spread(cost_ms[prompts == 1])
    total = 0.0
    for count in np.unique(prompts):
        times = cost_ms[prompts == count]
        spread = _spread(times)
        if spread is None:
            spread = with_one if count else None
        if spread is not None and spread > _VARIES:
            total += float(times.sum())
    return total


def _spread(times_ms: np.ndarray) -> float | None:
    """Robust relative standard deviation; None for few times."""
    if len(times_ms) < _FEW:
        return None
    low, middle, high = np.percentile(times_ms, (25, 50, 75))
    return float((high - low) / _IQR_TO_DEVIATION / middle) if middle > 0 else None


def _usual_ms(took_ms: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The median step with no, one and more prompts that no heavier one follows; shape (3,)."""
    following = np.r_[kind[1:], 0]
    usual = np.full(3, float(np.median(took_ms)))
    for prompts in range(3):
        undisturbed = took_ms[(kind == prompts) & (following <= prompts)]
        if len(undisturbed):
            usual[prompts] = np.median(undisturbed)
    return usual
