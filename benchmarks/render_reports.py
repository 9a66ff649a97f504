"""Render the reports and pictures that README and docs show, from the recordings that ship, and check what came out.

    python benchmarks/render_reports.py             render into docs/
    python benchmarks/render_reports.py --check     render elsewhere, compare with docs/, change nothing

Another GPU's recordings: edit EXAMPLES and PICTURES, run it, look at the pictures.
"""

import argparse
import html
import html.parser
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_energy.measure import measurement
from pytest_energy.recording import recording_file
from pytest_energy.report import charts, collect, gallery, groups, results, trace
from pytest_energy.report.pictures import THEMES, Picture
from pytest_energy.report.rows import percent
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore

ROOT = Path(__file__).parents[1]
GPU = "recordings/h200-sxm-141gb"
H100 = "recordings/h100-sxm-80gb"


@dataclass(frozen=True)
class Example:
    """A report below docs/examples: a replay of `new`, judged against a baseline made of `reference`, or with it pair by pair."""

    name: str
    reference: str
    new: str
    select: str = ""  # pytest's -k
    in_pairs: bool = False  # recorded in turns


EXAMPLES = (
    Example("upgrade", f"{GPU}/vllm-0.20.2", f"{GPU}/vllm-0.25.1"),
    Example("eager", f"{GPU}/vllm-0.20.2", f"{GPU}/vllm-0.25.1-eager", "bs8 or bs64"),
    Example(
        "in-turns",
        *(f"{H100}/vllm-0.20.2-to-0.25.1/{side}" for side in ("reference", "new")),
        "bs8 or bs64",
        True,
    ),
    Example(
        "no-async",
        *(f"{H100}/vllm-0.25.1-no-async-in-turns/{side}" for side in ("reference", "new")),
        "bs8 or bs64",
        True,
    ),
)
HISTORY = (f"{GPU}/vllm-0.20.2", f"{GPU}/vllm-0.25.1")  # one update after the other
PICTURES = (
    f"{GPU}/vllm-0.20.2",
    f"{GPU}/vllm-0.25.1",
    f"{GPU}/vllm-0.25.1-eager",
)  # the README's; the trace is of the second
EPOCH = "1795478400"  # 2026-11-24, for reports that come out the same

MAX_HTML_BYTES = 1_000_000
MAX_SVG_BYTES = 200_000
_NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


def render(into: Path) -> list[str]:
    """Render everything below `into`; returns what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        # Where nobody's paths can get into a report.
        shutil.copytree(
            ROOT / "suites", project / "suites", ignore=shutil.ignore_patterns("__pycache__")
        )
        (project / "recordings").symlink_to(ROOT / "recordings")
        for example in EXAMPLES:
            _example(project, example, into / "examples" / example.name)
        _store(project, HISTORY)
        _run(
            project,
            "-m",
            "pytest_energy.commands.main",
            "history",
            "baselines",
            "-o",
            str(into / "examples" / "history"),
        )
    drawn = pictures()
    (into / "images").mkdir(parents=True, exist_ok=True)
    for picture, _ in drawn:
        for theme in THEMES:
            (into / "images" / f"{picture.name}-{theme}.svg").write_text(picture.svg(theme))
    return [
        *faults(into),
        *(f"images/{picture.name}: {fault}" for picture, _ in drawn for fault in picture.faults()),
        *example_faults(into),
    ]


def _example(project: Path, example: Example, folder: Path) -> None:
    _store(project, [] if example.in_pairs else [example.reference])
    selection = ["-k", example.select] if example.select else []
    reference = ["--energy-reference-replay", example.reference] if example.in_pairs else []
    options = [
        *reference,
        "-p",
        "no:cacheprovider",
        "--benchmark-disable",
        "--energy-report",
        str(folder),
    ]
    _run(
        project,
        "-m",
        "pytest",
        "suites",
        *selection,
        "--energy-replay",
        example.new,
        *options,
        expected=(0, 1),
    )


def _store(project: Path, labels: Sequence[str]) -> None:
    """The baselines that updates from these recordings, one after the other, leave, and the noise that ships."""
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
    """The README's, each with a text alternative of a few figures: against batch size, the plane, one launch's trace."""
    folders, noise = [ROOT / label for label in PICTURES], NoiseStore(ROOT / "baselines")
    run = collect.run("recordings", "")
    (group,) = groups.groups(
        results.Results(results.SCHEMA_VERSION, (run,), collect.compared(folders, noise))
    )
    (upgrade,) = groups.groups(
        results.Results(results.SCHEMA_VERSION, (run,), collect.compared(folders[:2], noise))
    )
    traces = trace.find(folders, gallery.wanted(upgrade))
    energy = [
        f"{series.label} "
        + ", ".join(
            f"{charts.number(side.joules_per_token.value)} J/token at batch size {size}"
            for size, side in series.points
        )
        for series in group.series
    ]
    moved = [
        f"{move.new_label} at batch size {move.batch_size}: power {percent(move.new.power_w.value / move.old.power_w.value)}, "
        f"throughput {percent(move.new.tokens_per_s.value / move.old.tokens_per_s.value)}"
        for move in group.moves
    ]
    power = [
        f"{min(t.cycle_power_w):.0f} to {max(t.cycle_power_w):.0f} W at batch size {t.batch_size}"
        for t in traces
    ]
    plane = charts.power_throughput_plane("power-throughput", group)
    against, launch = (
        charts.against_batch_size("against-batch-size", group),
        charts.launch_trace("launch", traces),
    )
    return [
        (against, f"{against.title}: {'; '.join(energy)}"),
        (plane, f"{plane.title}: {'; '.join(moved)}"),
        (launch, f"{launch.title}, means of whole cycles: {'; '.join(power)}"),
    ]


def readme(text: str, drawn: Sequence[tuple[Picture, str]]) -> str:
    """The README with the first two of these pictures in their place."""
    begin, end = (
        "<!-- pictures, by benchmarks/render_reports.py -->\n",
        "<!-- end of pictures -->\n",
    )
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    blocks = [
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="docs/images/{picture.name}-dark.svg">'
        f'<img width="400" src="docs/images/{picture.name}-light.svg" alt="{html.escape(alternative)}"></picture>\n'
        for picture, alternative in drawn[:2]
    ]
    return before + begin + "".join(blocks) + end + after


def example_faults(into: Path) -> Iterator[str]:
    """Layout of the examples' own pictures, drawn again from their results.json."""
    for file in sorted(into.glob("examples/*/results.json")):
        for section in gallery.sections(results.read(file), [])[0]:
            for picture in section.pictures:
                for fault in picture.faults():
                    yield f"{file.parent.name}/{picture.name}: {fault}"


def faults(folder: Path) -> Iterator[str]:
    """Sizes, addresses, paths of this machine and values of its environment, in every file that was rendered."""
    public = (ROOT / "pyproject.toml").read_text()  # a variable may well hold the project's name
    secrets = {value for value in os.environ.values() if len(value) >= 8 and value not in public}
    for file in sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".html", ".svg", ".md", ".json", ".csv")
    ):
        name, text = file.relative_to(folder).as_posix(), file.read_text()
        limit = {".html": MAX_HTML_BYTES, ".svg": MAX_SVG_BYTES}.get(file.suffix, MAX_HTML_BYTES)
        if file.stat().st_size >= limit:
            yield f"{name}: {file.stat().st_size} bytes, {limit} at most"
        bare = text
        for namespace in _NAMESPACES:
            bare = bare.replace(f'"{namespace}"', '""')
        yield from (
            f"{name}: address {found!r}"
            for found in re.findall(
                r"(?:https?:|//[\w.-]+\.[a-z]{2,}|@import|src=|<script)[^\s]{0,40}", bare
            )
        )
        yield from (
            f"{name}: path {found!r}"
            for found in re.findall(
                r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|var|Users|venvs?)/[\w./-]*", bare
            )
        )
        yield from (
            f"{name}: the value of an environment variable, {value[:3]}…"
            for value in secrets
            if value in text
        )


class _Words(html.parser.HTMLParser):
    """What of a page or picture is read, and nothing of how it is drawn."""

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


def differences(committed: Path, rendered: Path) -> list[str]:
    """Files that are missing, left over, or say something else; pictures may be drawn by another matplotlib."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in (committed, rendered)
        for place in ("examples", "images")
        for path in (folder / place).rglob("*")
        if path.is_file()
    }
    differing = []
    for name in sorted(names):
        old, new = committed / name, rendered / name
        if not (old.is_file() and new.is_file()):
            differing.append(f"{name} is {'missing' if new.is_file() else 'left over'}")
            continue
        read = words if old.suffix in (".html", ".svg") else str.splitlines
        if read(old.read_text()) != read(new.read_text()):
            differing.append(f"{name} says something else")
    return differing


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
