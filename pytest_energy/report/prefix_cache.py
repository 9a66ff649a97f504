"""In words: what share of the prompts' tokens came from the prefix cache."""

from collections import Counter
from collections.abc import Sequence

from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.spread import mean_of_known
from pytest_energy.report.results import ReportedSide, ReportedSlowdown, Results
from pytest_energy.report.words import count
from pytest_energy.verdict.attribution import CachedShares
from pytest_energy.verdict.judgement import Compared

MORE_WORK = "more work"
CACHED = "cached_prompt_percent"  # of the load, not a version or setting


def in_words(found: Compared) -> str:
    """The share of both sides; empty if it is unknown, or no cell of this kind is served any."""
    if found.candidate is None or found.candidate.cached_share is None:
        return ""
    share, workload = found.candidate.cached_share, found.candidate.launches[0].key.workload
    before = found.reference.cached_share if found.reference else None
    if not (workload.shared_prefix_tokens or share or before):
        return ""
    return _told(share, before, found.other)


def lines(results: Results) -> list[str]:
    """The shares of entries, one line per cell and engine; of cells without any none."""
    found: dict[str, None] = {}
    for entry in results.entries:
        share, before = _share(entry.candidate), _share(entry.reference)
        shared = entry.cell.key.workload.shared_prefix_tokens
        if share is not None and (shared or share or before):
            told = _told(share, before, "baseline" if entry.is_of_baseline else "reference")
            found[f"{entry.cell.name}, {entry.engines[1]}: {told}"] = None
    return list(found)


def more_work(shares: CachedShares, other: str) -> ReportedSlowdown:
    """As what made the candidate lose, whose cache served less."""
    served = f"the prefix cache served {_percent(shares.candidate)} of prompt tokens"
    return ReportedSlowdown(MORE_WORK, f"{served}, {other} {_percent(shares.reference)}")


def change(shares: CachedShares) -> dict[str, str]:
    """As one of the things that differ, by its name."""
    return {CACHED: f"{100 * shares.reference:.0f} → {100 * shares.candidate:.0f}"}


def unserved(launches: Sequence[Measurement]) -> list[str]:
    """That caches served nothing of the shared prefix for which the cell asks."""
    found = Counter(_unserved(m) for m in launches if _is_unserved(m))
    return [f"{line} ({count(times, 'launch', 'launches')})" for line, times in found.items()]


def _is_unserved(measured: Measurement) -> bool:
    """A running server is asked without arguments."""
    key = measured.key
    asked = key.engine_args.get("enable_prefix_caching", True) is not False
    return bool(asked and key.workload.shared_prefix_tokens and measured.cached_share == 0)


def _unserved(measured: Measurement) -> str:
    shared = measured.key.workload.shared_prefix_tokens
    settings = measured.environment.engine_settings
    if settings.get("enable_prefix_caching") is False:
        why = "the engine runs without prefix caching"
    else:
        block = settings.get("block_size")
        too_short = isinstance(block, int) and shared is not None and shared < block
        why = (
            f"its blocks have {block} tokens, and the prefix is shorter"
            if too_short
            else "prefix caching is on, but no prompt found its prefix in the cache"
        )
    return f"the prefix cache served none of the {shared} tokens that its prompts share: {why}"


def _told(share: float, before: float | None, other: str) -> str:
    against = "" if before is None else f" ({other} {_percent(before)})"
    return f"{_percent(share)} of prompt tokens from the prefix cache{against}"


def _share(side: ReportedSide | None) -> float | None:
    """Mean over a side's launches; None if it is unknown."""
    return mean_of_known(launch.cached_share for launch in (side.launches if side else ()))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
