"""Suites as users write them: markers without fixtures, and fixtures of other plugins."""

import pytest

from tests.plugin.project import MARKER, Project
from tests.plugin.test_bad_input import everything, refused

MARK = f"pytest.mark.energy(**{MARKER!r})"


@pytest.mark.parametrize(
    "suite",
    [
        f"@{MARK}\ndef test_my_model(): pass",
        "@pytest.mark.energy('tiny', batch_sizes=[2])\ndef test_my_model(): pass",
        f"pytestmark = {MARK}\ndef test_my_model(): pass",
        f"@{MARK}\nclass TestModel:\n    def test_my_model(self): pass",
        f"@{MARK}\ndef test_my_model(energy_batch_size): pass",
        f"@pytest.mark.parametrize('n', [1])\n@{MARK}\ndef test_my_model(n): pass",
        f"pytestmark = {MARK}\ndef test_other(energy): pass\n"
        "@pytest.mark.energy(tolerance=0.02)\ndef test_my_model(): pass",
        f"pytestmark = {MARK}\nclass TestA:\n    def test_other(self, energy): pass\n"
        "@pytest.mark.energy(tolerance=0.02)\nclass TestB:\n    def test_my_model(self): pass",
        f"@pytest.fixture\ndef energy(): return 1\n@{MARK}\ndef test_my_model(energy): pass",
    ],
)
@pytest.mark.parametrize("selection", [[], ["-k", "my_model"]])
def test_a_marker_without_a_fixture_is_an_error(
    project: Project, suite: str, selection: list[str]
) -> None:
    project.store()
    project.pytester.makepyfile(test_tiny=f"import pytest\n{suite}")
    refused(
        project,
        ["--energy-replay", "old", *selection],
        "it has the energy marker and none of the fixtures energy, throughput and idle_power",
        "def test_my_model(energy)",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


@pytest.mark.parametrize(
    "suite",
    [
        f"pytestmark = {MARK}\ndef test_energy(energy): pass\ndef test_helper(): pass",
        f"pytestmark = {MARK}\nclass TestA:\n    def test_energy(self, energy): pass\n"
        "def test_helper(): pass",
        f"@{MARK}\ndef test_energy(energy): pass\n@pytest.mark.energy\ndef test_helper(): pass",
        f"@{MARK}\n@pytest.mark.usefixtures('energy')\ndef test_energy(): pass\n"
        "@pytest.mark.energy(joules=3)\ndef test_helper(): pass",
        f"@pytest.fixture\ndef gate(energy): return energy\n@{MARK}\n"
        "def test_energy(gate): pass\ndef test_helper(): pass",
    ],
)
@pytest.mark.parametrize("selection", [[], ["-k", "helper"], ["test_tiny.py::test_helper"]])
def test_a_test_beside_the_gates_of_its_module_is_none_of_ours(
    project: Project, suite: str, selection: list[str]
) -> None:
    project.store()
    project.record("same")
    project.pytester.makepyfile(test_tiny=f"import pytest\n{suite}")
    result = project.run(*selection, "--energy-replay", "same")
    result.assert_outcomes(passed=1 if selection else 3, deselected=2 if "-k" in selection else 0)


@pytest.mark.parametrize("model", ["models/tiny", "model/tiny", "datasets/tiny", "kernels/tiny"])
def test_a_model_folder_that_is_missing_is_not_looked_for_on_the_hub(
    project: Project, model: str
) -> None:
    """No owner on the Hub is called so: they are kinds of repositories in its URIs.

    huggingface.co/docs/huggingface_hub/en/package_reference/hf_uris
    """
    mark = f"pytest.mark.energy(**{ {**MARKER, 'model': model}!r})"
    project.pytester.makepyfile(test_tiny=f"import pytest\n@{mark}\ndef test_x(energy): pass")
    refused(
        project,
        [],
        f"model '{model}': no such folder",
        str(project.path / model),
        ret=pytest.ExitCode.USAGE_ERROR,
    )
    assert "Hugging Face id" in everything(project.run())


def test_other_projects_have_fixtures_of_these_names(project: Project) -> None:
    project.pytester.makepyfile(
        test_tiny="import pytest\n@pytest.fixture\ndef energy(): return 3\n"
        "@pytest.fixture\ndef throughput(): return 4\n"
        "def test_conserved(energy, throughput): assert energy + throughput == 7"
    )
    project.run().assert_outcomes(passed=1)


def test_a_fixture_that_extends_ours_gates(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    project.pytester.makepyfile(
        test_tiny=f"import pytest\n@pytest.fixture\ndef energy(energy): return energy\n@{MARK}\n"
        "def test_energy(energy): energy.check()"
    )
    project.run("--energy-replay", "dear").assert_outcomes(failed=2)


def test_methods_of_unittest_are_refused(project: Project) -> None:
    project.pytester.makepyfile(
        test_tiny=f"import pytest, unittest\n@{MARK}\n@pytest.mark.usefixtures('energy')\n"
        "class TestTiny(unittest.TestCase):\n    def test_energy(self): pass"
    )
    refused(
        project,
        [],
        "a method of unittest.TestCase cannot have one test per batch size",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


# What the standard library lacks on Windows (docs.python.org: fcntl, and os, "Availability: Unix").
WINDOWS = """
import os, signal, sys, time
sys.modules["fcntl"] = None
for module, names in (
    (os, "O_NONBLOCK O_DIRECTORY O_NOFOLLOW O_CLOEXEC pread fchmod getsid setsid killpg getuid"),
    (signal, "SIGKILL SIGHUP"),
    (time, "CLOCK_BOOTTIME"),
):
    for name in names.split():
        delattr(module, name)
"""


def test_recordings_are_judged_where_files_have_no_locks(project: Project) -> None:
    project.store()
    project.record("same")
    project.pytester.makepyfile(windows=WINDOWS)
    options = ("-p", "no:cacheprovider", "-p", "windows")
    result = project.pytester.runpytest_subprocess(*options, "--energy-replay", "same")
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--energy-replay", "same", "--energy-update"], pytest.ExitCode.USAGE_ERROR),
        (["--energy-replay", "same", "--energy-noise"], pytest.ExitCode.USAGE_ERROR),
        ([], pytest.ExitCode.TESTS_FAILED),
    ],
)
def test_what_needs_locks_is_refused_where_files_have_none(
    project: Project, arguments: list[str], status: int
) -> None:
    project.record("same")
    project.pytester.makepyfile(windows=WINDOWS)
    options = ("-p", "no:cacheprovider", "-p", "windows", *arguments)
    result = project.pytester.runpytest_subprocess(*options)
    assert result.ret == status
    assert "this system has no flock(2)" in everything(result)
    assert "INTERNALERROR" not in everything(result)
    assert "AttributeError" not in everything(result)
    assert not (project.path / "baselines").exists()
