"""Facts of the NVIDIA driver and of vLLM → findings. Pure."""

import re
from collections.abc import Sequence

from pytest_energy.health import findings as kinds
from pytest_energy.health.facts import DriverFacts, EngineFacts
from pytest_energy.health.findings import Finding, found, ok

_DRIVER, _ENGINE = "driver", "engine"
_OLDEST_VLLM = (0, 5, 4)
# If the driver does not respond, by NVML's error code.
_INSTALL = (
    "install NVIDIA's driver, or give the container access to the GPU (--gpus all); "
    "nvidia-smi must work here"
)
_REMEDIES = {
    4: "give this user or container access to /dev/nvidia*; nvidia-smi must work here",
    16: "reboot, or reset the GPU while nothing runs on it: nvidia-smi --gpu-reset",
    18: "reboot: the driver was updated, and the one before still runs; a container started before "
    "that must be started again",
}
# Builds from a checkout without tags; of setuptools-scm, which vLLM uses, 0.1.dev and a count.
_UNNUMBERED = re.compile(r"0\.1\.dev|0(\.0)*(\.dev|\+|$)")


def driver(facts: DriverFacts) -> Finding:
    """Whether the driver responds."""
    if facts.error:
        what = f"the NVIDIA driver does not respond: {facts.error}"
        remedy = _REMEDIES.get(facts.code or 0, _INSTALL)
        return found(_DRIVER, "no_driver", what, remedy)
    cuda = f", CUDA {facts.cuda}" if facts.cuda else ""
    return ok(_DRIVER, kinds.DRIVER, f"{facts.version or 'unknown version'}{cuda}")


def selection(listed: int, chosen: int, unknown: Sequence[str]) -> Finding:
    """Which GPUs are checked.

    Args:
        listed: number of GPUs that the driver lists.
        chosen: number of those that are checked.
        unknown: words in CUDA_VISIBLE_DEVICES that name none of them.
    """
    if not listed:
        remedy = "nvidia-smi -L must list one; a container needs --gpus all"
        return found(_DRIVER, "no_gpu", "the driver lists no GPU", remedy)
    if not chosen:
        what = f"CUDA_VISIBLE_DEVICES hides all GPUs of this machine ({listed})"
        remedy = "unset CUDA_VISIBLE_DEVICES, or name GPUs in it as nvidia-smi -L lists them"
        return found(_DRIVER, "no_gpu", what, remedy)
    if unknown:
        what = (
            f"CUDA_VISIBLE_DEVICES names an unknown GPU ({', '.join(unknown)}): "
            "CUDA hides it and all that follow"
        )
        remedy = "name GPUs in it as nvidia-smi -L lists them"
        return found(_DRIVER, "gpu_unknown", what, remedy)
    return ok(_DRIVER, kinds.GPUS, f"{chosen} of {listed} checked")


def engine(facts: EngineFacts) -> Finding:
    """Whether vLLM can be imported."""
    here = facts.interpreter
    if facts.stage == "start":
        what = f"{here} cannot be run: {facts.error}"
        return found(_ENGINE, "python_unusable", what, "name a Python interpreter: --python PATH")
    if facts.stage == "timeout":
        remedy = f"see where it hangs: {here} -X importtime -c 'import vllm'"
        return found(_ENGINE, "vllm_timeout", facts.error, remedy)
    if facts.error:
        what = f"cannot be imported: {facts.error}"
        if "No module named 'vllm'" in facts.error:
            remedy = (
                f"{here} -m pip install vllm, or name the interpreter of the environment that has "
                "it: --python PATH"
            )
            return found(_ENGINE, "no_vllm", what, remedy)
        remedy = f"see the whole error: {here} -c 'import vllm'"
        return found(_ENGINE, "vllm_broken", what, remedy)
    took = f", imported in {facts.import_s:.0f} s" if facts.import_s is not None else ""
    what = f"{facts.vllm}, torch {facts.torch}, Python {facts.python}{took}"
    if _UNNUMBERED.match(facts.vllm or ""):
        return ok(_ENGINE, kinds.VLLM, f"{what}; built without tags, so its release is unknown")
    version = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", facts.vllm or "")
    if version and tuple(int(part or 0) for part in version.groups()) < _OLDEST_VLLM:
        what = f"{what}: older than any version tested"
        oldest = ".".join(map(str, _OLDEST_VLLM))
        return found(_ENGINE, "vllm_old", what, f"use vLLM {oldest} or later")
    return ok(_ENGINE, kinds.VLLM, what)
