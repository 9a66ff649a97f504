"""In words: how tokens spread over the experts of a mixture."""

from pytest_energy.recording.experts import ExpertRouting
from pytest_energy.report.results import Results
from pytest_energy.verdict.judgement import Compared


def in_words(found: Compared) -> str:
    """Of the candidate's newest launch; empty if its model has no experts."""
    seen = found.candidate.launches[-1].environment.experts if found.candidate else None
    return told(seen) if seen else ""


def lines(results: Results) -> list[str]:
    """One line per cell and engine that has experts."""
    found: dict[str, None] = {}
    for entry in results.entries:
        if entry.candidate and entry.candidate.experts:
            seen = told(entry.candidate.experts)
            found[f"{entry.cell.name}, {entry.engines[1]}: {seen}"] = None
    return list(found)


def told(seen: ExpertRouting) -> str:
    """The effective number of experts of the mean and of the least even layer."""
    if seen.effective is None or seen.least_effective is None:
        return f"how tokens spread over {seen.experts} experts is not known"
    return (
        f"tokens spread as over {seen.effective:.3g} of {seen.experts} experts "
        f"({seen.least_effective:.3g} in the least even layer), {seen.per_token} each"
    )
