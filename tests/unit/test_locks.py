"""The lock per GPU, between real processes: the dead lose it, and nobody inherits it."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.errors import LockError
from pytest_energy.launch import gpu_locks
from pytest_energy.launch.gpu_locks import GpuLocks, look

A, B, C = "GPU-aaaaaaaa-1111", "GPU-bbbbbbbb-2222", "GPU-cccccccc-3333"
RUN = """
import pathlib, subprocess, sys
from pytest_energy.launch import gpu_locks as locks
locks.FOLDER = pathlib.Path(sys.argv[1])
mine = locks.GpuLocks(float(sys.argv[2]))
mine.acquire(sys.argv[3].split(","), "a model", lambda text: print(text, flush=True))
print("held", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""

Run = subprocess.Popen[str]
Start = Callable[..., Run]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_locks, "FOLDER", tmp_path / "locks")
    monkeypatch.setattr(gpu_locks, "_POLL_S", 0.05)
    return tmp_path / "locks"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts another run; it holds the locks once it says so."""
    started: list[Run] = []

    def run(*uuids: str, timeout_s: float = 120) -> Run:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder), str(timeout_s), ",".join(uuids)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait(timeout=60)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def says(run: Run) -> str:
    assert run.stdout is not None
    return run.stdout.readline().strip()


def tell(run: Run, code: str) -> str:
    assert run.stdin is not None
    run.stdin.write(code + "\n")
    run.stdin.flush()
    return says(run)


def acquire(*uuids: str, timeout_s: float = 120.0) -> tuple[GpuLocks, list[str], frozenset[str]]:
    mine, reported = GpuLocks(timeout_s), list[str]()
    return mine, reported, mine.acquire(uuids, "my model", reported.append)


def test_one_run_holds_a_gpu_and_says_who_it_is(start: Start) -> None:
    other = start(A)
    assert says(other) == "held"
    held, holder = look(A)
    assert held
    assert holder is not None
    assert (holder.pid, holder.measuring) == (other.pid, "a model")
    assert re.fullmatch(rf"pid {other.pid} \(a model since \d\d:\d\d\)", str(holder))
    assert look(B) == (False, None)
    mine, reported, left = acquire(B)
    assert (mine.held, reported, left) == ({B}, [], frozenset())
    mine.release()


def test_the_holder_is_named_and_the_lock_is_free_when_it_ends(start: Start) -> None:
    other = start(A)
    assert says(other) == "held"
    mine = GpuLocks(120.0)
    reported: list[str] = []

    def progress(text: str) -> None:
        reported.append(text)
        if len(reported) == 2:
            assert tell(other, "mine.release()") == "done"

    assert mine.acquire([A], "my model", progress) == frozenset()
    assert reported[0].startswith(f"GPU-aaaaaaaa: waiting for pid {other.pid} (a model since ")
    assert look(A)[1].pid == os.getpid()  # type: ignore[union-attr]
    mine.release()
    assert look(A) == (False, None)


def test_a_dead_holders_lock_is_taken_over_and_reported(start: Start, folder: Path) -> None:
    other = start(A)
    assert says(other) == "held"
    other.send_signal(signal.SIGKILL)
    other.wait(timeout=60)
    assert (
        b"a model" in (folder / f"{A}.lock").read_bytes()
    )  # what it wrote is still there, and misleads nobody
    assert look(A) == (False, None)
    mine, reported, left = acquire(A)
    assert (reported, left) == ([], {A})
    assert look(A)[1].pid == os.getpid()  # type: ignore[union-attr]
    mine.release()
    mine, _, left = acquire(A)
    assert left == frozenset()
    mine.release()


def test_waiting_ends(start: Start) -> None:
    other = start(B)
    assert says(other) == "held"
    mine, reported = GpuLocks(0.3), list[str]()
    with pytest.raises(LockError) as caught:
        mine.acquire([A, B], "my model", reported.append)
    assert reported
    assert f"{B} is not free: pid {other.pid} (a model since " in str(caught.value)
    assert "--energy-lock-timeout" in str(caught.value)
    assert mine.held == frozenset()
    assert look(A) == (False, None)
    # The time is used up: what the run asks for next does not wait again.
    reported.clear()
    with pytest.raises(LockError):
        mine.acquire([B], "my model", reported.append)
    assert reported == []


def test_two_that_wait_get_it_one_after_the_other(start: Start) -> None:
    mine, _, _ = acquire(A)
    first, second = start(A), start(A)
    assert f"waiting for pid {os.getpid()} (my model" in says(first)
    assert f"waiting for pid {os.getpid()} (my model" in says(second)
    mine.release()
    deadline = time.monotonic() + 120
    while not look(A)[0] and time.monotonic() < deadline:
        time.sleep(0.02)
    holder = look(A)[1]
    assert holder is not None
    holding, waiting = (first, second) if holder.pid == first.pid else (second, first)
    assert holder.pid in (first.pid, second.pid)
    holding.kill()
    while "waiting" in (line := says(waiting)):
        pass
    assert line == "held"
    assert look(A)[1].pid == waiting.pid  # type: ignore[union-attr]


def test_runs_that_want_the_same_gpus_in_different_order_do_not_block_each_other(
    start: Start,
) -> None:
    runs = [start(A, B), start(B, A), start(B), start(A)]
    for run in runs:
        assert run.stdin is not None
        run.stdin.close()  # each ends as soon as it has got them
    for run in runs:
        assert run.wait(timeout=120) == 0


def test_gpus_are_taken_in_one_order_whoever_asks_in_which(start: Start) -> None:
    """Or two runs could each hold what the other waits for."""
    other = start(A)
    assert says(other) == "held"
    mine = GpuLocks(120.0)

    def progress(text: str) -> None:
        assert look(B) == (False, None)
        other.kill()

    mine.acquire([B, A], "my model", progress)
    assert mine.held == {A, B}
    mine.release()


def test_no_program_that_is_started_inherits_a_lock(folder: Path) -> None:
    """An engine's worker that stays alive must not keep the GPU locked."""
    mine, _, _ = acquire(A)
    code = (
        "import os; files = '/proc/self/fd/'; "
        "print([os.readlink(files + n) for n in os.listdir(files) if n != '3'])"
    )
    open_there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, close_fds=False
    ).stdout
    assert str(folder) not in open_there
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
    )
    mine.release()
    other, reported, _ = acquire(A, timeout_s=0.2)
    assert reported == []
    other.release()
    child.communicate(b"\n")


def test_only_the_engines_gpus_stay_locked(start: Start) -> None:
    mine, _, _ = acquire(A, B)
    mine.keep([B], "my model", lambda text: None)
    assert mine.held == {B}
    other = start(A)
    assert says(other) == "held"
    # Where the engine is on one that another run has, that is said at once.
    with pytest.raises(
        LockError, match=rf"the engine is on {A}, on which another run measures: pid {other.pid} "
    ):
        mine.keep([A, B], "my model", lambda text: None)
    # Before the next launch all are wanted again; this run waits without holding the others.
    reported: list[str] = []

    def progress(text: str) -> None:
        reported.append(text)
        assert mine.held == frozenset()
        other.kill()

    assert mine.acquire([A, B], "my model", progress) == {A}
    assert reported
    assert mine.held == {A, B}
    mine.release()


def test_gpus_that_are_known_late_are_waited_for(start: Start) -> None:
    """Those of a server that runs already."""
    other = start(A)
    assert says(other) == "held"
    mine = GpuLocks(120.0)
    mine.keep([A], "my model", lambda text: other.kill())
    assert mine.held == {A}
    mine.release()


def test_the_folder_and_its_files_are_for_all_users_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        mine, _, _ = acquire(A)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / f"{A}.lock").stat().st_mode) == 0o666
    mine.release()


def test_nothing_is_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    """The folder is open to every user of the host."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder.mkdir()
    for name, make in (
        ("symbolic", (folder / f"{A}.lock").symlink_to),
        ("hard", (folder / f"{B}.lock").hardlink_to),
    ):
        make(victim)
        with pytest.raises(LockError, match="cannot be used"):
            acquire(A if name == "symbolic" else B)
    os.mkfifo(folder / f"{C}.lock")
    with pytest.raises(LockError, match="cannot be used"):
        acquire(C)
    assert victim.read_text() == "precious"
    assert [look(uuid) for uuid in (A, B, C)] == [(False, None)] * 3


def test_a_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LockError, match=r"cannot be used.*(\n.*)*mode 1777"):
        acquire(A)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_that_cannot_be_written_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_locks, "FOLDER", Path("/proc/nothing/here"))
    with pytest.raises(
        LockError, match="Without it another run could measure on this GPU at the same time"
    ):
        acquire(A)
    assert look(A) == (False, None)


def test_a_lock_file_that_is_deleted_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is deleted between being opened and locked: nobody else could open that file."""
    mine, _, _ = acquire(A)
    mine.release()
    (folder / f"{A}.lock").unlink()
    lock, deleted = gpu_locks._lock, list[str]()

    def late(file: int, how: int) -> bool:
        if not deleted:
            (folder / f"{A}.lock").unlink()
            deleted.append(A)
        return lock(file, how)

    monkeypatch.setattr(gpu_locks, "_lock", late)
    mine, _, left = acquire(A)
    assert left == frozenset()
    assert look(A)[0]
    mine.release()


def test_looking_writes_nothing(folder: Path) -> None:
    assert look(A) == (False, None)
    assert not folder.exists()


@pytest.mark.parametrize("uuid", ["../../etc/passwd", "", "GPU-1/..", "GPU-\n"])
def test_what_is_not_a_uuid(folder: Path, uuid: str) -> None:
    with pytest.raises(LockError, match="is not a GPU's UUID"):
        acquire(uuid)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=20),
            lambda t: st.lists(t) | st.dictionaries(st.text(max_size=9), t),
        ).map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {
                "pid": st.integers(),
                "host": st.text(),
                "since_s": st.integers(),
                "measuring": st.text(),
            },
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_stands_in_a_lock_file_that_another_user_wrote(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """It is shown only if it looks like what a holder writes, and as one printable line at most."""
    gpu_locks.FOLDER = tmp_path_factory.mktemp("locks")
    mine, _, _ = acquire(A)
    (gpu_locks.FOLDER / f"{A}.lock").write_bytes(content)
    held, holder = look(A)
    assert held
    assert holder is None or (str(holder).isprintable() and len(str(holder)) < 250)
    mine.release()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder in which any user may make the locks' one; no umask is of help."""
    before = os.umask(0o077)
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o1777)
        monkeypatch.setattr(gpu_locks, "FOLDER", Path(made) / "locks")
        yield
    os.umask(before)


def as_user(user: int) -> str:
    """What comes of locking two GPUs as another user."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(user)
            mine, reported, left = acquire(A, B, timeout_s=1.0)
            os.write(write, f"{sorted(mine.held)} {reported} {sorted(left)}".encode())
            mine.release()
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_users_share_the_locks(shared: None) -> None:
    """Whoever made the files."""
    assert [as_user(user) for user in (1234, 2345, 0, 1234)] == [f"{[A, B]} [] []"] * 4
    mine, _, _ = acquire(B)
    assert f"{B} is not free: pid {os.getpid()} (my model since " in as_user(1234)
    mine.release()
    (gpu_locks.FOLDER / f"{A}.lock").chmod(0o600)
    assert "all users may write to (mode 1777), and so must its files be" in as_user(2345)
