"""The command `pytest-energy`: what is no test run by itself.

Noise is measured by pytest, for cells are defined by tests. Reports are made from what is there already. The doctor only looks.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_energy.errors import EnergyError, ResultsError, UsageError

if TYPE_CHECKING:
    from pytest_energy.report.results import Results

NOISE = """\
Measure how much launches of an unchanged engine differ on this runner, and add it to BASELINES/GPU/noise/.

Every other argument is pytest's: which tests' cells to launch (-k "bs8 or bs64"), --energy-launches N for the number of
launches in this call, --energy-python for the interpreter whose vLLM is launched, or --energy-replay DIR to add recordings
that exist. Calls add up: 11 launches of one engine on one board give the 10 degrees of freedom from which on the gate judges
a cell by its own noise.

    pytest-energy noise suites -k "bs8 or bs64" --energy-launches 6 --energy-python /venvs/vllm/bin/python
"""
REPORT = """\
Make report.html, report.md, results.json and pictures without running anything.

Give folders of recordings to compare engines: each with the first that was recorded in its cell, launch by launch, wherever
the files lie. Nothing is judged; a verdict is a test's, which pytest --energy-replay gives. Or give results.json files that
pytest --energy-report wrote, of several runs together.

    pytest-energy report recordings/GPU/vllm-0.20.2 recordings/GPU/vllm-0.25.1 -o report
    pytest-energy report monday/results.json tuesday/results.json -o report
"""
HISTORY = """\
Make the same from the history of stored baselines: how J/token of a model moved from release to release at each batch size.

    pytest-energy history baselines/ -o history
"""
DOCTOR = """\
Check whether this machine can measure: driver, GPUs, host, and vLLM under the interpreter that is to be measured. Each line is
ok, a warning or a fault, with what to do. Nothing is changed or written; best run with nothing on the GPU.

Exit status: 0 without a fault, 1 with one, 2 for a wrong command line.

    pytest-energy doctor --python /venvs/vllm/bin/python
    pytest-energy doctor --json > doctor.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 with a message where a report could not be made, or that of the doctor."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="pytest-energy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, summary: str, description: str, usage: str | None = None
    ) -> argparse.ArgumentParser:
        kind = argparse.RawDescriptionHelpFormatter
        return commands.add_parser(
            name, help=summary, description=description, formatter_class=kind, usage=usage
        )

    command(
        "noise",
        "measure this runner's noise between engine launches",
        NOISE,
        "pytest-energy noise [PYTEST ARGUMENTS]",
    )
    report = command("report", "report recordings or results.json files", REPORT)
    report.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="a folder of recordings, a recording, or a results.json",
    )
    report.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="where the noise is (default: baselines)",
    )
    history = command("history", "report how stored baselines changed", HISTORY)
    history.add_argument("baselines", type=Path, metavar="BASELINES", help="the store of baselines")
    for reporting in (report, history):
        reporting.add_argument(
            "-o", "--output", required=True, type=Path, metavar="DIR", help="where the report goes"
        )
        reporting.add_argument(
            "--csv",
            action="store_true",
            help="write tables, too: comparisons.csv, launches.csv, history.csv",
        )
    doctor = command("doctor", "check whether this machine can measure", DOCTOR)
    doctor.add_argument(
        "--python",
        metavar="PATH",
        default=sys.executable,
        help="the interpreter whose vLLM is measured (default: this one)",
    )
    doctor.add_argument(
        "--gpu",
        metavar="UUID|INDEX",
        action="append",
        default=[],
        help="a GPU to check (default: all that are visible)",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    if given[:1] == ["noise"] and not {"-h", "--help"} & set(given):
        # In a fresh interpreter: pytest wants to import plugins itself.
        os.execv(sys.executable, [sys.executable, "-m", "pytest", "--energy-noise", *given[1:]])
    options = parser.parse_args(given)
    if options.command == "doctor":
        return _examine(options)
    try:
        return _publish(options)
    except EnergyError as error:
        print(f"pytest-energy: {error}", file=sys.stderr)
    except OSError as error:
        print(
            f"pytest-energy: the report was not written: {error.filename}: {error.strerror}",
            file=sys.stderr,
        )
    return 1


def _examine(options: argparse.Namespace) -> int:
    from pytest_energy.health import doctor
    from pytest_energy.health.facts import Lock
    from pytest_energy.launch import gpu_locks

    def lock_of(gpu_uuid: str) -> Lock:
        held, holder = gpu_locks.look(gpu_uuid)
        return Lock(held, str(holder or ""))

    try:
        examination = doctor.examine(
            options.python,
            options.gpu,
            lambda text: print(f"{text} ...", file=sys.stderr, flush=True),
            lock_of,
        )
    except UsageError as error:
        print(f"pytest-energy: {error}", file=sys.stderr)
        return 2
    sys.stdout.write(doctor.to_json(examination) if options.json else doctor.to_text(examination))
    return examination.exit_status


def _publish(options: argparse.Namespace) -> int:
    from pytest_energy.report import publish

    publish.refuse_if_impossible(options.output)
    if options.command == "history":
        results, recordings = _history(options.baselines), []
    else:
        recordings = [source for source in options.sources if source.suffix != ".json"]
        results = _report(
            [source for source in options.sources if source.suffix == ".json"],
            recordings,
            options.baselines,
        )
    written = publish.publish(results, options.output, recordings, options.csv)
    print("\n".join(str(path) for path in written if path.suffix != ".svg"))
    return 0


def _report(files: Sequence[Path], recordings: Sequence[Path], baselines: Path) -> "Results":
    from pytest_energy.report import collect, results
    from pytest_energy.store.noise import NoiseStore

    found = [results.read(path) for path in files]
    if recordings:
        entries = collect.compared(recordings, NoiseStore(baselines))
        run = collect.run("recordings", "recordings " + ", ".join(map(os.path.relpath, recordings)))
        found.append(results.Results(results.SCHEMA_VERSION, (run,), entries))
    return results.together(found)


def _history(baselines: Path) -> "Results":
    from pytest_energy.report import collect, results
    from pytest_energy.store.baselines import Store
    from pytest_energy.store.noise import NoiseStore

    states = collect.history(Store(baselines), NoiseStore(baselines))
    if not states:
        raise ResultsError(
            f"{baselines} holds no baselines (GPU/MODEL.json).\nGive the folder that pytest --energy-update wrote."
        )
    run = collect.run("baselines", f"baselines in {os.path.relpath(baselines)}")
    return results.Results(results.SCHEMA_VERSION, (run,), (), states)


if __name__ == "__main__":
    sys.exit(main())
