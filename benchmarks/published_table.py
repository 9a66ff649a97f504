"""What is published of vLLM 0.5.4 and 0.11.1 side by side, as docs/generated/published.md shows it.

python -m benchmarks.published_table
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

RECORDINGS = Path(__file__).parents[1] / "recordings"
FIGURES = RECORDINGS / "published.csv"
SET_UPS = RECORDINGS / "published-set-ups.csv"
OLD, NEW = "0.5.4", "0.11.1"
LEADERBOARD = "ML.ENERGY leaderboard v2.0"


@dataclass(frozen=True)
class Row:
    """A published point; `power_w` is of all GPUs."""

    source: str
    vllm: str
    of: tuple[str, str, int, int]  # model, precision, GPUs, max_num_seqs
    joules_per_token: float
    power_w: float
    tokens_per_s: float


def read(path: Path = FIGURES) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                row["source"],
                row["vllm"],
                (row["model"], row["precision"], int(row["h100_gpus"]), int(row["max_num_seqs"])),
                *(float(row[name]) for name in ("joules_per_token", "power_w", "tokens_per_s")),
            )
            for row in csv.DictReader(file)
        ]


def change_rows(published: Sequence[Row]) -> list[str]:
    """From 0.5.4 to 0.11.1, of what is published of both on as many GPUs in one precision."""
    new = {row.of: row for row in published if row.vllm == NEW}
    lines = [
        "| model, GPUs | max_num_seqs | 0.5.4 by | J/token | change, % | tokens/s, ratio | W, % "
        "| W ÷ tokens/s of 0.5.4 against its J/token, % |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for old in sorted(
        (row for row in published if row.vllm == OLD and row.of in new),
        key=lambda row: (row.of[2], row.of, row.source),
    ):
        after, (model, _, gpus, max_num_seqs) = new[old.of], old.of
        computed = old.power_w / old.tokens_per_s / old.joules_per_token
        leaderboard = old.source == LEADERBOARD
        lines.append(
            f"| {model}, {gpus} | {max_num_seqs} | {'leaderboard' if leaderboard else 'analysis'} "
            f"| {old.joules_per_token:.4g} → {after.joules_per_token:.4g} "
            f"| {_percent(after.joules_per_token / old.joules_per_token)} "
            f"| {after.tokens_per_s / old.tokens_per_s:.1f} "
            f"| {_percent(after.power_w / old.power_w)} "
            f"| {'-' if leaderboard else _percent(computed)} |"
        )
    return lines


def set_up_rows(path: Path = SET_UPS) -> list[str]:
    """What the two set-ups are, each with the files that say so."""
    lines = ["| | v2.0 | v3.0 | sources |", "|---|---|---|---|"]
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            sources = ", ".join(_links(row["sources"].split("; ")))
            lines.append(f"| {row['what']} | {row['v2.0']} | {row['v3.0']} | {sources} |")
    return lines


def page() -> str:
    return "\n".join(
        [
            "# Published figures of vLLM 0.5.4 and 0.11.1",
            "",
            "Llama 3.1 on H100s: ML.ENERGY's leaderboards v2.0 (0.5.4) and v3.0 (0.11.1), and its "
            "longitudinal analysis, whose curves for 0.5.4 were read off its plots "
            "(`recordings/published.csv`, where the leaderboard's W of 0.5.4 is J/token times "
            "tokens/s). Changes are from 0.5.4 to 0.11.1. The analysis has W over the whole run, "
            "and J/token of its steady part: so the last column is above 0. 405B is left out: it "
            "is published in two precisions.",
            "",
            *change_rows(read()),
            "",
            "## The two set-ups",
            "",
            "Of the 8B, `recordings/published-set-ups.csv`:",
            "",
            *set_up_rows(),
            "",
        ]
    )


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.0f}"


def _links(sources: Iterable[str]) -> Iterable[str]:
    for source in sources:
        repository, _, where = source.partition("@")
        commit, _, path = where.partition(":")
        url = f"https://github.com/ml-energy/{repository}/blob/{commit}/{quote(path)}"
        yield f"[{path.rpartition('/')[2]}]({url})"


if __name__ == "__main__":
    print(page())
