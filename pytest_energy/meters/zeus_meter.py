"""GPU and CPU energy through Zeus; what its device layer lacks (UUIDs, clocks, processes) from nvidia-ml-py.

    counter     │    │    │    │    │    │    │    │    │    one update every 100 ms (H100, H200)
    reads       ··│              ··│              ··│        none for 0.47 s, then dense until the value changes
    samples       s                                 s        power, clock, … once a second, just after an update

A kept update lies between the last unchanged and the first changed read; both times are kept. Reads are few
because they may not be free: a driver call takes several milliseconds on some machines, and under a meter that read
at every update a batch of 64 ran 2 % slower than without load generator and meter (docs/measurements.md).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pytest_energy.errors import MeterError
from pytest_energy.meters.nvml import text
from pytest_energy.recording.recording import CpuEnergy, EnergyCounter, GpuSamples, GpuTrace

_REST_AFTER_UPDATE_S = 0.47  # ends shortly before an update, where they come every 0.1 s
_DENSE_READ_S = 0.004
_SAMPLE_EVERY_S = 1.0
_STUCK_AFTER_S = 2.0
_MAX_READ_ERRORS = 20


class Meter(Protocol):
    """Reads energy in the background between `start` and `stop`."""

    def start(self) -> None:
        """Begin a trace."""

    def read(self) -> tuple[tuple[GpuTrace, ...], CpuEnergy]:
        """The trace so far: one GpuTrace per GPU, in the engine's rank order, and the CPU's energy."""

    def stop(self) -> None:
        """End the trace; `read` still returns it."""

    def describe(self) -> dict[str, Any]:
        """The GPUs as the environment fingerprint records them."""


class ZeusMeter:
    """Meter for exactly the NVIDIA GPUs with the given UUIDs, whatever CUDA_VISIBLE_DEVICES says.

    Args:
        gpu_uuids: as NVML spells them, in the order in which the traces shall come.
        is_engine_process: tells whether a process id belongs to the engine under test; any other compute
            process on the GPUs is a fault. None skips that check.

    Raises:
        MeterError: no driver, no such GPU, a MIG slice, or a GPU without an energy counter.
    """

    def __init__(
        self, gpu_uuids: Sequence[str], is_engine_process: Callable[[int], bool] | None = None
    ) -> None:
        self._gpus = _open_gpus(gpu_uuids)
        self._uuids = tuple(gpu_uuids)
        try:
            self._names = tuple(
                gpu.get_name() for gpu in self._gpus
            )  # once: a GPU that is lost later does not tell it any more
        except Exception as error:
            raise MeterError(
                f"the driver does not tell the GPU's name: {error}. Does nvidia-smi show it?"
            ) from None
        self._is_engine_process = is_engine_process
        self._cpu = _RaplReader()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin a trace."""
        self._stop.clear()
        self._readers = [
            _GpuReader(gpu, uuid, name, self._is_engine_process)
            for gpu, uuid, name in zip(self._gpus, self._uuids, self._names, strict=True)
        ]
        self._cpu.clear()
        self._thread = threading.Thread(target=self._poll, name="energy-meter", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stop.is_set():
            updated = [reader.read() for reader in self._readers]
            if any(updated):
                self._cpu.read()
            due = min(reader.next_read_s for reader in self._readers)
            self._stop.wait(min(max(_DENSE_READ_S, due - time.monotonic()), 1.0))

    def read(self) -> tuple[tuple[GpuTrace, ...], CpuEnergy]:
        """The trace so far."""
        return tuple(reader.trace() for reader in self._readers), self._cpu.energy()

    def stop(self) -> None:
        """End the trace."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None

    def describe(self) -> dict[str, Any]:
        """GPU names, UUIDs, driver, power limits (W) and serial-independent settings."""
        import pynvml

        first = self._gpus[0]
        try:
            limit_w = sorted({gpu.get_power_management_limit() / 1000 for gpu in self._gpus})
            described: dict[str, Any] = {
                "gpu_name": " + ".join(sorted(set(self._names))),
                "gpu_uuids": list(self._uuids),
                "power_limit_w": limit_w[0] if len(limit_w) == 1 else limit_w,
                "driver": text(pynvml.nvmlSystemGetDriverVersion()),
            }
        except Exception as error:
            raise MeterError(
                f"the driver does not tell the power limit or its own version: {error}. Does nvidia-smi show them?"
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


def compute_processes() -> dict[str, frozenset[int]]:
    """Compute processes on every GPU of this host, by UUID, in the driver's own process ids; empty without a driver."""
    with contextlib.suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        return {
            text(pynvml.nvmlDeviceGetUUID(handle)): frozenset(
                process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            )
            for handle in handles
        }
    return {}


def rapl_unavailable() -> str:
    """Why CPU energy cannot be read here; empty where it can."""
    rapl = _RaplReader()
    rapl.read()
    return rapl.energy().unavailable


def _open_gpus(gpu_uuids: Sequence[str]) -> list[Any]:
    if not gpu_uuids:
        raise MeterError(
            "the engine runs on no NVIDIA GPU, so there is no energy counter to read and nothing to judge.\n"
            "Run on a machine with a GPU (nvidia-smi must list it), or replay a recording: --energy-replay DIR"
        )
    try:
        import pynvml
        from zeus.device.gpu.nvidia import NVIDIAGPU

        pynvml.nvmlInit()
        index_of = {
            text(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))): index
            for index in range(pynvml.nvmlDeviceGetCount())
        }
    except ImportError as error:
        raise MeterError(
            f"Zeus cannot be imported ({error}). Install it: pip install zeus"
        ) from None
    except pynvml.NVMLError as error:
        raise MeterError(
            f"the NVIDIA driver does not answer ({error}). Does nvidia-smi work here?"
        ) from None
    gpus = []
    for uuid in gpu_uuids:
        if uuid.startswith("MIG-"):
            raise MeterError(
                f"{uuid} is a MIG slice: its energy cannot be told from its neighbours'. Use a whole GPU."
            )
        if uuid not in index_of:
            raise MeterError(
                f"the engine runs on {uuid}, which the driver does not list: {', '.join(index_of) or 'no GPU'}"
            )
        try:
            # Zeus's collection of GPUs follows CUDA_VISIBLE_DEVICES and fails on UUIDs in it; one GPU by its index does not.
            gpu = NVIDIAGPU(index_of[uuid])
            if not gpu.supports_get_total_energy_consumption():
                raise MeterError(
                    f"{gpu.get_name()} has no energy counter (Volta and later have one)."
                )
            gpu.get_total_energy_consumption()
        except MeterError:
            raise
        except Exception as error:
            raise MeterError(f"the energy counter of {uuid} cannot be read: {error}") from None
        gpus.append(gpu)
    return gpus


class _GpuReader:
    """Reads one GPU's counter and, at each update, its companions."""

    def __init__(
        self, gpu: Any, uuid: str, name: str, is_engine_process: Callable[[int], bool] | None
    ) -> None:
        self._gpu, self._uuid, self._name, self._is_engine_process = (
            gpu,
            uuid,
            name,
            is_engine_process,
        )
        self._updates: list[tuple[int, int, int]] = []
        self._samples: list[tuple[int, ...]] = []
        self._faults: dict[str, None] = {}
        self._last_mj: int | None = None
        self._last_read_ns = 0
        self._errors = 0
        self._reading_densely = False
        self._updated_s = time.monotonic()
        self._next_sample_s = 0.0
        self.next_read_s = 0.0

    def read(self) -> bool:
        """Read the counter if it is due; True when it had been updated."""
        if time.monotonic() < self.next_read_s:
            return False
        try:
            before = time.monotonic_ns()
            energy_mj = self._gpu.get_total_energy_consumption()
            after = time.monotonic_ns()
        except Exception as error:
            self._errors += 1
            self._fault("counter_unreadable", str(error))
            self.next_read_s = (
                float("inf") if self._errors >= _MAX_READ_ERRORS else time.monotonic() + 0.05
            )
            return False
        now_s = time.monotonic()
        moved = energy_mj != self._last_mj
        if moved:
            if self._last_mj is not None and energy_mj < self._last_mj:
                self._fault("counter_backwards", f"{self._last_mj} → {energy_mj} mJ")
            self._updated_s = now_s
        elif now_s - self._updated_s > _STUCK_AFTER_S:
            self._fault("counter_stuck", f"no update for {_STUCK_AFTER_S:.0f} s")
        # Only a change since a read made just before is one update, seen; over a rest there were several.
        seen = moved and self._reading_densely
        if seen:
            self._updates.append((self._last_read_ns, after, energy_mj))
        self._reading_densely = not seen
        self._last_mj, self._last_read_ns = energy_mj, before
        self.next_read_s = now_s + (_REST_AFTER_UPDATE_S if seen else _DENSE_READ_S)
        if seen and now_s >= self._next_sample_s:
            self._next_sample_s = now_s + _SAMPLE_EVERY_S - _REST_AFTER_UPDATE_S / 2
            self._sample(after)
        return seen

    def _sample(self, time_ns: int) -> None:
        import pynvml

        handle = self._gpu.handle
        try:
            self._samples.append(
                (
                    time_ns,
                    self._gpu.get_average_power_usage(),
                    self._gpu.get_instant_power_usage(),
                    pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
                    self._gpu.get_gpu_temperature(),
                    pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
                    pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
                )
            )
        except Exception as error:
            self._fault("sample_unreadable", str(error))
        if self._is_engine_process is not None:
            try:
                processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except pynvml.NVMLError as error:
                self._fault("processes_unreadable", str(error))
                return
            for process in processes:
                if not self._is_engine_process(process.pid):
                    self._fault("foreign_process", f"pid {process.pid}")

    def _fault(self, code: str, detail: str) -> None:
        self._faults.setdefault(f"{code}: {detail}")

    def trace(self) -> GpuTrace:
        updates, samples = list(self._updates), list(self._samples)  # the reading thread goes on
        counter: Iterable[tuple[int, ...]] = zip(*updates, strict=True) if updates else ((), (), ())
        columns: Iterable[tuple[int, ...]] = zip(*samples, strict=True) if samples else ()
        return GpuTrace(
            uuid=self._uuid,
            name=self._name,
            counter=EnergyCounter(*counter),
            samples=GpuSamples(*columns),
            faults=tuple(self._faults),
        )


class _RaplReader:
    """CPU package energy where RAPL is readable.

    Zeus finds the counters. Its own read starts a process per counter that watches for wrap-arounds; reading
    twice a second sees every wrap itself, so the files are read directly.
    """

    def __init__(self) -> None:
        self._zones: list[tuple[str, float]] = []
        self._unavailable = ""
        try:
            from zeus.device.cpu.rapl import RAPLCPUs

            self._zones = [
                (cpu.rapl_file.energy_uj_path, cpu.rapl_file.max_energy_range_uj)
                for cpu in RAPLCPUs().cpus
                if cpu.rapl_file.name.startswith("package")
            ]
            if not self._zones:
                self._unavailable = "RAPL lists no CPU package"
        except Exception as error:
            self._unavailable = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.clear()

    def clear(self) -> None:
        self._last: list[float] | None = None
        self._reads: list[tuple[int, int]] = []
        self._total_uj = 0.0

    def read(self) -> None:
        if not self._zones:
            return
        try:
            values = []
            for path, _ in self._zones:
                values.append(float(Path(path).read_text()))
        except (OSError, ValueError) as error:
            self._zones, self._unavailable = [], str(error)
            return
        if self._last is not None:
            for (_, limit), old, new in zip(self._zones, self._last, values, strict=True):
                self._total_uj += new - old + (limit if new < old else 0.0)
        self._last = values
        self._reads.append((time.monotonic_ns(), round(self._total_uj / 1000)))

    def energy(self) -> CpuEnergy:
        reads = list(self._reads)  # the reading thread goes on
        return CpuEnergy(tuple(t for t, _ in reads), tuple(e for _, e in reads), self._unavailable)
