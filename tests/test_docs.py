"""What README and docs show is what happens, their links lead somewhere, and they stay short."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import error_rates_page, recorded_pages
from pytest_energy.recording import recording
from tests.conftest import ROOT

RECORDINGS = ROOT / "recordings" / "h200-sxm-141gb"
H100 = ROOT / "recordings" / "h100-sxm-80gb" / "gpu-6ac11e84"
README, USAGE = ROOT / "README.md", ROOT / "docs" / "usage.md"
WRITTEN = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
GENERATED = [*(ROOT / "docs" / "generated").glob("*.md")]
COMMANDS = [command for commands in recorded_pages.COMMANDS.values() for command in commands]

Run = Callable[[list[str]], pytest.RunResult]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), flags=re.M | re.S)


def rows(text: str) -> list[str]:
    """Lines of the summary table, without the spaces that depend on the widest entry."""
    lines = recorded_pages.table(text).splitlines()
    return [" ".join(line.split()) for line in lines]


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest with these arguments in the repository's root."""

    def run(arguments: list[str]) -> pytest.RunResult:
        monkeypatch.chdir(ROOT)
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "--rootdir", str(ROOT), *arguments
        )

    return run


@pytest.fixture
def users_pytest(pytester: pytest.Pytester) -> Run:
    """Runs pytest in a user's repository: the pages' test files, a model's config, baselines."""
    for block in blocks(README, "python") + blocks(USAGE, "python"):
        name = block.splitlines()[0].removeprefix("# ")
        (pytester.path / name).write_text(block)
    shutil.copytree(ROOT / "suites" / "models", pytester.path / "models")
    shutil.copytree(ROOT / "baselines", pytester.path / "baselines")
    return lambda arguments: pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def shown_commands() -> list[list[str]]:
    """The arguments of each pytest that the README runs on recordings."""
    text = " ".join(README.read_text().split())
    found = re.findall(r"\.venv/bin/pytest (suites [^`]*?--energy-replay [^\s`]+)", text)
    return [shlex.split(command) for command in found]


def test_readme_gate_is_eleven_lines() -> None:
    gate = blocks(README, "python")[0]
    code = [line for line in gate.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 11


def test_readme_gate_passes_for_an_unchanged_upgrade(users_pytest: Run) -> None:
    result = users_pytest(["test_my_model.py", "--energy-replay", str(H100 / "unchanged")])
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["llama-3.1-8b 256/256", "  bs=8 * pass *", "  bs=64 * pass *", "*2 passed*"]
    )


def test_readme_gate_fails_for_an_upgrade_without_cuda_graphs(users_pytest: Run) -> None:
    result = users_pytest(["test_my_model.py", "--energy-replay", str(H100 / "eager")])
    assert result.ret == 1
    failures = [
        line.rpartition(", ")[0].rpartition(" ")[0]
        for line in result.outlines
        if line.startswith("REGRESSED: ")
    ]
    # With CI set, pytest shows a part of them again in its short summary.
    wanted = [
        f"REGRESSED: llama-3.1-8b bs={size} 256/256, {metric}"
        for size in (8, 64)
        for metric in ("J/token", "tokens/s")
    ]
    assert list(dict.fromkeys(failures)) == wanted


def test_the_pages_test_files_share_a_folder(users_pytest: Run) -> None:
    result = users_pytest(["--collect-only", "-q"])
    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_my_budget.py::*", "test_my_model.py::*"])


def test_power_budget_of_the_usage_page_fails(users_pytest: Run) -> None:
    result = users_pytest(["test_my_budget.py", "--energy-replay", str(RECORDINGS / "vllm-0.25.1")])
    assert result.ret == 1
    assert "over the budget of 600 W" in result.stdout.str()


def test_readme_shows_what_its_commands_print(run_pytest: Run) -> None:
    upgrade, eager = (run_pytest(arguments) for arguments in shown_commands())
    table, message = blocks(README, "text")
    assert len(rows(table)) == 6
    assert set(rows(table)) <= set(rows(upgrade.stdout.str()))
    assert message.startswith("REGRESSED")
    for line in message.splitlines():
        shown, cut, _ = line.partition("…")
        assert any(out == line or (cut and out.startswith(shown)) for out in eager.outlines)


@pytest.mark.parametrize(
    "name", ["launches", "comparisons", "releases", "prefill-decode", "published"]
)
def test_generated_page_is_what_its_script_writes(name: str) -> None:
    assert (recorded_pages.PAGES / f"{name}.md").read_text() == recorded_pages.page(name)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=() if number % 4 == 0 else pytest.mark.nightly)
        for number in range(len(COMMANDS))
    ],
)
def test_verdicts_page_shows_what_its_commands_print(
    run_pytest: Run, number: int, tmp_path: Path
) -> None:
    shown = blocks(recorded_pages.PAGES / "verdicts.md", "text")[number]
    command, _, table = shown.partition("\n")
    assert command == f"$ {COMMANDS[number]}"
    result = run_pytest(recorded_pages.arguments(COMMANDS[number], tmp_path))
    assert rows(table) == rows(result.stdout.str())


def test_error_rates_are_those_that_were_simulated() -> None:
    assert error_rates_page.PAGE.read_text() == error_rates_page.page()
    simulated = [
        json.loads(file.read_text()) for file in ROOT.glob("benchmarks/results/*-error-rates.json")
    ]
    assert all(results["runs"] >= 10_000 for results in simulated)
    chart = json.loads((ROOT / "benchmarks" / "results" / "chart-error-rates.json").read_text())
    assert max(max(row["false_alarms"]) for row in chart["rows"]) <= 0.01
    bisect = json.loads((ROOT / "benchmarks" / "results" / "bisect-error-rates.json").read_text())
    assert max(row["wrong"] for row in bisect["rows"]) <= 0.01
    found = [row for row in bisect["rows"] if row["title"] == "one step" and row["change"] >= 0.05]
    assert min(row["right"] for row in found if row["deviation"] <= 0.005) >= 0.95
    results = json.loads((ROOT / "benchmarks" / "results" / "gate-error-rates.json").read_text())
    rows = {
        row["deviation"]: row
        for row in results["ours"]
        if row["name"] == "noise measured, up to 5 launches"
    }
    summary = (ROOT / "docs" / "statistics.md").read_text()
    for deviation, row in rows.items():
        if re.fullmatch(r"[\d.]+%", deviation):
            shares = ("false_alarm", "red_undecided", "+4%", "+6%", "+30%")
            figures = [f"{row[name]:.1%}" for name in shares]
            figures.insert(2, f"{row['launches_unchanged']:.2f}")
            assert f"| {deviation} | {' | '.join(figures)} |" in summary


def anchors(document: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document", WRITTEN + GENERATED, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_links_and_anchors_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_docs_stay_short() -> None:
    words = {page.name: len(page.read_text().split()) for page in WRITTEN}
    assert words["README.md"] <= 900
    assert sum(words.values()) <= 15_000, words


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [README]
    while todo:
        page = todo.pop()
        reached.add(page)
        for link in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text()):
            target = (page.parent / link).resolve()
            if "://" not in link and target not in reached:
                todo.append(target)
    assert {page for page in WRITTEN + GENERATED if page not in reached} == set()


def test_every_option_is_documented_and_every_documented_option_exists(run_pytest: Run) -> None:
    printed = "\n".join(run_pytest(["--help"]).outlines)
    known = set(re.findall(r"^  (--energy-[a-z-]+)", printed, flags=re.M))
    ini = set(re.findall(r"^  (energy_[a-z_]+) \(", printed, flags=re.M))
    rows = [line for line in USAGE.read_text().splitlines() if line.startswith("| `--energy-")]
    assert set(re.findall(r"^\| `(--[a-z-]+)", "\n".join(rows), flags=re.M)) == known - {
        "--energy-noise"
    }
    assert set(re.findall(r"energy_[a-z_]+", "\n".join(rows))) == ini
    for page in WRITTEN:
        if page.name != "CHANGELOG.md":
            assert set(re.findall(r"--energy-[a-z-]*[a-z]", page.read_text())) <= known, page.name


def test_every_field_of_a_recording_is_documented() -> None:
    page = (ROOT / "docs" / "files.md").read_text()
    series = [recording.TokenCounter, recording.EnergyCounter, recording.GpuSamples]
    kinds = [
        recording.Recording,
        *series,
        recording.GpuTrace,
        recording.CoResident,
        recording.Client,
    ]
    for name in {field.name for kind in kinds for field in fields(kind)}:
        assert re.search(rf"`(gpus\[\]\.)?{name}(\[\])?`", page), name
