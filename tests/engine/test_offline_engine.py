"""The worker process: what it delivers, how it reports failures, and that nothing is left of it."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.lengths import Lognormal
from pytest_energy.cell.prompts import Conversation, Prompts
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.engine import Steps
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.worker_process import WorkerProcess, session_members
from pytest_energy.errors import EngineError
from tests.engine.conftest import left_of

ROOT = Path(__file__).parents[2]
WORKLOAD = Workload(input_tokens=4, output_tokens=50)

Open = Callable[..., OfflineEngine]


@pytest.fixture
def open_engine(python: str) -> Open:
    def opened(
        fault: str | None = None,
        load_timeout_s: float = 120,
        progress_timeout_s: float = 120,
        **engine_args: Any,
    ) -> OfflineEngine:
        arguments = {**engine_args, **({"fault": fault} if fault else {})}
        return OfflineEngine(python, arguments, load_timeout_s, progress_timeout_s)

    return opened


def drive(engine: OfflineEngine, batch_size: int, tokens_wanted: int) -> Steps:
    engine.start_load(WORKLOAD, batch_size)
    steps = [engine.take_steps()]
    while sum(sum(s.tokens) for s in steps) < tokens_wanted:
        steps.append(engine.take_steps())
    last, stopped_ns = engine.stop_load()
    steps.append(last)
    times = tuple(t for s in steps for t in s.time_ns)
    assert stopped_ns >= times[-1]
    return Steps(
        times,
        tuple(n for s in steps for n in s.tokens),
        tuple(n for s in steps for n in s.finished),
    )


def test_keeps_the_batch_full_and_counts_every_token(open_engine: Open) -> None:
    with open_engine() as engine:
        for batch_size in (4, 1, 8):
            steps = drive(engine, batch_size, 6 * 50 * batch_size)
            # The slots start one after the other over one period, with whole requests.
            period = 50 + 2
            starts = [slot * period // batch_size for slot in range(batch_size)]
            assert list(steps.tokens[:period]) == [
                sum(start <= step for start in starts) for step in range(period)
            ]
            assert set(steps.tokens[period:]) == {batch_size}
            assert list(steps.time_ns) == sorted(steps.time_ns)
            assert sum(steps.finished[period : period + 50]) == batch_size
            assert max(steps.finished) == 1
        assert engine.ready is not None
        assert engine.ready.versions["vllm"] == "0.0.1"
        assert engine.ready.gpu_uuids == ()
        session = engine.session_id
        assert session_members(session)
    assert session_members(session) == []


@pytest.mark.parametrize(
    ("fault", "kernels"),
    [(None, {"attention_backend": "FAKE_ATTN"}), ("layers_do_not_tell", None)],
)
def test_a_model_whose_layers_do_not_tell_their_kernels_is_measured_all_the_same(
    open_engine: Open, fault: str | None, kernels: dict[str, str] | None
) -> None:
    with open_engine(fault) as engine:
        assert engine.ready is not None
        assert engine.ready.versions["kernels"] == kernels
        drive(engine, 2, 100)


@pytest.mark.parametrize(
    ("fault", "stage", "message"),
    [
        ("crash_on_load", "load", "ValueError: the weights are missing"),
        ("exit_on_load", "load", "exited with status 7"),
        ("exit_on_load", "load", "CUDA error: out of memory"),
        ("hang_on_load", "load", "the engine did not load within 1 s"),
        ("deaf", "load", "the engine did not load within 1 s"),
        ("crash", "run", "RuntimeError: EngineCore died"),
        ("kill", "run", "ended by SIGKILL"),
        ("core_dies", "run", r"the engine's process VLLM::EngineCore 1000 \(pid \d+\) has died"),
        ("hang", "run", "no token for 3 s"),
        ("hang_at_stop", "stop", "no answer for 3 s"),
        ("short", "run", "ended 1 tokens short of its set length"),
        ("garbage", "run", "unreadable message"),
        ("flood", "run", "unreadable message"),
        ("malformed", "run", "report of its steps is malformed"),
        ("fieldless", "run", "unreadable message"),
        ("garbage_on_load", "load", "unreadable message"),
    ],
)
def test_failures(
    open_engine: Open, sessions: list[int], fault: str, stage: str, message: str
) -> None:
    limits: dict[str, float] = {}
    if message.endswith("within 1 s"):
        limits = {"load_timeout_s": 1}
    elif message.endswith("for 3 s"):
        limits = {"progress_timeout_s": 3}
    engine = open_engine(fault, **limits)
    with pytest.raises(EngineError, match=message) as caught, engine:
        drive(engine, 4, 2_000 if stage == "stop" else 100_000)
    assert caught.value.stage == stage
    assert sessions
    assert [session_members(session) for session in sessions] == [[]]


def test_a_child_in_another_group_ends_too(open_engine: Open) -> None:
    with open_engine("child") as engine:
        session = engine.session_id
        assert len(session_members(session)) == 2
    assert session_members(session) == []


def test_a_child_in_another_group_ends_too_if_the_worker_is_given_no_time(
    open_engine: Open,
) -> None:
    engine = open_engine("child")
    engine.__enter__()
    session = engine.session_id
    assert len(session_members(session)) == 2
    engine.__exit__(KeyboardInterrupt, None, None)
    assert session_members(session) == []


def test_an_interpreter_that_does_not_exist() -> None:
    with (
        pytest.raises(EngineError, match=r"cannot run /no/python.*\n.*--energy-python"),
        OfflineEngine("/no/python", {}, 120, 120),
    ):
        pass


def test_an_interpreter_without_vllm() -> None:
    with (
        pytest.raises(EngineError, match=r"has no vLLM.*\n.*--energy-python"),
        OfflineEngine(sys.executable, {}, 120, 120),
    ):
        pass


def test_a_worker_that_ends_before_its_command_has_said_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = WorkerProcess.send

    def late(self: WorkerProcess, stage: str, **command: Any) -> None:
        if command["command"] == "load":  # after "import"
            assert self._process is not None
            self._process.wait(timeout=60)
        send(self, stage, **command)

    monkeypatch.setattr(WorkerProcess, "send", late)
    test_an_interpreter_without_vllm()


def test_something_that_is_not_an_interpreter() -> None:
    with (
        pytest.raises(EngineError, match=r"exited with status|closed its pipe"),
        OfflineEngine("/bin/true", {}, 120, 120),
    ):
        pass


def test_an_interrupt_while_the_engine_is_given_time_to_exit(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = subprocess.Popen.wait

    def interrupted(self: Any, timeout: float | None = None) -> int:
        monkeypatch.setattr(subprocess.Popen, "wait", waited)
        raise KeyboardInterrupt

    engine = open_engine("child")
    engine.__enter__()
    session = engine.session_id
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.__exit__(None, None, None)
    assert session_members(session) == []


@pytest.mark.parametrize("killed", [0, 1])
def test_a_second_interrupt_while_the_engine_is_ended_leaves_the_worker_to_end_the_others(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    kill = os.kill

    def interrupted(pid: int, how: int) -> None:
        monkeypatch.setattr(os, "kill", kill)
        if killed:
            kill(pid, how)
        raise KeyboardInterrupt

    engine = open_engine("child")
    engine.__enter__()
    session, worker = engine.session_id, engine.worker
    commands, process = worker._commands, worker._process
    assert process is not None
    monkeypatch.setattr(os, "kill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.__exit__(KeyboardInterrupt, None, None)
    os.close(commands)  # as the end of this process would
    left = left_of(session)
    process.wait(timeout=60)
    worker._log.close()
    assert left == []


def test_a_worker_that_exits_leaves_nothing_even_if_its_parent_dies_meanwhile(
    open_engine: Open,
) -> None:
    with open_engine("child") as engine:
        session, process = engine.session_id, engine.worker._process
        assert process is not None
        assert len(session_members(session)) == 2
        os.write(engine.worker._commands, b'{"command":"exit"}\n')
        assert process.wait(timeout=60) == 0
        assert left_of(session) == []


def test_a_process_that_has_ended_and_waits_to_be_collected_is_not_a_member() -> None:
    with subprocess.Popen(["true"], start_new_session=True) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        assert session_members(process.pid) == []


UNDER_LOAD = """
    with OfflineEngine({python!r}, {{"fault": "child"}}, 120, 120) as engine:
        engine.start_load(Workload(4, 50), 4)
        engine.take_steps()
        print(engine.session_id, flush=True)
        while True:
            engine.take_steps()
"""
LOADING = """
    class Loading(OfflineEngine):
        def _load(self):
            print(self.session_id, flush=True)
            return super()._load()
    with Loading({python!r}, {{"fault": "hang_on_load"}}, 1000, 1000):
        pass
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("stage", "processes"), [(UNDER_LOAD, 2), (LOADING, 1)], ids=["under load", "loading"]
)
def test_nothing_is_left_when_the_parent_ends(
    python: str, stage: str, processes: int, how: signal.Signals
) -> None:
    code = """
    import signal
    # A runner may have been started with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from pytest_energy.engines.offline import OfflineEngine
    from pytest_energy.cell.workload import Workload
    """
    code += stage.format(python=python)
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


PROMPTS = Prompts(
    "prompts.jsonl",
    "0123456789abcdef",
    tuple(
        Conversation(
            n,
            (("user", " ".join(["word"] * n)),),
            "one two three" if n % 2 else None,
            None if n % 2 else 40,
        )
        for n in range(1, 13)
    ),
)
OF_PROMPTS = Workload(output_tokens=None, seed=3, prompts_file=PROMPTS)


def drive_passes(engine: OfflineEngine, workload: Workload, batch_size: int, passes: int) -> Steps:
    engine.start_load(workload, batch_size)
    steps = [engine.take_steps()]
    while sum(sum(s.finished) for s in steps) < batch_size + passes * workload.requests_per_pass(
        batch_size
    ):
        steps.append(engine.take_steps())
    engine.stop_load()
    return Steps(
        *(
            tuple(n for s in steps for n in getattr(s, name))
            for name in ("time_ns", "tokens", "finished")
        )
    )


def test_requests_of_varying_lengths_come_in_the_order_of_the_plan(open_engine: Open) -> None:
    workload = Workload(Lognormal(6, 0.6, 20), Lognormal(20, 0.8, 60))
    with open_engine() as engine:
        for batch_size in (4, 1):
            plan = engine.prepare(workload, batch_size)
            steps = drive_passes(engine, workload, batch_size, 2)
            assert set(steps.tokens) == {batch_size}
            # Every step gives each request a token, so when which one ends is known.
            left, sent, expected = [out for _, out in plan.first_wave], batch_size, []
            for _ in steps.tokens:
                left = [tokens - 1 for tokens in left]
                expected.append(left.count(0))
                for slot, tokens in enumerate(left):
                    if not tokens:
                        left[slot], sent = plan.lengths[sent % len(plan.lengths)][1], sent + 1
            assert list(steps.finished) == expected


def test_prompts_are_rendered_and_tokenized_once(open_engine: Open) -> None:
    with open_engine() as engine:
        drawn, plan = OF_PROMPTS.drawn(4), engine.prepare(OF_PROMPTS, 4)
        # The stand-in's template adds two words to the prompt; its tokens are words.
        assert plan.lengths == tuple((c.line + 2, 3 if c.reply else 40) for c in drawn)
        steps = drive_passes(engine, OF_PROMPTS, 4, 2)
        assert set(steps.tokens) == {4}
        assert engine.prepare(OF_PROMPTS, 4) == plan
        assert {
            out for _, out in engine.prepare(replace(OF_PROMPTS, output_tokens=7), 4).lengths
        } == {7}


@pytest.mark.parametrize(
    ("fault", "text", "message"),
    [
        (
            "untemplated",
            "a",
            r"the model has no chat template(.|\n)*chat_template.jinja, or chat_template in ",
        ),
        (
            "picky",
            "I say no thing",
            r"does not accept the prompt of line 7: roles must alternate\nCorrect the line, ",
        ),
        (
            None,
            "word " * 90,
            r"line 7 of prompts.jsonl is too long: 92 input and 40 output tokens, "
            r"but the engine accepts 96 (.|\n)*'max_model_len': 132",
        ),
    ],
)
def test_prompts_that_the_model_does_not_accept(
    open_engine: Open, sessions: list[int], fault: str | None, text: str, message: str
) -> None:
    bad = replace(
        OF_PROMPTS,
        prompts_file=replace(
            PROMPTS, conversations=(Conversation(7, (("user", text),), None, 40),)
        ),
    )
    with pytest.raises(EngineError, match=message) as caught, open_engine(fault) as engine:
        engine.start_load(bad, 4)
    assert caught.value.stage == "tokenize"
    assert [session_members(session) for session in sessions] == [[]]
