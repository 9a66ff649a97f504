"""What a run found, as results.json holds it: plain values (results_file.py has the file).

docs/reports.md describes the file. Reports are made from nothing else, so a file that is read back
gives the report of the run that wrote it.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Lt, MaxLen, MinLen
from pydantic import Field, PlainSerializer, TypeAdapter
from pydantic.dataclasses import dataclass

from pytest_energy.cell.key import CellKey
from pytest_energy.recording.experts import ExpertRouting
from pytest_energy.safety import untrusted
from pytest_energy.safety.schema import STRICT, Count
from pytest_energy.store.baseline import ReferenceFrom

SCHEMA_VERSION: Final = 4

Figure = Annotated[float, Gt(0), Lt(1e100)]
Share = Annotated[float, Ge(0), Lt(1e100)]
Key = Annotated[CellKey, PlainSerializer(lambda key: key.plain)]
Text = Annotated[str, MinLen(1), MaxLen(10_000)]
VerdictName = Literal[
    "pass", "improved", "regressed", "inconclusive", "no baseline", "not comparable", "invalid",
    "created", "changed", "unchanged",
]  # fmt: skip
Source = Literal["live", "replay", "recordings", "baselines"]


@dataclass(frozen=True, config=STRICT)
class Interval:
    """A figure with its 95 % interval, in the figure's unit."""

    value: Figure
    low: Figure
    high: Figure

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value} does not lie between {self.low} and {self.high}")


@dataclass(frozen=True, config=STRICT)
class ReportedDrift:
    """How far a figure rose over the launch, relative, as a straight line through it."""

    value: Annotated[float, Gt(-1), Lt(1e100)]
    standard_error: Share


@dataclass(frozen=True, config=STRICT)
class ReportedSteps:
    """A launch's engine steps; shares are of 1.

    Attributes:
        captured_tokens: the largest step that runs in a CUDA graph.
        steps_outside, time_outside: share of steps, and of time, outside CUDA graphs.
        steps_with_prompts: share of steps that hold two prompts or more.
        time_with_prompt: share of the time of steps that hold a prompt.
        host_bound: share of the time in which the host decides the pace.
        step_ms: of a step without a prompt.
        prompt_ms: what a prompt adds.
    """

    captured_tokens: Annotated[int, Ge(0)]
    steps_outside: Share
    time_outside: float
    steps_with_prompts: Share
    time_with_prompt: float
    host_bound: float
    step_ms: float | None
    prompt_ms: float | None


@dataclass(frozen=True, config=STRICT)
class ReportedLaunch:
    """One engine launch: means over its cycles.

    Attributes:
        static_power_w: of the hot GPUs just after the load; None if not measured.
        gpu_power_w: of each GPU by UUID, adding up to `power_w`. Empty for a single GPU, and for a
            stored baseline, which does not keep it.
        dropped_cycles: cycles after the warm-up that are left out as a transient.
        power_drift, tokens_per_s_drift: power's at equal tokens/s; None for a stored baseline.
        steps: None for a stored baseline, and if the engine's steps were not seen.
        cached_share: of the prompts' tokens, from the prefix cache; None if not counted.
    """

    launch_id: Text
    joules_per_token: Figure
    power_w: Figure
    tokens_per_s: Figure
    static_power_w: Figure | None = None
    gpu_power_w: dict[Text, Share] = Field(default_factory=dict)
    cycles: Count | None = None
    dropped_cycles: Annotated[int, Ge(0)] = 0
    power_drift: ReportedDrift | None = None
    tokens_per_s_drift: ReportedDrift | None = None
    steps: ReportedSteps | None = None
    cached_share: Share | None = None


@dataclass(frozen=True, config=STRICT)
class _Engine:
    """vLLM's version, and settings under test as given on the command line, "name=value" each."""

    vllm: Text
    settings_under_test: tuple[Text, ...]

    @property
    def engine(self) -> str:
        """What was measured, as pictures and tables call it."""
        return engine_name(self.vllm, self.settings_under_test)


@dataclass(frozen=True, config=STRICT)
class ReportedSide(_Engine):
    """One engine in one cell.

    Attributes:
        date: of its newest launch, ISO 8601; empty if unknown.
        launches: in order.
        joules_per_token, power_w, tokens_per_s: over the launches, with 95 % intervals.
        static_power_w: mean over the launches; None if one of them lacks it.
        joules_per_total_token: J per token in or out; None if requests differ in length.
        wh_per_1000_requests: Wh; likewise.
        experts: how its newest launch spread tokens over them; None if the model has none.
    """

    date: Annotated[str, MaxLen(100)]
    launches: Annotated[tuple[ReportedLaunch, ...], MinLen(1)]
    joules_per_token: Interval
    power_w: Interval
    tokens_per_s: Interval
    static_power_w: Figure | None
    joules_per_total_token: Figure | None = None
    wh_per_1000_requests: Figure | None = None
    experts: ExpertRouting | None = None


@dataclass(frozen=True, config=STRICT)
class Gpu:
    """The GPUs that a cell ran on: their model, UUIDs and power limit each."""

    name: Text
    uuids: tuple[Text, ...]
    power_limit_w: Figure | None


@dataclass(frozen=True, config=STRICT)
class ReportedCell:
    """One model × engine settings × workload × batch size.

    Attributes:
        batch_size: 0 at idle.
        input_tokens, output_tokens: None if they differ from request to request, and at idle.
        key: what must be equal for two measurements to be compared.
    """

    name: Text
    model: Text
    engine: Text
    batch_size: Annotated[int, Ge(0), Lt(10**9 + 1)]
    input_tokens: Count | None
    output_tokens: Count | None
    key: Key

    def __post_init__(self) -> None:
        if (self.batch_size == 0) != self.key.is_idle:
            raise ValueError(f"its batch size is {self.batch_size}, and its key's is not")


@dataclass(frozen=True, config=STRICT)
class ReportedSplit:
    """Why J/token changed, in J/token: `total` = a static part between the bounds + a dynamic one.

    The static part is the same static power over fewer or more tokens, the dynamic one work.
    """

    static_low: float
    static_high: float
    total: float
    reading: Literal["static", "dynamic", "both", "cannot tell"]


@dataclass(frozen=True, config=STRICT)
class ReportedSlowdown:
    """What made the candidate slower, or work more: a cause, and figures that show it, if any."""

    cause: Text
    figures: Annotated[str, MaxLen(10_000)] = ""

    @property
    def in_words(self) -> str:
        """Cause and figures."""
        return f"{self.cause} ({self.figures})" if self.figures else self.cause


@dataclass(frozen=True, config=STRICT)
class ReportedChanges:
    """What differs between candidate and reference.

    Attributes:
        slower: None if the candidate is not slower, or it cannot be told why.
        differences: "before → after" of each version, setting or condition by name.
        more: how many further ones are left out.
    """

    slower: ReportedSlowdown | None = None
    differences: dict[Text, Annotated[str, MaxLen(10_000)]] = Field(default_factory=dict)
    more: Annotated[int, Ge(0)] = 0

    @property
    def pieces(self) -> list[tuple[str, str]]:
        """The differences by name, and without a name how many are not among them."""
        found = [(name, v) if v else ("", name) for name, v in self.differences.items()]
        found = found or [("", "no recorded version or setting")]
        return found + [("", f"and {self.more} more")] * bool(self.more)

    @property
    def in_words(self) -> str:
        """All of it in one line."""
        slower = [self.slower.in_words] if self.slower else []
        return "; ".join((*slower, *(": ".join(filter(None, piece)) for piece in self.pieces)))


@dataclass(frozen=True, config=STRICT)
class IdleSide(_Engine):
    """One engine at idle: means over its launches.

    Attributes:
        power_w: of its GPUs.
        without_engine_w: the same before it was started; None if unknown.
        cpu_cores: that its processes used; None if unknown.
        launches: their ids.
    """

    power_w: Figure
    without_engine_w: Figure | None
    cpu_cores: Share | None
    launches: Annotated[tuple[Text, ...], MinLen(1)]


@dataclass(frozen=True, config=STRICT)
class ReportedIdle:
    """Both sides of a cell at idle; None as in an entry."""

    candidate: IdleSide | None
    reference: IdleSide | None


@dataclass(frozen=True, config=STRICT)
class Entry:
    """One metric of one cell: a judged test or, without a verdict, a comparison of recordings.

    Attributes:
        run: index of the run that it belongs to.
        what: the explanation's first line.
        test, file, line: the test, its file relative to the repository, its line counted from 1;
            None if no test was run.
        verdict: None if nothing was judged.
        green: whether the test passed; None if nothing was judged.
        tolerance: relative change for the worse that fails; None if nothing was judged.
        candidate: the engine under test; None if no launch was valid.
        reference: what it was compared with; None if there is nothing to compare with.
        idle: both sides of an engine at idle, in place of these; None under load.
        paired: whether the launches of both sides were interleaved.
        reference_from: where launches come from that stand in for a baseline; empty if none do.
        co_resident: whether a second, paused engine was on the GPU while each was measured.
        ratio: candidate ÷ reference of the metric; None if nothing was compared.
        split: of a change in J/token; None if it cannot be determined.
        detects: the relative change for the worse that this test detects in 95 % of cases.
        noise: between launches, that verdict and intervals rest on.
        periods: how much periods and launches vary; empty if engines did not alternate in a launch.
        how_sure, reasons, why, next: the explanation in words.
        changed: None if nothing was compared.
    """

    run: Annotated[int, Ge(0)]
    cell: ReportedCell
    metric: Literal["joules_per_token", "tokens_per_s", "idle_power_w"]
    what: str
    gpu: Gpu | None = None
    test: str | None = None
    file: str | None = None
    line: Count | None = None
    verdict: VerdictName | None = None
    green: bool | None = None
    tolerance: Figure | None = None
    candidate: ReportedSide | None = None
    reference: ReportedSide | None = None
    idle: ReportedIdle | None = None
    paired: bool = False
    reference_from: ReferenceFrom = ""
    co_resident: bool = False
    ratio: Interval | None = None
    split: ReportedSplit | None = None
    detects: Figure | None = None
    noise: str = ""
    periods: str = ""
    how_sure: str = ""
    reasons: tuple[str, ...] = ()
    why: str = ""
    changed: ReportedChanges | None = None
    next: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if {self.metric == "idle_power_w", self.idle is not None} != {self.cell.key.is_idle}:
            raise ValueError(f"{self.metric} does not go with its cell")

    @property
    def engines(self) -> tuple[str, str]:
        """Reference and candidate, as pictures and tables call them; empty if there is none."""
        of = self.idle or self
        reference, candidate = (s.engine if s else "" for s in (of.reference, of.candidate))
        return reference, candidate

    @property
    def is_of_baseline(self) -> bool:
        """Whether it was judged by what is stored."""
        return self.verdict is not None and not (self.paired or self.reference_from)


@dataclass(frozen=True, config=STRICT)
class HistoryEntry:
    """One state of a stored baseline.

    Only the means of earlier states are stored; their intervals rest on `noise` alone.

    Attributes:
        date: of its newest launch, ISO 8601; empty if unknown.
        launches: how many.
        update_reason: why a loss was accepted with it; None if there was none.
        joules_per_token, tokens_per_s: None at idle.
    """

    cell: ReportedCell
    gpu: Gpu
    date: Annotated[str, MaxLen(100)]
    vllm: Text
    launches: Count
    joules_per_token: Interval | None
    tokens_per_s: Interval | None
    power_w: Interval
    noise: str
    update_reason: str | None = None


@dataclass(frozen=True, config=STRICT)
class ReportedPrefillDecode:
    """Energy of prefill and decode of one engine on one GPU at one batch size, or why not.

    Attributes:
        engine: what was measured, as tables call it.
        lengths: tokens in and out of each cell that it rests on, "256/256".
        launches: of all these cells.
        joules_per_input_token, joules_per_output_token: both or neither is known; of prompts
            alone, the first.
        why_not: empty if they are.
    """

    model: Text
    gpu: Gpu
    engine: Text
    batch_size: Count
    lengths: Annotated[tuple[Text, ...], MinLen(1)]
    launches: Count
    joules_per_input_token: Interval | None = None
    joules_per_output_token: Interval | None = None
    why_not: str = ""


@dataclass(frozen=True, config=STRICT)
class Run:
    """How the entries came about.

    Attributes:
        date: when the report was made, ISO 8601.
        pytest_energy: version.
        source: "live", "replay", "recordings" (compared, not judged) or "baselines" (history).
        settings: in force, as the run's header shows them.
        exit_status: pytest's; None if pytest did not run.
    """

    date: str
    pytest_energy: str
    source: Source
    settings: str
    exit_status: int | None = None


@dataclass(frozen=True, config=STRICT)
class Results:
    """A whole report. Raises ValueError (ValidationError) if an entry belongs to no run."""

    schema_version: Literal[4]
    runs: Annotated[tuple[Run, ...], MinLen(1)]
    entries: tuple[Entry, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    prefill_decode: tuple[ReportedPrefillDecode, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.entries:
            if entry.run >= len(self.runs):
                raise ValueError(f"an entry belongs to run {entry.run}, there are {len(self.runs)}")


_ENTRY = TypeAdapter(Entry)


def to_plain(entry: Entry) -> dict[str, Any]:
    """The entry as values that survive JSON and travel between processes."""
    plain: dict[str, Any] = _encodable(_ENTRY.dump_python(entry, mode="json"))
    return plain


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _encodable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_encodable(inner) for inner in value]
    return untrusted.encodable(value) if isinstance(value, str) else value


def from_plain(values: dict[str, Any]) -> Entry:
    """The entry that `to_plain` took apart."""
    return _ENTRY.validate_python(values, strict=False)


def engine_name(vllm: str, settings: Sequence[str]) -> str:
    """What was measured, as pictures and tables call it."""
    return " ".join((f"vLLM {vllm}", *settings))


def digits(number: float) -> float:
    """The number with nine digits, between 1e±99."""
    return float(f"{min(max(number, 1e-99), 1e99):.9g}")


def interval(value: float, low: float, high: float) -> Interval:
    """The figure with nine digits; bounds include the rounded value."""
    value = digits(value)
    return Interval(value, min(digits(low), value), max(digits(high), value))
