"""A recording: two cumulative counters on one monotonic clock, of tokens and of energy.

Times are integer nanoseconds of CLOCK_MONOTONIC, energies integer millijoules as the GPU counts
them, so that writing and reading change nothing. docs/files.md describes the file.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from pytest_energy.cell.key import Key
from pytest_energy.recording.fingerprint import Environment
from pytest_energy.recording.series import (
    FAR,
    Bits,
    Celsius,
    Counts,
    Durations,
    Energies,
    Frequencies,
    Lengths,
    Megahertz,
    Microseconds,
    Milliwatts,
    Percents,
    Times,
    equally_long,
)
from pytest_energy.safety.schema import STRICT, Name

# Bits of GpuSamples.throttle_reasons (nvmlClocksEventReason*).
SW_POWER_CAP = 0x4
THERMAL_OR_HARDWARE = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}

Faults = tuple[Annotated[str, MinLen(1)], ...]
Tokens = Annotated[int, Ge(-FAR), Le(FAR)]
Watts = Annotated[float, Ge(0), Le(1e12)]


@dataclass(frozen=True)
class TokenCounter:
    """Engine steps, in order; all of shape (steps,).

    Attributes:
        time_ns: when each step returned.
        tokens: generated in it.
        finished: requests that finished in it.
    """

    __pydantic_config__ = STRICT

    time_ns: Times
    tokens: Counts
    finished: Counts


@dataclass(frozen=True)
class EnergyCounter:
    """Updates of a cumulative energy counter, in order; all of shape (updates,).

    An update happened after `unchanged_ns`, the last read of the old value, and not after
    `changed_ns`, the first read of the new one.
    """

    __pydantic_config__ = STRICT

    unchanged_ns: Times
    changed_ns: Times
    energy_mj: Energies


@dataclass(frozen=True)
class GpuSamples:
    """Companions of the energy counter, sampled about once a second; all of shape (samples,).

    One that the driver does not report or failed to read is empty.

    Attributes:
        time_ns: when.
        average_power_mw: the driver's one-second average (NVML_FI_DEV_POWER_AVERAGE); if
            `GpuTrace.power` is "instant", what nvmlDeviceGetPowerUsage returns.
        sm_clock_mhz: NVML_CLOCK_SM.
        temperature_c: NVML_TEMPERATURE_GPU.
        throttle_reasons: nvmlClocksEventReason*, a bit mask.
        utilization_percent: share of time in which a kernel ran.
    """

    __pydantic_config__ = STRICT

    time_ns: Times
    average_power_mw: Milliwatts
    sm_clock_mhz: Megahertz
    temperature_c: Celsius
    throttle_reasons: Bits
    utilization_percent: Percents


@dataclass(frozen=True)
class HostSamples:
    """What the engine waited for on its host, about once a second; all of shape (samples,).

    Attributes:
        time_ns: the end of the time that each sample covers.
        steal_us: CPU time that a hypervisor gave to others, of all CPUs (/proc/stat).
        run_delay_us: that threads of the engine were ready and waited for a CPU
            (/proc/PID/task/TID/schedstat), all threads together.
    """

    __pydantic_config__ = STRICT

    time_ns: Times
    steal_us: Microseconds
    run_delay_us: Microseconds


@dataclass(frozen=True)
class GpuTrace:
    """One GPU during one cell.

    Attributes:
        uuid, name: as NVML gives them.
        counter: of its energy.
        samples: what accompanies it.
        faults: noted while reading, "code: detail", such as "foreign_process: pid 4711".
        power: whether the samples' power is the mean of a second or of no time.
    """

    __pydantic_config__ = STRICT

    uuid: Name
    name: Name
    counter: Annotated[EnergyCounter, equally_long("unchanged_ns", "changed_ns", "energy_mj")]
    samples: Annotated[
        GpuSamples,
        equally_long(
            "time_ns",
            unless_empty=(
                "average_power_mw",
                "sm_clock_mhz",
                "temperature_c",
                "throttle_reasons",
                "utilization_percent",
            ),
        ),
    ]
    faults: Faults
    power: Literal["average", "instant"] = "average"


@dataclass(frozen=True)
class CoResident:
    """The other engine, resident on the same GPU and paused while this recording was made.

    Attributes:
        launch_id: of that engine.
        seconds: how long it was watched.
        tokens: that it generated in this time; anything but 0 is a fault.
        paused: whether its scheduler was paused (vLLM's sleep level 0) before and after, as it
            reports; None if its vLLM has no such state.
        cpu_s: CPU time of all its processes, s.
        idle_power_w: mean power of the GPUs with both engines loaded and neither under load.
        idle_power_alone_w: the same before the second engine was started.
    """

    __pydantic_config__ = STRICT

    launch_id: Name
    seconds: Annotated[float, Ge(1e-3), Le(1e9)]
    tokens: Tokens
    paused: bool | None
    cpu_s: Annotated[float, Ge(0), Le(1e12)]
    idle_power_w: Watts | None = None
    idle_power_alone_w: Watts | None = None


@dataclass(frozen=True)
class Idle:
    """What the GPUs and the host spent while the engine was loaded and without requests.

    Attributes:
        without_engine_w: power of the idle GPUs before the engine was started, without a context on
            them, W, all together; None if it could not be read or the engine was running already.
        cpu_cores: that all processes of the engine used together.
    """

    __pydantic_config__ = STRICT

    without_engine_w: Watts | None
    cpu_cores: Annotated[float, Ge(0), Le(1e6)]


@dataclass(frozen=True)
class Distribution:
    """Durations, rounded to three digits, in order, with how often each occurred.

    Both of shape (values,).
    """

    __pydantic_config__ = STRICT

    value_us: Durations
    count: Frequencies


_Latencies = Annotated[Distribution, equally_long("value_us", "count")]


@dataclass(frozen=True)
class Client:
    """What the clients of a server saw; latencies are of the load after its first cycle.

    Attributes:
        first_token: from sending a request until its first token.
        inter_token: between tokens of a request that follow each other; tokens that arrive
            together share the time since those before.
        end_to_end: from sending a request until its last token.
        cpu_cores: that all clients used together; they share one thread of one process.
        streamed_tokens: received from idle to idle.
        server_tokens: generated in this time, as the server reports
            (vllm:generation_tokens_total).
        preemptions: in this time; None if the server does not report them.
    """

    __pydantic_config__ = STRICT

    first_token: _Latencies
    inter_token: _Latencies
    end_to_end: _Latencies
    cpu_cores: Annotated[float, Ge(0), Le(1e6)]
    streamed_tokens: Tokens
    server_tokens: Tokens
    preemptions: Tokens | None = None


@dataclass(frozen=True)
class PrefixCache:
    """What the prefix cache did for the requests sent after the warm-up, as the engine counts it.

    Attributes:
        prompt_tokens: of these requests.
        cached_tokens: of these tokens, those that were in the cache and not computed.
    """

    __pydantic_config__ = STRICT

    prompt_tokens: Annotated[int, Ge(0), Le(FAR)]
    cached_tokens: Annotated[int, Ge(0), Le(FAR)]

    def __post_init__(self) -> None:
        if self.cached_tokens > self.prompt_tokens:
            raise ValueError(f"{self.cached_tokens} of {self.prompt_tokens} tokens were cached")


@dataclass(frozen=True)
class Requests:
    """Lengths of the requests of a pass, in the order in which they are sent, over and over.

    Both of shape (requests,).

    Attributes:
        input_tokens: of each prompt; of texts, by the model's tokenizer and its chat template.
        output_tokens: that each was made to generate.
    """

    __pydantic_config__ = STRICT

    input_tokens: Lengths
    output_tokens: Lengths


@dataclass(frozen=True)
class Recording:
    """All that one cell of one launch yields; of two interleaved engines, one period of one.

    Attributes:
        key: of the cell.
        launch_id: of one engine start; recordings that share it are not independent evidence.
        environment: the fingerprint.
        tokens: what the engine generated; at idle, at the start and the end of what is measured.
        gpus: in the engine's rank order.
        load_stopped_ns: when the last step under load had ended; the traces go on for a moment.
        kv_cache_tokens: tokens that the KV cache holds; 0 if unknown.
        faults: noted while measuring, "code: detail".
        period: its number among the launch's periods in this cell, from 0.
        co_resident: the other engine; None if the launch had the GPU to itself.
        client: what the clients saw; None for an engine without clients, and during the load.
        requests: their lengths; None if all are alike.
        host: what the engine waited for on its host; None if it was not looked at.
        load_s: from the engine's start until it was ready; None if it was running or is unknown.
        compiled: whether vLLM compiled meanwhile, a cold launch; None if unknown.
        idle: of the engine at idle; None under load.
        prefix_cache: None if the engine does not count what it serves, and during the load.
    """

    __pydantic_config__ = STRICT

    key: Key
    launch_id: Name
    environment: Environment
    tokens: Annotated[TokenCounter, equally_long("time_ns", "tokens", "finished")]
    gpus: tuple[GpuTrace, ...]
    load_stopped_ns: Annotated[int, Ge(0), Le(FAR)]
    kv_cache_tokens: Annotated[int, Ge(0), Le(FAR)] = 0
    faults: Faults = ()
    period: Annotated[int, Ge(0), Le(10**6)] = 0
    co_resident: CoResident | None = None
    client: Client | None = None
    requests: Annotated[Requests, equally_long("input_tokens", "output_tokens")] | None = None
    host: Annotated[HostSamples, equally_long("time_ns", "steal_us", "run_delay_us")] | None = None
    load_s: Annotated[float, Ge(0), Le(1e6)] | None = None
    compiled: bool | None = None
    idle: Idle | None = None
    prefix_cache: PrefixCache | None = None
