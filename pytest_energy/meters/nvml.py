"""The GPUs that the driver lists, and those of them that CUDA shows to programs."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """A GPU as the driver lists it: its index there, UUID and model."""

    index: int
    uuid: str
    name: str


def list_gpus() -> tuple[Listed, ...]:
    """All GPUs that the driver lists, in its order; the name is empty if it is not reported.

    Raises:
        Exception: NVMLError if there is no driver or it does not respond; ImportError without
            nvidia-ml-py.
    """
    import pynvml

    pynvml.nvmlInit()
    listed = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle, name = pynvml.nvmlDeviceGetHandleByIndex(index), ""
        with contextlib.suppress(pynvml.NVMLError):
            name = text(pynvml.nvmlDeviceGetName(handle))
        listed.append(Listed(index, text(pynvml.nvmlDeviceGetUUID(handle)), name))
    return tuple(listed)


def listed_uuids() -> tuple[str, ...]:
    """UUIDs of all GPUs that the driver lists; empty without a driver."""
    with contextlib.suppress(Exception):
        return tuple(gpu.uuid for gpu in list_gpus())
    return ()


def visible_uuids() -> tuple[str, ...]:
    """UUIDs of the GPUs that an engine started from here may land on; empty without a driver."""
    with contextlib.suppress(Exception):
        return tuple(
            gpu.uuid
            for gpu in visible(
                list_gpus(),
                os.environ.get("CUDA_VISIBLE_DEVICES"),
                os.environ.get("CUDA_DEVICE_ORDER"),
            )
        )
    return ()


def visible(listed: Sequence[Listed], named: str | None, order: str | None) -> tuple[Listed, ...]:
    """Those that an engine may land on.

    Args:
        listed: in the driver's order.
        named: CUDA_VISIBLE_DEVICES: indices, UUIDs or beginnings of UUIDs. As in CUDA, an unknown
            one hides all that follow.
        order: CUDA_DEVICE_ORDER. Indices mean the driver's order if it is PCI_BUS_ID or all GPUs
            are of one model; otherwise CUDA orders by speed, and any GPU may be meant.
    """
    if named is None:
        return tuple(listed)
    words = [word.strip() for word in named.split(",")]
    indexed = any(word.isdecimal() for word in words)
    if any(word.startswith("MIG-") for word in words) or (
        indexed and order != "PCI_BUS_ID" and len({gpu.name for gpu in listed}) > 1
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
