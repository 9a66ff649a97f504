"""The real vLLM on a CPU, in launches of their own: what only the night has the time for.

See vllm_cpu.
"""

import json
import os
import re
import socket
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.workload import Workload
from pytest_energy.engines import server, synthetic_tokenizer
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.engines.worker_process import session_members
from pytest_energy.errors import EngineError
from pytest_energy.measure import measurement
from pytest_energy.recording import recording_file
from tests.engine import vllm_cpu
from tests.engine.vllm_cpu import CONFIG, CONFTEST, PYTHON

pytestmark = [*vllm_cpu.MARKS, pytest.mark.nightly]
environment = pytest.fixture(scope="module", autouse=True)(vllm_cpu.environment)
LIMITS = {
    "load_timeout_s": vllm_cpu.LOAD_TIMEOUT_S,
    "progress_timeout_s": vllm_cpu.PROGRESS_TIMEOUT_S,
}
TINY = {
    "skip_tokenizer_init": True,
    "max_model_len": 128,
    "max_num_seqs": 8,
    "enable_prefix_caching": False,
    "seed": 0,
}


def save_weights(folder: Path) -> None:
    """Real weights of the model in safetensors files."""
    code = f"""
        import torch
        from transformers import AutoConfig, LlamaForCausalLM
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained({str(folder)!r})
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained({str(folder)!r})
    """
    subprocess.run([PYTHON, "-c", textwrap.dedent(code)], check=True)
    assert list(folder.glob("*.safetensors"))


def test_real_weights_with_compiled_kernels(tmp_path: Path, sessions: list[int]) -> None:
    folder = vllm_cpu.save_config(tmp_path / "tiny")
    save_weights(folder)
    sessions.clear()
    workload = Workload(input_tokens=64, output_tokens=64)
    with OfflineEngine(PYTHON, {"model": str(folder), **TINY}, **LIMITS) as engine:
        assert engine.ready is not None
        assert engine.ready.synthetic_weights == {}
        assert engine.ready.settings["enforce_eager"] is False
        for batch_size in (2, 8):
            tokens, finished = vllm_cpu.drive(engine, workload, batch_size)
            assert max(tokens) <= batch_size
            assert sum(tokens) / len(tokens) > 0.85 * batch_size
            assert abs(sum(finished) - sum(tokens) / 64) <= batch_size
    assert [session_members(session) for session in sessions] == [[]]


def synthetic_weights(folder: Path, **arguments: Any) -> OfflineEngine:
    """An engine with synthetic weights of a folder that holds nothing but a config.json."""
    vllm_cpu.save_config(folder)
    arguments = {"model": str(folder), **TINY, "enforce_eager": True, **arguments}
    return OfflineEngine(PYTHON, arguments, **LIMITS)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_two_workers_in_parallel_with_weights_of_the_usual_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{first}|{second}")
    with synthetic_weights(tmp_path, load_format="random", tensor_parallel_size=2) as engine:
        assert engine.ready is not None
        assert engine.ready.settings["tensor_parallel_size"] == 2
        found = engine.ready.synthetic_weights
        assert 0.5 < found["likeliest_above_even_nats"] < 3
        low, high = found["weight_deviation"]
        assert 0.019 < low <= high < 0.021
        assert found["norms"] == [1.0, 1.0]
        assert found["mlps"] == 2 * 2  # the first and the last layer of each worker
        assert found["rounded_to_zero_in_fp8"] < 0.01
        # The worker, vLLM's engine core and a process per rank: all are metered and ended.
        assert len(engine.processes()) >= 4
        engine.start_load(Workload(input_tokens=16, output_tokens=16), 4)
        tokens: list[int] = []
        while sum(tokens) < 256:
            tokens += engine.take_steps().tokens
        engine.stop_load()
        assert max(tokens) <= 4
        session = engine.session_id
    assert session_members(session) == []


FILLED = """
    from vllm.model_executor.model_loader import dummy_loader, weight_utils

    class Filled:
        pass

    def fill(param, *_, **__):
        if param.is_floating_point():
            param.data.fill_({value})

    weight_utils.initialize_single_dummy_weight = dummy_loader.initialize_single_dummy_weight = fill
"""


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("0.0", "all logits are equal, as if activations were zero"),
        ("float('nan')", "the logits are not finite"),
    ],
)
def test_weights_that_compute_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, what: str
) -> None:
    (tmp_path / "filled_weights.py").write_text(textwrap.dedent(FILLED.format(value=value)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        pytest.raises(EngineError, match=what),
        synthetic_weights(
            tmp_path, load_format="dummy", worker_extension_cls="filled_weights.Filled"
        ),
    ):
        pass


OFFLINE = """
    import pytest

    @pytest.mark.energy(
        model="tiny", weights="dummy", batch_sizes=[2, 8], input_tokens=64, output_tokens=512
    )
    def test_tiny(energy, throughput):
        pass
"""


def test_from_a_test_file_to_a_recording_and_back_offline(pytester: pytest.Pytester) -> None:
    vllm_cpu.save_config(pytester.path / "tiny")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(OFFLINE)
    options = ["--energy-python", PYTHON, "--energy-launches", "1", "--energy-record", "kept"]
    live = pytester.runpytest_subprocess(*options)
    live.assert_outcomes(failed=2)
    live.stdout.fnmatch_lines(
        [
            "*tiny: loading*",
            "*tiny bs=2 64/512: measuring*",
            "NO BASELINE: tiny bs=2 64/512*",
        ]
    )
    files = list(recording_file.find(pytester.path / "kept"))
    assert len(files) == 2
    for file in files:
        measured = measurement.measure(recording_file.read(file))
        assert measured.valid, measured.faults
        assert measured.power_w == pytest.approx(100.0, rel=0.01)
        assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.01)
        assert measured.environment.gpu_name == "simulated GPU"
        assert measured.environment.vllm
        # Of vLLM's dummies only this can be seen: they are finite and not all equal.
        assert 0 < measured.environment.synthetic_weights["likeliest_above_even_nats"] < 1e-3

    def table(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if line.startswith("  bs=")]

    replayed = pytester.runpytest_subprocess("--energy-replay", "kept")
    assert table(replayed) == table(live) != []


SHORT_PERIODS = """
    from pytest_energy.measure import stopping

    stopping.PERIOD_S, stopping.PAIR_S = 2.5, 5.0
"""


def test_two_interleaved_engines(pytester: pytest.Pytester) -> None:
    """Three pairs of launches, recorded and replayed; the machine's noise decides the verdict."""
    vllm_cpu.save_config(pytester.path / "tiny")
    pytester.makeconftest(CONFTEST + SHORT_PERIODS)
    pytester.makepyfile(OFFLINE.replace("[2, 8]", "[8]").replace("energy, throughput", "energy"))
    options = [
        "--energy-python",
        PYTHON,
        "--energy-reference-python",
        PYTHON,
        "--energy-launches",
        "3",
        "--energy-record",
        "kept",
    ]
    for name in ("--energy-engine-arg", "--energy-reference-engine-arg"):
        options += [name, "enforce_eager=true"]  # loads in a third of the time
    live = pytester.runpytest_subprocess(*options, "--energy-inconclusive", "warn")
    live.stdout.fnmatch_lines(
        [
            "*pair 1 of up to 3 (reference): tiny: loading*",
            "  bs=8 *",
        ]
    )
    for row in live.outlines:
        if row.startswith("  bs=8 "):
            assert not re.search("invalid|not comparable|no baseline", row)
    for side in ("candidate", "reference"):
        periods = [
            recording_file.read(file) for file in recording_file.find(pytester.path / "kept" / side)
        ]
        assert len({period.launch_id for period in periods}) == 3
        for period in periods:
            assert period.faults == ()
            assert period.co_resident is not None
            assert (period.co_resident.tokens, period.co_resident.paused) == (0, True)
    replayed = pytester.runpytest_subprocess(
        "--energy-replay", "kept/candidate", "--energy-reference-replay", "kept/reference"
    )
    replayed.stdout.fnmatch_lines(["  bs=8 *"])


def arguments(folder: Path, engine: str) -> dict[str, Any]:
    """Of an engine whose model's folder holds nothing but a config.json."""
    vllm_cpu.save_config(folder / "tiny")
    tiny = vllm_cpu.cell(folder, engine, input_tokens=64, output_tokens=64)
    return {**tiny.launch_args, "model": tiny.model.location}


def test_what_the_server_runs_is_the_offline_engine(tmp_path: Path) -> None:
    """vLLM's configuration is the same, except for the tokenizer and what follows from it."""
    offline, of_server = (arguments(tmp_path, engine) for engine in ("offline", "server"))
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
        theirs = AsyncEngineArgs.from_cli_args(parsed)
        theirs = theirs.create_engine_config(UsageContext.OPENAI_API_SERVER)
        ours, theirs = dict(settings(ours)), dict(settings(theirs))
        names = ours.keys() | theirs.keys()
        differing = sorted(name for name in names if ours.get(name) != theirs.get(name))
        print(json.dumps([len(ours), differing]))
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
        engine = ServerEngine(PYTHON, arguments(tmp_path, "server"), **LIMITS)
        with pytest.raises(EngineError, match=rf"another process took port {port}"), engine:
            pass


SERVER = """
    import pytest

    @pytest.mark.energy(
        model="tiny", weights="dummy", batch_sizes=[8], input_tokens=64, output_tokens=128,
        engine="server", engine_args={"enforce_eager": True},
    )
    def test_tiny(energy, throughput):
        pass
"""


def test_from_a_test_file_to_a_recording_and_back_by_a_server(pytester: pytest.Pytester) -> None:
    vllm_cpu.save_config(pytester.path / "tiny")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SERVER)
    options = ["--energy-python", PYTHON, "--energy-launches", "1", "--energy-record", "kept"]
    live = pytester.runpytest_subprocess(*options)
    live.assert_outcomes(failed=1)
    live.stdout.fnmatch_lines(
        [
            "*tiny: loading*",
            "*tiny server bs=8 64/128: measuring*",
            "NO BASELINE: tiny server bs=8 64/128*",
        ]
    )
    live.stdout.fnmatch_lines(
        [
            "tiny server bs=8 64/128: time to first token * ms (p99 *); inter-token*",
            "  * ms (p99 *); end-to-end *",
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
        return [line for line in result.outlines if line.startswith("  bs=")]

    replayed = pytester.runpytest_subprocess("--energy-replay", "kept")
    assert shown(replayed) == shown(live) != []
