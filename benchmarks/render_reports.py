"""Render the reports and pictures that README and docs show, from the recordings, and check them.

    python -m benchmarks.render_reports             render into docs/
    python -m benchmarks.render_reports --check     compare with docs/, change nothing

For another GPU's recordings edit EXAMPLES and PICTURES, run it, and look at the pictures.
"""

import argparse
import html
import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import recorded_pages
from pytest_energy.measure import measurement
from pytest_energy.recording import recording_file
from pytest_energy.report import (
    charts,
    collect,
    gallery,
    groups,
    plane,
    results,
    results_file,
    trace,
)
from pytest_energy.report.drawing import number
from pytest_energy.report.pictures import THEMES, Picture
from pytest_energy.report.words import percent
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore

ROOT = Path(__file__).parents[1]
GPU = "recordings/h200-sxm-141gb"
H100 = "recordings/h100-sxm-80gb"
QUIET = f"{H100}/gpu-6ac11e84"
HOST_BOUND = "suites/host_bound"


@dataclass(frozen=True)
class Example:
    """A report below docs/examples: a replay of `candidate`, judged by `reference`.

    Attributes:
        select: pytest's -k.
        interleaved: whether the launches are pairs; else a baseline is made of `reference`.
        tests: the suite.
    """

    name: str
    reference: str
    candidate: str
    select: str = ""
    interleaved: bool = False
    tests: str = HOST_BOUND


def _pairs(name: str, recordings: str) -> Example:
    """An interleaved comparison of the H100, whose recordings are in a folder per side."""
    folder = f"{H100}/{recordings}"
    return Example(name, f"{folder}/reference", f"{folder}/candidate", "bs8 or bs64", True)


EXAMPLES = (
    Example("upgrade", f"{GPU}/vllm-0.20.2", f"{GPU}/vllm-0.25.1"),
    Example("eager", f"{QUIET}/baseline", f"{QUIET}/eager", tests="suites"),
    _pairs("interleaved", "vllm-0.20.2-to-0.25.1"),
    _pairs("no-async", "vllm-0.25.1-no-async-interleaved"),
)
HISTORY = (f"{GPU}/vllm-0.20.2", f"{GPU}/vllm-0.25.1")  # one update after the other
# The README's; the trace is of the second.
PICTURES = (f"{QUIET}/baseline", f"{QUIET}/unchanged", f"{QUIET}/eager")
EPOCH = "1795478400"  # 2026-11-24, for reports that come out the same

MAX_BYTES = 1_000_000
_LIMITS = {".html": MAX_BYTES, ".md": MAX_BYTES, ".json": MAX_BYTES, ".svg": 200_000}
_ADDRESS = re.compile(r"(?:https?:|//[\w.-]+\.[a-z]{2,}|@import|src=|<script)[^\s]{0,40}")
_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|var|Users|venvs?)/[\w./-]*")
_NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


def render(into: Path, examples: Sequence[Example] = EXAMPLES) -> list[str]:
    """Render the examples, the history, the README's pictures and the sweep's below `into`.

    Returns:
        What is wrong with them.
    """
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)  # no path of this machine can get into a report from here
        shutil.copytree(
            ROOT / "suites", project / "suites", ignore=shutil.ignore_patterns("__pycache__")
        )
        (project / "recordings").symlink_to(ROOT / "recordings")
        for example in examples:
            _example(project, example, into / "examples" / example.name)
        _store(project, HISTORY)
        history = str(into / "examples" / "history")
        _run(project, "-m", "pytest_energy.commands.main", "history", "baselines", "-o", history)
    swept = recorded_pages.release_tables(recorded_pages.RELEASES)
    drawn = [*(picture for picture, _ in pictures()), *recorded_pages.sweep_pictures(swept)]
    (into / "images").mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        for theme in THEMES:
            (into / "images" / f"{picture.name}-{theme}.svg").write_text(picture.svg(theme))
    return [
        *faults(into),
        *(f"images/{picture.name}: {fault}" for picture in drawn for fault in picture.faults()),
        *example_faults(into),
    ]


def _example(project: Path, example: Example, folder: Path) -> None:
    _store(project, [] if example.interleaved else [example.reference])
    selection = ["-k", example.select] if example.select else []
    reference = ["--energy-reference-replay", example.reference] if example.interleaved else []
    options = ["-p", "no:cacheprovider", "--benchmark-disable", "--energy-report", str(folder)]
    replay = ["--energy-replay", example.candidate, *reference]
    _run(project, "-m", "pytest", example.tests, *selection, *replay, *options, expected=(0, 1))


def _store(project: Path, labels: Sequence[str]) -> None:
    """Baselines by updates from these recordings, one after the other; and the stored noise."""
    shutil.rmtree(project / "baselines", ignore_errors=True)
    for noise in (ROOT / "baselines").glob("*/noise"):
        shutil.copytree(noise, project / "baselines" / noise.parent.name / "noise")
    for label in labels:
        store, by_cell = Store(project / "baselines"), dict[str, list[measurement.Measurement]]()
        for file in recording_file.find(project / label):
            measured = measurement.measure(recording_file.read(file))
            by_cell.setdefault(measured.key.canonical, []).append(measured)
        for launches in by_cell.values():
            store.update(launches, {}, "an example")


def _run(project: Path, *command: str, expected: Sequence[int] = (0,)) -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GITHUB_", "PYTEST_"))
    }
    environment = {**kept, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in expected:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )


def pictures() -> list[tuple[Picture, str]]:
    """The README's: against batch size, the plane, a launch's trace; with alternative texts."""
    folders, noise = [ROOT / label for label in PICTURES], NoiseStore(ROOT / "baselines")

    def group_of(folders: Sequence[Path]) -> groups.Group:
        run, entries = collect.run("recordings", ""), collect.compared(collect.read(folders), noise)
        (group,) = groups.groups(results.Results(results.SCHEMA_VERSION, (run,), entries))
        return group

    group = group_of(folders)
    traces = trace.find(folders, gallery.wanted(group_of(folders[:2])))
    against = charts.against_batch_size("against-batch-size", group)
    moved = plane.power_throughput_plane("power-throughput", group)
    launch = charts.launch_trace("launch", traces)
    assert against is not None
    energy = "; ".join(map(_energy, group.series))
    moves = "; ".join(map(_move, group.moves))
    power = "; ".join(
        f"{min(t.cycle_power_w):.0f} to {max(t.cycle_power_w):.0f} W at batch size {t.batch_size}"
        for t in traces
    )
    return [
        (against, f"{against.title}: {energy}"),
        (moved, f"{moved.title}: {moves}"),
        (launch, f"{launch.title}, means of whole cycles: {power}"),
    ]


def _energy(series: groups.Series) -> str:
    points = [
        f"{number(side.joules_per_token.value)} J/token at batch size {size}"
        for size, side in series.points
    ]
    return f"{series.label} {', '.join(points)}"


def _move(move: groups.Move) -> str:
    power = move.candidate.power_w.value / move.reference.power_w.value
    rate = move.candidate.tokens_per_s.value / move.reference.tokens_per_s.value
    return (
        f"{move.candidate_label} at batch size {move.batch_size}: "
        f"power {percent(power)}, throughput {percent(rate)}"
    )


def readme(text: str, drawn: Sequence[tuple[Picture, str]]) -> str:
    """The README with the first two of these pictures in their place."""
    begin = "<!-- pictures, by benchmarks/render_reports.py -->\n"
    end = "<!-- end of pictures -->\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    blocks = [
        f'<picture><source media="(prefers-color-scheme: dark)"'
        f' srcset="docs/images/{picture.name}-dark.svg">'
        f'<img width="400" src="docs/images/{picture.name}-light.svg"'
        f' alt="{html.escape(alternative)}"></picture>\n'
        for picture, alternative in drawn[:2]
    ]
    return before + begin + "".join(blocks) + end + after


def example_faults(into: Path) -> Iterator[str]:
    """Layout of the examples' own pictures, drawn again from their results.json."""
    for file in sorted(into.glob("examples/*/results.json")):
        for picture in gallery.gallery(results_file.read(file)).pictures:
            for fault in picture.faults():
                yield f"{file.parent.name}/{picture.name}: {fault}"


def faults(folder: Path) -> Iterator[str]:
    """Too large files, addresses, this machine's paths and its environment's values."""
    public = (ROOT / "pyproject.toml").read_text()  # a variable may hold the project's name
    secrets = {value for value in os.environ.values() if len(value) >= 8 and value not in public}
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _LIMITS):
        name, text, limit = file.relative_to(folder).as_posix(), file.read_text(), _LIMITS
        if file.stat().st_size >= limit[file.suffix]:
            yield f"{name}: {file.stat().st_size} bytes, {limit[file.suffix]} at most"
        bare = text
        for namespace in _NAMESPACES:
            bare = bare.replace(f'"{namespace}"', '""')
        yield from (f"{name}: address {found!r}" for found in _ADDRESS.findall(bare))
        yield from (f"{name}: path {found!r}" for found in _PATH.findall(bare))
        yield from (
            f"{name}: the value of an environment variable, {value[:3]}…"
            for value in secrets
            if value in text
        )


class _Words(html.parser.HTMLParser):
    """The words of a page or picture."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style and data.strip():
            self.words.append(" ".join(data.split()))


def words(text: str) -> list[str]:
    """Of an HTML page or an SVG, in order."""
    parser = _Words()
    parser.feed(text)
    return parser.words


def differences(
    committed: Path, rendered: Path, places: Sequence[str] = ("examples", "images")
) -> list[str]:
    """Files below `places` that are missing, left over, or differ in their words.

    Lines and shapes may differ: they are another matplotlib's. So may the last digits of JSON's
    numbers: another processor adds in another order.
    """
    names = {
        path.relative_to(folder).as_posix()
        for folder in (committed, rendered)
        for place in places
        for path in (folder / place).rglob("*")
        if path.is_file()
    }
    differing = []
    for name in sorted(names):
        old, new = committed / name, rendered / name
        if not (old.is_file() and new.is_file()):
            differing.append(f"{name} is {'missing' if new.is_file() else 'left over'}")
            continue
        both = old.read_text(), new.read_text()
        if old.suffix == ".json":
            same = _close(*map(json.loads, both))
        else:
            read = words if old.suffix in (".html", ".svg") else str.splitlines
            same = read(both[0]) == read(both[1])
        if not same:
            differing.append(f"{name} says something else")
    return differing


def _close(old: Any, new: Any) -> bool:
    """Whether two JSON values differ in the last digits of numbers alone."""
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_close(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_close, old, new))
    return type(old) is type(new) and bool(old == new)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with docs/, change nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rendered = Path(folder)
        wrong = render(rendered)
        page = ROOT / "README.md"
        shown = readme(page.read_text(), pictures())
        if arguments.check:
            wrong += differences(ROOT / "docs", rendered)
            wrong += [] if shown == page.read_text() else ["README.md shows other pictures"]
        elif not wrong:
            page.write_text(shown)
            for place in ("examples", "images"):
                shutil.rmtree(ROOT / "docs" / place, ignore_errors=True)
                shutil.copytree(rendered / place, ROOT / "docs" / place)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
