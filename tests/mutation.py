"""The scores of mutation testing, from what mutmut left in the folder `mutants`.

    python -m tests.mutation              prints the page
    python -m tests.mutation --write      writes docs/generated/mutation.md
    python -m tests.mutation --survivors  lists the mutants that survived, with their changes

A mutant is one small change to a function. It is killed if a test fails with it or does not end.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "generated" / "mutation.md"
FOLDERS = ("verdict", "measure", "store", "safety")
_SURVIVED = {0: "survived", 5: "no test", 33: "no test"}
_UNTRIED = {None, 2, 34}


def outcomes(folder: str) -> dict[str, int | None]:
    """The exit status of pytest for each mutant of a folder; None if it was not tried."""
    found: dict[str, int | None] = {}
    for path in sorted((ROOT / "mutants" / "pytest_energy" / folder).rglob("*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def page() -> str:
    """Markdown."""
    lines = [
        "# Mutation testing",
        "",
        "Written by `.ci/mutation`, which changes one function at a time in one place and runs the",
        "tests that reach it. A mutant is killed if one of them fails or does not end.",
        "",
        "| folder | mutants | tried | killed | survived | no test | score |",
        "|---|---|---|---|---|---|---|",
    ]
    for folder in FOLDERS:
        found = outcomes(folder)
        tried = [status for status in found.values() if status not in _UNTRIED]
        count = Counter(_SURVIVED.get(status or 0, "killed") for status in tried)
        score = f"{100 * count['killed'] / len(tried):.1f} %" if tried else "not run"
        cells = (f"`{folder}/`", len(found), len(tried), count["killed"], count["survived"])
        lines.append(f"| {' | '.join(map(str, (*cells, count['no test'], score)))} |")
    return "\n".join(lines) + "\n"


def survivors() -> str:
    """Each mutant that survived, as a diff."""
    names = [name for folder in FOLDERS for name, status in outcomes(folder).items() if status == 0]
    return "\n".join(
        subprocess.run(
            [sys.executable, "-m", "mutmut", "show", name],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout
        for name in names
    )  # fmt: skip


if __name__ == "__main__":
    if "--survivors" in sys.argv:
        print(survivors())
    elif "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        print(page(), end="")
