"""The fingerprint of a measurement: what may explain a change.

It is an allow-list: no secret, no path and no user name is in it.
"""

import datetime
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MaxLen
from pydantic import AfterValidator, PlainSerializer, TypeAdapter

from pytest_energy import __version__
from pytest_energy.recording.experts import ExpertRouting
from pytest_energy.safety import redact
from pytest_energy.safety.schema import STRICT, Count, Name, Short, checked
from pytest_energy.safety.untrusted import Malformed

_MAX_SETTINGS = 5_000  # characters
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_VERSIONS = ("vllm", "torch", "cuda", "python", "packages", "vllm_variables", "kernels")
# Variables that move or log something, and leave the engine as it is.
_INERT = re.compile(
    r"VLLM_((.*_)?(LOG|LOGGING|USAGE)(_.*)?|DO_NOT_TRACK|(.*_)?(HOST|IP|PORT|URL)"
    r"|(.*_)?TIMEOUT(_S|_SECONDS)?|(CACHE|CONFIG)_ROOT|(.*_)?CACHE_(DIR|PATH)"
    r"|(ASSETS|MEDIA)_CACHE(_.*)?|(RPC_BASE|DEBUG_DUMP)_PATH|BUILD_.*|IMAGE_TAG)"
)

Watts = Annotated[float, Gt(0), Le(1e6)]


def _short(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(json.dumps(settings)) > _MAX_SETTINGS:
        raise ValueError(f"longer than {_MAX_SETTINGS:,} characters")
    return settings


@dataclass(frozen=True)
class Host:
    """The machine that the engine runs on; None for what is unknown.

    Attributes:
        load_1min: the one-minute load average.
        cpu_governor: of the first CPU.
    """

    __pydantic_config__ = STRICT

    cpu_model: Name | None = None
    cpu_count: Count | None = None
    kernel: Name | None = None
    load_1min: Annotated[float, Ge(0), Le(1e6)] | None = None
    cpu_governor: Name | None = None


@dataclass(frozen=True)
class RequestTokens:
    """Tokens in and out of a whole pass: they tell another tokenizer or chat template."""

    __pydantic_config__ = STRICT

    input: Count
    output: Count


@dataclass(frozen=True)
class Fingerprint:
    """Engine, GPUs and host of a measurement; None or empty for what is unknown.

    Attributes:
        gpu_name: the GPUs' model; several are joined by " + ".
        gpu_uuids: in the engine's rank order.
        date: start of the load, ISO 8601.
        pytest_energy: its version.
        vllm, torch, cuda, python, packages: versions in the engine's environment.
        vllm_variables: environment variables of vLLM's that may change the engine; None in older
            recordings, and for a server that ran already.
        engine_settings: as the engine resolved them.
        kernels: what the model's layers run, by the argument of vLLM's that chooses it; None in
            older recordings, for servers, and if vLLM's workers were not asked.
        engine_args_under_test: those given on the command line.
        synthetic_weights: what was seen of them at work.
        experts: how its routers spread tokens over them; None if it has none, in older recordings
            and for servers.
        request_tokens: of a pass; None if all requests are alike.
        power_limit_w: of each GPU; several if they differ.
        default_power_limit_w, persistence_mode, ecc, max_sm_clock_mhz: of the first GPU.
        cuda_driver: the driver's CUDA version, as NVML gives it.
        energy_scope: "module" if the counters count the GPUs together with CPU and memory.
        host: the machine.
    """

    __pydantic_config__ = STRICT

    gpu_name: Name
    gpu_uuids: tuple[Name, ...] = ()
    date: Short | None = None
    pytest_energy: Short | None = None
    vllm: Short | None = None
    torch: Name | None = None
    cuda: Name | None = None
    python: Name | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    vllm_variables: Mapping[str, str] | None = None
    engine_settings: Mapping[str, Any] = field(default_factory=dict)
    kernels: Annotated[Mapping[Name, Name], MaxLen(16)] | None = None
    engine_args_under_test: Annotated[Mapping[str, Any], AfterValidator(_short)] = field(
        default_factory=dict
    )
    synthetic_weights: Mapping[str, Any] = field(default_factory=dict)
    experts: ExpertRouting | None = None
    request_tokens: RequestTokens | None = None
    driver: Name | None = None
    power_limit_w: Watts | Annotated[tuple[Watts, ...], MaxLen(64)] | None = None
    default_power_limit_w: Watts | None = None
    persistence_mode: bool | None = None
    ecc: bool | None = None
    max_sm_clock_mhz: int | None = None
    cuda_driver: int | None = None
    energy_scope: Literal["module"] | None = None
    host: Host = field(default_factory=Host)

    @classmethod
    def from_plain(cls, content: Any) -> "Fingerprint":
        """The fingerprint that `plain` took apart, or that an earlier version wrote.

        Raises:
            Malformed: the content is not a fingerprint.
        """
        try:
            return checked(_ADAPTER, upgraded(content))
        except Malformed as error:
            raise Malformed(f"environment.{error}") from None

    @cached_property
    def plain(self) -> dict[str, Any]:
        """As values of JSON, without what is unknown."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        for name in ("host", "experts"):
            known = {n: value for n, value in values.get(name, {}).items() if value is not None}
            values |= {name: known} if name in values else {}
        values["gpu_uuids"] = list(self.gpu_uuids)
        if isinstance(self.power_limit_w, tuple):
            values["power_limit_w"] = list(self.power_limit_w)
        for name in ("packages", "synthetic_weights"):
            if not values[name]:
                del values[name]
        return values

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs, sorted: in which order an engine names its GPUs says nothing."""
        return tuple(sorted(self.gpu_uuids))

    @property
    def is_v0(self) -> bool:
        """Whether vLLM ran a V0 engine."""
        return bool(self.engine_settings.get("vllm_engine") == "V0")

    @property
    def prompts_run_apart(self) -> bool:
        """Whether a step holds prompts or generates, but not both."""
        return self.is_v0 and not self.engine_settings.get("enable_chunked_prefill")

    @property
    def settings_under_test(self) -> tuple[str, ...]:
        """Those from the command line, "name=value" each, sorted."""
        return tuple(f"{k}={v}" for k, v in sorted(self.engine_args_under_test.items()))

    @property
    def power_limit(self) -> str:
        """For messages: "700.0 W"."""
        if self.power_limit_w is None:
            return "unknown"
        limits = self.power_limit_w
        each = limits if isinstance(limits, tuple) else (limits,)
        return " and ".join(map(str, each)) + " W"


Environment = Annotated[Fingerprint, PlainSerializer(lambda f: f.plain)]  # as schemas hold it
_ADAPTER = TypeAdapter(Fingerprint)


def differing_engines(fingerprints: Sequence[Fingerprint]) -> str | None:
    """In what launches that should be of one engine on the same GPUs differ; None if in nothing.

    It reads "name (one, other)".
    """
    names = "gpu_name", "gpu_uuids", "power_limit_w", "energy_scope", "vllm"
    for name in (*names, "engine_args_under_test", "vllm_variables"):
        values = sorted(
            {
                " + ".join(f.gpus) if name == "gpu_uuids" else str(f.plain.get(name) or None)
                for f in fingerprints
            }
        )
        if len(values) > 1:
            return f"{name} ({', '.join(values)})"
    return None


def upgraded(content: Any) -> Any:
    """A fingerprint as an earlier version wrote it, under today's names."""
    if not isinstance(content, dict) or "made_up_weights" not in content:
        return content
    return {
        "synthetic_weights" if name == "made_up_weights" else name: value
        for name, value in content.items()
    }


def checked_versions(reported: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the versions that an engine reports which a fingerprint holds.

    Raises:
        Malformed: one of them is not a version.
    """
    held = {name: reported[name] for name in _VERSIONS if name in reported}
    checked(_ADAPTER, {"gpu_name": "any", **held})
    if held.get("vllm_variables"):
        held["vllm_variables"] = vllm_variables(held["vllm_variables"])
    return held


def vllm_variables(given: Mapping[str, str]) -> dict[str, str]:
    """Those of vLLM's environment variables that may change the engine; secrets are none of them.

    Args:
        given: all that begin with "VLLM_".
    """
    return {
        name: redact.home(redact.secrets(redact.paths(value)))
        for name, value in sorted(given.items())
        if not _INERT.fullmatch(name)
        if not redact.says_secret(name.removesuffix("_TOKEN_THRESHOLD"))
    }


def fingerprint(
    versions: Mapping[str, Any],
    engine_settings: Mapping[str, Any],
    engine_args_under_test: Mapping[str, Any],
    gpu: Mapping[str, Any],
    synthetic_weights: Mapping[str, Any],
    request_tokens: RequestTokens | None = None,
    experts: ExpertRouting | None = None,
) -> Fingerprint:
    """The fingerprint of a load that is about to start.

    Args:
        versions: of the engine's environment; what is not in `Fingerprint` is left out.
        engine_settings: as the engine resolved them.
        engine_args_under_test: those given on the command line.
        gpu: as the meter describes it.
        synthetic_weights: what was seen of them at work; empty if there is nothing to report.
        request_tokens: of a pass; None if all requests are alike.
        experts: how its routers spread tokens over them; None if it has none.
    """
    return Fingerprint(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        pytest_energy=__version__,
        engine_settings=redact.paths(engine_settings),
        engine_args_under_test=redact.paths(engine_args_under_test),
        synthetic_weights=synthetic_weights,
        request_tokens=request_tokens,
        experts=experts,
        host=host(),
        **{name: versions[name] for name in _VERSIONS if name in versions},
        **gpu,
    )


def host() -> Host:
    """This host."""
    governor = _GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None
    return Host(
        cpu_model=_cpu_model(),
        cpu_count=os.cpu_count(),
        kernel=platform.release(),
        load_1min=round(os.getloadavg()[0], 2),
        cpu_governor=governor,
    )


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
