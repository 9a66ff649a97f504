"""In words: how far the host decides a cell's pace, and what makes a cell slower."""

import math
from collections.abc import Sequence

from pytest_energy.measure.limits import computed_tokens, is_host_bound
from pytest_energy.measure.measurement import Measurement
from pytest_energy.report.results import ReportedSlowdown
from pytest_energy.verdict.slowdown import CLOCK, HOST, MORE_STEPS, WAITS, Slowdown, Steps

_SIZES = 64  # captured sizes are multiples of 8, then of 16; a multiple of both


def host_bound(launches: Sequence[Measurement]) -> tuple[list[str], list[str]]:
    """That a cell's pace is the host's, and what to set; both empty if it is not.

    Args:
        launches: valid measurements of one cell.
    """
    times = [m.step_times for m in launches if m.step_times is not None]
    share = math.fsum(t.host_bound for t in times) / len(times) if times else 0.0
    if len(times) < len(launches) or not is_host_bound(share):
        return [], []
    key = launches[0].key
    lengths = key.workload.fixed_lengths
    assert lengths is not None
    of_prompt = computed_tokens(lengths[0], launches[0].cached_share)
    captured, prompt_step = times[0].captured_tokens, of_prompt + key.batch_size - 1
    outside = math.fsum(t.time_outside for t in times) / len(times)
    why, ways = f"inside its CUDA graphs of {captured} tokens too", []
    if not captured:
        why = "it runs without CUDA graphs"
    elif prompt_step > captured:
        why = f"a step with a prompt has {prompt_step} tokens, CUDA graphs hold {captured}"
        ways = [f"set max_cudagraph_capture_size={_SIZES * math.ceil(prompt_step / _SIZES)}"]
        shorter = captured - key.batch_size + 1 + lengths[0] - of_prompt
        ways += [f"or prompts of at most {shorter} tokens"] * (shorter > 0)
    elif outside > share / 2:
        why = f"steps with several prompts outgrow CUDA graphs of {captured} tokens"
        ways = [f"set max_cudagraph_capture_size={2 * captured}"]
    line = (
        f"{100 * share:.0f} % of its time is host-bound, so that launches differ as the host does"
    )
    return [f"{line}: {why}"], [", ".join(ways)] if ways else []


def slower_because(found: Slowdown) -> ReportedSlowdown:
    """What made the candidate slower, with the figures of both sides."""
    before, after = found.reference, found.candidate
    figures = [
        _instead("{} ms a step", after.step_ms, before.step_ms),
        _instead("a prompt adds {} ms", after.prompt_ms, before.prompt_ms),
    ]
    if found.cause == MORE_STEPS:
        figures = [_instead("{} a token", after.per_token, before.per_token), *figures]
    elif found.cause == HOST:
        figures.append(_host(after, before))
    elif found.cause == CLOCK:
        figures.append(_instead("{} MHz", after.clock_mhz, before.clock_mhz))
    elif found.cause == WAITS:
        figures.append("power fell with the pace")
    return ReportedSlowdown(found.cause, ", ".join(filter(None, figures)))


def _instead(pattern: str, after: float | None, before: float | None) -> str:
    if after is None or before is None or not before or abs(after / before - 1) < 0.01:
        return ""
    now, then = (f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in (after, before))
    return f"{pattern.format(now)} instead of {then}"


def _host(after: Steps, before: Steps) -> str:
    if round(after.host_bound, 2) == round(before.host_bound, 2):
        return ""
    shares = f"{100 * after.host_bound:.0f} % of the time host-bound instead of"
    return f"{shares} {100 * before.host_bound:.0f} %"
