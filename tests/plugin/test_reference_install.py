"""--energy-reference-install with the real uv, and packages of the test's own."""

import os
import platform
import sys
from pathlib import Path

import pytest

from tests.plugin.project import Project
from tests.plugin.test_stand_in import INSTALLED, Engines, engines, installing
from tests.wheels import wheel

__all__ = ["engines"]


@pytest.fixture
def pinned(
    project: Project, engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Engines:
    """Baselines of an environment whose packages, by what they ask for, do not go together."""
    packages = tmp_path / "packages"
    packages.mkdir()
    wheel(packages, "torch", INSTALLED["torch"], {"torch.py": ""})
    wheel(packages, "vllm", INSTALLED["vllm"], {"vllm.py": ""}, requires=["torch<2"])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("UV_FIND_LINKS", str(packages))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    engines.python_version, engines.packages["python"] = platform.python_version(), INSTALLED
    environment = {"date": "2026-02-01", "python": engines.python_version, "packages": INSTALLED}
    project.record("newer", environment=environment)
    assert project.run("--energy-replay", "newer", "--energy-update").ret == 0
    return engines


def test_versions_hold_whatever_packages_ask_for(project: Project, pinned: Engines) -> None:
    installing(project, pinned).assert_outcomes(passed=2)
    assert pinned.launched == ["new", "python", "python"]
    installing(project, pinned).assert_outcomes(passed=2)
    assert pinned.launched == ["new"]  # the launches are kept, and found for what was installed


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("pin", "*torch==2.11.0*"),
        ("uv", "*--energy-reference-install: there is no uv in PATH, which makes the envir*"),
        ("folder", "*--energy-reference-install: [[]Errno *] *caches*"),
    ],
)
@pytest.mark.parametrize("out_of_band", [False, True])
def test_what_cannot_be_installed_is_said_with_what_to_do(
    project: Project,
    pinned: Engines,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    broken: str,
    says: str,
    out_of_band: bool,
) -> None:
    if out_of_band:
        monkeypatch.setattr("pytest_energy.measure.control_chart.Chart.is_out", True)
    if broken == "pin":
        next((tmp_path / "packages").glob("torch-*")).unlink()
    if broken == "uv":
        monkeypatch.setenv("PATH", "/nowhere")
    if broken == "folder":
        (tmp_path / "caches").write_text("a file")
    result = installing(project, pinned)
    result.assert_outcomes(failed=2)
    assert pinned.launched == ["new"]
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: tiny bs=2 *",
            says,
            "*Or name the reference's interpreter: --energy-reference-python PATH*",
        ]
    )
