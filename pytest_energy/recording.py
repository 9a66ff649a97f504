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

from pytest_energy.errors import RecordingError
from pytest_energy.files import write_atomically

SCHEMA_VERSION = 2
_READ_VERSIONS = (1, 2)  # 1 knew no turns
SUFFIX = ".json.gz"
_MAX_BYTES = 20_000_000  # unpacked; a real cell unpacks to well under 1 MB


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
class Beside:
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
    asleep: bool | None
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
class Recording:
    """All that one cell of one launch yields; or, where two engines took turns, one turn of it.

    Attributes:
        key: the cell's key (pytest_energy.cell.Cell.key).
        launch_id: one engine start; recordings that share it are no independent evidence.
        turn: number of this turn among the launch's turns in this cell, from 0.
        beside: the engine that waited meanwhile; None where the launch had the GPU to itself.
        environment: the fingerprint (pytest_energy.environment).
        load_stopped_ns: when the last step under load had ended; the traces go on for a moment.
        kv_cache_tokens: tokens that the KV cache holds, 0 where unknown.
        faults: reason codes noted while measuring.
        client: what the clients saw; None for an engine that has none, and while the load is on.
    """

    key: Mapping[str, Any]
    launch_id: str
    environment: Mapping[str, Any]
    tokens: TokenCounter
    gpus: tuple[GpuTrace, ...]
    load_stopped_ns: int
    kv_cache_tokens: int = 0
    cpu: CpuEnergy = field(default_factory=CpuEnergy)
    faults: tuple[str, ...] = ()
    turn: int = 0
    beside: Beside | None = None
    client: Client | None = None


def _deltas(values: Sequence[int]) -> list[int]:
    return [b - a for a, b in itertools.pairwise((0, *values))]


def _cumulate(deltas: Sequence[int]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(deltas))


# Series that only grow are stored as differences, which is what makes the files small.
_CUMULATIVE = {"time_ns", "unchanged_ns", "changed_ns", "energy_mj"}


def _pack_series(series: Any) -> dict[str, Any]:
    return {
        name: _deltas(values) if name in _CUMULATIVE else values
        for name, values in ((f.name, getattr(series, f.name)) for f in dataclasses.fields(series))
    }


def _unpack_series(kind: type, content: Any, where: str, lengths_equal: bool = True) -> Any:
    values: dict[str, Any] = {}
    names = {f.name for f in dataclasses.fields(kind)}
    if not isinstance(content, dict) or set(content) != names:
        raise RecordingError(f"{where} holds not just {', '.join(sorted(names))}")
    for name, series in content.items():
        if name == "unavailable":
            values[name] = str(series)
            continue
        if not isinstance(series, list) or not all(type(value) is int for value in series):
            raise RecordingError(f"{where}.{name} is not a list of integers")
        values[name] = _cumulate(series) if name in _CUMULATIVE else tuple(series)
    if lengths_equal and len({len(v) for v in values.values() if isinstance(v, tuple)}) > 1:
        raise RecordingError(f"{where}: its series differ in length")
    return kind(**values)


def to_json(recording: Recording) -> dict[str, Any]:
    """The recording as plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "key": dict(recording.key),
        "launch_id": recording.launch_id,
        "environment": dict(recording.environment),
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
        "turn": recording.turn,
        "beside": None if recording.beside is None else dataclasses.asdict(recording.beside),
        **({} if recording.client is None else {"client": dataclasses.asdict(recording.client)}),
    }


def _beside(content: Any) -> Beside | None:
    if content is None:
        return None
    beside = Beside(**content)
    numbers = (beside.seconds, beside.cpu_s, *(w for w in (beside.idle_power_w, beside.idle_power_alone_w) if w is not None))
    whole = isinstance(beside.launch_id, str) and type(beside.tokens) is int and beside.asleep in (True, False, None)
    if not whole or not all(type(number) in (int, float) and 0 <= number < 1e12 for number in numbers):
        raise RecordingError("what it says of the engine beside is malformed")
    return beside


def _client(content: Any) -> Client | None:
    if content is None:
        return None
    distributions = {
        name: _unpack_series(Distribution, content[name], f"client.{name}") for name in ("first_token", "inter_token", "end_to_end")
    }
    client = Client(**{**content, **distributions})
    counts = (client.streamed_tokens, client.server_tokens, *(() if client.preemptions is None else (client.preemptions,)))
    if not all(type(count) is int for count in counts) or type(client.cpu_cores) not in (int, float):
        raise RecordingError("what it says of the clients is malformed")
    return client


def from_json(content: Any) -> Recording:
    """The recording that `to_json` wrote.

    Raises:
        RecordingError: the content is no recording of this schema version.
    """
    if not isinstance(content, dict) or "schema_version" not in content:
        raise RecordingError("it is no recording: no schema_version in it")
    if content["schema_version"] not in _READ_VERSIONS:
        raise RecordingError(
            f"it has schema version {content['schema_version']}, this pytest-energy reads {' and '.join(map(str, _READ_VERSIONS))}. "
            "Replay it with the pytest-energy that wrote it, or record anew."
        )
    try:
        if not all(isinstance(content[name], dict) for name in ("key", "environment")):
            raise RecordingError("its key or environment is no object")
        tokens = _unpack_series(TokenCounter, content["tokens"], "tokens")
        gpus = tuple(
            GpuTrace(
                uuid=str(gpu["uuid"]),
                name=str(gpu["name"]),
                counter=_unpack_series(EnergyCounter, gpu["counter"], "counter"),
                samples=_unpack_series(GpuSamples, gpu["samples"], "samples"),
                faults=tuple(str(fault) for fault in gpu["faults"]),
            )
            for gpu in content["gpus"]
        )
        return Recording(
            key=content["key"],
            launch_id=str(content["launch_id"]),
            environment=content["environment"],
            tokens=tokens,
            gpus=gpus,
            load_stopped_ns=int(content["load_stopped_ns"]),
            kv_cache_tokens=int(content["kv_cache_tokens"]),
            cpu=_unpack_series(CpuEnergy, content["cpu"], "cpu"),
            faults=tuple(str(fault) for fault in content["faults"]),
            turn=int(content.get("turn", 0)),
            beside=_beside(content.get("beside")),
            client=_client(content.get("client")),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"a field is missing or malformed: {error!r}") from None


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
        RecordingError: the file cannot be read, unpacks to more than 20 MB, or holds no recording.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise RecordingError(f"it unpacks to more than {_MAX_BYTES / 1e6:.0f} MB")
        return from_json(json.loads(text))
    except RecordingError as error:
        raise RecordingError(f"recording {path}: {error}") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise RecordingError(
            f"recording {path} cannot be read ({error}): it is damaged or no recording. Fetch it anew, or leave it out."
        ) from None


def find(path: Path) -> Iterator[Path]:
    """The recording files at or below `path`, in a stable order.

    Raises:
        RecordingError: nothing is there.
    """
    files = [path] if path.is_file() else sorted(path.rglob(f"*{SUFFIX}"))
    if not files:
        what = "holds no recordings (*.json.gz)" if path.is_dir() else "does not exist"
        raise RecordingError(f"{path} {what}. Give a folder that --energy-record wrote, such as recordings/GPU/LABEL.")
    yield from files


def read_launches(paths: Sequence[Path]) -> list[tuple[Recording, ...]]:
    """All recordings at or below `paths`, put together by cell and launch: each with its turns in order; a file given twice counts once.

    They come in order of their cell's key and launch.

    Raises:
        RecordingError: a file is damaged, a path holds none, or a launch lacks a turn.
    """
    launches: dict[tuple[str, str], dict[int, Recording]] = {}
    for path in paths:
        for file in find(path):
            recorded = read(file)
            key = json.dumps(recorded.key, sort_keys=True)
            launches.setdefault((key, recorded.launch_id), {})[recorded.turn] = recorded
    for (_, launch_id), turns in launches.items():
        if sorted(turns) != list(range(len(turns))):
            missing = min(set(range(max(turns))) - set(turns))
            raise RecordingError(f"launch {launch_id}: turn {missing} is missing. Fetch all of its files, or leave the launch out.")
    return [tuple(recorded for _, recorded in sorted(turns.items())) for _, turns in sorted(launches.items())]
