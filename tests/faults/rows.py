"""The rows of the fault campaign: each a fault, a stage, and the outcome that is expected."""

import re
import signal
import sys
from dataclasses import dataclass, replace

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
KEPT, NEW = "kept", "new, whole"
UPDATE = ("--energy-update", "--energy-launches", "3")
ENGINE, METER, DISK = "The engine's worker", "GPU and driver", "Disk"
SIGNALS, OPTIONS, CLOCKS = "Signals", "pytest's options", "Clocks"


@dataclass(frozen=True)
class Row:
    """One fault at one stage.

    Attributes:
        part: of the table.
        fault, stage: in words; together they name the row.
        verdict: of each test that gets one; "none" if the run ends without a table.
        status: pytest's exit status; negative for the signal that ended it.
        says: regular expression that its output must match; empty if it need not say anything.
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


def _fault(name: str) -> tuple[str, ...]:
    """The stand-in for vLLM has it."""
    return ("--energy-engine-arg", f"fault={name}")


def _engine_rows() -> list[Row]:
    def row(fault: str, stage: str, says: str, name: str = "", *more: str, **fields: str) -> Row:
        arguments = (*(_fault(name) if name else ()), *more)
        return Row(ENGINE, fault, stage, "invalid", 1, says, arguments, **fields)  # type: ignore[arg-type]

    short = ("--energy-load-timeout", "1", "--energy-progress-timeout", "1")
    unloaded, garbage = "the engine did not load within 1 s", "unreadable message"
    loading, running = (f"during {s}: the worker was ended by SIGKILL" for s in ("load", "run"))
    interleaved = ("--energy-reference-python", "PYTHON", "--energy-launches", "3")
    rows = [
        Row(ENGINE, "nothing", "any", "pass", 0),
        Row(ENGINE, "nothing", "an update", "changed", 0, "", UPDATE, baselines=NEW),
        Row(ENGINE, "nothing", "noise", "none", 0, "", ("--energy-noise",), baselines=NEW),
        Row(ENGINE, "no such interpreter", "start", "none", 4, "/no/python: there is no such file",
            ("--energy-python=/no/python",)),
        row("no vLLM in it", "start", "has no vLLM", "", f"--energy-python={sys.executable}"),
        row("no room for its log", "start", "No space left on device", put_in="no_room_for_logs"),
        row("killed", "load", loading, "kill_on_load"),
        row("raises", "load", "the weights are missing", "crash_on_load"),
        row("exits", "load", "exited with status 7", "exit_on_load"),
        row("hangs and ignores SIGTERM", "load", unloaded, "deaf", *short),
        row("garbage on its pipe", "load", garbage, "garbage_on_load"),
        row("flood on its pipe", "load", garbage, "flood_on_load"),
        row("killed", "run", running, "kill"),
        row("raises", "run", "EngineCore died", "crash"),
        row("its own process dies", "run", "VLLM::EngineCore .* has died", "core_dies"),
        row("hangs", "run", "no token for 1 s", "hang", *short),
        row("garbage on its pipe", "run", garbage, "garbage"),
        row("flood on its pipe", "run", garbage, "flood"),
        row("malformed report of steps", "run", "report of its steps is malformed", "malformed"),
        row("a request ends early", "run", "short of its set length", "short"),
        row("killed", "stop", "during stop: the worker was ended by SIGKILL", "kill_at_stop"),
        row("hangs", "stop", "no answer for 1 s", "hang_at_stop", *short),
        Row(ENGINE, "leaves a child in another group", "exit", "pass", 0, "", _fault("child")),
        row("killed", "third launch of an update", "was not updated.*SIGKILL", "", *UPDATE,
            put_in="engine:3:kill"),
        row("killed", "pause, interleaved", "the (candidate|reference) engine .*SIGKILL",
            "kill_at_pause", *interleaved),
        row("server killed", "run", "the server was ended by SIGKILL", "die", engine="server"),
        row("server hangs", "run", "for 1 s", "hang", *short[2:], engine="server"),
        row("server cuts a stream", "run", "engine failed during run", "cut", engine="server"),
        row("server that never reports", "load", "has not reported", "elsewhere", engine="server"),
        row("several API servers", "load", "2 API servers", "",
            "--energy-engine-arg", "api_server_count=2", engine="server"),
        row("server counts other tokens", "run", "tokens_disagree", "miscount", engine="server"),
    ]  # fmt: skip
    for fault, says, name in (
        ("killed", "ended by SIGKILL", "kill"),
        ("hangs", unloaded, "hang"),
    ):
        arguments = short if name == "hang" else ()
        made = row(fault, "import", says, "", *arguments)
        rows.append(replace(made, environment=(("FAULT_ON_IMPORT", name),)))
        says = "no token for 1 s" if name == "hang" else running
        made = row(fault, "warm-up", says, name, *arguments)
        rows.append(replace(made, environment=(("FAULT_AFTER_STEPS", "3"),)))
    return rows


_GONE, _NO_DRIVER = "gpu_lost|gpu_unreadable", "does not respond"
_NOT_REPORTED = "the driver does not report"
# What a run says if a function of NVML fails always, from the run on, once in the run; if nothing,
# the run passes.
_FUNCTIONS = {
    "nvmlDeviceGetTotalEnergyConsumption": (
        "cannot be read",
        "counter_unreadable",
        "counter_unreadable",
    ),
    "nvmlDeviceGetFieldValues": ("sample_unreadable",) * 3,
    "nvmlDeviceGetClockInfo": ("", "", ""),
    "nvmlDeviceGetTemperatureV": ("", "", ""),
    "nvmlDeviceGetCurrentClocksEventReasons": ("sample_unreadable",) * 3,
    "nvmlDeviceGetUtilizationRates": ("sample_unreadable",) * 3,
    "nvmlDeviceGetComputeRunningProcesses": ("processes_unreadable",) * 3,
    "nvmlInit": (_NO_DRIVER, _GONE, ""),
    "nvmlDeviceGetHandleByUUID": ("", _GONE, ""),
    "nvmlDeviceGetHandleByIndex": (_NO_DRIVER, "", ""),
    "nvmlDeviceGetUUID": (_NO_DRIVER, "", ""),
    "nvmlDeviceGetCount": (_NO_DRIVER, "", ""),
    "nvmlDeviceGetName": (_NOT_REPORTED, "", ""),
    "nvmlDeviceGetPowerManagementLimit": (_NOT_REPORTED, "gpu_unreadable", ""),
    "nvmlDeviceGetEnforcedPowerLimit": ("", "gpu_unreadable", ""),
    "nvmlDeviceGetMigMode": ("", "gpu_unreadable", ""),
    "nvmlDeviceGetTotalEccErrors": ("", "gpu_unreadable", ""),
    "nvmlDeviceGetMemoryInfo": ("", "gpu_unreadable", ""),
    "nvmlSystemGetDriverVersion": (_NOT_REPORTED, "", ""),
    "nvmlDeviceGetPowerManagementDefaultLimit": ("", "", ""),
    "nvmlDeviceGetEccMode": ("", "", ""),
}


def _meter_rows() -> list[Row]:
    def row(fault: str, stage: str, says: str, put_in: str) -> Row:
        return Row(METER, fault, stage, "invalid", 1, says, put_in=put_in)

    def passes(fault: str, stage: str, put_in: str) -> Row:
        return Row(METER, fault, stage, "pass", 0, put_in=put_in)

    before = "foreign_process: pid 4711 was on the GPU before"
    rows = [
        row("no driver", "start", _NO_DRIVER, "no_driver"),
        row("GPU lost", "load", f"{_NO_DRIVER}|is lost|gpu_lost", "lost_at_load"),
        row("GPU lost", "run", "gpu_lost", "lost"),
        row("counter reset", "run", "counter_backwards", "reset"),
        row("counter frozen", "run", "counter_stuck", "frozen"),
        row("counter and power disagree", "run", "counter_disagrees", "half_counted"),
        row("another process", "before", before, "there_before"),
        row("another process appears", "run", "foreign_process: pid 4711", "appears"),
        row("processes not listed", "before", "processes_unreadable", "unlisted_before"),
        passes("the host's process ids", "load", "in_a_container"),
        passes("another GPU's processes not listed", "any",
               "in_a_container other_gpu:nvmlDeviceGetComputeRunningProcesses"),
        passes("another GPU cannot be reached", "any", "other_gpu:nvmlDeviceGetHandleByIndex"),
        row("a hidden neighbour holds memory", "before", "40,000 MiB of memory were in use before",
            "neighbour_before:40000:0"),
        Row(METER, "a hidden neighbour holds memory", "an update", "invalid", 1,
            "was not updated.*hidden_process", UPDATE, "neighbour_before:40000:0"),
        row("a hidden neighbour is busy", "before", "busy 60 % of the time before the launch",
            "neighbour_before:4:60"),
        row("a hidden neighbour comes and is busy", "load", "busy 60 % .* the engine was idle",
            "neighbour_comes:4:60"),
        row("a hidden neighbour comes and stays", "load", "MiB of memory were taken with the eng",
            "neighbour_comes:40000:0"),
        row("a hidden neighbour comes and goes", "run", "39,996 MiB of memory were given back",
            "neighbour_goes"),
        row("a process of another container", "load", "foreign_process: pid 4194306 came with",
            "process_comes"),
        passes("a driver that reserves 900 MiB", "any", "neighbour_before:900:0"),
        passes("a GPU that reports 4 % when idle", "any", "neighbour_before:4:4"),
        row("hardware slowdown", "run", "throttled", "throttled"),
        row("idle under load", "run", "gpu_idle", "idle"),
        row("power limit changed", "run", "power_limit_changed", "limited"),
        row("MIG turned on", "run", "mig_enabled", "sliced"),
        row("uncorrected memory errors", "run", "ecc_errors", "memory_error"),
    ]  # fmt: skip
    # Some calls come before the engine is started, some while it loads, the later ones under load.
    for number in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        rows.append(row("all calls fail", f"from call {number} on", "", f"nvml_from:{number}"))
    stages = {"always": "always", "middle": "from the run on", "once": "once, in the run"}
    for function, fragments in _FUNCTIONS.items():
        for (when, stage), says in zip(stages.items(), fragments, strict=True):
            if not says and when == "once":
                continue  # what may fail for ever may fail once
            failing = row(f"{function} fails", stage, says, f"nvml:{function}:{when}")
            rows.append(failing if says else replace(failing, verdict="pass", status=0))
    return rows


def _disk_rows() -> list[Row]:
    kinds = {
        "an update": (UPDATE, "was not updated: .*"),
        "noise": (("--energy-noise", "--energy-launches", "1"), "was not stored: .*"),
        "recordings": (("--energy-record", "kept"), "cannot be written .*"),
    }
    errors = {
        "ENOSPC": ("disk full", "No space left on device"),
        "EROFS": ("disk turns read-only", "Read-only file system"),
    }
    rows = []
    for stage, (arguments, says) in kinds.items():
        record = stage == "recordings"
        verdict = "invalid" if record else "pass" if stage == "an update" else "none"
        for error, (fault, text) in errors.items():
            for at in ("mkdir", "lock", "create", "write", "fsync", "chmod", "rename"):
                if (at == "mkdir") is not record and at in ("mkdir", "lock"):
                    continue  # of the store's folders all are there; recordings are not locked
                # On a disk that has turned read-only, nothing can be removed.
                stays = error == "EROFS" and at in ("write", "fsync", "chmod", "rename")
                left = () if not stays else ("kept/*/.*",) if record else ("baselines/**/.*",)
                rows.append(
                    Row(DISK, fault, f"{stage}: {at}", verdict, 1, says + text, arguments,
                        f"disk_fails:{error}:{at}", written=left)
                )  # fmt: skip
    rows.append(
        Row(DISK, "disk full", "an update: fsync of the folder", "changed", 0, "", UPDATE,
            "disk_fails:ENOSPC:fsync~of~the~folder", baselines=NEW)
    )  # fmt: skip
    return rows


def _signal_rows() -> list[Row]:
    def row(
        fault: str, stage: str, status: int, *signals: tuple[str, float, int], **more: object
    ) -> Row:
        return Row(SIGNALS, fault, stage, "none", status, signals=signals, **more)  # type: ignore[arg-type]

    long, child = _fault("hang_on_load"), _fault("child")
    writing = {"arguments": UPDATE, "put_in": "writing", "pause": "update"}
    rows = []
    for name, stop, status in (("SIGINT", INT, 2), ("SIGTERM", TERM, -15)):
        rows += [
            row(name, "load", status, ("load", 0.3, stop), arguments=long),
            row(name, "run", status, ("run", 0.0, stop)),
            row(name, "stop", status, ("stop", 0.5, stop), arguments=_fault("hang_at_stop")),
            row(name, "second launch; recordings are kept", status, ("second", 0.0, stop),
                arguments=(*UPDATE, "--energy-record", "kept"), written=("kept/*/*.json.gz",)),
        ]  # fmt: skip
    for name, stop, status in (("SIGINT", INT, 2), ("SIGTERM", TERM, -15), ("SIGKILL", KILL, -9)):
        left = () if stop is INT else ("baselines/**/.*",)
        stage = "update, new file not yet in place"
        rows.append(row(name, stage, status, ("update", 0.3, stop), written=left, **writing))
    return [
        *rows,
        row("SIGKILL", "run", -9, ("run", 0.0, KILL)),
        row("SIGINT twice", "load", 2, ("load", 0.3, INT), ("load", 0.02, INT), arguments=long),
        row("SIGINT twice", "run", 2, ("run", 0.0, INT), ("run", 0.01, INT)),
        row("SIGINT twice", "run, engine with a child of its own", 2, ("run", 0.0, INT),
            ("run", 0.005, INT), arguments=child),
        row("SIGINT", "exit of the engine", 2, ("exit", 0.0, INT), pause="exit"),
    ]  # fmt: skip


def _option_rows() -> list[Row]:
    def row(
        option: str, verdict: str, status: int, says: str = "", *more: str, **fields: object
    ) -> Row:
        stage = str(fields.pop("stage", "a sound engine"))
        arguments = (*option.split(), *more)
        return Row(OPTIONS, option, stage, verdict, status, says, arguments, **fields)  # type: ignore[arg-type]

    bad, killed = _fault("kill"), "worker killed in the run"
    rows = [
        row(option, "invalid", 1, "", *bad, stage=killed)
        for option in ("-x", "--lf", "--ff", "-p no:logging", "-q -q")
    ]
    for option in ("--benchmark-only", "--benchmark-skip", "--benchmark-disable"):
        rows.append(row(option, "invalid", 1, "", "-p", "benchmark", *bad, stage=killed))
    for option in ("-p no:benchmark", "-p no:xdist", "-p no:cacheprovider", "-p no:timeout"):
        rows.append(row(option, "invalid", 1, "", *bad, stage=killed, autoload=True))
    xdist, timeout = ("-p", "xdist"), ("-p", "timeout")
    hang = (*timeout, *_fault("hang"), "--energy-progress-timeout", "30")
    refused = "does not work under pytest-xdist"
    return [
        *rows,
        row("-p no:terminal", "none", 1, "", *bad, stage=killed),
        row("-p no:pytest_energy.plugin", "none", 4, "unrecognized arguments: --energy-launches"),
        row("-k test_energy", "pass", 0),
        row("-k nothing", "none", 5, "2 deselected"),
        row("--deselect test_tiny.py", "none", 5, "2 deselected"),
        row("--collect-only", "none", 0, "2 tests collected"),
        row("-n 2", "none", 1, "workers share GPUs", *xdist, stage="workers share GPUs"),
        row("-n 2", "pass", 0, "", *xdist, stage="a GPU for each worker", put_in="hand_out"),
        row("-n 2", "none", 4, refused, *xdist, *UPDATE, stage="an update", put_in="hand_out"),
        row("-n 2", "invalid", 1, "SIGKILL", *xdist, *bad, stage="workers' engines killed",
            put_in="hand_out"),
        row("--timeout 2 --timeout-method signal", "invalid", 1, "Timeout", *hang, stage="hang"),
        row("--timeout 2 --timeout-method thread", "none", 1, "Timeout", *hang, stage="hang"),
        row("--timeout 20 --timeout-method signal", "none", 1, "Timeout", *timeout, *UPDATE,
            "-k", "test_energy", stage="an update", put_in="writing", pause="update"),
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
# One row for each kind of fault and each stage: those that every change runs. The others run
# nightly.
REPRESENTATIVE = frozenset(
    {
        "nothing-any", "nothing-noise", "nothing-an-update", "no-vllm-in-it-start", "killed-load",
        "hangs-and-ignores-sigterm-load", "its-own-process-dies-run", "garbage-on-its-pipe-run",
        "leaves-a-child-in-another-group-exit", "killed-third-launch-of-an-update",
        "server-killed-run", "server-counts-other-tokens-run", "no-driver-start", "gpu-lost-run",
        "counter-reset-run",
        "a-hidden-neighbour-holds-memory-before", "a-hidden-neighbour-comes-and-stays-load",
        "processes-not-listed-before", "another-gpu-s-processes-not-listed-any",
        "another-process-appears-run", "mig-turned-on-run", "all-calls-fail-from-call-21-on",
        "nvmldevicegetcomputerunningprocesses-fails-once-in-the-run", "disk-full-an-update-rename",
        "sigint-run", "sigterm-second-launch-recordings-are-kept", "sigkill-run",
        "sigkill-update-new-file-not-yet-in-place", "n-2-workers-share-gpus", "n-2-an-update",
        "timeout-2-timeout-method-signal-hang", "wall-clock-set-an-hour-ahead-run",
    }
)  # fmt: skip


def tables() -> str:
    """Markdown, a table for each part: what each row's outcome must be."""
    heading = ("fault", "stage", "verdict", "exit status", "baselines and noise", "other files")
    lines: list[str] = []
    for part in dict.fromkeys(row.part for row in ROWS):
        lines += ["", f"## {part}", "", f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
        for row in (row for row in ROWS if row.part == part):
            whole = all(name.endswith(".json.gz") for name in row.written)
            other = (
                "none" if not row.written else "whole recordings" if whole else "an unfinished file"
            )
            cells = (row.fault, row.stage, row.verdict, str(row.status), row.baselines, other)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines[1:])
