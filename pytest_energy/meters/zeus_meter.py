"""GPU energy through Zeus; what Zeus lacks (UUIDs, clocks, processes) from nvidia-ml-py.

    counter  │    │    │    │    │    │    │    │  one update every 100 ms (H100, H200)
    reads    ··│              ··│              ··│  none for 0.47 s, then dense until it changes
    samples    s                                 s  power, clock, … once a second, after an update

A kept update lies between the last unchanged and the first changed read; both times are kept. Reads
are few because a driver call takes several milliseconds on some machines: under a meter that read
at every update, a batch of 64 ran 2 % slower (docs/measurements.md).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pytest_energy.errors import MeterError
from pytest_energy.meters import companions, scope
from pytest_energy.meters.companions import Companions, Unreadable, Unsupported, is_unsupported
from pytest_energy.meters.nvml import Listed, list_gpus, text
from pytest_energy.recording.faults import fault
from pytest_energy.recording.recording import EnergyCounter, GpuSamples, GpuTrace

_PAUSE_AFTER_UPDATE_S = 0.47  # ends shortly before an update if they come every 0.1 s
_DENSE_READ_S = 0.004
_SAMPLE_EVERY_S = 1.0
_STUCK_AFTER_S = 2.0
_MAX_READ_ERRORS = 20


class Meter(Protocol):
    """Reads energy in the background between `start` and `stop`."""

    def start(self) -> None:
        """Begin a trace."""

    def read(self) -> tuple[GpuTrace, ...]:
        """The trace so far: one GpuTrace per GPU, in the engine's rank order."""

    def stop(self) -> None:
        """End the trace; `read` still returns it."""

    def describe(self) -> dict[str, Any]:
        """The GPUs as the environment fingerprint records them."""


class ZeusMeter:
    """Meter for exactly the NVIDIA GPUs with the given UUIDs, whatever CUDA_VISIBLE_DEVICES says.

    Args:
        gpu_uuids: as NVML spells them, in the order of the traces.
        is_engine_process: whether a process id belongs to the engine under test; any other compute
            process on the GPUs is a fault. None skips that check.

    Raises:
        MeterError: no driver, no such GPU, a MIG slice, a GPU without an energy counter, or several
            whose counters may count the same module.
    """

    def __init__(
        self, gpu_uuids: Sequence[str], is_engine_process: Callable[[int], bool] | None = None
    ) -> None:
        self._gpus = _open_gpus(gpu_uuids)
        self._uuids = tuple(gpu_uuids)
        try:
            # Once: a GPU that is lost later no longer reports its name.
            self._names = tuple(gpu.get_name() for gpu in self._gpus)
        except Exception as error:
            raise MeterError(
                f"the driver does not report the GPU's name: {error}. Run: pytest-energy doctor"
            ) from None
        self._scopes = _scopes(self._uuids, self._gpus)
        self._is_engine_process = is_engine_process
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin a trace."""
        self._stop.clear()
        self._readers = [
            _GpuReader(gpu, uuid, name, Companions(gpu.handle, of), self._is_engine_process)
            for gpu, uuid, name, of in zip(
                self._gpus, self._uuids, self._names, self._scopes, strict=True
            )
        ]
        self._thread = threading.Thread(target=self._poll, name="energy-meter", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stop.is_set():
            for reader in self._readers:
                reader.read()
            due = min(reader.next_read_s for reader in self._readers)
            self._stop.wait(min(max(_DENSE_READ_S, due - time.monotonic()), 1.0))

    def read(self) -> tuple[GpuTrace, ...]:
        """The trace so far."""
        return tuple(reader.trace() for reader in self._readers)

    def stop(self) -> None:
        """End the trace."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None

    def describe(self) -> dict[str, Any]:
        """GPU names, UUIDs, driver, power limits (W) and other settings of the driver.

        Raises:
            MeterError: the driver fails to report its version or the power limit, which some GPUs
                do not have.
        """
        import pynvml

        first = self._gpus[0]
        try:
            limit_w = tuple(sorted(filter(None, {_power_limit_w(gpu) for gpu in self._gpus})))
            described: dict[str, Any] = {
                "gpu_name": " + ".join(sorted(set(self._names))),
                "gpu_uuids": self._uuids,
                "power_limit_w": (limit_w[0] if len(limit_w) == 1 else limit_w) or None,
                "driver": text(pynvml.nvmlSystemGetDriverVersion()),
            }
            if scope.MODULE in self._scopes:
                described["energy_scope"] = "module"
        except Exception as error:
            raise MeterError(
                f"the driver does not report the power limit or its own version: {error}. "
                "Run: pytest-energy doctor"
            ) from None
        optional: dict[str, Callable[[], Any]] = {
            "default_power_limit_w": lambda: (
                pynvml.nvmlDeviceGetPowerManagementDefaultLimit(first.handle) / 1000
            ),
            "persistence_mode": first.get_persistence_mode,
            "ecc": lambda: bool(pynvml.nvmlDeviceGetEccMode(first.handle)[0]),
            "max_sm_clock_mhz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(
                first.handle, pynvml.NVML_CLOCK_SM
            ),
            "cuda_driver": pynvml.nvmlSystemGetCudaDriverVersion_v2,
        }
        for name, get in optional.items():
            with contextlib.suppress(Exception):
                described[name] = get()
        return described


def _power_limit_w(gpu: Any) -> float | None:
    try:
        return float(gpu.get_power_management_limit() / 1000)
    except Exception as error:
        if is_unsupported(error.__cause__ or error):
            return None
        raise


def _open_gpus(gpu_uuids: Sequence[str]) -> list[Any]:
    if not gpu_uuids:
        raise MeterError(
            "the engine does not run on an NVIDIA GPU, so its energy cannot be measured.\n"
            "Run on a machine where nvidia-smi lists a GPU, or replay a recording: "
            "--energy-replay DIR"
        )
    listed = _listed()
    return [_open_gpu(uuid, listed) for uuid in gpu_uuids]


def _listed() -> Sequence[Listed]:
    try:
        import pynvml
        import zeus.device.gpu.nvidia  # noqa: F401

        return list_gpus()
    except ImportError as error:
        raise MeterError(f"Zeus cannot be imported ({error}). Run: pip install zeus") from None
    except pynvml.NVMLError as error:
        raise MeterError(
            f"the NVIDIA driver does not respond: {error}. Run: pytest-energy doctor"
        ) from None


def _open_gpu(uuid: str, listed: Sequence[Listed]) -> Any:
    from zeus.device.gpu.nvidia import NVIDIAGPU

    if uuid.startswith("MIG-"):
        raise MeterError(
            f"{uuid} is a MIG slice, whose energy cannot be separated from that of its neighbors. "
            "Measure on a whole GPU."
        )
    index = next((gpu.index for gpu in listed if gpu.uuid == uuid), None)
    if index is None:
        reached = ", ".join(gpu.uuid for gpu in listed if gpu.uuid) or "no GPU"
        lost = [f"; GPU {gpu.index} does not respond: {gpu.error}" for gpu in listed if gpu.error]
        raise MeterError(
            f"the engine runs on {uuid}, which the driver does not list: {reached}{''.join(lost)}. "
            "Measure on the engine's host."
        )
    try:
        # Zeus's collection of GPUs follows CUDA_VISIBLE_DEVICES and fails on UUIDs in it; one GPU
        # by its index does not.
        gpu = NVIDIAGPU(index)
        gpu.get_total_energy_consumption()
    except Exception as error:
        if is_unsupported(error.__cause__ or error):
            raise MeterError(
                f"{uuid} has no energy counter. Measure on a Volta or later GPU."
            ) from None
        raise MeterError(
            f"the energy counter of {uuid} cannot be read: {error}. Run: pytest-energy doctor"
        ) from None
    return gpu


def _scopes(uuids: Sequence[str], gpus: Sequence[Any]) -> tuple[int, ...]:
    """Whose energy each GPU's counter counts."""
    found = tuple(
        scope.scope_of(gpu.handle, lambda gpu=gpu: gpu.get_total_energy_consumption())  # type: ignore[misc]
        for gpu in gpus
    )
    modules = [
        scope.module_of(gpu.handle)
        for gpu, of in zip(gpus, found, strict=True)
        if of == scope.MODULE
    ]
    if len(modules) > 1 and (None in modules or len(set(modules)) < len(modules)):
        raise MeterError(
            f"the energy counters of {', '.join(uuids)} count whole modules (GPU, CPU and memory), "
            "and two of them may count the same one twice. Measure on one GPU of a module."
        )
    return found


class _GpuReader:
    """Reads one GPU's counter and, at each update, its companions."""

    def __init__(
        self,
        gpu: Any,
        uuid: str,
        name: str,
        read_by: Companions,
        is_engine_process: Callable[[int], bool] | None,
    ) -> None:
        self._gpu, self._uuid, self._name, self._companions = gpu, uuid, name, read_by
        self._is_engine_process = is_engine_process
        self._updates: list[tuple[int, int, int]] = []
        self._samples: list[tuple[int, Mapping[str, int | None]]] = []
        self._faults: dict[str, None] = {}
        self._last_mj: int | None = None
        self._last_read_ns = 0
        self._errors = 0
        self._reading_densely = False
        self._updated_s = time.monotonic()
        self._next_sample_s = 0.0
        self.next_read_s = 0.0

    def read(self) -> None:
        """Read the counter if it is due, and its companions if it was updated."""
        if time.monotonic() < self.next_read_s:
            return
        try:
            before = time.monotonic_ns()
            energy_mj = self._gpu.get_total_energy_consumption()
            after = time.monotonic_ns()
        except Exception as error:
            self._errors += 1
            self._fault("counter_unreadable", str(error))
            given_up = self._errors >= _MAX_READ_ERRORS
            self.next_read_s = float("inf") if given_up else time.monotonic() + 0.05
            return
        now_s = time.monotonic()
        moved = energy_mj != self._last_mj
        if moved:
            if self._last_mj is not None and energy_mj < self._last_mj:
                self._fault("counter_backwards", f"{self._last_mj} → {energy_mj} mJ")
            self._updated_s = now_s
        elif now_s - self._updated_s > _STUCK_AFTER_S:
            self._fault("counter_stuck", f"no update for {_STUCK_AFTER_S:.0f} s")
        # Only a change since the read just before is one update; a pause hides several.
        seen = moved and self._reading_densely
        if seen:
            self._updates.append((self._last_read_ns, after, energy_mj))
        self._reading_densely = not seen
        self._last_mj, self._last_read_ns = energy_mj, before
        self.next_read_s = now_s + (_PAUSE_AFTER_UPDATE_S if seen else _DENSE_READ_S)
        if seen and now_s >= self._next_sample_s:
            self._next_sample_s = now_s + _SAMPLE_EVERY_S - _PAUSE_AFTER_UPDATE_S / 2
            self._sample(after)

    def _sample(self, time_ns: int) -> None:
        import pynvml

        values = {name: self._companion(name) for name in companions.NAMES}
        self._samples.append((time_ns, values))
        if self._is_engine_process is not None:
            try:
                processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._gpu.handle)
            except pynvml.NVMLError as error:
                self._fault("processes_unreadable", str(error))
                return
            for process in processes:
                if not self._is_engine_process(process.pid):
                    self._fault("foreign_process", f"pid {process.pid}")

    def _companion(self, name: str) -> int | None:
        """None if it could not be read, which is a fault only if a verdict needs it."""
        try:
            return self._companions.read(name)
        except Unsupported as error:
            if name == "average_power_mw":  # without it nothing checks the counter
                self._fault("sample_unreadable", str(error))
        except Unreadable as error:
            if name in companions.NEEDED:
                self._fault("sample_unreadable", str(error))
        return None

    def _fault(self, code: str, detail: str) -> None:
        self._faults.setdefault(fault(code, detail))

    def trace(self) -> GpuTrace:
        updates, samples = list(self._updates), list(self._samples)  # the reading thread goes on
        counter: Iterable[tuple[int, ...]] = zip(*updates, strict=True) if updates else ((), (), ())
        columns = {
            name: tuple(value for _, values in samples if (value := values[name]) is not None)
            for name in companions.NAMES
        }
        whole = {name: c if len(c) == len(samples) else () for name, c in columns.items()}
        return GpuTrace(
            uuid=self._uuid,
            name=self._name,
            counter=EnergyCounter(*counter),
            samples=GpuSamples(time_ns=tuple(time_ns for time_ns, _ in samples), **whole),
            faults=tuple(self._faults),
            power=self._companions.power,
        )
