"""JUnit's properties, and what pytest-benchmark's own tools make of our entries."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.plugin.project import MARKER, Project

WITHOUT_CHANGE = {"joules_per_token", "power_w", "tokens_per_s", "metric", "verdict"}


def properties(path: Path) -> dict[str, dict[str, str]]:
    cases = ElementTree.parse(path).findall(".//testcase")
    return {
        str(c.get("name")): {
            str(p.get("name")): str(p.get("value")) for p in c.findall(".//property")
        }
        for c in cases
    }


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "2"]])
def test_junit_has_figures_change_and_verdict_of_each_test(
    project: Project, workers: list[str]
) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    run = project.pytester.runpytest_subprocess if workers else project.pytester.runpytest
    run("--energy-replay", "dear", "--junitxml", "junit.xml", "-p", "no:cacheprovider", *workers)
    found = properties(project.path / "junit.xml")
    assert set(found) == {
        f"test_{name}[bs{size}]" for name in ("energy", "throughput") for size in (2, 8)
    }
    for name, values in found.items():
        assert set(values) - {"detects"} == WITHOUT_CHANGE | {"change"}
        assert float(values["joules_per_token"]) == pytest.approx(0.559441)
        assert float(values["power_w"]) == pytest.approx(560)
        assert float(values["tokens_per_s"]) == pytest.approx(1001)
        energy = name.startswith("test_energy")
        assert values["verdict"] == ("regressed" if energy else "pass")
        assert float(values["change"]) == pytest.approx(0.12 if energy else 0, abs=1e-6)


def test_junit_leaves_out_what_is_not_known(project: Project) -> None:
    project.record("new")
    project.run("--energy-replay", "new", "--junitxml", "junit.xml", "-k", "test_energy and bs8")
    assert set(properties(project.path / "junit.xml")["test_energy[bs8]"]) == WITHOUT_CHANGE


def saved(project: Project, label: str) -> str:
    project.run("--energy-replay", label, "--benchmark-json", f"{label}.json")
    return f"{label}.json"


def test_pytest_benchmark_compares_our_json(project: Project) -> None:
    project.store()
    project.record("slow", marker=MARKER, power_w=500.0, environment={"vllm": "0.0.2"})
    files = [saved(project, label) for label in ("old", "slow")]
    command = [
        str(Path(sys.executable).parent / "pytest-benchmark"),
        "compare",
        *files,
        "--columns=mean,rounds",
        "--csv=out.csv",
    ]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("test_energy[bs2] (old)", "test_energy[bs8] (slow)", "test_throughput[bs8] (old)"):
        assert name.split(" ")[0] in done.stdout
    assert done.stdout.count("test_energy[bs8]") == 2
    assert "extra_info" not in done.stdout
    rows = (project.path / "out.csv").read_text().splitlines()
    assert len(rows) == 9


def test_pytest_benchmark_compares_with_a_saved_run_and_draws_its_histogram(
    project: Project,
) -> None:
    project.store()
    project.run("--energy-replay", "old", "--benchmark-save=first", "--benchmark-storage=store")
    # In a process of its own: what draws the histogram replaces importlib's finders.
    result = project.pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--energy-replay", "old", "--benchmark-compare",
        "--benchmark-storage=store", "--benchmark-histogram=picture",
        "--benchmark-compare-fail=mean:50%",
    )  # fmt: skip
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_energy?bs8? (0001_first)*"])
    (picture,) = project.path.glob("picture*.svg")
    assert "test_energy[bs8]" in picture.read_text()


def test_the_json_holds_the_energy_figures(project: Project) -> None:
    project.store()
    content = json.loads((project.path / saved(project, "old")).read_text())
    info = content["benchmarks"][0]["extra_info"]
    assert {"joules_per_token", "power_w", "tokens_per_s", "change", "verdict"} <= set(info)
