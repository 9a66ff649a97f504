"""Energy of prefill and decode of recordings: which go together, and their table."""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import canonical
from pytest_energy.measure import mix
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.mix import CellLaunches, Figure, Mix, PrefillDecode
from pytest_energy.report import sides
from pytest_energy.report.gpu_chart import named
from pytest_energy.report.results import (
    Interval,
    ReportedPrefillDecode,
    Results,
    engine_name,
    interval,
)

TITLE = "Energy of prefill and decode"
NOTE = (
    "Of each prompt token computed and each token generated, static power included. From prompts "
    "alone, from cells whose lengths differ, or from windows within the launches of one cell."
)
COLUMNS = (
    "model and GPU", "engine", "batch size", "tokens in/out", "launches",
    "J per input token, 95 % interval", "J per output token, 95 % interval",
)  # fmt: skip
_OF_LENGTHS = ("max_model_len",)  # settings that follow from the requests' lengths


@dataclass(frozen=True)
class _Cell:
    launches: Sequence[Measurement]
    lengths: tuple[int, int]

    @property
    def together(self) -> str:
        """Equal for cells that differ in their requests' lengths alone."""
        first = self.launches[0]
        key, environment = first.key, first.environment
        arguments = {n: v for n, v in key.engine_args.items() if n not in _OF_LENGTHS}
        of = (environment.gpu_name, environment.gpus, environment.power_limit, environment.vllm)
        under_test = environment.engine_args_under_test
        return canonical(
            {
                **key.plain,
                "workload": key.workload.seed,
                "engine_args": arguments,
                "environment": repr((of, under_test, bool(first.co_resident))),
            }
        )

    @property
    def in_short(self) -> str:
        return f"{self.lengths[0]}/{self.lengths[1]}"


def found(engines: Sequence[Sequence[Sequence[Measurement]]]) -> tuple[ReportedPrefillDecode, ...]:
    """What recordings tell of prefill and decode, and why not where three launches are there.

    Args:
        engines: launches by cell and GPU, and then by engine.
    """
    cells: dict[str, list[_Cell]] = {}
    for place in engines:
        for launches in place:
            valid = [launch for launch in launches if launch.valid]
            lengths = valid[0].key.workload.fixed_lengths if valid else None
            if lengths is not None and not valid[0].key.engine_args.get("enable_prefix_caching"):
                cell = _Cell(valid, lengths)
                cells.setdefault(cell.together, []).append(cell)
    told = []
    for together in cells.values():
        together.sort(key=lambda cell: cell.lengths)
        told += [_reported([cell], of) for cell in together if (of := _alone(cell))]
        if len(together) > 1:
            told.append(_reported(together, mix.of_cells(list(map(_of_cell, together)))))
    return tuple(sorted(told, key=lambda row: (row.model, row.gpu.uuids, row.batch_size)))


def _alone(cell: _Cell) -> PrefillDecode | str:
    """What a cell tells by itself, or why nothing; empty where too few of its launches can."""
    if cell.lengths[1] == 1:
        return mix.of_prompts(_of_cell(cell))
    mixes = _mixes(cell)
    return mix.of_windows(mixes) if mixes else ""


def _mixes(cell: _Cell) -> list[Mix]:
    """Of a cell's launches; empty for too few to ask."""
    known = [launch.mix for launch in cell.launches if launch.mix is not None]
    return known if len(known) >= mix.MIN_LAUNCHES else []


def _of_cell(cell: _Cell) -> CellLaunches:
    return CellLaunches(
        *cell.lengths,
        tuple(launch.joules_per_token for launch in cell.launches),
        any(launch.step_times and launch.step_times.is_host_bound for launch in cell.launches),
    )


def _reported(cells: Sequence[_Cell], told: PrefillDecode | str) -> ReportedPrefillDecode:
    first = cells[0].launches[0]
    known = told if isinstance(told, PrefillDecode) else None
    return ReportedPrefillDecode(
        model=first.key.model,
        gpu=sides.reported_gpu(first.environment),
        engine=engine_name(first.environment.vllm or "?", first.environment.settings_under_test),
        batch_size=first.key.batch_size,
        lengths=tuple(cell.in_short for cell in cells),
        launches=sum(len(cell.launches) for cell in cells),
        joules_per_input_token=_interval(known.joules_per_input_token) if known else None,
        joules_per_output_token=(
            _interval(known.joules_per_output_token)
            if known and known.joules_per_output_token
            else None
        ),
        why_not="" if isinstance(told, PrefillDecode) else told,
    )


def _interval(figure: Figure) -> Interval:
    return interval(figure.value, figure.low, figure.high)


def lines(results: Results) -> list[tuple[str, ...]]:
    """The table's lines as texts, in the order of `COLUMNS`; what is not told says why."""
    return [line(row) for row in results.prefill_decode]


def line(row: ReportedPrefillDecode) -> tuple[str, ...]:
    """One line of the table."""
    return (
        f"{row.model}, {named(row.gpu.uuids)}",
        row.engine,
        str(row.batch_size),
        " and ".join(row.lengths),
        str(row.launches),
        _shown(row.joules_per_input_token) or row.why_not,
        _shown(row.joules_per_output_token) or "-",
    )


def _shown(figure: Interval | None) -> str:
    return f"{figure.value:#.3g} ({figure.low:#.3g} to {figure.high:#.3g})" if figure else ""
