"""The GPUs that the driver lists, and those of them that CUDA shows to programs."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """A GPU as the driver lists it: its index there, UUID and model.

    Attributes:
        error: why it cannot be reached, in the driver's words; UUID and name are then empty.
        forbidden: whether that is for lack of permission.
    """

    index: int
    uuid: str
    name: str
    error: str = ""
    forbidden: bool = False


def list_gpus() -> tuple[Listed, ...]:
    """All GPUs that the driver counts, in its order; the name is empty if it is not reported.

    The driver counts those, too, that it cannot reach or may not show.

    Raises:
        Exception: NVMLError if there is no driver or it does not respond; ImportError without
            nvidia-ml-py.
    """
    import pynvml

    pynvml.nvmlInit()
    return tuple(_listed(index) for index in range(pynvml.nvmlDeviceGetCount()))


def _listed(index: int) -> Listed:
    import pynvml

    try:
        handle, name = pynvml.nvmlDeviceGetHandleByIndex(index), ""
        uuid = text(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError as error:
        return Listed(index, "", "", str(error), error.value == pynvml.NVML_ERROR_NO_PERMISSION)
    with contextlib.suppress(pynvml.NVMLError):
        name = text(pynvml.nvmlDeviceGetName(handle))
    return Listed(index, uuid, name)


def listed_uuids() -> tuple[str, ...]:
    """UUIDs of all GPUs that can be reached; empty without a driver."""
    with contextlib.suppress(Exception):
        return tuple(gpu.uuid for gpu in list_gpus() if gpu.uuid)
    return ()


def visible_uuids() -> tuple[str, ...]:
    """UUIDs of the GPUs that an engine started from here may land on; empty without a driver."""
    with contextlib.suppress(Exception):
        found = visible(
            list_gpus(),
            os.environ.get("CUDA_VISIBLE_DEVICES"),
            os.environ.get("CUDA_DEVICE_ORDER"),
        )
        return tuple(gpu.uuid for gpu in found if gpu.uuid)
    return ()


def visible(listed: Sequence[Listed], named: str | None, order: str | None) -> tuple[Listed, ...]:
    """Those that an engine may land on.

    Args:
        listed: in the driver's order.
        named: CUDA_VISIBLE_DEVICES: indices, UUIDs or beginnings of UUIDs. As in CUDA, an unknown
            one hides all that follow.
        order: CUDA_DEVICE_ORDER. Indices mean the driver's order if it is PCI_BUS_ID or all GPUs
            are of one model; otherwise CUDA orders by speed, and any GPU may be meant. So it may
            from the first GPU on that cannot be reached, since CUDA does not count that one.
    """
    if named is None:
        return tuple(listed)
    words = [word.strip() for word in named.split(",")]
    indices = [int(word) for word in words if word.isascii() and word.isdecimal()]
    unlike = len({gpu.name for gpu in listed if not gpu.error}) > 1
    shifted = indices and any(gpu.error and gpu.index <= max(indices) for gpu in listed)
    if any(word.startswith("MIG-") for word in words) or (
        shifted or (indices and order != "PCI_BUS_ID" and unlike)
    ):
        return tuple(listed)
    found: list[Listed] = []
    for word in words:
        gpu = find(listed, word)
        if gpu is None or gpu in found:
            break
        found.append(gpu)
    return tuple(found)


def find(listed: Sequence[Listed], word: str) -> Listed | None:
    """The GPU with that index or UUID, or the only one whose UUID begins so; None if unknown."""
    if word.isascii() and word.isdecimal():
        return next((gpu for gpu in listed if gpu.index == int(word)), None)
    fitting = (
        [gpu for gpu in listed if gpu.uuid.startswith(word)] if word.startswith("GPU-") else []
    )
    return fitting[0] if len(fitting) == 1 else None


def text(value: str | bytes) -> str:
    """What some releases of nvidia-ml-py give as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
