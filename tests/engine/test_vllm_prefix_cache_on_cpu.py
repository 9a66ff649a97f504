"""The real vLLM on a CPU with prefix caching: one launch of each engine; see vllm_cpu."""

from pathlib import Path

import pytest

from pytest_energy.engines.engine import Engine
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.server import ServerEngine
from tests.engine import vllm_cpu
from tests.engine.vllm_cpu import PYTHON

pytestmark = vllm_cpu.MARKS
environment = pytest.fixture(scope="module", autouse=True)(vllm_cpu.environment)
ENGINES: dict[str, type[OfflineEngine] | type[ServerEngine]] = {
    "offline": OfflineEngine,
    "server": ServerEngine,
}


@pytest.mark.parametrize("kind", ["offline", pytest.param("server", marks=pytest.mark.nightly)])
def test_the_shared_prefix_is_served_and_nothing_else(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = vllm_cpu.save_project(tmp_path)
    of = vllm_cpu.cell(folder, kind, input_tokens=192, output_tokens=16)
    arguments = {
        **of.launch_args,
        "model": of.model.location,
        "enable_prefix_caching": True,
    }
    loaded: Engine = ENGINES[kind](
        PYTHON, arguments, vllm_cpu.LOAD_TIMEOUT_S, vllm_cpu.PROGRESS_TIMEOUT_S
    )
    with loaded as engine:
        vllm_cpu.check_shared_prefix(engine, kind, folder, monkeypatch)
        engine.close(grace_s=0.0)
