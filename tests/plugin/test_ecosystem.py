"""JUnit's properties, and what pytest-benchmark's own tools make of our entries."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_energy.report import results_file
from tests.plugin.project import MARKER, Project

WITHOUT_CHANGE = {
    "joules_per_token", "joules_per_total_token", "wh_per_1000_requests", "power_w", "tokens_per_s",
}  # fmt: skip
# What pytest-rerunfailures does: runs of a test are reported, each but the last as "rerun".
RERUNS = """
    import pytest
    from _pytest.runner import runtestprotocol

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for run in range(3):
            for report in runtestprotocol(item, nextitem=nextitem, log=False):
                if report.failed and run < 2:
                    report.outcome = "rerun"
                item.ihook.pytest_runtest_logreport(report=report)
                if report.outcome == "rerun":
                    break
            else:
                break
            item._initrequest()
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_report_teststatus(report):
        if report.outcome == "rerun":
            return "rerun", "R", "RERUN"
"""
BOTH = f"""
    import pytest

    @pytest.mark.energy(**{MARKER!r})
    def test_both(energy, throughput):
        pass
"""


def properties(path: Path) -> dict[str, dict[str, str]]:
    """Of each test; no name may come twice."""
    found: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(path).findall(".//testcase"):
        pairs = [(str(p.get("name")), str(p.get("value"))) for p in case.findall(".//property")]
        assert len(dict(pairs)) == len(pairs)
        found[str(case.get("name"))] = dict(pairs)
    return found


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
        energy = name.startswith("test_energy")
        metric = "joules_per_token" if energy else "tokens_per_s"
        of_metric = {f"{metric}_verdict", f"{metric}_change"}
        assert set(values) - {f"{metric}_detects"} == WITHOUT_CHANGE | of_metric
        assert float(values["joules_per_token"]) == pytest.approx(0.559441)
        # 64 tokens in, 250 out
        total = pytest.approx(0.559441 * 250 / 314)
        assert float(values["joules_per_total_token"]) == total
        assert float(values["wh_per_1000_requests"]) == pytest.approx(0.559441 * 250 / 3.6)
        assert float(values["power_w"]) == pytest.approx(560)
        assert float(values["tokens_per_s"]) == pytest.approx(1001)
        assert values[f"{metric}_verdict"] == ("regressed" if energy else "pass")
        assert float(values[f"{metric}_change"]) == pytest.approx(0.12 if energy else 0, abs=1e-6)


def test_junit_leaves_out_what_is_not_known(project: Project) -> None:
    project.record("new")
    project.run("--energy-replay", "new", "--junitxml", "junit.xml", "-k", "test_energy and bs8")
    found = properties(project.path / "junit.xml")["test_energy[bs8]"]
    assert set(found) == WITHOUT_CHANGE | {"joules_per_token_verdict"}


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
    of_metric = {"joules_per_token_change", "joules_per_token_verdict"}
    assert {"joules_per_token", "power_w", "tokens_per_s"} | of_metric <= set(info)


def benchmarks(project: Project, name: str = "out.json") -> dict[str, dict[str, Any]]:
    """Of each test; no test may come twice."""
    found = json.loads((project.path / name).read_text())["benchmarks"]
    assert len({entry["fullname"] for entry in found}) == len(found)
    return {entry["fullname"]: entry for entry in found}


@pytest.mark.parametrize(
    "workers",
    [
        [],
        pytest.param(["-p", "xdist", "-n", "2", "--dist", "loadgroup"], marks=pytest.mark.nightly),
    ],
)
def test_a_test_that_is_run_again_leaves_one_record(project: Project, workers: list[str]) -> None:
    project.pytester.makeconftest(RERUNS)
    group = "pytestmark = [pytestmark, pytest.mark.xdist_group('gpu')]"
    module = project.path / "test_tiny.py"
    module.write_text(
        module.read_text().replace("\n\ndef test_energy", f"\n{group}\n\ndef test_energy")
    )
    project.store()
    project.record("dear", power_w=560.0)
    run = project.pytester.runpytest_subprocess if workers else project.pytester.runpytest
    result = run(
        "--energy-replay", "dear", "-p", "no:cacheprovider", *workers, "-k", "bs2 or test_energy",
        "--benchmark-json", "out.json", "--energy-report", "report", "--junitxml", "junit.xml",
    )  # fmt: skip
    assert result.ret == 1
    assert result.parseoutcomes() == {
        "failed": 2,
        "passed": 1,
        "rerun": 4,
        **({} if workers else {"deselected": 1}),
    }
    table = [line for line in result.outlines if line.startswith("  bs=") and " 1,001 " in line]
    assert len(table) == 2
    wanted = {
        f"test_tiny.py::{name}"
        for name in ("test_energy[bs2]", "test_energy[bs8]", "test_throughput[bs2]")
    }
    assert set(benchmarks(project)) == wanted
    entries = results_file.read(project.path / "report" / "results.json").entries
    assert sorted(str(entry.test) for entry in entries) == sorted(wanted)
    assert "2 of 3 energy tests regressed" in (project.path / "report" / "report.md").read_text()
    found = properties(project.path / "junit.xml")
    assert {name.partition("@")[0] for name in found} == {test[14:] for test in wanted}
    assert "@gpu" not in next(line for line in result.outlines if line.startswith("  next: "))


def test_only_the_last_run_of_a_test_is_reported(project: Project) -> None:
    """The first is judged and fails after that, and the second fails before."""
    project.store()
    project.pytester.makeconftest(RERUNS)
    project.pytester.makepyfile(
        test_tiny=f"""
        import pytest
        runs = []

        @pytest.mark.energy(**{MARKER!r})
        def test_energy(energy):
            runs.append(1)
            if len(runs) == 1:
                energy.check()
            assert len(runs) == 0
        """
    )
    result = project.run(
        "--energy-replay", "old", "-k", "bs2", "--junitxml", "junit.xml", "--energy-report", "out"
    )
    assert result.ret == 1
    assert not [line for line in result.outlines if line.startswith("  bs=")]
    assert properties(project.path / "junit.xml") == {"test_energy[bs2]": {}}
    assert results_file.read(project.path / "out" / "results.json").entries == ()


def test_a_test_of_both_metrics_has_one_name_for_each(project: Project) -> None:
    project.store()
    project.pytester.makepyfile(test_tiny=BOTH)
    project.record("dear", power_w=560.0)
    project.run(
        "--energy-replay", "dear", "--junitxml", "junit.xml", "--benchmark-json", "out.json"
    )
    found = properties(project.path / "junit.xml")
    assert set(found) == {"test_both[bs2]", "test_both[bs8]"}
    entries = benchmarks(project)
    assert set(entries) == {f"test_tiny.py::{name}" for name in found}
    for name, values in found.items():
        info = entries[f"test_tiny.py::{name}"]["extra_info"]
        for of_test in (values, info):
            assert of_test["joules_per_token_verdict"] == "regressed"
            assert of_test["tokens_per_s_verdict"] == "pass"
            assert float(of_test["joules_per_token_change"]) == pytest.approx(0.12, abs=1e-6)
            assert float(of_test["tokens_per_s_change"]) == pytest.approx(0, abs=1e-6)
        assert entries[f"test_tiny.py::{name}"]["stats"]["rounds"] == 33
