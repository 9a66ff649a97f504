"""What a run found, as results.json holds it: plain values, written and read strictly.

docs/reports.md describes the file. Reports are made from nothing else, so a report of a file that was read back is the
report of the run that wrote it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Lt, MaxLen, MinLen
from pydantic import ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pytest_energy.cell.key import CellKey
from pytest_energy.errors import ResultsError
from pytest_energy.safety import untrusted
from pytest_energy.safety.files import write_atomically

SCHEMA_VERSION: Final = 2
_MAX_BYTES = 10_000_000  # an entry has some 2.5 kB
_MAX_VALUES = 500_000
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Positive = Annotated[float, Gt(0), Lt(1e100)]
NotNegative = Annotated[float, Ge(0), Lt(1e100)]
Key = Annotated[CellKey, PlainSerializer(lambda key: key.plain)]
Count = Annotated[int, Gt(0), Lt(1_000_000_000)]
Name = Annotated[str, MinLen(1), MaxLen(10_000)]
Verdict = Literal[
    "pass", "improved", "regressed", "inconclusive", "no baseline", "not comparable", "invalid", "created", "changed"
]  # fmt: skip


@dataclass(frozen=True, config=_STRICT)
class Interval:
    """A figure with its 95 % interval, in the figure's unit."""

    value: Positive
    low: Positive
    high: Positive

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value} does not lie between {self.low} and {self.high}")


@dataclass(frozen=True, config=_STRICT)
class Launch:
    """One engine launch: means over its cycles.

    Attributes:
        static_power_w: of the hot GPUs just after the load; None where not seen.
        gpu_power_w: of each GPU by UUID, adding up to `power_w`; empty for a single GPU, and for a stored baseline, which does not keep it.
    """

    launch_id: Name
    joules_per_token: Positive
    power_w: Positive
    tokens_per_s: Positive
    static_power_w: Positive | None = None
    gpu_power_w: dict[Name, NotNegative] = Field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class Side:
    """One engine in one cell.

    Attributes:
        vllm: its version.
        settings_under_test: "name=value" each, as given on the command line.
        date: of its newest launch, ISO 8601; empty where unknown.
        launches: in order.
        joules_per_token, power_w, tokens_per_s: over the launches, with 95 % intervals.
        static_power_w: mean over the launches; None where one of them did not see it.
    """

    vllm: Name
    settings_under_test: tuple[Name, ...]
    date: Annotated[str, MaxLen(100)]
    launches: Annotated[tuple[Launch, ...], MinLen(1)]
    joules_per_token: Interval
    power_w: Interval
    tokens_per_s: Interval
    static_power_w: Positive | None

    @property
    def engine(self) -> str:
        """What was measured, as pictures and tables call it."""
        return engine_name(self.vllm, self.settings_under_test)


@dataclass(frozen=True, config=_STRICT)
class Gpu:
    """The GPUs that a cell ran on: model, UUIDs (boards), power limit of each."""

    name: Name
    uuids: tuple[Name, ...]
    power_limit_w: Positive | None


@dataclass(frozen=True, config=_STRICT)
class Cell:
    """One model × engine settings × workload × batch size; `key` is what must be equal to be compared.

    `input_tokens` and `output_tokens` are None where they differ from request to request.
    """

    name: Name
    model: Name
    engine: Name
    batch_size: Count
    input_tokens: Count | None
    output_tokens: Count | None
    key: Key


@dataclass(frozen=True, config=_STRICT)
class Split:
    """Why J/token changed, in J/token: total = static watts over fewer or more tokens (between the bounds) + work per token."""

    static_low: float
    static_high: float
    total: float
    reading: Literal["static", "dynamic", "both", "cannot tell"]


@dataclass(frozen=True, config=_STRICT)
class Entry:
    """One metric of one cell: a judged test, or, without a verdict, a comparison of recordings.

    Attributes:
        run: which of the runs it belongs to, counted from 0.
        metric: "joules_per_token" or "tokens_per_s".
        test, file, line: the test, its file relative to the repository, its line counted from 1; None where none was run.
        verdict, green: None where nothing was judged. green: whether the test passed.
        tolerance: relative change for the worse that fails; None where nothing was judged.
        new, old: the two sides; None where there is none.
        paired: whether the launches of both sides were made in turns.
        beside: whether a second engine was resident on the GPU, at rest, while each was measured.
        ratio: new ÷ old of the metric; None where nothing was compared.
        split: of a change in J/token; None where it cannot be told.
        detects: relative, for the worse, that this test would have called regressed in 95 % of cases.
        noise: between launches, that verdict and intervals rest on.
        turns: how much turns and launches differ, where both engines took turns on the GPU; else empty.
        what, how_sure, reasons, why, changed, next: the explanation in words; `changed` is None where nothing was compared.
    """

    run: Annotated[int, Ge(0)]
    cell: Cell
    metric: Literal["joules_per_token", "tokens_per_s"]
    what: str
    gpu: Gpu | None = None
    test: str | None = None
    file: str | None = None
    line: Count | None = None
    verdict: Verdict | None = None
    green: bool | None = None
    tolerance: Positive | None = None
    new: Side | None = None
    old: Side | None = None
    paired: bool = False
    co_resident: bool = False
    ratio: Interval | None = None
    split: Split | None = None
    detects: Positive | None = None
    noise: str = ""
    periods: str = ""
    how_sure: str = ""
    reasons: tuple[str, ...] = ()
    why: str = ""
    changed: str | None = None
    next: tuple[str, ...] = ()

    @property
    def change(self) -> float | None:
        """Relative change of the metric, +0.06 for 6 % more."""
        return None if self.ratio is None else self.ratio.value - 1


@dataclass(frozen=True, config=_STRICT)
class HistoryEntry:
    """One state of a stored baseline. Earlier states are known by their means; their intervals rest on `noise` alone.

    Attributes:
        date: of its newest launch, ISO 8601; empty where unknown.
        launches: how many.
        update_reason: why a loss was accepted with it; None where there was none.
    """

    cell: Cell
    gpu: Gpu
    date: Annotated[str, MaxLen(100)]
    vllm: Name
    launches: Count
    joules_per_token: Interval
    tokens_per_s: Interval
    power_w: Interval
    noise: str
    update_reason: str | None = None


@dataclass(frozen=True, config=_STRICT)
class Run:
    """How the entries came about.

    Attributes:
        date: when the report was made, ISO 8601.
        pytest_energy: version.
        source: "live", "replay", "recordings" (compared, not judged) or "baselines" (their history).
        settings: those in force, as the run's header shows them.
        exit_status: pytest's; None where pytest did not run.
    """

    date: str
    pytest_energy: str
    source: Literal["live", "replay", "recordings", "baselines"]
    settings: str
    exit_status: int | None = None


@dataclass(frozen=True, config=_STRICT)
class Results:
    """All of it. Raises ValueError (ValidationError) where an entry belongs to no run."""

    schema_version: Literal[2]
    runs: Annotated[tuple[Run, ...], MinLen(1)]
    entries: tuple[Entry, ...] = ()
    history: tuple[HistoryEntry, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.entries:
            if entry.run >= len(self.runs):
                raise ValueError(f"an entry belongs to run {entry.run}, there are {len(self.runs)}")


_RESULTS = TypeAdapter(Results)
_ENTRY = TypeAdapter(Entry)


def to_plain(entry: Entry) -> dict[str, Any]:
    """The entry as values that survive JSON and travel between processes."""
    plain: dict[str, Any] = _ENTRY.dump_python(entry, mode="json")
    return plain


def from_plain(values: dict[str, Any]) -> Entry:
    """The entry that `to_plain` took apart."""
    return _ENTRY.validate_python(values, strict=False)


def to_json(results: Results) -> str:
    """The file's text; equal for equal results."""
    return _RESULTS.dump_json(results, indent=1).decode() + "\n"


def read(path: Path) -> Results:
    """The results in a file.

    Raises:
        ResultsError: it cannot be read, is larger than 10 MB, of another schema version, or holds no results.
    """
    try:
        text = untrusted.read(path, _MAX_BYTES)
        # So that neither what is parsed nor a list of all that is wrong with it fills the memory.
        if text.count(b",") > _MAX_VALUES:
            raise untrusted.Malformed(f"it holds more than {_MAX_VALUES:,} values")
    except untrusted.Malformed as error:
        raise ResultsError(
            f"results file {path}: {error}, so it is no results.json of pytest-energy. Leave it out."
        ) from None
    except OSError as error:
        raise ResultsError(f"results file {path} cannot be read: {error.strerror}") from None
    try:
        return _RESULTS.validate_json(_upgraded(text))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        if any(e["loc"] == ("schema_version",) and e["type"] == "literal_error" for e in errors):
            raise ResultsError(
                f"results file {path} has another schema version, this pytest-energy reads {SCHEMA_VERSION}.\n"
                "Make the report with the pytest-energy that wrote it, or from the recordings."
            ) from None
        first, where = errors[0], ascii(".".join(map(str, errors[0]["loc"]))[:200]).strip("'")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ResultsError(
            f"results file {path} is damaged or none: {where or 'it'}: {first['msg']}{more}.\n"
            "Nothing was written. Fetch it anew, leave it out, or make the report from the recordings."
        ) from None


_RENAMED = {"turns": "periods", "beside": "co_resident", "smallest_change_caught": "detects"}


def _upgraded(text: bytes) -> bytes | str:
    """The file under the names of this schema version; whatever is wrong with it is left as it is."""
    try:
        content = json.loads(text)
        if content["schema_version"] != 1:
            return text
        entries = [
            {_RENAMED.get(name, name): value for name, value in entry.items()}
            for entry in content["entries"]
        ]
        return json.dumps({**content, "schema_version": SCHEMA_VERSION, "entries": entries})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text


def write(results: Results, path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        OSError: nothing was written.
    """
    write_atomically(path, to_json(results).encode())


def together(several: "list[Results]") -> Results:
    """The results of several runs as one, in the order given."""
    runs: list[Run] = []
    entries: list[Entry] = []
    history: dict[str, HistoryEntry] = {}
    for results in several:
        entries += [replace(entry, run=entry.run + len(runs)) for entry in results.entries]
        runs += results.runs
        history.update(
            {repr(state): state for state in results.history}
        )  # runs that share a store share its history
    return Results(SCHEMA_VERSION, tuple(runs), tuple(entries), tuple(history.values()))


def engine_name(vllm: str, settings: Sequence[str]) -> str:
    """What was measured, as pictures and tables call it."""
    return " ".join((f"vLLM {vllm}", *settings))


def interval(value: float, low: float, high: float) -> Interval:
    """The figure with nine digits; the bounds give way where rounding would put the value outside, and where they say nothing any more."""

    def digits(number: float) -> float:
        return float(f"{min(max(number, 1e-99), 1e99):.9g}")

    value = digits(value)
    return Interval(value, min(digits(low), value), max(digits(high), value))
