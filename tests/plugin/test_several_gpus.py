"""Cells on several GPUs: what is shown, what is compared, and which suites are collected."""

import subprocess
import sys

import pytest

from pytest_energy.report import results_file
from tests.conftest import ROOT
from tests.plugin.project import MARKER, TESTS, Project, summary

SPREAD = {**MARKER, "engine_args": {"tensor_parallel_size": 2}}
UNEVEN = {"GPU-aaaaaaaa-1": 0.45, "GPU-bbbbbbbb-2": 0.55}
SHARES = (
    "tiny tp=2 bs=8 64/250, energy by GPU: GPU-aaaaaaaa 45.0 % (225 W), "
    "GPU-bbbbbbbb 55.0 % (275 W); "
    "IMBALANCE: GPU-bbbbbbbb uses 22.2 % more *"
)


@pytest.fixture
def spread(project: Project) -> Project:
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(SPREAD)))
    return project


def test_shares_are_shown_and_an_imbalance_fails_nothing(spread: Project) -> None:
    spread.record("even", marker=SPREAD, power_shares=dict.fromkeys(UNEVEN, 0.5))
    assert spread.run("--energy-replay", "even", "--energy-update").ret == 0
    even = spread.run("--energy-replay", "even")
    summary(even).fnmatch_lines(
        [
            "tiny tp=2 64/250",
            "  bs=8 * pass *",
            "tiny tp=2 bs=8 64/250, energy by GPU: GPU-aaaaaaaa 50.0 % (250 W), "
            "GPU-bbbbbbbb 50.0 % (250 W)",
        ]
    )
    assert "IMBALANCE" not in even.stdout.str()
    # The same GPUs in another order: comparable, and it is shown which of them uses more.
    spread.record("uneven", marker=SPREAD, power_shares=dict(reversed(UNEVEN.items())))
    uneven = spread.run("--energy-replay", "uneven", "--energy-report", "report")
    assert uneven.ret == 0
    summary(uneven).fnmatch_lines(["tiny tp=2 64/250", "  bs=8 * pass *", SHARES])
    found = results_file.read(spread.path / "report" / "results.json")
    launch = next(entry.candidate.launches[0] for entry in found.entries if entry.candidate)
    assert launch.gpu_power_w == pytest.approx(
        {"GPU-aaaaaaaa-1": 225, "GPU-bbbbbbbb-2": 275}, rel=1e-3
    )
    assert (
        "IMBALANCE: GPU-bbbbbbbb uses 22.2 % more"
        in (spread.path / "report" / "report.md").read_text()
    )
    assert (
        "IMBALANCE: GPU-bbbbbbbb uses 22.2 % more"
        in (spread.path / "report" / "report.html").read_text()
    )


def test_baselines_for_another_number_of_gpus_are_not_called_unused(project: Project) -> None:
    project.store()
    project.pytester.makepyfile(test_tiny=TESTS.replace(repr(MARKER), repr(SPREAD)))
    project.record("two", marker=SPREAD, power_shares=UNEVEN)
    two = project.run("--energy-replay", "two", "--energy-update")
    assert two.ret == 0
    assert "unused baseline" not in two.stdout.str()
    project.pytester.makepyfile(test_tiny=TESTS)
    assert "unused baseline" not in project.run("--energy-replay", "old").stdout.str()


def collected(*arguments: str) -> set[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line.partition("::")[0] for line in shown.splitlines() if "::" in line}


def test_suites_for_several_gpus_are_collected_when_they_are_named() -> None:
    """A runner with one GPU is not asked for more, and what was named is never left out."""
    assert collected("suites") == {"suites/test_llama_3_1_8b.py"}
    several = {
        "suites/two_gpus/test_llama_3_1_8b_tp2.py",
        "suites/two_gpus/test_llama_3_1_70b_fp8_tp2.py",
        "suites/four_gpus/test_llama_3_1_70b_tp4.py",
        "suites/eight_gpus/test_llama_3_1_405b_fp8_tp8.py",
    }
    assert collected("suites/two_gpus", "suites/four_gpus", "suites/eight_gpus") == several
    assert collected("suites/eight_gpus/test_llama_3_1_405b_fp8_tp8.py") == {
        "suites/eight_gpus/test_llama_3_1_405b_fp8_tp8.py"
    }
    together = {f"suites/{folder}/test_llama_3_1_8b.py" for folder in ("idle", "releases")}
    assert collected(*together) == together  # files of one name
    on_disk = {str(path.relative_to(ROOT)) for path in (ROOT / "suites").rglob("test_*.py")}
    assert on_disk == several | {
        "suites/test_llama_3_1_8b.py",
        "suites/host_bound/test_llama_3_1_8b_512_in.py",
        "suites/regimes/test_llama_3_1_8b_agentic.py",
        "suites/regimes/test_llama_3_1_8b_decode.py",
        "suites/regimes/test_llama_3_1_8b_eagle3.py",
        "suites/regimes/test_llama_3_1_8b_fp8.py",
        "suites/regimes/test_llama_3_1_8b_long_prompts.py",
        "suites/regimes/test_llama_3_1_8b_prefill.py",
        "suites/regimes/test_mixtral_8x7b.py",
        "suites/regimes/test_qwen3_30b_a3b.py",
        "suites/idle/test_llama_3_1_8b.py",
        "suites/published/test_llama_3_1_8b.py",
        "suites/published/test_llama_3_1_8b_serve.py",
        "suites/releases/test_llama_3_1_8b.py",
        "suites/releases/test_llama_3_1_8b_bs512.py",
        "suites/weights/test_llama_3_1_8b.py",
    }
