"""What the programs that simulate error rates have in common: their options and what they keep."""

import argparse
import json
from pathlib import Path
from typing import Any


def options(description: str | None, seed: int, processes: int = 2) -> argparse.Namespace:
    """How much is simulated, from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--processes", type=int, default=processes)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def keep(given: argparse.Namespace, **found: Any) -> None:
    """Write what was found to the file that `options` was given, if any."""
    if given.json:
        content = {"runs": given.runs, "seed": given.seed, **found}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
