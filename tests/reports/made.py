"""Synthetic results for tests of reports: their GPU is called "simulated GPU"."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pytest_energy.cell.key import CellKey, WorkloadKey
from pytest_energy.report import results
from pytest_energy.report.results import (
    Entry,
    Gpu,
    HistoryEntry,
    ReportedCell,
    ReportedChanges,
    ReportedLaunch,
    ReportedSide,
    ReportedSlowdown,
    Results,
    Run,
    interval,
)

GPU = Gpu("simulated GPU", ("GPU-00000000-0000-0000-0000-000000000000",), 700.0)
RUN = Run(
    "2026-01-01T00:00:00+00:00",
    "0.1.0",
    "replay",
    "replay of recordings, baselines in baselines",
    0,
)


def cell(batch_size: int = 8, model: str = "tiny") -> ReportedCell:
    key = CellKey(
        model, None, "offline", {"dtype": "bfloat16"}, WorkloadKey(512, 256, 0), batch_size
    )
    return ReportedCell(key.name, model, "offline", batch_size, 512, 256, key)


def side(
    jpt: float,
    rate: float,
    vllm: str = "1.0",
    launches: int = 3,
    static: float | None = 120.0,
    settings: Sequence[str] = (),
) -> ReportedSide:
    made = tuple(
        ReportedLaunch(f"{vllm}-{i}", jpt * (1 + i / 1000), jpt * rate, rate, static)
        for i in range(launches)
    )
    figures = [interval(x, 0.98 * x, 1.02 * x) for x in (jpt, jpt * rate, rate)]
    return ReportedSide(vllm, tuple(settings), "2026-01-01T00:00:00+00:00", made, *figures, static)


def entry(
    batch_size: int = 8,
    ratio: float = 1.1,
    model: str = "tiny",
    metric: str = "joules_per_token",
    **changes: Any,
) -> Entry:
    reference = side(0.5 / batch_size**0.6, 1000 * batch_size**0.7)
    candidate = side(
        reference.joules_per_token.value * ratio, reference.tokens_per_s.value / ratio, "2.0"
    )
    made = Entry(
        run=0,
        cell=cell(batch_size, model),
        metric=metric,  # type: ignore[arg-type]
        what=f"REGRESSED: {model} bs={batch_size} 512/256",
        gpu=GPU,
        test=f"test_a.py::test_energy[bs{batch_size}]",
        file="test_a.py",
        line=3,
        verdict="regressed",
        green=False,
        tolerance=0.03,
        candidate=candidate,
        reference=reference,
        ratio=interval(ratio, ratio * 0.99, ratio * 1.01),
        noise="1.00 % assumed",
        how_sure="95 % interval +9 % to +11 %",
        why="power 500 W ÷ throughput 1,000 tokens/s",
        changed=ReportedChanges(None, {"vllm": "1.0 → 2.0"}),
        next=("measure again: pytest test_a.py",),
    )
    return replace(made, **changes)


def state(number: int, batch_size: int = 8, jpt: float = 0.5) -> HistoryEntry:
    figures = [interval(x, 0.98 * x, 1.02 * x) for x in (jpt, 1000.0, 500.0)]
    date = f"2026-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}T00:00:00+00:00"
    return HistoryEntry(cell(batch_size), GPU, date, f"0.{number}.0", 3, *figures, "1.00 % assumed")


def of(*entries: Entry, history: Sequence[HistoryEntry] = ()) -> Results:
    return Results(results.SCHEMA_VERSION, (RUN,), entries, tuple(history))


factors = st.floats(1, 2) | st.floats(1, 1e90)
figures = st.tuples(st.floats(1e-6, 1e6), factors, factors).map(
    lambda made: interval(made[0], made[0] / made[1], made[0] * made[2])
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
launches = st.builds(
    ReportedLaunch, names, *[st.floats(1e-6, 1e6)] * 3, st.none() | st.floats(1, 1e3)
)
sides = st.builds(
    ReportedSide,
    names,
    st.lists(names, max_size=2).map(tuple),
    names,
    st.lists(launches, min_size=1, max_size=3).map(tuple),
    figures,
    figures,
    figures,
    st.none() | st.floats(1, 1e3),
)
cells = st.builds(
    ReportedCell,
    names,
    names,
    names,
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.builds(
        lambda name, engine_args: replace(cell().key, model=name, engine_args=engine_args),
        names,
        st.dictionaries(names, names, max_size=2),
    ),
)
entries = st.builds(
    Entry,
    run=st.just(0),
    cell=cells,
    metric=st.sampled_from(["joules_per_token", "tokens_per_s"]),
    what=names,
    gpu=st.none()
    | st.builds(Gpu, names, st.lists(names, max_size=2).map(tuple), st.none() | st.floats(1, 1e3)),
    verdict=st.none()
    | st.sampled_from(["pass", "regressed", "inconclusive", "invalid", "no baseline"]),
    green=st.none() | st.booleans(),
    tolerance=st.none() | st.floats(0.001, 0.99),
    candidate=st.none() | sides,
    reference=st.none() | sides,
    paired=st.booleans(),
    ratio=st.none() | figures,
    reasons=st.lists(names, max_size=2).map(tuple),
    changed=st.none()
    | st.builds(
        ReportedChanges,
        st.none() | st.builds(ReportedSlowdown, names, names),
        st.dictionaries(names, names, max_size=2),
        st.integers(0, 9),
    ),
    next=st.lists(names, max_size=2).map(tuple),
)
