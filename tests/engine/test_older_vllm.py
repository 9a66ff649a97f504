"""The worker under a vLLM that lacks what newer ones offer; see fake_v0."""

import ctypes
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_energy.cell.workload import Workload
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.engines.workers import vllm_worker
from pytest_energy.errors import EngineError
from tests.engine.conftest import FAKE_PACKAGES

WORKLOAD = Workload(input_tokens=4, output_tokens=50)


@pytest.fixture
def v0_python(tmp_path: Path) -> str:
    script = tmp_path / "python"
    paths = f"{FAKE_PACKAGES.with_name('fake_v0')}:{FAKE_PACKAGES}"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={paths} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def drive(engine: OfflineEngine, batch_size: int, requests: int) -> tuple[list[int], list[int]]:
    """Tokens and finished requests of each step until so many have finished."""
    engine.start_load(WORKLOAD, batch_size)
    steps = engine.take_steps()
    while sum(steps.finished) < requests:
        steps += engine.take_steps()
    last, _ = engine.stop_load()
    steps += last
    return list(steps.tokens), list(steps.finished)


def test_every_token_counts_once_and_what_is_lacking_is_unknown(v0_python: str) -> None:
    with OfflineEngine(v0_python, {"model": "tiny"}, 120, 120) as engine:
        assert engine.ready is not None
        settings = engine.ready.settings
        assert (settings["vllm_engine"], settings["enable_chunked_prefill"]) == ("V0", False)
        unknown = {name for name, value in settings.items() if value is None}
        assert unknown == {
            "async_scheduling", "cudagraph_mode", "max_cudagraph_capture_size", "quantization"
        }  # fmt: skip
        assert (settings["max_num_seqs"], engine.ready.kv_cache_tokens) == (8, 16_000)
        assert engine.ready.gpu_uuids == ()
        total = 0
        for batch_size in (4, 1, 8):
            tokens, finished = drive(engine, batch_size, 6 * batch_size)
            # All slots generate, or one prompt is computed.
            assert set(tokens[-4 * 50 :]) == {batch_size, 1}
            # Requests that have ended, and at most all of those in flight.
            assert 0 <= sum(tokens) - 50 * sum(finished) < 50 * batch_size
            total += sum(tokens)
            assert engine.prefix_cache is None
            idle = engine.pause()
            assert (idle.tokens, idle.paused) == (total, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fault": "short"}, "ended 1 tokens short of its set length"),
        ({"async_scheduling": True}, r"'async_scheduling'\nLeave the argument out, or"),
        ({"load_format": "random"}, r"weights='random'(.|\n)*weights='dummy'"),
    ],
)
def test_what_it_does_not_do_is_refused(
    v0_python: str, arguments: dict[str, Any], message: str
) -> None:
    with (
        pytest.raises(EngineError, match=message),
        OfflineEngine(v0_python, {"model": "tiny", **arguments}, 120, 120) as engine,
    ):
        drive(engine, 4, 1_000_000)


def test_its_server_is_refused(v0_python: str) -> None:
    with (
        pytest.raises(EngineError, match=r"has no V1 engine(.|\n)*engine='offline'"),
        ServerEngine(v0_python, {"model": "tiny"}, 120, 120),
    ):
        pass


def test_gpus_that_it_cannot_read_by_name_are_refused(
    v0_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1f3a,GPU-2b")
    with (
        pytest.raises(EngineError, match=r"is GPU-1f3a,GPU-2b, but this vLLM reads only indices"),
        OfflineEngine(v0_python, {"model": "tiny"}, 120, 120),
    ):
        pass


class Driver:
    """libcuda, of which the second GPU that it shows is asked for."""

    status = 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index + 7
        return 0

    def cuDeviceGetUuid_v2(self, raw: Any, device: Any) -> int:
        raw[:] = [device.value] * 16
        return 0


CUDA = SimpleNamespace(
    device_config=SimpleNamespace(device_type="cuda"), parallel_config=SimpleNamespace(world_size=2)
)


@pytest.fixture
def v0_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = SimpleNamespace(is_cuda=lambda: True)
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace(current_platform=platform))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace())


@pytest.mark.usefixtures("v0_platform")
def test_gpus_of_a_platform_that_does_not_know_them_are_those_of_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert vllm_worker.gpu_uuids(CUDA) == [
        f"GPU-{uuid.UUID(bytes=bytes([n] * 16))}" for n in (7, 8)
    ]


@pytest.mark.usefixtures("v0_platform")
@pytest.mark.parametrize("error", [OSError("libcuda.so.1: no such file"), None])
def test_gpus_that_nobody_tells_are_refused(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def load(name: str) -> Driver:
        if error is not None:
            raise error
        driver = Driver()
        driver.status = 999
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(vllm_worker.Refused, match="so its energy cannot be read"):
        vllm_worker.gpu_uuids(CUDA)
