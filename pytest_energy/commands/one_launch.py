"""One launch of a suite's cells under one interpreter, in a pytest of its own.

What commands that measure several engines share. The run measures and keeps its recordings, judges
nothing (its store is empty, so that "no baseline" is what every test ends with), and writes nothing
else. Its recordings get their name only once all of its cells are measured: an interruption, by
whatever signal, leaves no part of a launch that looks whole.
"""

import ctypes
import itertools
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from pytest_energy.errors import RecordingError, UsageError

_LAST_LINES = 15  # of pytest's output, if it ended before its first test
_JUDGED = {0, 1, 10, 11, 12, 13, 14}  # statuses after which JUnit's file tells what happened
_NOTHING_SELECTED = 5  # pytest.ExitCode.NO_TESTS_COLLECTED
_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Suite:
    """What a launch measures.

    Attributes:
        path: of the tests, as pytest takes it.
        arguments: further ones of pytest, such as -k.
        engine_args: settings under test, "NAME=VALUE" each.
    """

    path: Path
    arguments: tuple[str, ...] = ()
    engine_args: tuple[str, ...] = ()


def visible_gpus(instead: str = "") -> tuple[str, ...]:
    """The UUIDs of the GPUs that launches can be made on, sorted.

    Args:
        instead: what can be done without one.

    Raises:
        UsageError: there is none.
    """
    from pytest_energy.meters.nvml import visible_uuids

    gpus = tuple(sorted(visible_uuids()))
    if not gpus:
        raise UsageError(
            "no GPU is visible, so there is nothing to measure on.\n"
            f"Look for why: pytest-energy doctor. {instead}".rstrip()
        )
    return gpus


def record(suite: Suite, python: str, folder: Path) -> str | None:
    """Launch the suite's cells once; returns why that failed, in words, else None.

    Args:
        suite: its tests.
        python: interpreter whose vLLM is launched.
        folder: which holds the recordings afterwards, LAUNCH/CELL.json.gz, if nothing failed. It
            must not exist, and only one process may record to it at a time.

    Of a launch that failed nothing is there, and what it has recorded in a folder that is named.
    SIGINT and SIGTERM end pytest and its engine, and then this process as they would have.

    Raises:
        OSError: the folder cannot be used.
    """
    part = kept_apart(folder)
    part.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pytest-energy-") as name:
        temporary = Path(name)
        with (temporary / "output").open("wb") as output:
            status, got = _ended(_command(suite, python, part, temporary), output.fileno())
        failure = _failure(status, temporary) or _unreadable(part)
    if failure is None:
        part.rename(folder)
    elif any(part.iterdir()):
        failure += f"\nWhat it recorded is kept in {part}."
    else:
        part.rmdir()
    if got:
        signal.raise_signal(got[0])
    return failure


def refuse_uncollected(suite: Suite) -> None:
    """Refuse what pytest would refuse before it measures, while that has cost nothing.

    Raises:
        UsageError: there is no such suite, nothing is selected, or pytest cannot collect it.
    """
    refuse_without_tests(suite.path)
    with tempfile.TemporaryDirectory(prefix="pytest-energy-") as name:
        temporary = Path(name)
        command = [*_command(suite, sys.executable, temporary, temporary), "--collect-only", "-q"]
        with (temporary / "output").open("wb") as output:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            ).returncode
        if status:
            raise UsageError(f"{suite.path}: {_ended_early(status, temporary)}")


def tell_interrupted() -> int:
    """Say what an interruption left; returns the exit status."""
    print(
        "\npytest-energy: interrupted. Complete launches are kept: the same command goes on.",
        file=sys.stderr,
    )
    return 128 + signal.SIGINT


def kept_apart(folder: Path) -> Path:
    """Where the next launch is kept until it is complete, and if it never is; nothing is there.

    No reader looks there unless it is named.
    """
    names = (f".{folder.name}.incomplete-{number}" for number in itertools.count(1))
    paths = map(folder.with_name, names)
    return next(path for path in paths if not path.exists() or not any(path.iterdir()))


def _command(suite: Suite, python: str, record: Path, temporary: Path) -> list[str]:
    """Of pytest; the store and all files but the recordings are temporary."""
    store = temporary / "baselines"
    store.mkdir()
    return [
        sys.executable, "-m", "pytest", str(suite.path),
        "-pno:cacheprovider", "--color=no",
        "--override-ini=energy_report=",
        "--energy-launches=1",
        "--energy-exit-status=verdict",
        f"--energy-python={python}",
        f"--energy-record={record.absolute()}",
        f"--energy-baselines={store}",
        f"--junitxml={temporary / 'junit.xml'}",
        *(f"--energy-engine-arg={argument}" for argument in suite.engine_args),
        *suite.arguments,
        "--maxfail=0",  # every test fails for want of a baseline, and all are to be measured
    ]  # fmt: skip


def _start(command: Sequence[str], output: int) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that Ctrl-C reaches it once, passed on from here."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        process_group=0, preexec_fn=_end_with_parent,  # noqa: PLW1509 (no threads here)
    )  # fmt: skip


def _end_with_parent() -> None:
    """Even a parent that was killed leaves no pytest that measures on (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _ended(command: Sequence[str], output: int) -> tuple[int, list[int]]:
    """A process's exit status, and the signals that came meanwhile and were passed on to it."""
    started: list[subprocess.Popen[bytes]] = []
    got: list[int] = []

    def pass_on(number: int, _: object) -> None:
        got.append(number)
        for process in started:
            process.send_signal(number)

    # Before the start: an exception in one of Python's callbacks around fork() would be dropped.
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = _start(command, output)
        for number in got:
            process.send_signal(number)
        started.append(process)
        return process.wait(), got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(status: int, temporary: Path) -> str | None:
    """Why a run of pytest did not measure all that was selected; None if it did."""
    if status not in _JUDGED:
        return _ended_early(status, temporary)
    try:
        cases = ElementTree.parse(temporary / "junit.xml").iter("testcase")
    except (OSError, ElementTree.ParseError):
        return _ended_early(status, temporary)
    told = (_told(case) for case in cases if not _is_measured(case))
    return next((words for words in told if words), None)


def _ended_early(status: int, temporary: Path) -> str:
    what = "no energy test is selected"
    if status != _NOTHING_SELECTED:
        how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
        what = f"pytest ended early ({how})"
    return f"{what}.\n{_last_lines(temporary / 'output')}"


def _is_measured(case: ElementTree.Element) -> bool:
    """Whether a test has measured what it is to measure, or is none that does."""
    verdicts = {
        found.get("value")
        for found in case.iter("property")
        if str(found.get("name")).endswith("_verdict")
    }
    failed = case.find("failure") is not None or case.find("error") is not None
    return verdicts <= {"no baseline"} and (bool(verdicts) or not failed)


def _told(case: ElementTree.Element) -> str:
    """What a failed test says."""
    for kind in ("failure", "error"):
        found = case.find(kind)
        if found is not None:
            told = (found.text or found.get("message") or "").strip()
            return told.partition("\n  next: ")[0]  # which is for a user of pytest
    return f"{case.get('name')} measured nothing"


def _last_lines(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return "\n".join(lines[-_LAST_LINES:])


def _unreadable(part: Path) -> str | None:
    """Why recordings cannot be read back; None if all can."""
    from pytest_energy.recording import recording_file

    try:
        for _ in recording_file.read_launches([*part.iterdir()]):
            pass
    except RecordingError as error:
        return str(error)
    return None if any(part.iterdir()) else "nothing was recorded"


def refuse_without_tests(suites: Path) -> None:
    """Refuse a suite that is not there.

    Raises:
        UsageError: there is no such file or folder.
    """
    if not Path(str(suites).partition("::")[0]).exists():
        raise UsageError(
            f"there is no file or folder {suites}, where the tests would be.\n"
            "Name your suite: --suites PATH"
        )
