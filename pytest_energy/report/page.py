"""The report as one HTML file, light and dark, without scripts or network access."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from pytest_energy.report import (
    causes,
    changes,
    launches,
    prefill_decode,
    steps,
    summary,
)
from pytest_energy.report.gallery import Gallery
from pytest_energy.report.pictures import DARK, LIGHT, printable
from pytest_energy.report.results import Results

_MAX_STATES = 200
_MAX_LINES = 1000


def page(results: Results, gallery: Gallery) -> str:
    """The whole file."""
    environment = Environment(
        loader=PackageLoader("pytest_energy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found, states = causes.causes(results), summary.history(results)
    history = list(zip(summary.states(states), steps.steps(states), strict=True))[-_MAX_STATES:]
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
            worst=changes.worst(results) or steps.newest(states),
            change=gallery.change,
            changed=causes.what_changed(results),
            causes=found,
            several_causes=len(found) > 1,
            sections=gallery.sections,
            launch_columns=launches.COLUMNS,
            launches=launches.lines(results)[:_MAX_LINES],
            not_drawn=gallery.not_drawn,
            prefill_decode=prefill_decode,
            prefill_decode_lines=prefill_decode.lines(results)[:_MAX_LINES],
            history=history,
            accepted=any(state.reason for state, _ in history),
            older=len(states) - len(history),
            noise=summary.noise(results),
            periods=summary.periods(results),
            of_cells=summary.of_cells(results)[:_MAX_LINES],
            runs=results.runs,
            light=LIGHT,
            dark=DARK,
        )
    )
