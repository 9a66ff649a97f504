"""Which results belong into one picture: entries of one model, workload and engine settings on one board, by engine and batch size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import CellKey, canonical
from pytest_energy.report.results import Cell, Entry, Gpu, HistoryEntry, Interval, Results, Side

# Said already by the workload, or equal in every cell.
_UNTOLD_ARGS = {
    "enable_prefix_caching",
    "load_format",
    "max_model_len",
    "seed",
    "skip_tokenizer_init",
}


@dataclass(frozen=True)
class Series:
    """One engine at several batch sizes, ascending."""

    label: str
    points: tuple[tuple[int, Side], ...]


@dataclass(frozen=True)
class Move:
    """What became of one batch size from the old engine to the new one.

    Attributes:
        old_label, new_label: of the series that the sides belong to.
        change: new ÷ old in J/token; None where that was not compared.
        tolerance: relative rise of J/token that fails; None where nothing was judged.
        reading: which part of the energy moved; None where it was not told.
    """

    batch_size: int
    old: Side
    new: Side
    old_label: str
    new_label: str
    change: Interval | None
    tolerance: float | None
    reading: str | None

    @property
    def clear(self) -> bool:
        """Whether the change's interval excludes none."""
        return self.change is not None and not self.change.low <= 1 <= self.change.high


@dataclass(frozen=True)
class Group:
    """One picture's worth.

    Attributes:
        key: the cells' key, their batch size aside.
        title: model and GPU.
        detail: workload, board, power limit, engine settings.
        series: the old engines first.
        moves: by batch size.
        history: by batch size, ascending, the states of the stored baseline, oldest first.
    """

    key: CellKey
    title: str
    detail: str
    series: tuple[Series, ...] = ()
    moves: tuple[Move, ...] = ()
    history: tuple[tuple[int, tuple[HistoryEntry, ...]], ...] = ()

    @property
    def batch_sizes(self) -> list[int]:
        """Of all its series."""
        return sorted({size for series in self.series for size, _ in series.points})


def groups(results: Results) -> tuple[Group, ...]:
    """The results' groups, in the order in which they first occur."""
    found: dict[str, tuple[Cell, Gpu, list[Entry], list[HistoryEntry]]] = {}
    for entry in results.entries:
        if entry.gpu is not None and (entry.new or entry.old):
            found.setdefault(
                _place(entry.cell, entry.gpu, entry.co_resident), (entry.cell, entry.gpu, [], [])
            )[2].append(entry)
    for state in results.history:
        found.setdefault(
            _place(state.cell, state.gpu, co_resident=False), (state.cell, state.gpu, [], [])
        )[3].append(state)
    return tuple(
        Group(
            cell.key,
            f"{cell.model} on {gpu.name}",
            _detail(cell, gpu, any(entry.co_resident for entry in entries)),
            *_series_and_moves(entries),
            _history(states),
        )
        for cell, gpu, entries, states in found.values()
    )


def _place(cell: Cell, gpu: Gpu, co_resident: bool) -> str:
    workload = dict(cell.key.plain["workload"])
    workload.pop("requests", None)  # how many stand for it goes with the batch size
    return canonical(
        {
            **cell.key.plain,
            "workload": workload,
            "batch_size": 0,
            "gpu": [gpu.name, *gpu.uuids],
            "limit": gpu.power_limit_w,
            "co_resident": co_resident,
        }
    )


def _detail(cell: Cell, gpu: Gpu, co_resident: bool) -> str:
    settings = sorted(cell.key.engine_args.items())
    told = [f"{k}={v}" for k, v in settings if k not in _UNTOLD_ARGS]
    boards = ", ".join(uuid[:12] for uuid in gpu.uuids)
    parts = [
        _workload(cell),
        *([f"board {boards}"] if boards else []),
        *([f"power limit {gpu.power_limit_w:.0f} W"] if gpu.power_limit_w else []),
        f"{cell.engine} engine" + (f", {', '.join(told)}" if told else ""),
        *(["a second engine resident, at rest"] if co_resident else []),
    ]
    return "; ".join(parts)


def _workload(cell: Cell) -> str:
    if cell.input_tokens is not None and cell.output_tokens is not None:
        return f"{cell.input_tokens} tokens in, {cell.output_tokens} out"
    return str(cell.key.workload)


def _series_and_moves(entries: Sequence[Entry]) -> tuple[tuple[Series, ...], tuple[Move, ...]]:
    # Energy entries last: where both metrics of a cell were compared, its move tells the change of J/token.
    ordered = sorted(entries, key=lambda entry: entry.metric == "joules_per_token")
    old, new = _Lines(), _Lines()
    moves: dict[tuple[int, int, str], Move] = {}
    for entry in ordered:
        size = entry.cell.batch_size
        role = "baseline" if entry.verdict is not None and not entry.paired else "reference"
        old_label = (
            old.add(f"{entry.old.engine} ({role})", size, entry.old, entry.run) if entry.old else ""
        )
        new_label = new.add(entry.new.engine, size, entry.new, entry.run) if entry.new else ""
        if entry.old and entry.new:
            change, tolerance = (
                (entry.ratio, entry.tolerance)
                if entry.metric == "joules_per_token"
                else (None, None)
            )
            reading = entry.split.reading if entry.split else None
            moves[size, entry.run, new_label] = Move(
                size, entry.old, entry.new, old_label, new_label, change, tolerance, reading
            )
    return (*old.series(), *new.series()), tuple(
        sorted(moves.values(), key=lambda move: move.batch_size)
    )


class _Lines:
    """Sides by label and batch size; of two that differ the later is told apart by its run."""

    def __init__(self) -> None:
        self._sides: dict[str, dict[int, Side]] = {}

    def add(self, label: str, batch_size: int, side: Side, run: int) -> str:
        """Returns the label that the side got."""
        taken = self._sides.get(label, {}).get(batch_size)
        if taken is not None and taken.launches != side.launches:
            label = f"{label}, run {run + 1}"
        self._sides.setdefault(label, {})[batch_size] = side
        return label

    def series(self) -> list[Series]:
        return [Series(label, tuple(sorted(sides.items()))) for label, sides in self._sides.items()]


def _history(states: Iterable[HistoryEntry]) -> tuple[tuple[int, tuple[HistoryEntry, ...]], ...]:
    by_size: dict[int, list[HistoryEntry]] = {}
    for state in states:
        by_size.setdefault(state.cell.batch_size, []).append(state)
    return tuple((size, tuple(of_size)) for size, of_size in sorted(by_size.items()))
