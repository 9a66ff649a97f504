"""The report as one HTML file, light and dark, without scripts or network access."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from pytest_energy.report import launches, summary
from pytest_energy.report.gallery import Section
from pytest_energy.report.pictures import DARK, LIGHT, printable
from pytest_energy.report.results import Entry, Results

_MAX_STATES = 200
_MAX_LINES = 1000


def page(results: Results, sections: Sequence[Section], not_drawn: int) -> str:
    """The whole file.

    Args:
        results: of the report.
        sections: pictures by group.
        not_drawn: how many groups have none.
    """
    environment = Environment(
        loader=PackageLoader("pytest_energy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    states = summary.history(results)
    history = states[-_MAX_STATES:]
    return printable(
        environment.get_template("report.html.j2").render(
            head=summary.headline(results),
            engines=summary.engines(results),
            notes=summary.notes(results),
            several_runs=len(results.runs) > 1,
            columns=summary.columns(results),
            has_verdicts=summary.has_verdicts(results),
            figures=summary.figures(results),
            names={"run": "run", "gpu": "GPU", "engine": "engine", "metric": "gated by"},
            lines=summary.lines(results)[:_MAX_LINES],
            explained=[_explained(entry) for entry in summary.needing_explanation(results)],
            sections=sections,
            launch_columns=launches.COLUMNS,
            launches=launches.lines(results)[:_MAX_LINES],
            not_drawn=not_drawn,
            history=[summary.state(state) for state in history],
            older=len(states) - len(history),
            noise="; ".join(summary.noise(results)),
            periods=summary.periods(results),
            gpus=summary.gpus(results),
            runs=results.runs,
            light=LIGHT,
            dark=DARK,
        )
    )


def _explained(entry: Entry) -> dict[str, object]:
    return {
        "entry": entry,
        "tone": summary.tone(entry),
        "reading": summary.reading(entry),
        "next": [summary.command(text) for text in entry.next],
    }
