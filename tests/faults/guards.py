"""Every guard, the edit of one line that takes it away, and the test that then fails.

    python -m tests.faults.guards [WORD]    takes each away in a copy of the repository, runs its test, prints docs/reliability.md's table

WORD selects guards that have it in their description.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_AT_ONCE = 2
_LIMIT_S = 60  # a test that hangs without its guard has failed, too
_FAILED = 1
_HEADING = ("guard", "file", "without it fails")


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes:
        what: it does, in words.
        file: that holds it, below pytest_energy.
        old, new: text that stands there once, and what takes its place to remove the guard.
        test: id of a test that passes with and fails without it.
    """

    what: str
    file: str
    old: str
    new: str
    test: str


def _row(name: str) -> str:
    return f"tests/faults/test_campaign.py::test_fault[{name}]"


_MEASURED = "tests/unit/test_measurement.py::test_faults_make_a_measurement_invalid"
_CLIENTS = "tests/unit/test_measurement.py::test_what_clients_saw_makes_a_measurement_invalid"
_ENGINE = "tests/engine/test_offline_engine.py"
_METER = "tests/engine/test_zeus_meter.py"
_CELL = "tests/engine/test_guard.py"
_STORE = "tests/unit/test_baselines.py"
_NOISE = "tests/unit/test_noise.py"
_LOCKS = "tests/unit/test_locks.py"
_HOST = "tests/plugin/test_gpu_locks.py"
_POWER = "tests/faults/test_power_loss.py"
_TWO = "tests/faults/test_two_updates.py"

GUARDS: tuple[Guard, ...] = (
    # The engine's process.
    Guard(
        "all of a worker's session is killed, not the worker alone",
        "engines/offline.py",
        "            end_session(process.pid)\n",
        "            process.kill()\n",
        f"{_ENGINE}::test_a_child_in_another_group_ends_too",
    ),
    Guard(
        "the worker is killed last",
        "engines/offline.py",
        "sorted(members, key=lambda pid: pid == session_id)",
        "sorted(members)",
        f"{_ENGINE}::test_a_second_interrupt_while_the_engine_is_ended_leaves_the_worker_to_end_the_rest[1]",
    ),
    Guard(
        "a worker that is told to exit ends the others first",
        "engines/vllm_worker.py",
        "    kill_the_others()  # the parent",
        "    pass  # the parent",
        f"{_ENGINE}::test_a_worker_that_is_told_to_exit_leaves_nothing_should_its_parent_be_killed_then",
    ),
    Guard(
        "zombies are not taken for survivors",
        "engines/offline.py",
        ' and fields[0] not in "ZX"',
        "",
        f"{_ENGINE}::test_a_process_that_has_ended_and_waits_to_be_collected_is_not_left",
    ),
    Guard(
        "a worker whose parent is gone ends its session",
        "engines/vllm_worker.py",
        "        self.parent_gone()\n",
        "        pass\n",
        f"{_ENGINE}::test_nothing_is_left_when_the_parent_ends[under load-9]",
    ),
    Guard(
        "waiting for a word of the worker ends",
        "engines/offline.py",
        "                if time.monotonic() >= deadline:\n",
        "                if False:\n",
        f"{_ENGINE}::test_failures[hang-run-no token for 1 s]",
    ),
    Guard(
        "a dead process of the engine is noticed",
        "engines/offline.py",
        "                if dead:  #",
        "                if False:  #",
        _row("its-own-process-dies-run"),
    ),
    Guard(
        "a message that lacks what it must hold is an error",
        "engines/offline.py",
        ' or not self.fields[event["event"]] <= set(event):',
        ":",
        f"{_ENGINE}::test_failures[fieldless-run-unreadable message]",
    ),
    Guard(
        "a malformed report of steps is an error",
        "engines/offline.py",
        "                if not isinstance(values, list) or not all(type(value) is int for value in values):\n",
        "                if values is None:\n                    return Steps((), (), ())\n                if False:\n",
        f"{_ENGINE}::test_failures[malformed-run-report of its steps is malformed]",
    ),
    Guard(
        "a request that ends early is an error",
        "engines/vllm_worker.py",
        "                if remaining:\n",
        "                if False:\n",
        f"{_ENGINE}::test_failures[short-run-ended 1 tokens off its set length]",
    ),
    Guard(
        "a worker's message that ends a run is told with its stage",
        "engines/offline.py",
        '        if event["event"] == "error":\n',
        "        if False:\n",
        f"{_ENGINE}::test_failures[crash-run-RuntimeError: EngineCore died]",
    ),
    # The meter.
    Guard(
        "no GPU is an error, never a replay or 0 J",
        "meters/zeus_meter.py",
        "    if not gpu_uuids:\n",
        "    if False:\n",
        f"{_METER}::test_no_gpu",
    ),
    Guard(
        "a MIG slice is refused",
        "meters/zeus_meter.py",
        '        if uuid.startswith("MIG-"):',
        "        if False:",
        f"{_METER}::test_gpus_that_cannot_be_read[MIG-1234-MIG slice]",
    ),
    Guard(
        "a GPU that the driver does not list is refused",
        "meters/zeus_meter.py",
        "        if uuid not in index_of:\n",
        "        if False:\n",
        f"{_METER}::test_gpus_that_cannot_be_read[GPU-cccc-which the driver does not list: GPU-aaaa, GPU-bbbb]",
    ),
    Guard(
        "a counter that cannot be read is a fault",
        "meters/zeus_meter.py",
        '            self._fault("counter_unreadable", str(error))\n',
        "            pass\n",
        f"{_METER}::test_faults_of_the_counter",
    ),
    Guard(
        "a counter that runs backwards is a fault (meter)",
        "meters/zeus_meter.py",
        "            if self._last_mj is not None and energy_mj < self._last_mj:\n",
        "            if False:\n",
        f"{_METER}::test_faults_of_the_counter",
    ),
    Guard(
        "a counter that stands still is a fault (meter)",
        "meters/zeus_meter.py",
        "        elif now_s - self._updated_s > _STUCK_AFTER_S:\n",
        "        elif False:\n",
        f"{_METER}::test_faults_of_the_counter",
    ),
    Guard(
        "a sample that fails is a fault",
        "meters/zeus_meter.py",
        '            self._fault("sample_unreadable", str(error))\n',
        "            pass\n",
        _row("nvmldevicegetclockinfo-fails-once-in-the-run"),
    ),
    Guard(
        "processes that cannot be listed are a fault",
        "meters/zeus_meter.py",
        '                self._fault("processes_unreadable", str(error))\n',
        "                pass\n",
        _row("nvmldevicegetcomputerunningprocesses-fails-once-in-the-run"),
    ),
    Guard(
        "another process is a fault",
        "meters/zeus_meter.py",
        "                if not self._is_engine_process(process.pid):\n",
        "                if False:\n",
        _row("another-process-appears-run"),
    ),
    Guard(
        "a GPU's name is read before it can be lost",
        "meters/zeus_meter.py",
        "            name=self._name,\n",
        "            name=self._gpu.get_name(),\n",
        _row("gpu-lost-run"),
    ),
    # Around each cell.
    Guard(
        "what was on the GPU before is a fault",
        "live.py",
        " if self.foreign else ()",
        " if False else ()",
        _row("another-process-before"),
    ),
    Guard(
        "the GPU is looked at before a cell",
        "launch/launch.py",
        "faults = (*foreign, *guard.faults_before())",
        "faults = foreign",
        f"{_CELL}::test_a_cell_that_cannot_be_valid_is_cut_short",
    ),
    Guard(
        "the GPU is looked at after a cell",
        "live.py",
        "(*faults, *guard.faults())",
        "(*faults,)",
        _row("power-limit-changed-run"),
    ),
    Guard(
        "a GPU that is lost is a fault",
        "health/judging.py",
        "    found = [lost(facts) for facts in (before, after) if facts.lost][:1]\n",
        "    found: list[Finding] = []\n",
        f"{_CELL}::test_what_changes_during_a_cell[gpu_lost]",
    ),
    Guard(
        "MIG under load is a fault",
        "health/judging.py",
        "    if facts.mig:\n",
        "    if False:\n",
        _row("mig-turned-on-run"),
    ),
    Guard(
        "a power limit that changes is a fault",
        "health/judging.py",
        "abs(new - old) > _POWER_LIMIT_W",
        "False",
        _row("power-limit-changed-run"),
    ),
    Guard(
        "memory errors that come up are a fault",
        "health/judging.py",
        " and errors > 0:",
        " and False:",
        _row("uncorrected-memory-errors-run"),
    ),
    Guard(
        "a machine that slept is a fault",
        "health/judging.py",
        "    if slept <= SUSPENDED_S:\n",
        "    if True:\n",
        _row("machine-suspended-run"),
    ),
    # The recording.
    Guard(
        "a measurement with a fault is invalid",
        "measure/measurement.py",
        "return not self.faults and self.cycles is not None",
        "return self.cycles is not None",
        f"{_MEASURED}[foreign_process-<lambda>]",
    ),
    Guard(
        "a recording without a GPU is invalid",
        "measure/measurement.py",
        "    if not recording.gpus:\n",
        "    if False:\n",
        f"{_MEASURED}[no_counter-<lambda>]",
    ),
    Guard(
        "a counter that stood still is a fault (recording)",
        "measure/measurement.py",
        "        if gap_s > 1.0:\n",
        "        if False:\n",
        f"{_MEASURED}[counter_stuck-standing_still]",
    ),
    Guard(
        "a counter that ran backwards is a fault (recording)",
        "measure/measurement.py",
        "        if (np.diff(energy_mj) < 0).any():\n",
        "        if False:\n",
        f"{_MEASURED}[counter_backwards-running_backwards]",
    ),
    Guard(
        "counter and power must agree",
        "measure/measurement.py",
        "        elif not abs(counter_w - average_w.mean()) <= _AGREEMENT * average_w.mean():\n",
        "        elif False:\n",
        f"{_MEASURED}[counter_disagrees-<lambda>0]",
    ),
    Guard(
        "power must have been sampled",
        "measure/measurement.py",
        "        if len(average_w) < _MIN_POWER_SAMPLES:\n",
        "        if not len(average_w):\n",
        "tests/unit/test_measurement.py::test_a_window_with_too_few_power_samples_is_invalid",
    ),
    Guard(
        "a GPU that idles is not the engine's",
        "measure/measurement.py",
        "        if len(busy) and np.median(busy) < _BUSY_PERCENT:\n",
        "        if False:\n",
        f"{_MEASURED}[gpu_idle-<lambda>]",
    ),
    Guard(
        "thermal and hardware slowdown is a fault",
        "measurement.py",
        "if int(reasons) & bit]",
        "if False]",
        _row("hardware-slowdown-run"),
    ),
    Guard(
        "a batch that was not full is a fault",
        "measure/measurement.py",
        "        if per_step < _FULL_BATCH * batch_size * _slot_share(turn.recording):\n",
        "        if False:\n",
        f"{_MEASURED}[batch_not_full-half_empty]",
    ),
    Guard(
        "a KV cache that is too small is a fault",
        "measure/measurement.py",
        "    if 0 < first.kv_cache_tokens < kv_tokens:\n",
        "    if False:\n",
        f"{_MEASURED}[kv_cache_too_small-<lambda>]",
    ),
    Guard(
        "streams and server must count the same tokens",
        "measure/measurement.py",
        "    if client.streamed_tokens != client.server_tokens:\n",
        "    if False:\n",
        _row("server-counts-other-tokens-run"),
    ),
    Guard(
        "a server's preemptions are a fault",
        "measure/measurement.py",
        "    if client.preemptions:\n",
        "    if False:\n",
        f"{_CLIENTS}[seen2-batch_not_full: the server preempted requests 3 times]",
    ),
    Guard(
        "clients short of CPU are a fault",
        "measure/measurement.py",
        "    if client.cpu_cores > _CLIENT_CORES:\n",
        "    if False:\n",
        f"{_CLIENTS}[seen4-client_busy: the clients used 0.95 of one CPU core]",
    ),
    # Verdicts.
    Guard(
        "an invalid launch makes the verdict invalid",
        "verdict/judge.py",
        "    if faults:\n        return Judgement(metric, Verdict.INVALID",
        "    if False:\n        return Judgement(metric, Verdict.INVALID",
        "tests/unit/test_gate.py::test_one_invalid_launch_spoils_the_verdict",
    ),
    Guard(
        "another power limit is not compared",
        "verdict/judge.py",
        "        if different:\n",
        "        if False:\n",
        "tests/unit/test_gate.py::test_another_power_limit_is_not_comparable",
    ),
    Guard(
        "another board is not compared",
        "store/baselines.py",
        "(baseline.gpu_name, baseline.boards) == (gpu_name, uuids)",
        "baseline.gpu_name == gpu_name",
        f"{_STORE}::test_each_board_has_its_own_baseline",
    ),
    Guard(
        "what failed on the way to a verdict fails every test of it",
        "session.py",
        "failure=failure if c in open_cells else None)",
        "failure=None)",
        "tests/plugin/test_plugin.py::test_a_full_disk_is_told_and_engines_are_not_launched_again_and_again",
    ),
    # Files.
    Guard(
        "a new file is synced before it replaces the old",
        "safety/files.py",
        "            os.fsync(file.fileno())\n",
        "            pass\n",
        f"{_POWER}::test_a_baseline_is_the_old_one_or_the_new_one[replaced]",
    ),
    Guard(
        "a file is replaced in one step",
        "safety/files.py",
        "        temporary.replace(path)\n",
        "        path.write_bytes(content[: len(content) // 2])\n        temporary.replace(path)\n",
        _row("disk-full-an-update-rename"),
    ),
    Guard(
        "the folder is synced after it",
        "safety/files.py",
        "            os.fsync(folder)\n",
        "            pass\n",
        f"{_POWER}::test_a_baseline_is_the_old_one_or_the_new_one[replaced]",
    ),
    Guard(
        "a folder that cannot be synced is no failed update",
        "safety/files.py",
        "    with contextlib.suppress(OSError):\n        folder = os.open",
        "    with contextlib.nullcontext():\n        folder = os.open",
        _row("disk-full-an-update-fsync-of-the-folder"),
    ),
    Guard(
        "an unfinished file is taken away",
        "safety/files.py",
        "            temporary.unlink()\n",
        "            pass\n",
        _row("disk-full-an-update-write"),
    ),
    Guard(
        "one process at a time changes the store",
        "safety/files.py",
        "                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "                pass\n",
        f"{_TWO}::test_two_updates_of_different_cells_are_both_kept",
    ),
    Guard(
        "the store is locked from reading to writing",
        "store/baselines.py",
        "        with exclusively(self.folder):\n",
        "        if True:\n",
        f"{_TWO}::test_of_two_updates_of_one_cell_the_later_has_the_earlier_in_its_history",
    ),
    Guard(
        "an update reads the store anew",
        "store/baselines.py",
        "        self._files.clear()\n",
        "",
        f"{_TWO}::test_an_update_sees_what_others_have_stored_since_the_file_was_read",
    ),
    Guard(
        "an update that failed is not tried again",
        "session.py",
        "                self._updates[key] = error\n",
        "                raise error\n",
        "tests/plugin/test_plugin.py::test_an_update_that_failed_is_not_tried_again_behind_its_message",
    ),
    Guard(
        "the noise is locked from reading to writing",
        "store/noise.py",
        "        with exclusively(self._folder):\n",
        "        if True:\n",
        f"{_TWO}::test_noise_that_two_runs_add_is_all_there",
    ),
    Guard(
        "baselines of another schema are refused",
        "store/baselines.py",
        "    if type(version) is not int or version != SCHEMA_VERSION:\n",
        "    if False:\n",
        f"{_STORE}::test_a_damaged_file_is_named_and_kept[<lambda>6]",
    ),
    Guard(
        "baselines without positive figures are refused",
        "measure/measurement.py",
        "FIGURES = 1e-9, 1e12",
        "FIGURES = -1e12, 1e12",
        f"{_STORE}::test_a_damaged_file_is_named_and_kept[<lambda>11]",
    ),
    Guard(
        "noise of another schema is refused",
        "store/noise.py",
        "        if type(version) is not int or version != SCHEMA_VERSION:\n",
        "        if False:\n",
        f"{_NOISE}::test_a_damaged_file_is_named_and_kept[<lambda>6]",
    ),
    Guard(
        "recordings of another schema are refused",
        "recording/recording.py",
        "    if type(version) is not int or version not in _READ_VERSIONS:\n",
        "    if False:\n",
        "tests/unit/test_recording.py::test_every_damage_is_told_with_the_files_name",
    ),
    Guard(
        "a damaged noise file costs no launch",
        "session.py",
        "        self.noise_store.check()\n",
        "",
        "tests/plugin/test_plugin.py::test_a_damaged_noise_file_is_named_and_costs_no_launch",
    ),
    # What becomes a baseline.
    Guard(
        "an invalid launch becomes no baseline",
        "store/baselines.py",
        "        if invalid:\n",
        "        if False:\n",
        f"{_STORE}::test_refused_updates_write_nothing[<lambda>-throttled: hot]",
    ),
    Guard(
        "fewer than three launches become none",
        "store/baselines.py",
        "        if len(launches) < MIN_LAUNCHES:\n            raise BaselineError(",
        "        if False:\n            raise BaselineError(",
        f"{_STORE}::test_refused_updates_write_nothing[<lambda>-at least 3 launches, this is 2]",
    ),
    Guard(
        "launches that differ become none",
        "store/baselines.py",
        "        if differing:\n",
        "        if False:\n",
        f"{_STORE}::test_refused_updates_write_nothing[<lambda>-differ in gpu_uuids]",
    ),
    Guard(
        "losses that add up need a reason",
        "store/baselines.py",
        "        if losses and reason is None:\n",
        "        if False:\n",
        f"{_STORE}::test_small_steps_that_add_up_need_a_reason",
    ),
    Guard(
        "an invalid launch is no noise",
        "store/noise.py",
        "        if invalid:\n",
        "        if False:\n",
        f"{_NOISE}::test_invalid_measurements_are_refused",
    ),
    # Other runs.
    Guard(
        "GPUs are locked before the first launch",
        "session.py",
        "            if self.settings.launch.url is None:  # the GPUs",
        "            if False:  # the GPUs",
        f"{_HOST}::test_waiting_says_for_whom_and_ends_when_they_end",
    ),
    Guard(
        "an engine on a GPU that another run has is not measured",
        "launch/gpu_locks.py",
        "            if not self._try(uuid, measuring):\n",
        "            if False:\n",
        f"{_HOST}::test_an_engine_on_a_gpu_that_another_run_has_is_not_measured",
    ),
    Guard(
        "a lock file is not opened through a link",
        "launch/gpu_locks.py",
        "    flags = mode | os.O_NOFOLLOW | os.O_CLOEXEC",
        "    flags = mode | os.O_CLOEXEC",
        f"{_LOCKS}::test_nothing_is_written_through_a_link",
    ),
    Guard(
        "a lock file that was deleted is not taken for one",
        "launch/gpu_locks.py",
        " or not os.fstat(file).st_nlink:",
        ":",
        f"{_LOCKS}::test_a_lock_file_that_is_deleted_is_made_anew",
    ),
    # pytest.
    Guard(
        "a test that does not check is checked",
        "plugin/__init__.py",
        "                gated.check()\n",
        "                pass\n",
        "tests/plugin/test_plugin.py::test_a_body_that_never_checks_is_checked_and_a_body_that_fails_fails_for_its_own_reason",
    ),
    Guard(
        "pytest-benchmark's options skip no energy test",
        "plugin/__init__.py",
        "        benchmark_bridge.undo_skips([item for item in gated if item in selected])\n",
        "",
        _row("benchmark-only-worker-killed-in-the-run"),
    ),
    Guard(
        "one cell is gated by one test",
        "plugin/__init__.py",
        "            if other is not item:\n",
        "            if False:\n",
        "tests/plugin/test_bad_input.py::test_two_tests_with_the_same_cell",
    ),
    Guard(
        "workers that share GPUs measure nothing",
        "plugin/__init__.py",
        "        if worker is None or ",
        "        if True or ",
        _row("n-2-workers-share-gpus"),
    ),
    Guard(
        "updates are refused under xdist",
        "plugin/options.py",
        "            (update or noise) and workers,\n",
        "            False,\n",
        _row("n-2-energy-update-a-sound-engine"),
    ),
    Guard(
        "a replay keeps its recordings apart from what is measured",
        "plugin/options.py",
        '            replay and value("energy_record"),\n',
        "            False,\n",
        "tests/plugin/test_bad_input.py::test_options[arguments0-give one of them]",
    ),
    Guard(
        "a server on another machine is refused",
        "plugin/options.py",
        "        if is_local(host):\n",
        "        if True:\n",
        "tests/plugin/test_server.py::test_what_cannot_be_asked_of_a_running_server"
        "[arguments0-192.0.2.1 is another machine*GPUs cannot be read from here*]",
    ),
)


def edited(guard: Guard, top: Path) -> str:
    """The guard's file without it.

    Raises:
        ValueError: the text is not there, or not once.
    """
    text = (top / "pytest_energy" / guard.file).read_text()
    if text.count(guard.old) != 1:
        raise ValueError(
            f"{guard.what}: its text stands {text.count(guard.old)} times in {guard.file}"
        )
    return text.replace(guard.old, guard.new)


def run_tests(top: Path, *tests: str) -> tuple[int, str]:
    """pytest's exit status for these tests of the copy at `top`, and its output; what they leave running is ended."""
    mark = f"GUARDS_RUN={uuid.uuid4()}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(top),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GUARDS_RUN": mark.partition("=")[2],
    }
    environment.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={top.parent / f'tmp-{top.name}'}",
               "--timeout", str(_LIMIT_S), *tests]  # fmt: skip
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=top,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(timeout=_LIMIT_S * (1 + len(tests)))
        except subprocess.TimeoutExpired:
            process.kill()
            status = _FAILED
        _end(mark)
        process.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")


def _end(mark: str) -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)


def _copy(to: Path) -> Path:
    to.mkdir(parents=True)
    for name in ("pytest_energy", "tests", "baselines", "suites", "benchmarks"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("docs", "recordings"):
        (to / name).symlink_to(ROOT / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, to / name)
    return to


def without(guard: Guard, top: Path) -> tuple[int, str]:
    """Exit status and output of the guard's test in a copy of the repository at `top` that lacks it."""
    copy = _copy(top)
    text = edited(guard, copy)
    (copy / "pytest_energy" / guard.file).write_text(text)
    return run_tests(copy, guard.test)


def row(guard: Guard) -> str:
    """The guard's line in the table."""
    test = guard.test.replace("|", r"\|")
    return f"| {guard.what} | `{guard.file}` | `{test}` |"


def table() -> str:
    """Markdown."""
    return "\n".join(
        [f"| {' | '.join(_HEADING)} |", "|---" * len(_HEADING) + "|", *map(row, GUARDS)]
    )


def main() -> int:
    """Check each guard; print the table where all tests fail without their guards and pass with them."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    guards = [guard for guard in GUARDS if wanted in guard.what]
    started, wrong = time.monotonic(), 0
    with (
        tempfile.TemporaryDirectory(prefix="guards-") as folder,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        top = Path(folder)
        status, output = run_tests(
            _copy(top / "whole"), *dict.fromkeys(guard.test for guard in guards)
        )
        if status:
            print(
                output[-5000:], "\nWith all guards in place the tests must pass.", file=sys.stderr
            )
            return 1
        folders = [top / f"without-{number}" for number in range(len(guards))]
        for guard, (status, output) in zip(guards, pool.map(without, guards, folders), strict=True):
            failed = status == _FAILED and re.search(r"\d+ (failed|error)|Timeout", output)
            wrong += not failed
            print(
                f"{'fails as it should' if failed else f'STATUS {status}'}: {guard.what}",
                file=sys.stderr,
                flush=True,
            )
            if not failed:
                print(output[-2000:], file=sys.stderr)
    print(table())
    print(
        f"{len(guards)} guards, {wrong} that no test holds, {time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
