"""A recording: two cumulative counters on one monotonic clock, tokens generated and energy consumed.

The file is gzipped JSON (docs/recordings.md describes the schema). Times are integer nanoseconds of
CLOCK_MONOTONIC, energies integer millijoules as the GPU counts them, so that writing and reading change nothing.
"""

import dataclasses
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_energy.cell.key import CellKey
from pytest_energy.errors import RecordingError
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.safety import untrusted
from pytest_energy.safety.files import write_atomically
from pytest_energy.safety.untrusted import Malformed

SCHEMA_VERSION = 4
_READ_VERSIONS = (
    1,
    2,
    3,
    4,
)  # 1 knew no interleaving, 2 no requests of varying lengths, 3 other names
SUFFIX = ".json.gz"
# The largest recording of a GPU so far unpacks to 51 kB and holds some 10,000 numbers; ten minutes of 1 ms steps would make 7 MB.
_MAX_BYTES = 20_000_000  # unpacked
_MAX_PACKED_BYTES = 10_000_000
_MAX_CYCLES = 1_000_000


@dataclass(frozen=True)
class TokenCounter:
    """Engine steps, in order.

    Attributes:
        time_ns: when each step returned, shape (steps,).
        tokens: tokens generated in it, shape (steps,).
        finished: requests finished in it, shape (steps,).
    """

    time_ns: tuple[int, ...]
    tokens: tuple[int, ...]
    finished: tuple[int, ...]


@dataclass(frozen=True)
class EnergyCounter:
    """Updates of a cumulative energy counter, in order, all of shape (updates,).

    An update happened after `unchanged_ns`, the last read of the old value, and not after `changed_ns`, the
    first read of the new one.
    """

    unchanged_ns: tuple[int, ...]
    changed_ns: tuple[int, ...]
    energy_mj: tuple[int, ...]


@dataclass(frozen=True)
class GpuSamples:
    """Companions of the energy counter, sampled about once per update, all of shape (samples,).

    Attributes:
        time_ns: when.
        average_power_mw: the driver's one-second average (NVML_FI_DEV_POWER_AVERAGE).
        instant_power_mw: NVML_FI_DEV_POWER_INSTANT.
        sm_clock_mhz: NVML_CLOCK_SM.
        temperature_c: NVML_TEMPERATURE_GPU.
        throttle_reasons: nvmlDeviceGetCurrentClocksEventReasons, a bit mask.
        utilization_percent: share of time in which a kernel ran.
    """

    time_ns: tuple[int, ...] = ()
    average_power_mw: tuple[int, ...] = ()
    instant_power_mw: tuple[int, ...] = ()
    sm_clock_mhz: tuple[int, ...] = ()
    temperature_c: tuple[int, ...] = ()
    throttle_reasons: tuple[int, ...] = ()
    utilization_percent: tuple[int, ...] = ()


@dataclass(frozen=True)
class GpuTrace:
    """One GPU during one cell.

    Attributes:
        uuid, name: as NVML gives them.
        faults: reason codes and details noted while reading, for instance "foreign_process: pid 4711".
    """

    uuid: str
    name: str
    counter: EnergyCounter
    samples: GpuSamples = GpuSamples()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class CpuEnergy:
    """CPU packages' energy (RAPL) beside the GPU's; recorded, never added. Shapes (reads,)."""

    time_ns: tuple[int, ...] = ()
    energy_mj: tuple[int, ...] = ()
    unavailable: str = "not read"


@dataclass(frozen=True)
class CoResident:
    """The other engine, resident on the same GPU and at rest while this recording was made.

    Attributes:
        launch_id: of that engine.
        seconds: how long it was watched.
        tokens: that it generated in this time; anything but 0 is a fault.
        asleep: whether it said before and after that its scheduler was paused (vLLM's sleep level 0); None where it has no such state.
        cpu_s: CPU time of all its processes, s.
        idle_power_w: mean power of the GPUs with both engines loaded and neither under load.
        idle_power_alone_w: the same before the second engine was started.
    """

    launch_id: str
    seconds: float
    tokens: int
    paused: bool | None
    cpu_s: float
    idle_power_w: float | None = None
    idle_power_alone_w: float | None = None


@dataclass(frozen=True)
class Distribution:
    """Durations, rounded to three digits: each value with how often it came, in order of the value. Shapes (values,)."""

    value_us: tuple[int, ...] = ()
    count: tuple[int, ...] = ()


@dataclass(frozen=True)
class Client:
    """What the clients of a server saw; latencies of the time under load after the first cycle.

    Attributes:
        first_token: from sending a request until its first token.
        inter_token: between tokens of one request that follow each other; tokens that come together count once.
        end_to_end: from sending a request until its last token.
        cpu_cores: CPU cores that the clients used together; they share one process with one thread.
        streamed_tokens: that they received from idle to idle.
        server_tokens: that the server says it generated in this time (vllm:generation_tokens_total).
        preemptions: that it says happened in this time; None where it does not say.
    """

    first_token: Distribution
    inter_token: Distribution
    end_to_end: Distribution
    cpu_cores: float
    streamed_tokens: int
    server_tokens: int
    preemptions: int | None = None


@dataclass(frozen=True)
class Requests:
    """Lengths of the requests of a pass, in the order in which they are sent, over and over. Shapes (requests,).

    Attributes:
        input_tokens: of each prompt; of texts, by the model's tokenizer and its chat template.
        output_tokens: that each was made to generate.
    """

    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """All that one cell of one launch yields; or, where two engines took turns, one turn of it.

    Attributes:
        key: the cell's key (pytest_energy.cell.Cell.key).
        launch_id: one engine start; recordings that share it are no independent evidence.
        turn: number of this turn among the launch's turns in this cell, from 0.
        beside: the engine that waited meanwhile; None where the launch had the GPU to itself.
        environment: the fingerprint (pytest_energy.recording.fingerprint).
        load_stopped_ns: when the last step under load had ended; the traces go on for a moment.
        kv_cache_tokens: tokens that the KV cache holds, 0 where unknown.
        faults: reason codes noted while measuring.
        client: what the clients saw; None for an engine that has none, and while the load is on.
        requests: their lengths; None where all are alike.
    """

    key: CellKey
    launch_id: str
    environment: Fingerprint
    tokens: TokenCounter
    gpus: tuple[GpuTrace, ...]
    load_stopped_ns: int
    kv_cache_tokens: int = 0
    cpu: CpuEnergy = field(default_factory=CpuEnergy)
    faults: tuple[str, ...] = ()
    period: int = 0
    co_resident: CoResident | None = None
    client: Client | None = None
    requests: Requests | None = None


def _deltas(values: Sequence[int]) -> list[int]:
    return [b - a for a, b in itertools.pairwise((0, *values))]


def _cumulate(deltas: Sequence[int]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(deltas))


# Series that only grow are stored as differences, which is what makes the files small.
_CUMULATIVE = {"time_ns", "unchanged_ns", "changed_ns", "energy_mj"}
_ORDERED = {"time_ns", "unchanged_ns", "changed_ns", "value_us"}
FAR = 2**62  # of what is computed with in 64 bits
# Lowest and highest value of a series that can be true.
_RANGES: Mapping[str, tuple[int, int]] = {
    "time_ns": (0, FAR),
    "unchanged_ns": (0, FAR),
    "changed_ns": (0, FAR),
    "energy_mj": (0, FAR),
    "tokens": (0, 10**6),
    "finished": (0, 10**6),
    "average_power_mw": (0, 10**9),
    "instant_power_mw": (0, 10**9),
    "sm_clock_mhz": (0, 10**6),
    "temperature_c": (-1000, 1000),
    "throttle_reasons": (0, 2**64 - 1),
    "utilization_percent": (0, 1000),
    "value_us": (0, 10**12),
    "count": (1, 10**9),
    "input_tokens": (1, 10**9),
    "output_tokens": (1, 10**9),
}


def _pack_series(series: Any) -> dict[str, Any]:
    return {
        name: _deltas(values) if name in _CUMULATIVE else values
        for name, values in ((f.name, getattr(series, f.name)) for f in dataclasses.fields(series))
    }


def _unpack_series(kind: type, content: Any, where: str) -> Any:
    values: dict[str, Any] = {}
    names = {f.name for f in dataclasses.fields(kind)}
    if not isinstance(content, dict) or set(content) != names:
        raise Malformed(f"{where} holds not just {', '.join(sorted(names))}")
    for name, series in content.items():
        if name == "unavailable":
            values[name] = untrusted.text(series, f"{where}.{name}")
            continue
        if not isinstance(series, list) or not all(type(value) is int for value in series):
            raise Malformed(f"{where}.{name} is not a list of integers")
        values[name] = _cumulate(series) if name in _CUMULATIVE else tuple(series)
        check_series(name, values[name], where)
    if len({len(v) for v in values.values() if isinstance(v, tuple)}) > 1:
        raise Malformed(f"{where}: its series differ in length")
    return kind(**values)


def check_series(name: str, values: Sequence[int], where: str) -> None:
    """Check a series of the counters or of their companions, given by its field's name, as it is in memory.

    Raises:
        Malformed: a value cannot be true, or times are not in order.
    """
    low, high = _RANGES[name]
    if values and not low <= min(values) <= max(values) <= high:
        raise Malformed(f"{where}.{name} holds a value that cannot be true")
    if name in _ORDERED and any(b < a for a, b in itertools.pairwise(values)):
        raise Malformed(f"{where}.{name} is not in order")


def to_json(recording: Recording) -> dict[str, Any]:
    """The recording as plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "key": recording.key.plain,
        "launch_id": recording.launch_id,
        "environment": recording.environment.plain,
        "tokens": _pack_series(recording.tokens),
        "gpus": [
            {
                "uuid": gpu.uuid,
                "name": gpu.name,
                "counter": _pack_series(gpu.counter),
                "samples": _pack_series(gpu.samples),
                "faults": list(gpu.faults),
            }
            for gpu in recording.gpus
        ],
        "cpu": _pack_series(recording.cpu),
        "load_stopped_ns": recording.load_stopped_ns,
        "kv_cache_tokens": recording.kv_cache_tokens,
        "faults": list(recording.faults),
        "period": recording.period,
        "co_resident": None
        if recording.co_resident is None
        else dataclasses.asdict(recording.co_resident),
        **({} if recording.client is None else {"client": dataclasses.asdict(recording.client)}),
        **({} if recording.requests is None else {"requests": _pack_series(recording.requests)}),
    }


def _co_resident(content: Any) -> CoResident | None:
    if content is None:
        return None
    co_resident = CoResident(**content)
    untrusted.name(co_resident.launch_id, "co_resident.launch_id")
    untrusted.integer(co_resident.tokens, "co_resident.tokens", -FAR, FAR)
    untrusted.number(co_resident.seconds, "co_resident.seconds", 1e-3, 1e9)
    for name in ("cpu_s", "idle_power_w", "idle_power_alone_w"):
        if name == "cpu_s" or getattr(co_resident, name) is not None:
            untrusted.number(getattr(co_resident, name), f"co_resident.{name}", 0, 1e12)
    if not (co_resident.paused is None or isinstance(co_resident.paused, bool)):
        raise Malformed("co_resident.paused is neither true, false nor null")
    return co_resident


def client_from_json(content: Any) -> Client:
    """What clients saw, as `to_json` wrote it.

    Raises:
        ValueError, TypeError, KeyError: it is malformed.
    """
    distributions = {
        name: _unpack_series(Distribution, content[name], f"client.{name}")
        for name in ("first_token", "inter_token", "end_to_end")
    }
    client = Client(**{**content, **distributions})
    for name in ("streamed_tokens", "server_tokens", "preemptions"):
        if name != "preemptions" or client.preemptions is not None:
            untrusted.integer(getattr(client, name), f"client.{name}", -FAR, FAR)
    untrusted.number(client.cpu_cores, "client.cpu_cores", 0, 1e6)
    return client


def _requests(content: Any, key: CellKey) -> Requests | None:
    """The requests' lengths, which must be there exactly where the key says that they vary."""
    wanted = key.workload.requests
    if content is None and wanted is None:
        return None
    requests: Requests = _unpack_series(Requests, content, "requests")
    if len(requests.input_tokens) != wanted:
        raise Malformed(
            f"it holds the lengths of {len(requests.input_tokens)} requests, its key says {wanted}"
        )
    if key.batch_size > wanted:
        raise Malformed(
            f"its batch size is {key.batch_size}, of which {wanted} requests are no pass"
        )
    return requests


def _gpu(content: Mapping[str, Any]) -> GpuTrace:
    counter = _unpack_series(EnergyCounter, content["counter"], "counter")
    if any(
        changed < unchanged
        for unchanged, changed in zip(counter.unchanged_ns, counter.changed_ns, strict=True)
    ):
        raise Malformed("counter: an update was seen before it happened")
    return GpuTrace(
        uuid=untrusted.name(content["uuid"], "a GPU's uuid"),
        name=untrusted.name(content["name"], "a GPU's name"),
        counter=counter,
        samples=_unpack_series(GpuSamples, content["samples"], "samples"),
        faults=_faults(content["faults"]),
    )


def _faults(content: Any) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(
        isinstance(fault, str) and fault for fault in content
    ):
        raise Malformed("faults are no list of texts")
    return tuple(content)


def from_json(content: Any) -> Recording:
    """The recording that `to_json` wrote.

    Raises:
        RecordingError: the content is no recording of this schema version.
    """
    if not isinstance(content, dict) or "schema_version" not in content:
        raise RecordingError(
            "it is no recording: no schema_version in it. Fetch it anew, or leave it out."
        )
    version = content["schema_version"]
    if type(version) is not int or version not in _READ_VERSIONS:
        raise RecordingError(
            f"it has schema version {version}, this pytest-energy reads {', '.join(map(str, _READ_VERSIONS))}. "
            "Replay it with the pytest-energy that wrote it, or record anew."
        )
    try:
        return _recording(_upgraded(content))
    except (KeyError, TypeError, ValueError) as error:
        what = (
            str(error)
            if isinstance(error, Malformed)
            else f"a field is missing or malformed: {error!r}"
        )
        raise RecordingError(
            f"it is damaged or no recording: {what}. Fetch it anew, or leave it out."
        ) from None


def _upgraded(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content under the names of this schema version."""
    if content["schema_version"] == SCHEMA_VERSION:
        return content
    renamed = dict(content)
    if "turn" in renamed:
        renamed["period"] = renamed.pop("turn")
    if "beside" in renamed:
        co_resident = renamed.pop("beside")
        if isinstance(co_resident, dict) and "asleep" in co_resident:
            co_resident = {name: value for name, value in co_resident.items() if name != "asleep"}
            co_resident["paused"] = content["beside"]["asleep"]
        renamed["co_resident"] = co_resident
    return renamed


def _recording(content: Mapping[str, Any]) -> Recording:
    key = CellKey.from_plain(content["key"])
    tokens: TokenCounter = _unpack_series(TokenCounter, content["tokens"], "tokens")
    requests, fixed = _requests(content.get("requests"), key), key.workload.fixed_lengths
    if fixed and sum(tokens.tokens) // (key.batch_size * fixed[1]) > _MAX_CYCLES:
        raise Malformed(f"its tokens make more than {_MAX_CYCLES:,} cycles")
    gpus = tuple(map(_gpu, untrusted.objects(content["gpus"], "gpus")))
    if len({gpu.uuid for gpu in gpus}) < len(gpus):
        raise Malformed("it holds a GPU twice")
    return Recording(
        key=key,
        launch_id=untrusted.name(content["launch_id"], "launch_id"),
        environment=Fingerprint.from_plain(content["environment"]),
        tokens=tokens,
        gpus=gpus,
        load_stopped_ns=untrusted.integer(content["load_stopped_ns"], "load_stopped_ns", 0, FAR),
        kv_cache_tokens=untrusted.integer(content["kv_cache_tokens"], "kv_cache_tokens", 0, FAR),
        cpu=_unpack_series(CpuEnergy, content["cpu"], "cpu"),
        faults=_faults(content["faults"]),
        period=untrusted.integer(content.get("period", 0), "period", 0, 10**6),
        co_resident=_co_resident(content.get("co_resident")),
        client=None if content.get("client") is None else client_from_json(content["client"]),
        requests=requests,
    )


def write(recording: Recording, path: Path) -> None:
    """Write `recording` to `path` whole or not at all; the same recording gives the same bytes."""
    text = json.dumps(to_json(recording), separators=(",", ":"), sort_keys=True, allow_nan=False)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
        file.write(text.encode())
    write_atomically(path, packed.getvalue())


def read(path: Path) -> Recording:
    """Read the recording at `path`.

    Raises:
        RecordingError: the file cannot be read, is larger than 10 MB, unpacks to more than 20 MB, or holds no recording.
    """
    try:
        return from_json(untrusted.parse(_unpack(untrusted.read(path, _MAX_PACKED_BYTES))))
    except RecordingError as error:
        raise RecordingError(f"recording {path}: {error}") from None
    except (OSError, zlib.error, ValueError) as error:
        raise RecordingError(
            f"recording {path} cannot be read ({error}): it is damaged or no recording. Fetch it anew, or leave it out."
        ) from None


def _unpack(packed: bytes) -> bytes:
    """What `write` packed: one gzip stream and nothing after it, unpacked no further than the limit."""
    unpacker = zlib.decompressobj(wbits=31)
    content = unpacker.decompress(packed, _MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise Malformed(
            f"it unpacks to more than {_MAX_BYTES / 1e6:g} MB, and a real one to some 50 kB"
        )
    if not unpacker.eof:
        raise Malformed("it is truncated")
    if unpacker.unused_data:
        raise Malformed("something follows after its end")
    return content


def find(path: Path) -> Iterator[Path]:
    """The recording files at or below `path`, in a stable order.

    Raises:
        RecordingError: nothing is there.
    """
    files = [path] if path.is_file() else sorted(path.rglob(f"*{SUFFIX}"))
    if not files:
        what = "holds no recordings (*.json.gz)" if path.is_dir() else "does not exist"
        raise RecordingError(
            f"{path} {what}. Give a folder that --energy-record wrote, such as recordings/GPU/LABEL."
        )
    yield from files


def read_launches(paths: Sequence[Path]) -> Iterator[tuple[Recording, ...]]:
    """All recordings at or below `paths`, put together by cell and launch: each with its turns in order; a file given twice counts once.

    They come as they are read, launches of several turns last, so that only these are held in memory together.

    Raises:
        RecordingError: a file is damaged, a path holds none, or a launch lacks a turn.
    """
    seen: set[tuple[str, str, int]] = set()
    interleaved: dict[tuple[str, str], dict[int, Recording]] = {}
    for path in paths:
        for file in find(path):
            recorded = read(file)
            launch = recorded.key.canonical, recorded.launch_id
            if (*launch, recorded.period) in seen:
                continue
            seen.add((*launch, recorded.period))
            if recorded.co_resident is None and recorded.period == 0:
                yield (recorded,)
            else:
                interleaved.setdefault(launch, {})[recorded.period] = recorded
    for (_, launch_id), periods in interleaved.items():
        missing = next(period for period in itertools.count() if period not in periods)
        if missing < len(periods):
            raise RecordingError(
                f"launch {launch_id}: turn {missing} is missing. Fetch all of its files, or leave the launch out."
            )
        yield tuple(recorded for _, recorded in sorted(periods.items()))


# nvmlClocksEventReason* bits.
SW_POWER_CAP = 0x4


THERMAL_OR_HARDWARE = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
