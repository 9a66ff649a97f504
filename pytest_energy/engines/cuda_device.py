"""Whether a process uses CUDA, by what it has open; the driver's own list may be hidden."""

from pathlib import Path

_CUDA_DEVICE = "/dev/nvidia-uvm"  # which a process opens to use CUDA, but not to ask the driver


def uses_cuda(pid: int) -> bool | None:
    """None if that cannot be seen: the process is another user's, or ends."""
    try:
        return any(_target(file) == _CUDA_DEVICE for file in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None


def _target(file: Path) -> str | None:
    """What a process has open there; None if it closed that meanwhile."""
    try:
        return str(file.readlink())
    except FileNotFoundError:
        return None
