"""Recordings as plain JSON values: the present version, and what makes earlier ones present."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter

from pytest_energy.errors import RecordingError
from pytest_energy.recording import fingerprint
from pytest_energy.recording.recording import Client, PrefixCache, Recording, TokenCounter
from pytest_energy.recording.series import deltas, equally_long
from pytest_energy.safety.schema import OtherVersion, checked, version_of
from pytest_energy.safety.untrusted import Malformed

SCHEMA_VERSION = 7
# 1 knew neither interleaving nor clients, 2 no requests of varying lengths, 3 neither host nor
# load, 4 no other power than the mean of a second, 5 no idle engines, 6 no prefix cache; 3 has
# other names and two series that nobody reads.
_READ_VERSIONS = (1, 2, 3, 4, 5, 6, SCHEMA_VERSION)
_RENAMED = {"turn": "period", "beside": "co_resident"}
_MAX_CYCLES = 1_000_000


def _consistent(recording: Recording) -> Recording:
    """Checks that no field contradicts another."""
    requests = len(recording.requests.input_tokens) if recording.requests is not None else None
    wanted, batch_size = recording.key.workload.requests, recording.key.batch_size
    if requests != wanted:
        raise ValueError(f"it holds the lengths of {requests} requests, but its key says {wanted}")
    if wanted is not None and batch_size > wanted:
        raise ValueError(f"its batch size is {batch_size}, and a pass has only {wanted} requests")
    fixed = recording.key.workload.fixed_lengths
    if (recording.idle is not None) != recording.key.is_idle:
        raise ValueError("it is of an engine at idle and of one under load")
    if recording.key.is_idle:
        if len(recording.tokens.time_ns) != 2:
            raise ValueError("the tokens of an engine at idle are counted twice")
        if recording.period or recording.co_resident is not None:
            raise ValueError("an engine at idle is measured alone, and at once")
        if recording.prefix_cache is not None:
            raise ValueError("an engine at idle has no prompts")
    elif fixed and sum(recording.tokens.tokens) // (batch_size * fixed[1]) > _MAX_CYCLES:
        raise ValueError(f"its tokens make more than {_MAX_CYCLES:,} cycles")
    if len({gpu.uuid for gpu in recording.gpus}) < len(recording.gpus):
        raise ValueError("it holds a GPU twice")
    for gpu in recording.gpus:
        reads = zip(gpu.counter.unchanged_ns, gpu.counter.changed_ns, strict=True)
        if any(changed < unchanged for unchanged, changed in reads):
            raise ValueError(f"{gpu.uuid}: an update was seen before it happened")
    return recording


_RECORDING = TypeAdapter(Annotated[Recording, AfterValidator(_consistent)])
_CLIENT = TypeAdapter(Client)
_PREFIX_CACHE = TypeAdapter(PrefixCache | None)
_TOKENS = TypeAdapter(Annotated[TokenCounter, equally_long("time_ns", "tokens", "finished")])


def to_json(recording: Recording) -> dict[str, Any]:
    """The recording as plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        **_RECORDING.dump_python(recording, mode="json"),
    }


def from_json(content: Any) -> Recording:
    """The recording that `to_json`, of this version or an earlier one, wrote.

    Raises:
        RecordingError: the content is not a recording of a version that is read.
    """
    try:
        version = version_of(content, _READ_VERSIONS)
    except OtherVersion as error:
        raise RecordingError(
            f"it {error}. Replay it with the pytest-energy that wrote it, or record it again."
        ) from None
    except Malformed as error:
        raise RecordingError(
            f"it is not a recording: {error}. Fetch it again, or leave it out."
        ) from None
    values = {name: value for name, value in content.items() if name != "schema_version"}
    values = values if version >= 4 else _upgraded(values)
    values = values if version >= 6 else {"idle": None, **values}
    values = values if version >= 7 else {"prefix_cache": None, **values}
    try:
        # Also those that have a default in Python: a file that lacks one is damaged.
        for field in fields(Recording):
            if field.name not in values:
                raise Malformed(f"{field.name} is missing")
        return checked(_RECORDING, values)
    except Malformed as error:
        raise RecordingError(
            f"it is damaged or not a recording: {error}. Fetch it again, or leave it out."
        ) from None


def client_from_json(content: Any) -> Client:
    """What clients saw, as `to_json` writes it.

    Raises:
        Malformed: it is something else.
    """
    return checked(_CLIENT, content)


def prefix_cache_from_json(content: Any) -> PrefixCache | None:
    """What the prefix cache did, as `to_json` writes it.

    Raises:
        Malformed: it is something else.
    """
    return checked(_PREFIX_CACHE, content)


def tokens_from_steps(steps: Mapping[str, Any]) -> TokenCounter:
    """Steps as a worker reports them: the fields of `TokenCounter`, times as they are.

    Raises:
        Malformed: they are not such steps.
    """
    times = steps.get("time_ns")
    if not isinstance(times, list) or not all(type(time_ns) is int for time_ns in times):
        raise Malformed("time_ns: it is not a list of integers")
    return checked(_TOKENS, {**steps, "time_ns": deltas(times)})


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A recording of version 1, 2 or 3 under the names of this version.

    Whatever is wrong with it is left as it is.
    """
    absent = {
        "period": 0, "co_resident": None, "client": None, "requests": None, "host": None,
        "load_s": None, "compiled": None,
    }  # fmt: skip
    upgraded = {
        **absent,
        **{_RENAMED.get(name, name): value for name, value in content.items() if name != "cpu"},
    }
    co_resident = upgraded.get("co_resident")
    if isinstance(co_resident, dict):
        upgraded["co_resident"] = {
            "paused" if name == "asleep" else name: value for name, value in co_resident.items()
        }
    upgraded["environment"] = fingerprint.upgraded(upgraded.get("environment"))
    if isinstance(upgraded.get("gpus"), list):
        upgraded["gpus"] = [_without_instant_power(gpu) for gpu in upgraded["gpus"]]
    return upgraded


def _without_instant_power(gpu: Any) -> Any:
    if not isinstance(gpu, dict) or not isinstance(gpu.get("samples"), dict):
        return gpu
    samples = {name: v for name, v in gpu["samples"].items() if name != "instant_power_mw"}
    return {**gpu, "samples": samples}
