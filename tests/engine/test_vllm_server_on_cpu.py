"""The real `vllm serve` on a CPU: one launch, until it is killed under load; see vllm_cpu."""

import os
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_energy.cell.workload import Workload
from pytest_energy.engines import synthetic_tokenizer
from pytest_energy.engines.attached import AttachedEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.engines.worker_process import command_of, session_members
from pytest_energy.errors import EngineError
from pytest_energy.measure import checks, measurement
from pytest_energy.recording import recording_file
from tests.engine import vllm_cpu
from tests.engine.vllm_cpu import PYTHON

pytestmark = vllm_cpu.MARKS
WORKLOAD = Workload(input_tokens=64, output_tokens=64)
environment = pytest.fixture(scope="module", autouse=True)(vllm_cpu.environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vllm_cpu.save_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def engine(environment: None, folder: Path) -> Iterator[ServerEngine]:
    of_server = vllm_cpu.cell(folder, "server", input_tokens=64, output_tokens=64)
    arguments = {**of_server.launch_args, "model": of_server.model.location}
    with ServerEngine(
        PYTHON, arguments, vllm_cpu.LOAD_TIMEOUT_S, vllm_cpu.PROGRESS_TIMEOUT_S
    ) as loaded:
        yield loaded
        loaded.close(grace_s=0.0)


def test_what_it_reports(engine: ServerEngine) -> None:
    ready = engine.ready
    assert ready is not None
    assert ready.vocabulary_size == 2048
    assert ready.kv_cache_tokens > 8 * 256
    assert ready.gpu_uuids == ()
    assert ready.versions["vllm"]
    assert ready.settings["tokenizer"] == "the model's"


def test_it_waits_without_tokens_and_without_a_busy_loop(
    engine: ServerEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_idle(engine, vllm_cpu.cell(folder, "server"), monkeypatch)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_clients_and_server_count_the_same_tokens(engine: ServerEngine, batch_size: int) -> None:
    tokens, finished = vllm_cpu.drive(engine, WORKLOAD, batch_size)
    client = engine.client
    assert client is not None
    assert client.streamed_tokens == client.server_tokens >= sum(tokens)
    assert client.preemptions == 0
    assert sum(client.inter_token.count) > 64 * batch_size
    assert abs(sum(finished) - sum(tokens) / 64) <= batch_size


def test_lengths_from_distributions(
    engine: ServerEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_lognormal(engine, folder, "server", monkeypatch)


def test_prompts_from_a_file(
    engine: ServerEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_prompts(engine, folder, "server", monkeypatch)


def test_without_prefix_caching_a_shared_prefix_is_computed(
    engine: ServerEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_shared_prefix(engine, "server", folder, monkeypatch)


def test_it_is_attached_as_a_running_server(engine: ServerEngine) -> None:
    """What it reports of itself is right, and it is left running."""
    ready = engine.ready
    assert ready is not None
    with AttachedEngine(engine.url, (), 2048, 128, dict, progress_timeout_s=120) as attached:
        assert attached.ready is not None
        assert attached.ready.versions == {"vllm": ready.versions["vllm"]}
        assert attached.ready.kv_cache_tokens == ready.kv_cache_tokens
        reported = {
            name: value for name, value in attached.ready.settings.items() if value != "unknown"
        }
        assert {"max_model_len", "block_size", "enable_prefix_caching"} <= set(reported)
        del reported["served_model"]
        assert {name: ready.settings[name] for name in reported} == reported
        assert engine.processes() & attached.processes()
        attached.start_load(WORKLOAD, 4)
        attached.take_steps()
        attached.stop_load()
        assert attached.client is not None
        assert attached.client.streamed_tokens == attached.client.server_tokens > 0


TEST = """
    import pytest

    @pytest.mark.energy(model="tiny", batch_sizes=[8], input_tokens=64, output_tokens=128)
    def test_tiny(energy, throughput):
        pass
"""


@pytest.mark.nightly
def test_from_a_test_file_to_a_recording_and_back(
    engine: ServerEngine, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_FULL_BATCH", 0.0)  # as in CONFTEST
    vllm_cpu.save_config(pytester.path / "tiny")
    pytester.makeconftest(vllm_cpu.CONFTEST)
    pytester.makepyfile(TEST)
    live = pytester.runpytest_subprocess("--energy-url", engine.url, "--energy-record", "kept")
    live.assert_outcomes(failed=1)
    live.stdout.fnmatch_lines(
        [
            "*tiny: attaching to*",
            "*tiny attached bs=8 64/128: measuring*",
            "NO BASELINE: tiny attached bs=8 64/128*",
        ]
    )
    (file,) = recording_file.find(pytester.path / "kept")
    measured = measurement.measure(recording_file.read(file))
    assert measured.valid, measured.faults
    assert measured.key.engine == "attached"
    assert measured.power_w == pytest.approx(100.0, rel=0.01)
    assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.01)
    assert measured.environment.gpu_name == "simulated GPU"
    latencies = measured.latencies_ms
    # Exact latencies are tested on a known clock, in test_server_load.py.
    assert 0 < latencies["itl"]["mean"] < latencies["e2e"]["mean"]
    assert 0 < latencies["ttft"]["mean"] < latencies["e2e"]["mean"]
    assert latencies["e2e"]["p50"] > 64 * latencies["itl"]["p50"]

    def shown(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if line.startswith("  bs=")]

    replayed = pytester.runpytest_subprocess(
        "--energy-replay", "kept", "--energy-engine", "attached"
    )
    assert shown(replayed) == shown(live) != []


def test_it_is_killed_under_load(engine: ServerEngine) -> None:
    """The last test of this launch."""
    session = engine.session_id
    commands = {pid: command_of(pid) for pid in session_members(session)}
    assert len(commands) >= 3  # the clients, the server, its engine
    server = next(pid for pid, command in commands.items() if "vllm_server.py" in command)
    engine.start_load(WORKLOAD, 8)
    engine.take_steps()
    os.kill(server, signal.SIGKILL)
    killed = "was ended by SIGKILL while requests were in flight"
    with pytest.raises(EngineError, match=killed) as caught:
        vllm_cpu.take_steps_for_ever(engine)
    assert caught.value.stage == "run"
    engine.close(grace_s=0.0)
    vllm_cpu.check_ended(session)


def test_the_synthetic_tokenizer_is_one(tmp_path: Path) -> None:
    synthetic_tokenizer.write(tmp_path, {"vocab_size": 128_256})
    code = f"""
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file({str(tmp_path / "tokenizer.json")!r})
        assert tokenizer.get_vocab_size() == 128_256
        texts = [tokenizer.decode([token]) for token in range(256, 128_256)]
        assert len(set(texts)) == len(texts)
        assert {{len(text) for text in texts}} == {{5}}, {{len(text) for text in texts}}
        assert tokenizer.decode(tokenizer.encode("Größe 1").ids) == "Größe 1"
    """
    subprocess.run([PYTHON, "-c", textwrap.dedent(code)], check=True)
