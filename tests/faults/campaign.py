"""The fault campaign: each of tests.faults.rows is one pytest run in a repository of its own.

    python -m tests.faults.campaign [WORD]     runs the rows (with WORD in their name)
    pytest tests/faults/test_campaign.py       the same, one test per row

vLLM is a stand-in that fails on demand, the driver below nvidia-ml-py is simulated; all between
them is what a real run uses. A run's processes are found by a word in their environment, whatever
became of their parents and sessions.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pytest_energy.errors import EnergyError
from pytest_energy.recording import recording_file
from pytest_energy.recording.folder import SUFFIX
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from tests.engine.conftest import interpreter
from tests.faults import setting
from tests.faults.rows import INT, KEPT, ROWS, Row

ROOT = Path(__file__).parents[2]
# Only what hangs or stays takes as long: four sound runs under pytest-xdist that shared a fifth of
# a core had shown all their results after 90 s, and were still ending.
_LIMIT_S = 900.0
_AT_ONCE = 4  # runs sleep most of the time
_VERDICTS = (
    "pass|improved|regressed|inconclusive|no baseline|not comparable|invalid|created|changed"
)
_VERDICT = re.compile(rf"^  bs=\d+ [^:]*? ({_VERDICTS})\b[^:]*$")
_DIFFERING = re.compile(rf"^    J/token ({_VERDICTS}), tokens/s ({_VERDICTS})$")
_OUTCOMES = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


@dataclass
class Outcome:
    """What happened in a row.

    Attributes:
        status: None if the run did not end by itself.
        survivors: its processes that were left, or all if it did not end: id and command.
    """

    verdicts: tuple[str, ...]
    status: int | None
    survivors: list[str]
    before: str
    after: str
    appeared: list[str]
    unreadable: list[str]
    output: str
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)


def _files(folder: Path) -> dict[str, bytes]:
    skipped = {"__pycache__", ".pytest_cache", ".benchmarks"}
    found = [path for path in folder.rglob("*") if path.is_file() and not skipped & set(path.parts)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def digest(files: dict[str, bytes]) -> str:
    """Hash of baselines and noise, without unfinished files."""
    kept = sorted(
        (name, content)
        for name, content in files.items()
        if name.startswith("baselines/") and name.endswith(".json")
    )
    return hashlib.sha256(repr(kept).encode()).hexdigest()[:12]


def _unreadable(project: Path) -> list[str]:
    """Messages about files that are not whole."""
    said = []
    try:
        Store(project / "baselines").entries()
        NoiseStore(project / "baselines").check()
        for path in project.rglob(f"*{SUFFIX}"):
            recording_file.read(path)
    except EnergyError as error:
        said.append(str(error))
    return said


def _processes(mark: str) -> list[psutil.Process]:
    """Living processes with this variable and value in their environment; zombies have none."""
    name, _, value = mark.partition("=")
    return [
        process
        for process in psutil.process_iter(["environ", "cmdline"])
        if (process.info["environ"] or {}).get(name) == value
    ]


def _wait_for(condition: Callable[[], bool]) -> None:
    """Until it is true, or for as long as a run that hangs is waited for."""
    end = time.monotonic() + _LIMIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def _end(mark: str) -> list[str]:
    """Kill what is left of a run; its id and command."""
    left = _processes(mark)
    for process in left:
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
    return [f"{each.pid} ({' '.join(each.info['cmdline'] or ())})" for each in left]


def run(row: Row, template: Path, folder: Path) -> Outcome:
    """Run pytest with the row's fault in a copy of `template`, below `folder`, which is made."""
    folder.mkdir()
    project, signs = folder / "project", folder / "signs"
    shutil.copytree(template, project)
    signs.mkdir()
    python = interpreter(folder)
    before = _files(project)
    mark = f"CAMPAIGN_RUN={uuid.uuid4()}"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CUDA_", "PYTEST_", "CAMPAIGN_"))
    }
    plugins = [] if row.autoload or "no:pytest_energy" in row.fault else ["pytest_energy.plugin"]
    environment |= {
        "PYTHONPATH": str(ROOT),
        "PYTEST_PLUGINS": ",".join([*plugins, "tests.faults.injected"]),
        "PYTHONDONTWRITEBYTECODE": "1",  # its files must not be what a fault meets
        "STEP_S": str(setting.STEP_S),
        "CAMPAIGN_SIGNS": str(signs),
        "CAMPAIGN_FAULT": row.put_in,
        "CAMPAIGN_PAUSE": row.pause,
        "CAMPAIGN_RUN": mark.partition("=")[2],
        **({} if row.autoload else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
        **dict(row.environment),
    }  # fmt: skip
    arguments = [
        "--energy-launches",
        "1",
        f"--energy-python={python}",
        *(python if word == "PYTHON" else word for word in row.arguments),
    ]
    cache = [] if {"--lf", "--ff"} & set(row.arguments) else ["-p", "no:cacheprovider"]
    started, status = time.monotonic(), None
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *cache, *arguments], cwd=project, env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            for stage, after_s, number in row.signals:
                _wait_for(lambda sign=signs / stage: sign.exists() or process.poll() is not None)
                time.sleep(after_s)
                process.send_signal(number)
            _wait_for(lambda: process.poll() is not None)
            status, seconds = process.poll(), time.monotonic() - started
            if status is not None:
                _wait_for(lambda: not _processes(mark))
        finally:
            survivors = _end(mark)
            process.wait()
    text = (folder / "output").read_text(errors="replace")
    after = _files(project)
    return Outcome(
        verdicts=tuple(
            verdict
            for line in text.splitlines()
            if (match := _VERDICT.match(line) or _DIFFERING.match(line))
            for verdict in match.groups()
        ),
        status=status,
        survivors=survivors,
        before=digest(before),
        after=digest(after),
        appeared=sorted(name for name in after if name not in before),
        unreadable=_unreadable(project),
        output=text,
        seconds=seconds,
        counts={
            match[2]: int(match[1])
            for line in text.splitlines()[-1:]
            for match in _OUTCOMES.finditer(line)
        },
    )


def run_all(rows: tuple[Row, ...]) -> dict[Row, Outcome]:
    """Run all of them, a few at once."""
    with (
        tempfile.TemporaryDirectory(prefix="campaign-") as top,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        templates = {engine: Path(top) / engine for engine in {row.engine for row in rows}}
        for engine, template in templates.items():
            setting.make(
                template, {**setting.MARKER, **({} if engine == "offline" else {"engine": engine})}
            )
        folders = [Path(top) / str(number) for number in range(len(rows))]
        return dict(
            zip(
                rows,
                pool.map(run, rows, [templates[row.engine] for row in rows], folders),
                strict=True,
            )
        )


def complaints(row: Row, outcome: Outcome) -> list[str]:
    """How the outcome differs from what the row expects."""
    wrong = []
    if row.verdict == "none":
        if outcome.verdicts:
            wrong.append(f"verdicts {outcome.verdicts}, expected none")
    elif set(outcome.verdicts) != {row.verdict}:
        wrong.append(f"verdicts {outcome.verdicts}, expected {row.verdict}")
    if row.status and "passed" in outcome.counts and row.verdict == "invalid":
        wrong.append(f"{outcome.counts['passed']} tests passed")
    # A second SIGINT may come when pytest has said all and its interpreter is ending.
    if outcome.status is None:
        wrong.append(f"it did not end in {_LIMIT_S:.0f} s")
    elif outcome.status != row.status and not (len(row.signals) > 1 and outcome.status == -INT):
        wrong.append(f"exit status {outcome.status}, expected {row.status}")
    if not re.search(row.says, outcome.output, re.S):
        wrong.append(f"its output does not say {row.says!r}")
    if outcome.survivors:
        wrong.append(f"processes survived: {outcome.survivors}")
    if (outcome.after == outcome.before) is not (row.baselines == KEPT):
        wrong.append(f"baselines and noise are not {row.baselines}")
    wrong += [f"not whole: {what}" for what in outcome.unreadable]
    expected = all(
        any(re.match(_glob(pattern), name) for pattern in row.written) for name in outcome.appeared
    )
    if bool(outcome.appeared) is not bool(row.written) or not expected:
        wrong.append(f"files appeared: {outcome.appeared}, expected {row.written or 'none'}")
    return wrong


def _glob(pattern: str) -> str:
    """As a regular expression; ** matches any number of folders."""
    return re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*") + "$"


def main() -> int:
    """Run the rows and tell what came out otherwise."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    started = time.monotonic()
    outcomes = run_all(tuple(row for row in ROWS if wanted in row.id))
    wrong = 0
    for row, outcome in outcomes.items():
        for complaint in complaints(row, outcome):
            wrong += 1
            print(f"{row.id}: {complaint}\n{outcome.output[-3000:]}")
    print(f"{len(outcomes)} rows, {wrong} complaints, {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
