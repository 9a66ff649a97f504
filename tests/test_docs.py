"""What README and docs show is what happens: their suites are run as they stand, their tables computed again."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import launch_table, modes_table, second_gpu_table, server_table, turns_error_rates
from benchmarks.gate_error_rates import tables
from pytest_energy.store.noise import NoiseStore

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT / "recordings" / "h200-sxm-141gb"
H100 = ROOT / "recordings" / "h100-sxm-80gb"


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def rows(text: str) -> list[str]:
    """Lines of the summary table, without the spaces that depend on the widest entry."""
    return [
        " ".join(line.split())
        for line in text.splitlines()
        if re.match(r"llama-3\.[12]-\d+b (server |fp8 )?(tp=2 )?bs=", line)
    ]


Run = Callable[[str], pytest.RunResult]


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `pytest` with the arguments of a command line, from the repository's root."""

    def run(arguments: str) -> pytest.RunResult:
        monkeypatch.chdir(ROOT)
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "--rootdir", str(ROOT), *shlex.split(arguments)
        )

    return run


@pytest.fixture
def users_pytest(pytester: pytest.Pytester) -> Run:
    """Runs `pytest` in a user's repository: the README's test files, the model's config, baselines."""
    for block in blocks("README.md", "python"):
        name = block.splitlines()[0].removeprefix("# ")
        (pytester.path / name).write_text(block)
    shutil.copytree(ROOT / "suites" / "models", pytester.path / "models")
    shutil.copytree(ROOT / "baselines", pytester.path / "baselines")
    return lambda arguments: pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", *shlex.split(arguments)
    )


def test_readme_gate_is_ten_lines() -> None:
    gate = blocks("README.md", "python")[0]
    code = [line for line in gate.splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 10


def test_readme_gate_passes_for_an_unchanged_upgrade(users_pytest: Run) -> None:
    """At batch size 64 three launches cannot tell, so that cell is left to a warning."""
    result = users_pytest(
        f"test_my_model.py --energy-replay {RECORDINGS / 'vllm-0.25.1'} --energy-inconclusive warn"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(["llama-3.1-8b bs=8 *J/token* pass *", "*2 passed*"])


def test_readme_gate_fails_for_an_upgrade_without_cuda_graphs(users_pytest: Run) -> None:
    result = users_pytest(f"test_my_model.py --energy-replay {RECORDINGS / 'vllm-0.25.1-eager'}")
    assert result.ret == 1
    failures = [
        line.split(" is ")[0].rpartition(" ")[0]
        for line in result.outlines
        if line.startswith("REGRESSED: ")
    ]
    # With CI set, pytest shows a part of them again in its short summary.
    wanted = [
        f"REGRESSED: llama-3.1-8b bs={size}, {metric}"
        for size in (8, 64)
        for metric in ("J/token", "tokens/s")
    ]
    assert list(dict.fromkeys(failures)) == wanted


def test_readme_power_budget_fails(users_pytest: Run) -> None:
    result = users_pytest(f"test_my_budget.py --energy-replay {RECORDINGS / 'vllm-0.25.1'}")
    assert result.ret == 1
    assert "over the budget of 600 W" in result.stdout.str()


def test_readme_message_is_the_one_printed(run_pytest: Run) -> None:
    result = run_pytest(
        f'suites -k "bs8 or bs64" --energy-replay {RECORDINGS / "vllm-0.25.1-eager"}'
    )
    shown = next(block for block in blocks("README.md", "text") if block.startswith("REGRESSED"))
    assert [line for line in shown.splitlines() if line not in result.stdout.str()] == []


def test_readme_table_is_the_one_printed(run_pytest: Run) -> None:
    result = run_pytest(f"suites --energy-replay {RECORDINGS / 'vllm-0.25.1'}")
    shown = rows(next(block for block in blocks("README.md", "text") if block.startswith("cell")))
    assert shown
    assert set(shown) <= set(rows(result.stdout.str()))


@pytest.mark.parametrize("number", range(11))
def test_verdicts_on_the_measurements_page(run_pytest: Run, number: int) -> None:
    shown = "".join(b for b in blocks("docs/measurements.md", "text") if b.startswith("$ pytest"))
    command, _, table = shown.split("$ pytest ")[1:][number].partition("\n")
    result = run_pytest(command)
    assert rows(table)
    assert set(rows(table)) <= set(rows(result.stdout.str()))


@pytest.mark.parametrize("folder", [RECORDINGS, H100])
def test_launches_on_the_measurements_page(folder: Path) -> None:
    assert (
        "\n".join(launch_table.launch_rows(launch_table.measured(folder)))
        in (ROOT / "docs" / "measurements.md").read_text()
    )


def test_turns_and_launches_on_the_measurements_page() -> None:
    labels = (
        "vllm-0.25.1-against-itself",
        "vllm-0.20.2-to-0.25.1",
        "vllm-0.25.1-no-async-in-turns",
        "vllm-0.25.1-against-itself-1b",
    )
    assert (
        "\n".join(modes_table.rows([H100 / label for label in labels]))
        in (ROOT / "docs" / "measurements.md").read_text()
    )


def test_what_a_server_adds_on_the_measurements_page() -> None:
    folders = [
        (board / "vllm-0.25.1-server", board / "vllm-0.25.1")
        for board in (H100, H100 / "board-a30fa4a8")
    ]
    assert (
        "\n".join(server_table.rows(server_table.pairs(folders)))
        in (ROOT / "docs" / "measurements.md").read_text()
    )


def test_what_a_second_gpu_costs_on_the_measurements_page() -> None:
    one = second_gpu_table.sides([H100 / "board-90c8c798", H100 / "board-23100d1e"], 1)
    two = second_gpu_table.sides([H100 / "boards-90c8c798-23100d1e"], 2)
    rows = second_gpu_table.lines(one, two, NoiseStore(ROOT / "baselines"))
    assert len(rows) == 2 + 3
    assert "\n".join(rows) in (ROOT / "docs" / "measurements.md").read_text()


def test_error_rates_in_turns_are_those_that_were_simulated() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "turns-error-rates.json").read_text())
    assert results["runs"] >= 10_000
    assert (
        "\n".join(turns_error_rates.table(results["rows"])).strip()
        in (ROOT / "docs" / "error-rates.md").read_text()
    )


def test_error_rates_are_those_that_were_simulated() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "gate-error-rates.json").read_text())
    assert results["runs"] >= 10_000
    page = (ROOT / "docs" / "error-rates.md").read_text()
    assert "\n".join(tables(results["ours"], results["others"])).strip() in page
    rows = {
        row["deviation"]: row
        for row in results["ours"]
        if row["variant"] == "noise measured, up to 5 launches"
    }
    summary = (ROOT / "docs" / "statistics.md").read_text()
    for deviation in ("0.5%", "0.7%", "1.0%", "1.5%", "2.0%", "15.0%"):
        row = rows[deviation]
        figures = [f"{row[name]:.1%}" for name in ("false_alarm", "red_undecided")] + [
            f"{row['launches_unchanged']:.2f}",
            f"{row['+4%']:.1%}",
        ]
        assert f"| {deviation} | {' | '.join(figures)} |" in summary


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"
