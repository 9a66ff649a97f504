"""`pytest-energy doctor`: whether this machine can measure."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Check whether this machine can measure: driver, GPUs, host, and the vLLM that
is to be measured. Each finding is ok, a warning or a fault, with what to do
about it. Nothing is changed or written. The GPUs should be idle meanwhile.

Exit status: 0 without a fault, 1 with one, 2 for a wrong command line.

    pytest-energy doctor --python /venvs/vllm/bin/python
    pytest-energy doctor --json > doctor.json
"""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "doctor",
        help="check whether this machine can measure",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    engine = parser.add_mutually_exclusive_group()
    engine.add_argument(
        "--python",
        metavar="PATH",
        default=sys.executable,
        help="the interpreter whose vLLM is measured (default: this one)",
    )
    engine.add_argument("--no-vllm", action="store_true", help="check the machine alone")
    parser.add_argument(
        "--gpu",
        metavar="UUID|INDEX",
        action="append",
        default=[],
        help="a GPU to check (repeatable; default: all visible GPUs)",
    )
    add_gpu_cache(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, failure="the check was not finished: {}.")


def add_gpu_cache(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the cache."""
    parser.add_argument(
        "--gpu-cache",
        type=Path,
        metavar="DIR",
        help="where this machine keeps launches of the reference (default: the user's cache)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the findings; returns 1 with a fault, 0 without.

    Raises:
        UsageError: a GPU that was named is not there.
    """
    from pytest_energy.health import doctor
    from pytest_energy.health.facts import Lock
    from pytest_energy.health.findings import Finding
    from pytest_energy.launch import gpu_locks
    from pytest_energy.report import gpu_chart
    from pytest_energy.store import gpu_cache

    def lock_of(gpu_uuid: str) -> Lock:
        held, holder = gpu_locks.look(gpu_uuid)
        return Lock(held, str(holder or ""))

    kept = gpu_cache.existing(options.gpu_cache).all_launches()

    def chart_of(gpu_uuid: str) -> list[Finding]:
        return [gpu_chart.finding(gpu_uuid, of) for of in kept if gpu_uuid in of.gpus]

    def progress(text: str) -> None:
        print(f"{text} ...", file=sys.stderr, flush=True)

    interpreter = None if options.no_vllm else options.python
    examination = doctor.examine(interpreter, options.gpu, progress, lock_of, chart_of)
    width = min(doctor.WIDTH, shutil.get_terminal_size((doctor.WIDTH, 0)).columns)
    shown = doctor.to_json(examination) if options.json else doctor.to_text(examination, width)
    sys.stdout.write(shown)
    return examination.exit_status
