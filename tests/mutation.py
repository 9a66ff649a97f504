"""The scores of mutation testing, from what mutmut left in the folder `mutants`.

    python -m tests.mutation              prints the page
    python -m tests.mutation --write      writes docs/generated/mutation.md
    python -m tests.mutation --survivors  lists the mutants that survived and are not explained
    python -m tests.mutation --draw FOLDER COUNT  draws mutants of a folder at random

A mutant is one small change to a function. It is killed if a test fails with it or does not end.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "generated" / "mutation.md"
FOLDERS = ("verdict", "measure", "store", "safety")
_SURVIVED = {0: "survived", 5: "no test", 33: "no test"}
_UNTRIED = {None, 2, 34}

# Changes that no test need tell from the code: the lines before and after, and why.
EXPLAINED = {
    (
        "if before is None or after is None or lost < _LOST:",
        "if before is None or after is None or lost <= _LOST:",
    ): "a loss of 2 % to the last digit may have a cause or none",
    (
        "if math.log(after.per_token / before.per_token) > _MOST * lost:",
        "if math.log(after.per_token / before.per_token) >= _MOST * lost:",
    ): "if steps make half of the loss to the last digit, either cause is right",
    (
        "host = by_host_s > _MOST * (mean_s - mean_before_s) or fell > _FOLLOWS * lost",
        "host = by_host_s >= _MOST * (mean_s - mean_before_s) or fell > _FOLLOWS * lost",
    ): "if the host makes half of the loss to the last digit, either cause is right",
    (
        "host = by_host_s > _MOST * (mean_s - mean_before_s) or fell > _FOLLOWS * lost",
        "host = by_host_s > _MOST * (mean_s - mean_before_s) or fell >= _FOLLOWS * lost",
    ): "if power follows the pace by 0.3 to the last digit, either cause is right",
    (
        "if float(ndtr((limit / root - hidden) / true).mean()) >= PROBABILITY:",
        "if float(ndtr((limit / root - hidden) / true).mean()) > PROBABILITY:",
    ): "a probability of 0.9 to the last digit is no more exact than its model",
    (
        "if float((passes + fails).mean()) >= PROBABILITY:",
        "if float((passes + fails).mean()) > PROBABILITY:",
    ): "a probability of 0.9 to the last digit is no more exact than its model",
}


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
        "tests that reach it. A mutant is killed if one of them fails or does not end. All of",
        "`verdict/` are tried; of the other folders a sample drawn at random.",
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
    lines += ["", *_explained("verdict")]
    return "\n".join(lines) + "\n"


def survivors(folder: str) -> list[str]:
    """The names of the mutants of a folder that no test killed."""
    return [name for name, status in outcomes(folder).items() if status in _SURVIVED]


def shown(name: str) -> str:
    """A mutant as a diff."""
    return subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def changed_lines(diff: str) -> tuple[str, str]:
    """What a mutant takes away and what it puts there, without indentation."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    before, after = (
        "\n".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
    return before, after


def unexplained() -> str:
    """Each mutant that survived without an explanation, as a diff under its name."""
    diffs = (shown(name) for folder in FOLDERS for name in survivors(folder))
    return "\n".join(diff for diff in diffs if changed_lines(diff) not in EXPLAINED)


def _explained(folder: str) -> list[str]:
    """What is known of a folder's survivors; nothing if none was tried."""
    changes = [changed_lines(shown(name)) for name in survivors(folder)]
    unknown = sum(change not in EXPLAINED for change in changes)
    lines = [f"Survivors of `{folder}/`: {len(changes) - unknown} explained, {unknown} not."]
    for before, after in changes:
        if (before, after) in EXPLAINED:
            why = EXPLAINED[before, after]
            lines += ["", f"- {why}:", "  ```diff", f"  - {before}", f"  + {after}", "  ```"]
    return lines if any(status is not None for status in outcomes(folder).values()) else []


if __name__ == "__main__":
    if "--survivors" in sys.argv:
        print(unexplained())
    elif "--draw" in sys.argv:
        names = list(outcomes(sys.argv[-2]))
        print(*random.sample(names, min(int(sys.argv[-1]), len(names))), sep="\n")
    elif "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        print(page(), end="")
