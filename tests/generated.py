"""The pages of docs/generated that tables in the code give.

python -m tests.generated     writes them; tests/test_generated.py holds them to the code
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_energy.health.findings import FINDINGS
from pytest_energy.recording.faults import FAULTS
from tests.faults import rows
from tests.faults.promises import PROMISES
from tests.situations import commands, gpu, inputs, messages, output, server, store

FOLDER = Path(__file__).parents[1] / "docs" / "generated"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def findings() -> str:
    """What `pytest-energy doctor` can find."""
    shown = [
        (kind.check or "any", f"`{code}`", kind.level.value, kind.meaning)
        for code, kind in FINDINGS.items()
    ]
    return "# What the doctor can find\n\n" + table(("check", "code", "level", "when"), shown)


def faults() -> str:
    """What makes a measurement invalid."""
    shown = [(f"`{fault.code}`", fault.meaning) for fault in FAULTS.values()]
    return "# What makes a measurement invalid\n\n" + table(("code", "meaning"), shown)


def promises() -> str:
    """What the gate never does, and the tests that show it."""
    shown = [(what, "<br>".join(f"`{test}`" for test in tests)) for what, tests in PROMISES]
    return "# What the gate promises\n\n" + table(("promise", "held by"), shown)


def fault_campaign() -> str:
    """What must happen at each fault."""
    text = (
        "Each row is a run of pytest and the outcome that it must have. No process may survive it.",
        "An unfinished file is one that the run could not remove: its name begins with a dot, and",
        "it is never read.",
    )
    return "\n".join(("# The fault campaign", "", *text, "", rows.tables()))


SITUATIONS = {
    "GPUs, drivers and neighbours": gpu.ROWS,
    "Servers and their models": server.ROWS,
    "Stores, repositories and suites": store.ROWS,
    "Recordings, models and prompts": inputs.ROWS,
    "Outputs, plugins and CI": output.ROWS,
    "Messages and reports": messages.ROWS,
    "Command lines": commands.ROWS,
}


def situations() -> str:
    """What the gate does in situations that others reported."""
    parts = ["# Other people's machines, servers and repositories"]
    for title, found in SITUATIONS.items():
        shown = [(row.kind, row.situation, row.before, row.now, f"`{row.test}`") for row in found]
        heading = ("kind", "situation", "before", "now", "held by")
        parts.append(f"## {title}\n\n{table(heading, shown)}")
    return "\n\n".join(parts)


PAGES: Mapping[str, Callable[[], str]] = {
    "findings.md": findings,
    "faults.md": faults,
    "promises.md": promises,
    "fault-campaign.md": fault_campaign,
    "situations.md": situations,
}


def page(name: str) -> str:
    """As it is written."""
    title, _, rest = PAGES[name]().partition("\n\n")
    return f"{title}\n\nWritten by `python -m tests.generated`.\n\n{rest}\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in PAGES:
        (FOLDER / name).write_text(page(name))
