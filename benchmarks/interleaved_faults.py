"""What is left of two interleaved engines when one fails: memory on the GPU, processes, files.

    python benchmarks/interleaved_faults.py --python /venv/bin/python --json out.json

Compares `benchmarks/cpu_bound` with itself once for each fault of the candidate: it asks for more
memory than the other engine leaves; one of its processes is killed, or stopped, in the middle of a
period. Prints the test's message.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_energy.engines.worker_process import command_of, session_members
from pytest_energy.recording import fingerprint

ROOT = Path(__file__).parents[1]
OUT_OF_MEMORY, KILLED, STOPPED = "out of memory", "killed in a period", "stopped in a period"
SIDE = "PYTEST_ENERGY_FAULT_SIDE"  # tells the sides' processes apart
_RELEASE_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What was seen of one fault.

    Attributes:
        fault: which.
        exit_status: pytest's.
        seconds: from pytest's start to its end.
        said: the test's message.
        memory_mib: used on the visible GPUs before, at the most, and after.
        processes_left: alive, of either side, after pytest's end.
    """

    fault: str
    exit_status: int
    seconds: float
    said: str
    memory_mib: tuple[int, int, int]
    processes_left: int


def memory_mib() -> int:
    """Memory in use on the visible GPUs, MiB, as the driver has it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    which = [f"--id={visible}"] if visible else []
    command = ["nvidia-smi", *which, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(
        map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    )


def sessions(side: str) -> Iterator[int]:
    """The POSIX sessions of a side's workers; its engine processes share them."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"{SIDE}={side}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield os.getsid(int(folder.name))
        except OSError:
            continue


def processes(in_sessions: Set[int]) -> dict[int, str]:
    """The command lines of all living processes of some sessions, by process id."""
    members = (pid for session in in_sessions for pid in session_members(session))
    return {pid: command for pid in members if (command := command_of(pid))}


def engine_process(session: Set[int]) -> int:
    """The process that holds the model: the one named for it, else the worker."""
    found = processes(session)
    named = [pid for pid, command in found.items() if "EngineCore" in command]
    return max(named or found)


def interpreter(folder: Path, side: str, python: str) -> Path:
    """`python`, with a mark in its environment."""
    path = folder / f"python-{side}"
    path.write_text(f'#!/bin/sh\n{SIDE}={side} exec {python} "$@"\n')
    path.chmod(0o755)
    return path


def suffer(fault: str, python: str) -> Outcome:
    """Run the comparison with a fault in its new side."""
    with tempfile.TemporaryDirectory() as made:
        folder, before = Path(made), memory_mib()
        options: Mapping[str, object] = {
            "python": interpreter(folder, "candidate", python),
            "reference-python": interpreter(folder, "reference", python),
            "interleave": "periods",
            "launches": 3,
            "record": folder / "recordings",
            "progress-timeout": 15,
            **({"engine-arg": "gpu_memory_utilization=0.95"} if fault == OUT_OF_MEMORY else {}),
        }
        words = [f"--energy-{name}={value}" for name, value in options.items()]
        started, most, seen = (
            time.monotonic(),
            before,
            {"candidate": set[int](), "reference": set[int]()},
        )
        with (folder / "log").open("w") as log:
            pytest = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-p",
                    "no:cacheprovider",
                    "-k",
                    "test_energy",
                    "benchmarks/cpu_bound",
                    *words,
                ],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            put = fault == OUT_OF_MEMORY
            while pytest.poll() is None:
                time.sleep(0.5)
                most = max(most, memory_mib())
                for side, known in seen.items():
                    known.update(sessions(side))
                if not put and any(
                    folder.glob("recordings/*/*/*.gz")
                ):  # a first period has ended, so both are loaded
                    time.sleep(2.0)
                    os.kill(
                        engine_process(seen["candidate"]),
                        signal.SIGKILL if fault == KILLED else signal.SIGSTOP,
                    )
                    put = True
        seconds = time.monotonic() - started
        left = processes(seen["candidate"] | seen["reference"])
        time.sleep(_RELEASE_S)  # for the driver to take the memory back
        lines = (folder / "log").read_text().splitlines()
        told = itertools.dropwhile(lambda line: not line.startswith("INVALID"), lines)
        said = itertools.takewhile(lambda line: not line.startswith("===="), told)
        print("\n".join(lines[-40:]), flush=True)
        return Outcome(
            fault,
            pytest.returncode,
            round(seconds, 1),
            "\n".join(said),
            (before, most, memory_mib()),
            len(left),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    outcomes = []
    for fault in (OUT_OF_MEMORY, KILLED, STOPPED):
        outcomes.append(suffer(fault, arguments.python))
        print(json.dumps(asdict(outcomes[-1]), indent=1, ensure_ascii=False), flush=True)
        if arguments.json:
            results = [asdict(outcome) for outcome in outcomes]
            text = json.dumps(
                {"environment": {"host": asdict(fingerprint.host())}, "results": results},
                indent=1,
                ensure_ascii=False,
            )
            arguments.json.write_text(text + "\n")
    print("\n| fault | exit status | s | memory before, at most, after (MiB) | processes left |")
    print("|---|---|---|---|---|")
    for o in outcomes:
        print(
            f"| {o.fault} | {o.exit_status} | {o.seconds:.0f} "
            f"| {' / '.join(map(str, o.memory_mib))} | {o.processes_left} |"
        )


if __name__ == "__main__":
    main()
