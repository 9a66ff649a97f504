"""`pytest-energy report`: a report of recordings or of results.json files."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_energy.report.results import Results

_DESCRIPTION = """\
Write report.html, report.md, results.json and pictures without running
anything.

Given folders of recordings, it compares engines: in each cell all launches
with those of the engine that comes first. Nothing is judged; verdicts come
from pytest --energy-replay. Given results.json files of pytest
--energy-report, it makes one report of these runs.

    pytest-energy report recordings/vllm-0.20.2 recordings/vllm-0.25.1 -o report
    pytest-energy report monday/results.json tuesday/results.json -o report
"""

NOT_WRITTEN = "the report was not written: {}.\nFree some space, or give another folder: -o DIR"


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "report",
        help="report recordings or results.json files",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="a folder of recordings, a recording, or a results.json",
    )
    add_noise_store(parser)
    add_output(parser)
    parser.set_defaults(run=run, failure=NOT_WRITTEN)


def add_output(parser: argparse.ArgumentParser, what: str = "the report") -> None:
    """Add the option for the folder of a report, or of what else a command writes."""
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help=f"folder for {what}"
    )


def add_noise_store(parser: argparse.ArgumentParser) -> None:
    """Add the option for the store that says how much launches vary."""
    parser.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="the store that holds the runner's noise (default: baselines)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        EnergyError: a source cannot be read, or the report cannot be made.
        OSError: a file could not be written.
    """
    from pytest_energy.report import publish

    publish.refuse_if_impossible(options.output)
    files = [source for source in options.sources if source.suffix == ".json"]
    recordings = [source for source in options.sources if source.suffix != ".json"]
    results = _results(files, recordings, options.baselines)
    write(results, options.output, recordings)
    return 0


def write(results: "Results", folder: Path, recordings: Sequence[Path] = ()) -> None:
    """Write a report and print the paths of its files, except the pictures'."""
    from pytest_energy.report import publish

    written = publish.publish(results, folder, recordings)
    print("\n".join(str(path) for path in written if path.suffix != ".svg"))


def _results(files: Sequence[Path], recordings: Sequence[Path], baselines: Path) -> "Results":
    from pytest_energy.report import collect, prefill_decode, results, results_file
    from pytest_energy.store.noise import NoiseStore

    found = [results_file.read(path) for path in files]
    if recordings:
        engines = collect.read(recordings)
        entries = collect.compared(engines, NoiseStore(baselines))
        run = collect.run("recordings", "recordings " + ", ".join(map(os.path.relpath, recordings)))
        found.append(
            results.Results(
                results.SCHEMA_VERSION, (run,), entries, (), prefill_decode.found(engines)
            )
        )
    return results_file.together(found)
