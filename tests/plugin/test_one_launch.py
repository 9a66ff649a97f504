"""One launch of a suite in a pytest of its own, as `sweep` and `bisect` make it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_energy.commands import one_launch, releases
from pytest_energy.commands.one_launch import Suite, kept_apart
from pytest_energy.errors import UsageError
from pytest_energy.recording import recording_file
from tests.conftest import ROOT
from tests.engine.conftest import left_of, release
from tests.plugin.project import Project
from tests.plugin.test_gate_in_ci import CONFTEST, TESTS


@pytest.fixture
def suite(project: Project) -> Suite:
    """A suite of two cells, measured within seconds, that ends at the first test that fails."""
    project.pytester.makeconftest(CONFTEST)
    project.pytester.makepyfile(test_tiny=TESTS.replace("[2]", "[2, 4]"))
    project.pytester.makeini("[pytest]\naddopts = -x")
    return Suite(project.path / "test_tiny.py")


def test_a_launch_has_its_recordings_and_changes_nothing_else(
    suite: Suite, project: Project
) -> None:
    python = release(project.path, "1.2")
    before = project.files()
    assert one_launch.record(suite, python, Path("kept/one")) is None
    made = {path for path in project.files() if path not in before}
    assert all(path.startswith("kept/one/") for path in made)
    found = [first for first, *_ in recording_file.read_launches([project.path / "kept"])]
    assert sorted(recorded.key.batch_size for recorded in found) == [2, 4]
    assert {recorded.environment.vllm for recorded in found} == {"1.2"}
    assert releases.of_python(python).version == "1.2"


@pytest.mark.parametrize(
    ("suite_has", "says"),
    [
        ({"engine_args": ("fault=crash_on_load",)}, "engine failed during load"),
        pytest.param(
            {"arguments": ("-k", "nothing")},
            "no energy test is selected.\n",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {"arguments": ("--nosuchoption",)},
            "unrecognized arguments: --nosuchoption",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_a_launch_that_fails_says_why_and_looks_like_none(
    suite: Suite, project: Project, suite_has: dict[str, tuple[str, ...]], says: str
) -> None:
    failure = one_launch.record(
        Suite(suite.path, **suite_has), release(project.path, "1.2"), Path("kept/one")
    )
    assert failure is not None
    assert says in failure
    assert not Path("kept/one").exists()


@pytest.mark.nightly
def test_a_launch_of_which_a_part_was_not_begun_failed(suite: Suite, project: Project) -> None:
    project.pytester.makepyfile(test_other=TESTS.replace("[2]", "[8]"))
    of_both = Suite(project.path, ("--energy-minutes", "0.001"))
    python = release(project.path, "1.2")
    for number in (1, 2):
        failure = one_launch.record(of_both, python, Path("kept/one"))
        assert "no further launch would have ended within --energy-minutes 0.001" in str(failure)
        kept = Path(f"kept/.one.incomplete-{number}")
        assert str(failure).endswith(f"\nWhat it recorded is kept in {kept}.")
        assert len([*recording_file.read_launches([kept])]) == 1
    assert not Path("kept/one").exists()


RUN = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from pytest_energy.commands.one_launch import Suite, record
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner may have it ignored
print(record(Suite(Path("test_tiny.py")), sys.argv[1], Path("kept/one")))
"""


@pytest.mark.nightly
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_launch_ends_its_engine_and_leaves_no_recordings(
    suite: Suite, project: Project, how: signal.Signals
) -> None:
    # Sixty seconds of load: the engine measures when the signal comes.
    project.pytester.makepyfile(test_tiny=TESTS.replace("output_tokens=20", "output_tokens=20000"))
    started = project.path / "engine"
    python = Path(release(project.path, "1.2"))
    python.write_text(python.read_text().replace("exec ", f"echo $$ > {started}\nexec "))
    run = subprocess.Popen([sys.executable, "-c", RUN, str(python)], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (started.exists() and started.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.05)
    run.send_signal(how)
    # Python ends by SIGINT itself if nothing has caught the KeyboardInterrupt.
    assert run.wait(timeout=60) == -how
    assert left_of(int(started.read_text())) == []
    left = [] if how != signal.SIGKILL else [kept_apart(Path("kept/one")).name]
    assert [path.name for path in Path("kept").iterdir()] == left


def test_an_interpreter_without_vllm() -> None:
    with pytest.raises(UsageError, match="has no vLLM"):
        releases.of_python(sys.executable)
