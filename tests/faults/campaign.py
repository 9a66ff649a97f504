"""The fault campaign: faults × stages, each in a pytest process of its own, and what must come of it.

    python -m tests.faults.campaign            runs all rows and prints the table of docs/reliability.md
    pytest tests/faults/test_campaign.py       the same, one test a row

A run gets a word in its environment by which its processes are found again, whatever became of their parents and sessions.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pytest_energy.errors import EnergyError
from pytest_energy.recording import recording_file
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from tests.engine.conftest import interpreter
from tests.faults import setting

ROOT = Path(__file__).parents[2]
INT, TERM = signal.SIGINT, signal.SIGTERM
KEPT, NEW = "the same", "new, whole"
_LIMIT_S = 90.0
_GRACE_S = 10.0  # for the processes of a run that was killed to end by themselves
_AT_ONCE = 4  # runs sleep most of the time
_VERDICT = re.compile(
    r"^tiny.* bs=\d+ .*? (pass|improved|regressed|inconclusive|no baseline|not comparable|invalid|created|changed)\b"
)
_OUTCOMES = re.compile(r"(\d+) (passed|failed|errors?|skipped)")

UPDATE = ("--energy-update", "--energy-launches", "3")
ENGINE = "the engine's worker"
METER = "GPU and driver"
DISK = "the disk"
SIGNALS = "signals"
OPTIONS = "pytest's options"
CLOCKS = "clocks"


@dataclass(frozen=True)
class Row:
    """One fault at one stage.

    Attributes:
        part: of the table.
        fault, stage: in words; together they name the row.
        verdict: of each test that gets one, one word where all have the same; "none" where the run ends without a table.
        status: pytest's exit status; negative for the signal that ended it.
        says: regular expression that its output must match; empty where it has nothing to say.
        arguments: of pytest.
        put_in: faults of tests.faults.injected, separated by spaces.
        environment: variables.
        signals: stage, seconds after it, and signal.
        pause: the stage in which the run waits for them.
        baselines: what becomes of baselines and noise: KEPT or NEW.
        written: patterns of all other files that appear.
        engine: what the test's marker asks for.
        autoload: whether all installed plugins are loaded, as for a user who turns one of them off.
    """

    part: str
    fault: str
    stage: str
    verdict: str
    status: int
    says: str = ""
    arguments: tuple[str, ...] = ()
    put_in: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    signals: tuple[tuple[str, float, int], ...] = ()
    pause: str = ""
    baselines: str = KEPT
    written: tuple[str, ...] = ()
    engine: str = "offline"
    autoload: bool = False

    @property
    def id(self) -> str:
        """Of the test."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.fault} {self.stage}".lower()).strip("-")


@dataclass
class Outcome:
    """What came of a row."""

    verdicts: tuple[str, ...]
    status: int
    survivors: list[str]
    before: str
    after: str
    appeared: list[str]
    unreadable: list[str]
    output: str
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)


def _fault(name: str) -> tuple[str, ...]:
    return ("--energy-engine-arg", f"fault={name}")


def _engine_rows() -> list[Row]:
    def row(fault: str, stage: str, says: str, name: str = "", **more: object) -> Row:
        arguments = (*(_fault(name) if name else ()), *more.pop("arguments", ()))  # type: ignore[misc]
        return Row(ENGINE, fault, stage, "invalid", 1, says, arguments, **more)  # type: ignore[arg-type]

    short = ("--energy-load-timeout", "1", "--energy-progress-timeout", "1")
    at_once = (("FAULT_AFTER_STEPS", "3"),)
    return [
        Row(ENGINE, "nothing", "any", "pass", 0),
        Row(ENGINE, "nothing", "an update", "changed", 0, "", UPDATE, baselines=NEW),
        Row(ENGINE, "nothing", "noise", "none", 0, "", ("--energy-noise",), baselines=NEW),
        row("no such interpreter", "start", "cannot run /no/python", arguments=("--energy-python", "/no/python")),
        row("no vLLM in it", "start", "has no vLLM", arguments=("--energy-python", sys.executable)),
        row("no room for its log", "start", "No space left on device", put_in="no_room_for_logs"),
        row("killed", "import", "ended by SIGKILL", environment=(("FAULT_ON_IMPORT", "kill"),)),
        row("hangs", "import", "the engine did not load within 1 s", environment=(("FAULT_ON_IMPORT", "hang"),), arguments=short),
        row("killed", "load", "during load: the worker was ended by SIGKILL", "kill_on_load"),
        row("raises", "load", "the weights are missing", "crash_on_load"),
        row("exits", "load", "exited with status 7", "exit_on_load"),
        row("hangs and ignores SIGTERM", "load", "the engine did not load within 1 s", "deaf", arguments=short),
        row("garbage on its pipe", "load", "unreadable message", "garbage_on_load"),
        row("flood on its pipe", "load", "unreadable message", "flood_on_load"),
        row("killed", "warm-up", "during run: the worker was ended by SIGKILL", "kill", environment=at_once),
        row("hangs", "warm-up", "no token for 1 s", "hang", environment=at_once, arguments=short),
        row("killed", "run", "during run: the worker was ended by SIGKILL", "kill"),
        row("raises", "run", "EngineCore died", "crash"),
        row("its own process dies", "run", "VLLM::EngineCore .* is dead", "core_dies"),
        row("hangs", "run", "no token for 1 s", "hang", arguments=short),
        row("garbage on its pipe", "run", "unreadable message", "garbage"),
        row("flood on its pipe", "run", "unreadable message", "flood"),
        row("a report that is none", "run", "report of its steps is malformed", "malformed"),
        row("a request ends early", "run", "short of its set length", "short"),
        row("killed", "stop", "during stop: the worker was ended by SIGKILL", "kill_at_stop"),
        row("hangs", "stop", "no answer for 1 s", "hang_at_stop", arguments=short),
        Row(ENGINE, "leaves a child in another group", "exit", "pass", 0, "", _fault("child")),
        row("killed", "third launch of an update", "was not updated.*SIGKILL", arguments=UPDATE, put_in="engine:3:kill"),
        row("killed", "rest, in turns", "the (new|reference) engine .*SIGKILL",
            arguments=(*_fault("kill_at_pause"), "--energy-reference-python", "PYTHON", "--energy-launches", "3")),
        row("server killed", "run", "the server was ended by SIGKILL", "die", engine="server"),
        row("server hangs", "run", "for 1 s", "hang", engine="server", arguments=("--energy-progress-timeout", "1")),
        row("server cuts a stream", "run", "engine failed during run", "cut", engine="server"),
        row("server counts other tokens", "run", "tokens_disagree", "miscount", engine="server"),
    ]  # fmt: skip


def _meter_rows() -> list[Row]:
    def row(fault: str, stage: str, says: str, put_in: str) -> Row:
        return Row(METER, fault, stage, "invalid", 1, says, put_in=put_in)

    never, middle, once = "always", "middle", "once"
    required = {
        "nvmlDeviceGetTotalEnergyConsumption": (
            "cannot be read",
            "counter_unreadable",
            "counter_unreadable",
        ),
        "nvmlDeviceGetFieldValues": ("sample_unreadable",) * 3,
        "nvmlDeviceGetClockInfo": ("sample_unreadable",) * 3,
        "nvmlDeviceGetTemperatureV": ("sample_unreadable",) * 3,
        "nvmlDeviceGetCurrentClocksEventReasons": ("sample_unreadable",) * 3,
        "nvmlDeviceGetUtilizationRates": ("sample_unreadable",) * 3,
        "nvmlDeviceGetComputeRunningProcesses": ("processes_unreadable",) * 3,
        "nvmlInit": ("does not answer", "gpu_lost|gpu_unreadable", ""),
        "nvmlDeviceGetHandleByUUID": ("", "gpu_lost|gpu_unreadable", ""),
        "nvmlDeviceGetHandleByIndex": ("does not answer", "", ""),
        "nvmlDeviceGetUUID": ("does not answer", "", ""),
        "nvmlDeviceGetCount": ("does not answer", "", ""),
        "nvmlDeviceGetName": ("the driver does not tell", "", ""),
        "nvmlDeviceGetPowerManagementLimit": ("the driver does not tell", "gpu_unreadable", ""),
        "nvmlDeviceGetEnforcedPowerLimit": ("", "gpu_unreadable", ""),
        "nvmlDeviceGetMigMode": ("", "gpu_unreadable", ""),
        "nvmlDeviceGetTotalEccErrors": ("", "gpu_unreadable", ""),
        "nvmlDeviceGetArchitecture": ("cannot be read", "", ""),
        "nvmlSystemGetDriverVersion": ("the driver does not tell", "", ""),
        "nvmlDeviceGetPowerManagementDefaultLimit": ("", "", ""),
        "nvmlDeviceGetEccMode": ("", "", ""),
    }
    rows = [
        row("no driver", "start", "does not answer", "no_driver"),
        row("GPU lost", "load", "does not answer|is lost|gpu_lost", "lost_at_load"),
        row("GPU lost", "run", "gpu_lost", "lost"),
        row("counter reset", "run", "counter_backwards", "reset"),
        row("counter frozen", "run", "counter_stuck", "frozen"),
        row("counter and power disagree", "run", "counter_disagrees", "half_counted"),
        row(
            "another process",
            "before",
            "foreign_process: pid 4711 was on the GPU before",
            "there_before",
        ),
        row("another process appears", "run", "foreign_process: pid 4711", "appears"),
        row("hardware slowdown", "run", "throttled", "throttled"),
        row("idle under load", "run", "gpu_idle", "idle"),
        row("power limit changed", "run", "power_limit_changed", "limited"),
        row("MIG turned on", "run", "mig_enabled", "sliced"),
        row("uncorrected memory errors", "run", "ecc_errors", "memory_error"),
    ]
    # Numbers of calls: some before the engine is started, some while it loads, the later ones under load.
    for number in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        rows.append(row("all calls fail", f"from call {number} on", "", f"nvml_from:{number}"))
    for function, says in required.items():
        for when, stage, fragment in zip(
            (never, middle, once),
            ("always", "from the run on", "once, in the run"),
            says,
            strict=True,
        ):
            if not fragment and when == once:
                continue  # what may fail for ever may fail once
            rows.append(
                Row(METER, f"{function} fails", stage, "invalid" if fragment else "pass", 1 if fragment else 0, fragment,
                    put_in=f"nvml:{function}:{when}")
            )  # fmt: skip
    return rows


def _disk_rows() -> list[Row]:
    rows = []
    kinds = {
        "an update": (UPDATE, "was not updated: .*{error}", ()),
        "noise": (("--energy-noise", "--energy-launches", "1"), "was not stored: .*{error}", ()),
        "recordings": (("--energy-record", "kept"), "cannot be written .*{error}", ()),
    }
    words = {
        "ENOSPC": ("disk full", "No space left on device"),
        "EROFS": ("disk turns read-only", "Read-only file system"),
    }
    for stage, (arguments, says, _) in kinds.items():
        record = stage == "recordings"
        for error, (fault, text) in words.items():
            for at in ("mkdir", "lock", "create", "write", "fsync", "chmod", "rename"):
                if (at == "mkdir") is not record and at in ("mkdir", "lock"):
                    continue  # of the store's folders all are there; recordings are not locked
                verdict = "invalid" if record else "pass" if stage == "an update" else "none"
                # On a disk that has turned read-only nothing can be taken back.
                stays = error == "EROFS" and at in ("write", "fsync", "chmod", "rename")
                left = () if not stays else ("kept/*/.*",) if record else ("baselines/**/.*",)
                rows.append(
                    Row(DISK, fault, f"{stage}: {at}", verdict, 1, says.format(error=text), arguments,
                        f"disk_fails:{error}:{at}", written=left)
                )  # fmt: skip
    whole = "disk_fails:ENOSPC:fsync~of~the~folder"
    rows.append(
        Row(
            DISK,
            "disk full",
            "an update: fsync of the folder",
            "changed",
            0,
            "",
            UPDATE,
            whole,
            baselines=NEW,
        )
    )
    return rows


def _signal_rows() -> list[Row]:
    def row(
        fault: str,
        stage: str,
        status: int,
        signals: tuple[tuple[str, float, int], ...],
        **more: object,
    ) -> Row:
        return Row(SIGNALS, fault, stage, "none", status, signals=signals, **more)  # type: ignore[arg-type]

    long = (*_fault("hang_on_load"),)
    rows = []
    for name, stop, status in (("SIGINT", INT, 2), ("SIGTERM", TERM, -15)):
        rows += [
            row(name, "load", status, (("load", 0.3, stop),), arguments=long),
            row(name, "run", status, (("run", 0.0, stop),)),
            row(name, "stop", status, (("stop", 0.5, stop),), arguments=_fault("hang_at_stop")),
            row(name, "second launch; recordings are kept", status, (("second", 0.0, stop),),
                arguments=(*UPDATE, "--energy-record", "kept"), written=("kept/*/*.json.gz",)),
        ]  # fmt: skip
    rows += [
        row("SIGINT", "update, new file not yet in place", 2, (("update", 0.3, INT),), arguments=UPDATE, put_in="writing", pause="update"),
        row("SIGTERM", "update, new file not yet in place", -15, (("update", 0.3, TERM),), arguments=UPDATE, put_in="writing",
            pause="update", written=("baselines/**/.*",)),
        row("SIGKILL", "update, new file not yet in place", -9, (("update", 0.3, signal.SIGKILL),), arguments=UPDATE, put_in="writing",
            pause="update", written=("baselines/**/.*",)),
        row("SIGKILL", "run", -9, (("run", 0.0, signal.SIGKILL),)),
        row("SIGINT twice", "load", 2, (("load", 0.3, INT), ("load", 0.02, INT)), arguments=long),
        row("SIGINT twice", "run", 2, (("run", 0.0, INT), ("run", 0.01, INT))),
        row("SIGINT twice", "run, engine with a child of its own", 2, (("run", 0.0, INT), ("run", 0.005, INT)), arguments=_fault("child")),
        row("SIGINT", "exit of the engine", 2, (("exit", 0.0, INT),), pause="exit"),
    ]  # fmt: skip
    return rows


def _option_rows() -> list[Row]:
    def row(
        option: str,
        verdict: str,
        status: int,
        says: str = "",
        arguments: tuple[str, ...] | None = None,
        **more: object,
    ) -> Row:
        given = tuple(option.split()) if arguments is None else arguments
        stage = str(more.pop("stage", "a sound engine"))
        return Row(OPTIONS, option, stage, verdict, status, says, given, **more)  # type: ignore[arg-type]

    bad = _fault("kill")
    hang = (*_fault("hang"), "--energy-progress-timeout", "30")
    xdist = ("-p", "xdist", "-n", "2")
    rows = []
    for option in (
        "-x",
        "--lf",
        "--ff",
        "--benchmark-only",
        "--benchmark-skip",
        "--benchmark-disable",
        "-p no:logging",
        "-q -q",
    ):
        plugins = ("-p", "benchmark") if "benchmark" in option else ()
        rows.append(
            row(
                option,
                "invalid",
                1,
                "",
                (*plugins, *option.split(), *bad),
                stage="worker killed in the run",
            )
        )
    for option in ("-p no:benchmark", "-p no:xdist", "-p no:cacheprovider", "-p no:timeout"):
        rows.append(
            row(
                option,
                "invalid",
                1,
                "",
                (*option.split(), *bad),
                stage="worker killed in the run",
                autoload=True,
            )
        )
    return [
        *rows,
        row("-p no:terminal", "none", 1, "", ("-p", "no:terminal", *bad), stage="worker killed in the run"),
        row("-p no:pytest_energy.plugin", "none", 4, "unrecognized arguments: --energy-launches"),
        row("-k test_energy", "pass", 0),
        row("-k nothing", "none", 5, "2 deselected"),
        row("--deselect test_tiny.py", "none", 5, "2 deselected"),
        row("--collect-only", "none", 0, "2 tests collected"),
        row("-n 2", "none", 1, "workers share GPUs", xdist, stage="workers share GPUs"),
        row("-n 2", "pass", 0, "", xdist, stage="a GPU for each worker", put_in="hand_out"),
        row("-n 2 --energy-update", "none", 4, "does not work under pytest-xdist", (*xdist, *UPDATE), put_in="hand_out"),
        row("-n 2", "invalid", 1, "SIGKILL", (*xdist, *bad), stage="workers' engines killed", put_in="hand_out"),
        row("--timeout 2 --timeout-method signal", "invalid", 1, "Timeout",
            ("-p", "timeout", "--timeout", "2", "--timeout-method", "signal", *hang), stage="engine hangs"),
        row("--timeout 2 --timeout-method thread", "none", 1, "Timeout",
            ("-p", "timeout", "--timeout", "2", "--timeout-method", "thread", *hang), stage="engine hangs"),
        row("--timeout 20 --timeout-method signal", "none", 1, "Timeout",
            ("-p", "timeout", "--timeout", "20", "--timeout-method", "signal", "-k", "test_energy", *UPDATE), stage="during an update",
            put_in="writing", pause="update"),
    ]  # fmt: skip


def _clock_rows() -> list[Row]:
    return [
        Row(CLOCKS, "wall clock set an hour ahead", "run", "pass", 0, put_in="clock:3600"),
        Row(CLOCKS, "wall clock set an hour back", "run", "pass", 0, put_in="clock:-3600"),
        Row(CLOCKS, "machine suspended", "run", "invalid", 1, "suspended", put_in="suspended"),
    ]


ROWS: tuple[Row, ...] = (
    *_engine_rows(),
    *_meter_rows(),
    *_disk_rows(),
    *_signal_rows(),
    *_option_rows(),
    *_clock_rows(),
)


def _files(folder: Path) -> dict[str, bytes]:
    skipped = {"__pycache__", ".pytest_cache", ".benchmarks"}
    found = [path for path in folder.rglob("*") if path.is_file() and not skipped & set(path.parts)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def digest(files: dict[str, bytes]) -> str:
    """Of baselines and noise, without unfinished files."""
    kept = sorted(
        (name, content)
        for name, content in files.items()
        if name.startswith("baselines/") and name.endswith(".json")
    )
    return hashlib.sha256(repr(kept).encode()).hexdigest()[:12]


def _unreadable(project: Path) -> list[str]:
    """What is said of files that are not whole; empty where baselines, noise and recordings all are."""
    said = []
    try:
        Store(project / "baselines").entries()
        NoiseStore(project / "baselines").check()
        for path in project.rglob(f"*{recording_file.SUFFIX}"):
            recording_file.read(path)
    except EnergyError as error:
        said.append(str(error))
    return said


def _processes(mark: str) -> list[str]:
    """Living processes with `mark` in their environment, whatever became of their parents and sessions; zombies have none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
    return found


def run(row: Row, template: Path, folder: Path) -> Outcome:
    """Run pytest with the row's fault in a process group of its own, below `folder`, which is made, in a copy of `template`."""
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
        "PYTHONDONTWRITEBYTECODE": "1",
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
    started = time.monotonic()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *cache, *arguments], cwd=project, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            for stage, after_s, number in row.signals:
                while (
                    not (signs / stage).exists()
                    and process.poll() is None
                    and time.monotonic() - started < _LIMIT_S
                ):
                    time.sleep(0.01)
                time.sleep(after_s)
                process.send_signal(number)
            status = process.wait(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            status = 999
        finally:
            seconds = time.monotonic() - started
            end = time.monotonic() + _GRACE_S
            while (survivors := _processes(mark)) and status != 999 and time.monotonic() < end:
                time.sleep(0.05)
            for pid in survivors:
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            process.wait()
    text = (folder / "output").read_text(errors="replace")
    after = _files(project)
    return Outcome(
        verdicts=tuple(match[1] for line in text.splitlines() if (match := _VERDICT.match(line))),
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
    """All of them, a few at once."""
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
    """What came out otherwise than the row says; empty where nothing did."""
    wrong = []
    if row.verdict == "none":
        if outcome.verdicts:
            wrong.append(f"verdicts {outcome.verdicts}, expected none")
    elif set(outcome.verdicts) != {row.verdict}:
        wrong.append(f"verdicts {outcome.verdicts}, expected {row.verdict}")
    if row.status and "passed" in outcome.counts and row.verdict == "invalid":
        wrong.append(f"{outcome.counts['passed']} tests passed")
    # A second SIGINT may come when pytest has said all and its interpreter is ending.
    if outcome.status != row.status and not (len(row.signals) > 1 and outcome.status == -INT):
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


HEADING = (
    "fault",
    "stage",
    "verdict",
    "exit",
    "processes left",
    "baselines and noise, before → after",
    "other files",
)


def cells(row: Row, outcome: Outcome) -> tuple[str, ...]:
    """A line of the table, from what came out."""
    verdict = ", ".join(sorted(set(outcome.verdicts))) or "none"
    after = outcome.before if outcome.after == outcome.before else "another hash: " + NEW
    left = str(len(outcome.survivors)) if outcome.survivors else "none"
    whole = all(name.endswith(".json.gz") for name in outcome.appeared)
    others = (
        "none" if not outcome.appeared else "whole recordings" if whole else "an unfinished file"
    )
    return (
        row.fault,
        row.stage,
        verdict,
        str(outcome.status),
        left,
        f"{outcome.before} → {after}",
        others,
    )


def table(outcomes: dict[Row, Outcome]) -> str:
    """Markdown, a table for each part."""
    lines: list[str] = []
    for part in dict.fromkeys(row.part for row in outcomes):
        lines += [
            f"### {part[0].upper()}{part[1:]}",
            "",
            f"| {' | '.join(HEADING)} |",
            "|---" * len(HEADING) + "|",
        ]
        lines += [
            f"| {' | '.join(cells(row, outcome)).replace('$', '')} |"
            for row, outcome in outcomes.items()
            if row.part == part
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Run all, print the table; what came out otherwise goes to stderr."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    started = time.monotonic()
    outcomes = run_all(tuple(row for row in ROWS if wanted in row.id))
    print(table(outcomes))
    wrong = 0
    for row, outcome in outcomes.items():
        for complaint in complaints(row, outcome):
            wrong += 1
            print(f"{row.id}: {complaint}", file=sys.stderr)
            print(outcome.output[-3000:], file=sys.stderr)
    print(
        f"{len(outcomes)} rows, {wrong} complaints, {time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
