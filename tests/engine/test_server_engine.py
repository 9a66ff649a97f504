"""The server's worker: what it delivers, how it reports failures, and that nothing is left of it.

The server is a small one of our own behind vLLM's names (fake_packages), for failures that the real
one cannot be made to show.
"""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.lengths import Lognormal
from pytest_energy.cell.model import Model
from pytest_energy.cell.prompts import Conversation
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import server, synthetic_tokenizer
from pytest_energy.engines.server import ServerEngine, command_line
from pytest_energy.engines.server_process import Failure, Server, wait_until_healthy
from pytest_energy.engines.worker_process import session_members
from pytest_energy.errors import EngineError
from pytest_energy.launch import interleaved, launch
from pytest_energy.launch.interleaved import Side, record_pair
from pytest_energy.measure import checks, stopping
from pytest_energy.recording.recording import Client, Distribution
from pytest_energy.settings import LaunchSettings
from tests.engine.conftest import left_of
from tests.engine.test_offline_engine import OF_PROMPTS, PROMPTS, ROOT, drive, drive_passes
from tests.simulated import SimulatedMeter

WORKLOAD = Workload(input_tokens=4, output_tokens=50)

Open = Callable[..., ServerEngine]


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"vocab_size": 100}')
    return str(folder)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def open_engine(python: str, model: str, temporary: Path) -> Open:
    def opened(
        fault: str | None = None,
        load_timeout_s: float = 120,
        progress_timeout_s: float = 120,
        caches: bool = False,
    ) -> ServerEngine:
        arguments = {
            "model": model,
            "load_format": "dummy",
            "max_num_seqs": 8,
            "enable_prefix_caching": caches,
            "fault": fault,
        }
        return ServerEngine(python, arguments, load_timeout_s, progress_timeout_s)

    return opened


def total(distribution: Distribution) -> int:
    return sum(distribution.count)


def client_of(engine: ServerEngine) -> Client:
    assert engine.client is not None
    return engine.client


def test_keeps_the_batch_full_and_counts_every_token(
    open_engine: Open, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "of another server")
    with open_engine() as engine:
        for batch_size in (4, 1, 8):
            steps = drive(engine, batch_size, 6 * 50 * batch_size)
            client = client_of(engine)
            assert list(steps.time_ns) == sorted(steps.time_ns)
            # Requests that were in flight when the load was taken off ended, and counted.
            tokens = sum(steps.tokens)
            assert tokens <= client.streamed_tokens <= tokens + 50 * batch_size
            assert client.server_tokens == client.streamed_tokens
            assert client.preemptions == 0
            # Staggered from the start: requests end at an even rate.
            assert sum(steps.finished) == pytest.approx(tokens / 50, abs=batch_size)
            assert client.cpu_cores > 0
            # The server steps every 2 ms at most; a request takes 50 steps.
            assert min(client.end_to_end.value_us) > 49 * 2_000 * 0.99
            assert total(client.first_token) >= batch_size
            assert 0 < total(client.inter_token) < tokens
        assert engine.ready is not None
        assert engine.ready.versions["vllm"] == "0.0.1"
        assert engine.ready.gpu_uuids == ()
        assert engine.ready.settings["tokenizer"] == "synthetic"
        # What the server counted, and every client's tokens are in it.
        assert engine.pause().tokens >= 6 * 50 * 13
        session = engine.session_id
        assert len(session_members(session)) == 2
    assert session_members(session) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "caches", "share"), [(None, True, 0.5), (None, False, 0.0), ("uncached", True, None)]
)
def test_what_the_prefix_cache_serves_is_the_servers_count(
    open_engine: Open, fault: str | None, caches: bool, share: float | None
) -> None:
    with open_engine(fault, caches=caches) as engine:
        engine.start_load(Workload(32, 20, shared_prefix_tokens=16), 4)
        taken = 0
        while taken < 10 * 20 * 4:
            taken += sum(engine.take_steps().tokens)
        assert engine.prefix_cache is None
        engine.stop_load()
        served = engine.prefix_cache
        assert (served and served.cached_tokens / served.prompt_tokens) == share
        assert served is None or served.prompt_tokens >= 32 * 4 * 5


def test_tokens_that_come_together_count_one_by_one(open_engine: Open) -> None:
    with open_engine("bundled") as engine:
        drive(engine, 4, 1_000)
        client = client_of(engine)
        assert client.server_tokens == client.streamed_tokens
        # Two at a time, of which only a request's first two have none before them.
        assert total(client.inter_token) > 0.8 * (client.streamed_tokens - 4 * 50)


@pytest.fixture
def with_tokenizer(model: str) -> None:
    Path(model, "tokenizer.json").write_text("{}")


def test_requests_of_varying_lengths(open_engine: Open) -> None:
    workload = Workload(Lognormal(6, 0.6, 20), Lognormal(20, 0.8, 60))
    with open_engine("forgetful") as engine:
        plan = engine.prepare(workload, 4)
        steps = drive_passes(engine, workload, 4, 3)
        # What ended had the lengths of the plan, in its order; four requests are in flight.
        sent = sum(steps.finished) + 4
        lengths = [out for _, out in plan.first_wave]
        lengths += [plan.lengths[n % len(plan.lengths)][1] for n in range(4, sent)]
        assert sum(lengths) - 4 * 60 <= sum(steps.tokens) <= sum(lengths)
        client = client_of(engine)
        assert client.server_tokens == client.streamed_tokens
        assert total(client.end_to_end) >= 16


def test_prompts_go_to_the_server_as_texts(open_engine: Open, with_tokenizer: None) -> None:
    with open_engine("forgetful") as engine:
        plan = engine.prepare(OF_PROMPTS, 4)
        assert plan.lengths == tuple(
            (c.line + 2, 3 if c.reply else 40) for c in OF_PROMPTS.drawn(4)
        )
        for _ in range(
            2
        ):  # neither within a load nor in the next one does a prompt come with the salt of another
            steps = drive_passes(engine, OF_PROMPTS, 4, 2)
            client = client_of(engine)
            assert client.server_tokens == client.streamed_tokens
            assert 0 not in steps.tokens
            assert total(client.first_token) > 0


@pytest.mark.parametrize(
    ("fault", "text", "stage", "message"),
    [
        (
            "untemplated",
            "a",
            "tokenize",
            r"the model has no chat template(.|\n)*chat_template.jinja",
        ),
        (
            "picky",
            "I say no thing",
            "tokenize",
            r"does not accept the prompt of line 7: .*roles must alternate(.|\n)*Correct the line",
        ),
        (
            "truncating",
            "a b c",
            "run",
            r"the server read 4 tokens of a prompt that has 5(.|\n)*truncation",
        ),
    ],
)
def test_prompts_that_the_server_does_not_accept(
    open_engine: Open,
    with_tokenizer: None,
    sessions: list[int],
    fault: str,
    text: str,
    stage: str,
    message: str,
) -> None:
    bad = replace(
        OF_PROMPTS,
        prompts_file=replace(
            PROMPTS, conversations=(Conversation(7, (("user", text),), None, 10),)
        ),
    )
    with pytest.raises(EngineError, match=message) as caught, open_engine(fault) as engine:
        drive_passes(engine, bad, 4, 100)
    assert caught.value.stage == stage
    assert [session_members(session) for session in sessions] == [[]]


def test_a_synthetic_tokenizer_cannot_tokenize_texts(open_engine: Open) -> None:
    with (
        pytest.raises(
            EngineError,
            match=r"has no tokenizer, so the prompts of prompts.jsonl cannot be tokenized",
        ) as caught,
        open_engine() as engine,
    ):
        engine.start_load(OF_PROMPTS, 4)
    assert caught.value.stage == "tokenize"


@pytest.mark.parametrize(("fault", "off"), [("miscount", 1), ("shared", 7)])
def test_a_count_of_the_server_that_differs_is_kept(
    open_engine: Open, fault: str, off: int
) -> None:
    with open_engine(fault) as engine:
        drive(engine, 4, 1_000)
        client = client_of(engine)
        difference = client.server_tokens - client.streamed_tokens
        assert difference > 0
        assert difference % off == 0


def test_preemptions_are_kept(open_engine: Open) -> None:
    with open_engine("preempt") as engine:
        drive(engine, 4, 1_000)
        assert client_of(engine).preemptions == 1


@pytest.mark.parametrize(
    ("fault", "stage", "message"),
    [
        (
            "crash_on_load",
            "load",
            "the server exited with status 1(.|\n)*ValueError: the weights are missing",
        ),
        ("exit_on_load", "load", "the server exited with status 7(.|\n)*CUDA error: out of memory"),
        (
            "hang_on_load",
            "load",
            "did not load its model within 1 s.\nIf it needs longer: --energy-load-timeout",
        ),
        ("deaf", "load", "did not load its model within 1 s"),
        (
            "refuse_401",
            "run",
            r"refused a request: 401 Unauthorized: .*no \(refuse_401\).*\n.*API key",
        ),
        (
            "refuse_429",
            "run",
            r"refused a request: 429 Too Many Requests: .*\n.*lift the limit for this runner",
        ),
        (
            "refuse_500",
            "run",
            r"failed on a request: 500 Internal Server Error: .*no \(refuse_500\)",
        ),
        ("die", "run", "the server was ended by SIGKILL while requests were in flight"),
        (
            "cut",
            "run",
            "a connection to the server failed, with [0-3] others in flight: ClientPayloadError",
        ),
        ("end", "run", "a stream was cut off after [0-9]+ of its [0-9]+ tokens"),
        ("hang", "run", "no token for 3 s"),
        ("stop", "run", "no token for 3 s"),
        ("short", "run", "ended 1 tokens short of its set length of 50 .finish_reason 'stop'"),
        ("silent", "run", "chunk has no usage(.|\n)*continuous_usage_stats"),
        ("garbage", "run", "holds something that is not a JSON object: b'no JSON'"),
        ("error", "run", "failed in the middle of a stream: .*EngineCore encountered an issue"),
        (
            "uncounted",
            "run",
            "/metrics has no vllm:generation_tokens_total (.|\n)*disable_log_stats",
        ),
        ("hang_at_stop", "stop", "no answer for 3 s"),
    ],
)
def test_failures(
    open_engine: Open, sessions: list[int], temporary: Path, fault: str, stage: str, message: str
) -> None:
    limits: dict[str, float] = {}
    if "within 1 s" in message:
        limits = {"load_timeout_s": 1}
    elif "for 3 s" in message:
        limits = {"progress_timeout_s": 3}
    engine = open_engine(fault, **limits)
    with pytest.raises(EngineError, match=message) as caught, engine:
        drive(engine, 4, 1_000 if stage == "stop" else 100_000)
    assert caught.value.stage == stage
    assert caught.value.out_of_memory == (fault == "exit_on_load")
    assert sessions
    assert [session_members(session) for session in sessions] == [[]] * len(sessions)
    assert list(temporary.iterdir()) == []


def test_a_server_that_does_not_become_healthy() -> None:
    class Unhealthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Unhealthy) as unhealthy:
        threading.Thread(target=unhealthy.serve_forever, daemon=True).start()
        found = Server("127.0.0.1", unhealthy.server_port, "tiny")
        with pytest.raises(
            Failure,
            match=r"loaded its model, but was not healthy within 2 s: /health last answered 503.\n"
            r"If it needs longer: --energy-load-timeout",
        ):
            wait_until_healthy(found, time.monotonic() + 2, 2)
        unhealthy.shutdown()


def test_a_child_in_another_group_ends_too(open_engine: Open) -> None:
    with open_engine("child") as engine:
        session = engine.session_id
        assert len(session_members(session)) == 3
    assert session_members(session) == []


def test_a_child_in_another_group_ends_too_if_the_worker_is_given_no_time(
    open_engine: Open,
) -> None:
    engine = open_engine("child")
    engine.__enter__()
    session = engine.session_id
    assert len(session_members(session)) == 3
    engine.__exit__(KeyboardInterrupt, None, None)
    assert session_members(session) == []


def test_a_port_that_another_process_took(
    open_engine: Open, sessions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(server, "free_port", lambda: port)
        with (
            pytest.raises(
                EngineError,
                match=rf"another process took port {port} before(.|\n)*Run the tests again",
            ),
            open_engine(),
        ):
            pass
    assert [session_members(session) for session in sessions] == [[]]


def test_an_interpreter_that_does_not_exist(model: str) -> None:
    with (
        pytest.raises(EngineError, match=r"cannot run /no/python.*\n.*--energy-python"),
        ServerEngine("/no/python", {"model": model}, 120, 120),
    ):
        pass


def test_an_interpreter_without_vllm(model: str) -> None:
    with (
        pytest.raises(EngineError, match=r"has no vLLM.*\n.*--energy-python"),
        ServerEngine(sys.executable, {"model": model}, 120, 120),
    ):
        pass


def test_a_setting_that_the_server_does_not_know(python: str, model: str) -> None:
    arguments = {"model": model, "no_such_setting": 1}
    with (
        pytest.raises(EngineError, match="unrecognized arguments: --no-such-setting 1"),
        ServerEngine(python, arguments, 120, 120),
    ):
        pass


REPLICAS = r"2 replicas \(data_parallel_size\)(.|\n)*Measure one replica"
BY_HAND = r"vLLM would start {}(.|\n)*Set {}, or start the server yourself .*--energy-url"


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ({"data_parallel_size": 2}, {}, REPLICAS),
        ({"data_parallel_size": 2, "api_server_count": 1}, {}, REPLICAS),
        ({"api_server_count": 2}, {}, BY_HAND.format("2 API servers", "api_server_count 1")),
        (
            {},
            {"VLLM_USE_RUST_FRONTEND": "1"},
            BY_HAND.format("the Rust front end", "VLLM_USE_RUST_FRONTEND=0"),
        ),
        ({"fault": "elsewhere"}, {}, r"started, but has not reported(.|\n)*--energy-url"),
        ({"headless": True}, {}, "headless is set(.|\n)*Leave headless out"),
        ({"grpc": True}, {}, "grpc is set"),
        ({"uds": "/tmp/socket"}, {}, "uds is set"),
        ({"ssl_keyfile": "key.pem"}, {}, "ssl_keyfile is set"),
        ({"api_key": "secret"}, {}, "api_key is set"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_a_server_that_would_never_report_is_refused_at_once(
    python: str,
    model: str,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, object],
    variables: dict[str, str],
    message: str,
) -> None:
    """Several API servers and the Rust front end make the engine's clients elsewhere.

    vllm/entrypoints/cli/serve.py of 0.32: "Default api_server_count if not explicitly set. [...]
    Internal LB: Use full DP size", and `run_multi_api_server` if it exceeds 1 or
    VLLM_USE_RUST_FRONTEND is set, `run_server` in the same process otherwise.
    """
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = {"model": model, "load_format": "dummy", **arguments}
    with (
        pytest.raises(EngineError, match=message) as caught,
        ServerEngine(python, given, load_timeout_s=10**6, progress_timeout_s=120),
    ):
        pass
    assert caught.value.stage == "load"
    assert "secret" not in str(caught.value)


def test_a_model_without_a_vocabulary_size_gets_no_synthetic_tokenizer(
    python: str, model: str, temporary: Path
) -> None:
    Path(model, "config.json").write_text("{}")
    arguments = {"model": model, "load_format": "dummy"}
    with (
        pytest.raises(EngineError, match=r"has no vocab_size(.|\n)*tokenizer\.json"),
        ServerEngine(python, arguments, 120, 120),
    ):
        pass
    assert list(temporary.iterdir()) == []


def test_settings_become_options() -> None:
    settings = {
        "max_num_seqs": 8,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "quantization": None,
        "rope": {"a": [1]},
    }
    assert command_line({**settings, "allowed": ["x", "y"]}) == [
        "--max-num-seqs", "8", "--enforce-eager", "--no-enable-prefix-caching",
        "--rope", '{"a": [1]}', "--allowed", "x", "y",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [100, 2_048, 500_000])
def test_a_synthetic_tokenizer_has_a_word_for_every_token(size: int) -> None:
    tokens = synthetic_tokenizer.tokens(size)
    assert len(set(tokens)) == len(tokens) == size
    assert tokens[ord("A")] == "A"


def test_two_servers_take_turns(
    python: str, model: str, temporary: Path, sessions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "PERIOD_S", 0.6)
    monkeypatch.setattr(stopping, "PAIR_S", 0.1)
    monkeypatch.setattr(interleaved, "_IDLE_S", 0.3)
    monkeypatch.setattr(launch, "_HOT_TAIL_S", 0.3)
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)
    cell = Cell(
        Model.from_folder(Path(model)), 4, WORKLOAD, "dummy", (("max_num_seqs", 4),), "server"
    )
    sides = [
        Side(name, LaunchSettings(python, {}, 120, 120)) for name in ("reference", "candidate")
    ]
    pair = record_pair(
        [cell],
        *sides,
        lambda uuids, is_ours: SimulatedMeter(),
        lambda name: lambda text: None,
        interleaved.Stopping(stopping.is_period_enough, stopping.is_pair_enough),
    )
    done = [(side, recorded) for side, _, recorded in pair]
    assert [(side, recorded.period) for side, recorded in done] == [
        ("reference", 0),
        ("candidate", 0),
        ("reference", 1),
    ]
    for _, recorded in done:
        assert recorded.faults == ()
        assert recorded.co_resident is not None
        # By the count of the server that waited.
        assert recorded.co_resident.tokens == 0
        assert recorded.client is not None
        assert recorded.client.server_tokens == recorded.client.streamed_tokens
    assert len(sessions) == 2
    assert [session_members(session) for session in sessions] == [[], []]


UNDER_LOAD = """
    arguments = {{"model": {model!r}, "load_format": "dummy", "fault": "child"}}
    with ServerEngine({python!r}, arguments, 120, 120) as engine:
        engine.start_load(Workload(4, 50), 4)
        engine.take_steps()
        print(engine.session_id, flush=True)
        while True:
            engine.take_steps()
"""
LOADING = """
    class Loading(ServerEngine):
        def _load_with(self, *args, **kwargs):
            threading.Thread(target=self._report_server, daemon=True).start()
            return super()._load_with(*args, **kwargs)

        def _report_server(self):
            while len(session_members(self.session_id)) < 2:
                time.sleep(0.02)
            print(self.session_id, flush=True)
    arguments = {{"model": {model!r}, "load_format": "dummy", "fault": "hang_on_load"}}
    with Loading({python!r}, arguments, 1000, 1000):
        pass
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("stage", "processes"), [(UNDER_LOAD, 3), (LOADING, 2)], ids=["under load", "loading"]
)
def test_nothing_is_left_when_the_parent_ends(
    python: str, model: str, temporary: Path, stage: str, processes: int, how: signal.Signals
) -> None:
    code = """
    import signal, threading, time
    # A runner may have been started with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from pytest_energy.engines.worker_process import session_members
    from pytest_energy.engines.server import ServerEngine
    from pytest_energy.cell.workload import Workload
    """
    code += stage.format(python=python, model=model)
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
    )
    assert parent.stdout is not None
    session = int(parent.stdout.readline())
    assert len(session_members(session)) == processes
    os.kill(parent.pid, how)
    parent.wait(timeout=60)
    parent.stdout.close()
    assert left_of(session) == []
    assert list(temporary.iterdir()) == []
