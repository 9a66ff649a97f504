"""Results as tables for those who go on by themselves: pandas frames and CSV."""

import json
from typing import Any

import pandas as pd

from pytest_energy.report.results import Cell, Gpu, Interval, Results, Side


def frames(results: Results) -> dict[str, pd.DataFrame]:
    """One frame per kind of row: "comparisons" (an entry each), "launches" (one launch of one side each), "history".

    Columns carry their units; those of an interval end in _low and _high. Empty frames are left out.
    """
    comparisons, launches = [], {}
    for entry in results.entries:
        place = {"run": entry.run + 1, **_place(entry.cell, entry.gpu)}
        comparisons.append(
            {
                **place,
                "metric": entry.metric,
                "test": entry.test,
                "verdict": entry.verdict,
                "tolerance": entry.tolerance,
                **_interval("ratio", entry.ratio),
                **_side("new_", entry.new),
                **_side("old_", entry.old),
                "detects": entry.detects,
                "split": entry.split.reading if entry.split else None,
                "changed": entry.changed,
            }
        )
        for role, side in (("new", entry.new), ("old", entry.old)):
            for launch in side.launches if side else ():
                row = {
                    **place,
                    "side": role,
                    "engine": side.engine if side else "",
                    "launch_id": launch.launch_id,
                    "joules_per_token": launch.joules_per_token,
                    "power_w": launch.power_w,
                    "tokens_per_s": launch.tokens_per_s,
                    "static_power_w": launch.static_power_w,
                    "gpu_power_w": json.dumps(launch.gpu_power_w) if launch.gpu_power_w else None,
                }
                launches[
                    entry.run,
                    entry.cell.name,
                    repr(entry.gpu),
                    role,
                    row["engine"],
                    launch.launch_id,
                ] = row
    history = [
        {
            **_place(state.cell, state.gpu),
            "date": state.date,
            "vllm": state.vllm,
            "launches": state.launches,
            **_interval("joules_per_token", state.joules_per_token),
            **_interval("power_w", state.power_w),
            **_interval("tokens_per_s", state.tokens_per_s),
            "update_reason": state.update_reason,
        }
        for state in results.history
    ]
    tables = {"comparisons": comparisons, "launches": list(launches.values()), "history": history}
    return {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}


def csv(frame: pd.DataFrame) -> str:
    """The frame as comma-separated values, absent ones empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def _place(cell: Cell, gpu: Gpu | None) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "model": cell.model,
        "batch_size": cell.batch_size,
        "input_tokens": cell.input_tokens,
        "output_tokens": cell.output_tokens,
        "gpu": gpu.name if gpu else None,
        "gpu_uuids": " ".join(gpu.uuids) if gpu else None,
    }


def _interval(name: str, figure: Interval | None) -> dict[str, float | None]:
    values = (None, None, None) if figure is None else (figure.value, figure.low, figure.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _side(prefix: str, side: Side | None) -> dict[str, Any]:
    return {
        f"{prefix}engine": side.engine if side else None,
        f"{prefix}launches": len(side.launches) if side else None,
        **_interval(f"{prefix}joules_per_token", side.joules_per_token if side else None),
        **_interval(f"{prefix}power_w", side.power_w if side else None),
        **_interval(f"{prefix}tokens_per_s", side.tokens_per_s if side else None),
    }
