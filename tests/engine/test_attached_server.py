"""A running server: what is known of it, which GPUs are its own, and that it is left running."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import psutil
import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import attached, running_server, server_processes
from pytest_energy.engines.attached import AttachedEngine
from pytest_energy.engines.server import free_port
from pytest_energy.errors import EngineError
from pytest_energy.launch import launch
from pytest_energy.meters.zeus_meter import Meter
from pytest_energy.settings import LaunchSettings
from tests.driver import UUIDS, SimulatedDriver
from tests.engine.conftest import FAKE_PACKAGES
from tests.engine.test_server_engine import client_of, drive

Start = Callable[..., tuple[subprocess.Popen[bytes], int]]
LISTEN = """
import socket, sys, time
with socket.socket(fileno=int(sys.argv[1])) as mine:
    mine.listen()
    print("listening", flush=True)
    time.sleep(100)
"""
GPUS = Mapping[str, frozenset[int]]


def start_server(fault: str = "", port: int | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """A small server in a process of its own, as someone else would start it; and its port."""
    port = port or free_port()
    process = subprocess.Popen(
        [sys.executable, str(FAKE_PACKAGES / "fake_server.py"), str(port), fault]
    )
    while not answers(port):
        assert process.poll() is None
    return process, port


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/version")
        return connection.getresponse().status in {200, 401, 404}
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture
def start() -> Iterator[Start]:
    processes = []

    def started(fault: str = "", port: int | None = None) -> tuple[subprocess.Popen[bytes], int]:
        process, port = start_server(fault, port)
        processes.append(process)
        return process, port

    yield started
    for process in processes:
        process.kill()
        process.wait()


def engine(
    port: int,
    gpu_uuids: tuple[str, ...] = (),
    on_gpus: GPUS | None = None,
    request_tokens: int = 54,
) -> AttachedEngine:
    return AttachedEngine(
        f"http://127.0.0.1:{port}", gpu_uuids, 100, request_tokens, lambda: on_gpus or {}, 60
    )


def test_it_is_measured_counted_and_left_running(start: Start) -> None:
    process, port = start()
    launch_ids = set()
    for _ in range(2):
        with engine(port) as attached_engine:
            drive(attached_engine, 4, 1_000)
            client = client_of(attached_engine)
            assert client.streamed_tokens == client.server_tokens > 1_000
            ready = attached_engine.ready
            assert ready is not None
            launch_ids.add(attached_engine.launch_id)
        assert process.poll() is None
        assert answers(port)
    assert ready.versions == {"vllm": "0.0.1"}
    assert ready.kv_cache_tokens == 16_000
    known = {
        "served_model": "tiny",
        "max_model_len": 96,
        "block_size": 16,
        "kv_cache_dtype": "auto",
        "enable_prefix_caching": False,
    }
    assert {name: value for name, value in ready.settings.items() if value != "unknown"} == known
    assert ready.settings["max_num_seqs"] == ready.settings["dtype"] == "unknown"
    # However often it is measured, it is one launch.
    assert len(launch_ids) == 1


def test_another_start_is_another_launch(start: Start) -> None:
    launch_ids = set()
    for _ in range(2):
        _, port = start()
        with engine(port) as attached_engine:
            launch_ids.add(attached_engine.launch_id)
    assert len(launch_ids) == 2


NOT_REPORTED = ("several", "rust")


@pytest.mark.parametrize("fault", NOT_REPORTED)
def test_a_start_that_is_not_reported_is_that_of_its_process(start: Start, fault: str) -> None:
    """Measured twice it is one launch; started anew it is another, on the same port too.

    vLLM, docs/design/metrics.md: process_start_time_seconds and its like "are not exposed when
    multiprocess mode is used [...] Therefore, these metrics are unavailable when --api-server-count
    > 1". A vLLM 0.32 with two API servers was asked. The Rust front end registers neither these nor
    vllm:cache_config_info (rust/src/metrics/src/scheduler.rs, request.rs), and creates its counters
    with the first request (rust/src/llm/src/request_metrics.rs).
    """
    launch_ids = []
    port = None
    for _ in range(2):
        process, port = start(fault, port)
        for _ in range(2):
            on_gpus = {"GPU-a": frozenset({process.pid})}
            with engine(port, on_gpus=on_gpus) as attached_engine:
                assert attached_engine.ready is not None
                assert attached_engine.ready.kv_cache_tokens == (0 if fault == "rust" else 16_000)
                launch_ids.append(attached_engine.launch_id)
        process.kill()
        process.wait()
    assert launch_ids[0] == launch_ids[1] != launch_ids[2] == launch_ids[3]
    assert None not in launch_ids


@pytest.mark.parametrize("fault", ["", "several"])
def test_one_start_has_one_name_whatever_address_leads_to_it(start: Start, fault: str) -> None:
    process, port = start(fault)
    on_gpus = {"GPU-a": frozenset({process.pid})}
    launch_ids = set()
    for host in ("127.0.0.1", "localhost"):
        for named in ((), ("GPU-a",)):
            url = f"http://{host}:{port}"
            with AttachedEngine(url, named, 100, 54, lambda: on_gpus, 60) as attached_engine:
                launch_ids.add(attached_engine.launch_id)
    assert len(launch_ids) == 1


@pytest.mark.parametrize("listening", [(), (os.getpid(),)])
def test_the_start_of_a_server_in_a_container_is_that_of_its_processes_on_the_gpu(
    start: Start, monkeypatch: pytest.MonkeyPatch, listening: tuple[int, ...]
) -> None:
    """Its sockets are hidden from the host, or docker-proxy, ssh or nginx listens, which lives on.

    Another user's processes do not show what they have open, see proc(5), /proc/pid/fd.
    """
    monkeypatch.setattr(attached, "processes_of", lambda *_: frozenset(listening))
    launch_ids = []
    for _ in range(2):
        process, port = start("several")
        on_gpus = {"GPU-a": frozenset({process.pid})}
        monkeypatch.setattr(
            server_processes,
            "uses_cuda",
            lambda pid, server=process.pid: pid == server if listening else None,
        )
        for _ in range(2):
            with engine(port, ("GPU-a",), on_gpus) as attached_engine:
                launch_ids.append(attached_engine.launch_id)
    assert launch_ids[0] == launch_ids[1] != launch_ids[2] == launch_ids[3]
    assert None not in launch_ids


@pytest.mark.parametrize("there", ["hidden", "nothing", "another, too", "another"])
@pytest.mark.parametrize("listening", [(), (os.getpid(),)])
def test_a_start_that_cannot_be_told_from_another_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch, there: str, listening: tuple[int, ...]
) -> None:
    """So as not to count one launch as several, or several as one.

    A server that reports its start needs no more.
    """
    monkeypatch.setattr(attached, "processes_of", lambda *_: frozenset(listening))
    process, port = start("several")
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as older:
        monkeypatch.setattr(
            server_processes,
            "uses_cuda",
            lambda pid: False if pid in {os.getpid(), older.pid} and there == "another" else None,
        )
        on_gpu = {
            "hidden": {2**22 + 1},  # more than a process id can be
            "nothing": set(),
            "another, too": {process.pid, older.pid},
            "another": {older.pid},  # by its number on the host
        }[there]
        on_gpus = {"GPU-a": frozenset(on_gpu)}
        message = r"cannot tell this start (.|\n)*no process_start_time_seconds(.|\n)*Run pytest in"
        with pytest.raises(EngineError, match=message), engine(port, ("GPU-a",), on_gpus):
            pass
        _, port = start()
        with engine(port, ("GPU-a",), on_gpus) as attached_engine:
            assert attached_engine.launch_id is not None
        older.kill()


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (True, "the process that ran it has ended"),
        (False, r"it counted \d+ tokens, and now 0"),
    ],
)
def test_a_server_that_is_restarted_between_two_cells_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch, seen: bool, why: str
) -> None:
    """Though it does not report its start; if its processes are hidden, its counter falls.

    vLLM's /v1/models has no proof: its `created` is the time of the request (ModelCard in
    vllm/entrypoints/openai/protocol.py).
    """
    process, port = start("several")
    on_gpus = {"GPU-a": frozenset({process.pid if seen else os.getpid()})}
    if not seen:
        monkeypatch.setattr(attached, "processes_of", lambda *_: frozenset())
        monkeypatch.setattr(server_processes, "uses_cuda", lambda _: None)
    with engine(port, ("GPU-a",), on_gpus) as attached_engine:
        drive(attached_engine, 4, 300)
        drive(attached_engine, 4, 300)
        process.kill()
        process.wait()
        start("several", port)
        with pytest.raises(EngineError, match=f"another one than before: {why}"):
            drive(attached_engine, 4, 300)


def test_the_kv_caches_of_replicas_add_up() -> None:
    line = 'vllm:cache_config_info{{block_size="16",engine="{}",num_gpu_blocks="1000"}} 1.0\n'
    ready = running_server._ready("m", "0.32.0", {}, line.format(0) + line.format(1))
    assert ready["kv_cache_tokens"] == 32_000
    assert ready["settings"]["block_size"] == 16


@pytest.mark.parametrize("fault", ["two_names", ""])
def test_one_model_under_several_names_is_asked_by_the_first(start: Start, fault: str) -> None:
    """vLLM lists every served name with the path of the model as its `root`, and adapters apart.

    vLLM on served_model_name: "The model name in the model field of a response will be the first
    name in this list" (vllm/config/model.py; vllm/entrypoints/openai/models/serving.py).
    """
    _, port = start(fault)
    with engine(port) as attached_engine:
        assert attached_engine.ready is not None
        assert attached_engine.ready.settings["served_model"] == "tiny"
        drive(attached_engine, 2, 300)


def test_no_two_prompts_begin_alike(start: Start) -> None:
    """A server that caches prefixes would have less to do with every cycle, cell and run."""
    _, port = start("forgetful")
    for _ in range(2):
        with AttachedEngine(f"http://127.0.0.1:{port}", (), 1_000, 66, dict, 60) as attached_engine:
            for batch_size in (8, 4):
                attached_engine.start_load(Workload(input_tokens=64, output_tokens=2), batch_size)
                finished = 0
                while finished < 100:
                    finished += sum(attached_engine.take_steps().finished)
                attached_engine.stop_load()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("locked", "refused a request: 401 to /health: .*\n.*PYTEST_ENERGY_API_KEY"),
        ("unhealthy", "the server failed on a request: 503 to /health"),
        (
            "busy",
            "is busy with 3 requests of other clients.\nMeasure it while it serves no one else",
        ),
        ("two_models", r"serves 2 models \(tiny, other\) without a common root(.|\n)*one name"),
        ("versionless", "/version does not answer as vLLM would: .*Not Found(.|\n)*not a proxy"),
        (
            "unsized",
            "neither vllm:cache_config_info nor vllm:num_preemptions_total(.|\n)*not a proxy",
        ),
        ("uncounted", "no vllm:generation_tokens_total"),
    ],
)
def test_a_server_that_cannot_be_measured(start: Start, fault: str, message: str) -> None:
    process, port = start(fault)
    with pytest.raises(EngineError, match=message), engine(port):
        pass
    assert process.poll() is None


def test_the_api_key_comes_from_the_environment(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port = start("locked")
    monkeypatch.setenv("PYTEST_ENERGY_API_KEY", "secret")
    with engine(port) as attached_engine:
        drive(attached_engine, 2, 300)


def test_no_server() -> None:
    with (
        pytest.raises(
            EngineError, match=r"nothing answers at http://127.0.0.1:\d+ .*\n.*--energy-url"
        ),
        engine(free_port()),
    ):
        pass


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP (BadStatusLine).\nIt may want https"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "does not speak HTTP (BadStatusLine)"),  # TLS's alert
        (b"", "nothing answers at "),
        (
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://a/\r\nContent-Length: 0\r\n\r\n",
            "307 to /health: \nIt sends its clients to another address: give vLLM's own.",
        ),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nnginx",
            "502 to /health: nginx\nA proxy answers, and does not reach vLLM",
        ),
        (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "503 to /health: \nIt is starting, or its engine has ended: read its log",
        ),
    ],
)
def test_what_answers_is_not_vllm(answer: bytes, message: str) -> None:
    def respond(listening: socket.socket) -> None:
        for _ in range(2):  # whether it answers at all is found out first
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(60)
                if connection.recv(1_000):
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=respond, args=(listening,), daemon=True).start()
        with (
            pytest.raises(EngineError, match=re.escape(message)),
            engine(listening.getsockname()[1]),
        ):
            pass


def test_requests_that_are_too_long_for_it(start: Start) -> None:
    _, port = start()
    with (
        pytest.raises(
            EngineError,
            match=r"accepts 96 tokens per request .*, but the test needs 97(.|\n)*-len 97",
        ),
        engine(port, request_tokens=97),
    ):
        pass


def test_it_dies_under_load(start: Start) -> None:
    process, port = start()
    with engine(port) as attached_engine:
        attached_engine.start_load(Workload(4, 50), 4)
        attached_engine.take_steps()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="a connection to the server failed"):
            drive(attached_engine, 4, 10**9)


def test_its_gpus_are_those_that_its_processes_are_on(start: Start) -> None:
    process, port = start()
    on_gpus = {
        "GPU-other": frozenset({1}),
        "GPU-own": frozenset({process.pid, 2}),
        "GPU-free": frozenset[int](),
    }
    with engine(port, on_gpus=on_gpus) as attached_engine:
        assert attached_engine.ready is not None
        assert attached_engine.ready.gpu_uuids == ("GPU-own",)
        assert attached_engine.processes() == {process.pid}


@pytest.mark.parametrize("neighbour", ["127.0.0.2", "::1", "::"])
def test_another_server_on_the_same_port_of_another_address_is_not_its_own(
    start: Start, neighbour: str
) -> None:
    """Each address may have its own listener on a port."""
    process, port = start()
    family = socket.AF_INET6 if ":" in neighbour else socket.AF_INET
    with socket.socket(family) as other:
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            other.bind((neighbour, port))
        except OSError as error:
            pytest.skip(f"{neighbour}: {error}")
        child = subprocess.Popen(
            [sys.executable, "-c", LISTEN, str(other.fileno())],
            pass_fds=[other.fileno()],
            stdout=subprocess.PIPE,
        )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"listening\n"
        on_gpus = {"GPU-own": frozenset({process.pid}), "GPU-other": frozenset({child.pid})}
        with engine(port, on_gpus=on_gpus) as attached_engine:
            assert attached_engine.ready is not None
            assert attached_engine.ready.gpu_uuids == ("GPU-own",)
            assert child.pid not in attached_engine.processes()
    finally:
        child.kill()
        child.communicate()


def test_a_server_that_is_restarted_between_two_looks_is_refused(start: Start) -> None:
    """So are several behind one address that takes turns: each reports its own start."""
    _, port = start("restarted")
    with (
        engine(port) as attached_engine,
        pytest.raises(EngineError, match=r"another one than before(.|\n)*while it keeps running"),
    ):
        drive(attached_engine, 4, 1_000)


def test_gpus_that_cannot_be_found_must_be_named(start: Start) -> None:
    _, port = start()
    on_gpus = {"GPU-a": frozenset({1}), "GPU-b": frozenset({2}), "GPU-free": frozenset[int]()}
    with (
        pytest.raises(
            EngineError,
            match=r"cannot tell which GPUs (.|\n)*--energy-gpu UUID, one of GPU-a, GPU-b ",
        ),
        engine(port, on_gpus=on_gpus),
    ):
        pass
    with engine(port, ("GPU-b",), on_gpus) as attached_engine:
        assert attached_engine.ready is not None
        assert attached_engine.ready.gpu_uuids == ("GPU-b",)
        assert 2 in attached_engine.processes()
        assert 1 not in attached_engine.processes()


@pytest.mark.parametrize(
    ("use", "refused"),
    [
        ({}, True),
        ({"memory_mib": 1000}, True),  # reserved, as an older driver counts it
        ({"memory_mib": 60_000}, False),  # of a container whose processes are not listed
        ({"pids": [4711]}, False),
        ({"fails": {"nvmlDeviceGetComputeRunningProcesses": 3}}, False),
        ({"fails": {"nvmlDeviceGetMemoryInfo": 3}}, False),
    ],
)
def test_a_gpu_without_a_model_is_not_that_of_the_server(
    cell: Cell,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    use: dict[str, object],
    refused: bool,
) -> None:
    """As of one on another machine behind an ssh tunnel, kubectl port-forward or a proxy."""
    gpu = SimulatedDriver(monkeypatch).gpus[UUIDS[0]]
    for name, value in use.items():
        setattr(gpu, name, value)
    _, port = start()
    url = f"http://127.0.0.1:{port}"
    settings = LaunchSettings("python", {}, 20, 20, url=url, gpu_uuids=UUIDS[:1])
    workload = Workload(input_tokens=4, output_tokens=50)
    short = replace(cell, model=Model("org/tiny", "tiny"), workload=workload)

    def measured(*_: object) -> Meter:
        raise KeyboardInterrupt

    launched = launch.record_launch([short], settings, measured, lambda _: None, lambda *_: False)
    message = rf"{UUIDS[0]} holds no model \([\d,]+ MiB (.|\n)*another machine(.|\n)*--energy-gpu"
    with pytest.raises(
        EngineError if refused else KeyboardInterrupt, match=message if refused else None
    ):
        next(launched)


def test_processes_are_found_with_their_children() -> None:
    code = """
        import socket, subprocess, sys
        server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        print(child.pid, flush=True)
        child.wait()
    """
    port = free_port()
    source = "\n".join(line.strip() for line in code.splitlines())
    parent = subprocess.Popen(
        [sys.executable, "-c", source, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert server_processes.processes_of(port, "127.0.0.1") == {parent.pid, child}
        assert server_processes.processes_of(free_port(), "127.0.0.1") == frozenset()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()


def test_a_parent_that_shares_the_socket_is_found_by_its_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the processes that share a socket psutil names one."""
    connections = psutil.net_connections
    with socket.create_server(("127.0.0.1", 0)) as shared:
        port = shared.getsockname()[1]
        child = subprocess.Popen(["sleep", "100"], pass_fds=[shared.fileno()])
        monkeypatch.setattr(
            psutil,
            "net_connections",
            lambda kind: [c._replace(pid=child.pid) for c in connections(kind) if c.pid],
        )
        try:
            assert {os.getpid(), child.pid} <= server_processes.processes_of(port, "127.0.0.1")
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.1", False)]
)
def test_which_hosts_are_this_machine(host: str, local: bool) -> None:
    assert attached.is_local(host) == local


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "https://localhost:8000",
        "http://localhost:8000/v1/chat",
        "http://:8000",
        "http://h:x",
    ],
)
def test_what_is_not_an_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"http://host:port|Port could not be cast"):
        attached.address_of(url)


def test_addresses() -> None:
    assert attached.address_of("http://localhost:8000/") == ("localhost", 8000)
    assert attached.address_of("http://[::1]:9") == ("::1", 9)
