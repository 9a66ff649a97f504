"""`pytest-energy sweep`: which launches are made, kept and made again, and the table of them."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.commands import one_launch
from pytest_energy.commands.main import main
from pytest_energy.commands.one_launch import Suite, kept_apart
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from tests import simulated
from tests.conftest import ROOT
from tests.engine.conftest import release
from tests.plugin.project import MARKER, Project
from tests.plugin.test_gate_in_ci import CONFTEST, TESTS

UUIDS = [simulated.UUID, "GPU-11111111" + simulated.UUID[12:]]
KEPT = "sweep/recordings/GPU-00000000"


class Sweep:
    """A project with two releases, in which launches are simulated.

    Attributes:
        made: the releases that were launched, in order.
        fails: says whether a launch fails, by release and number of launches so far.
        loads: what is loaded in place of a release.
        settings: under test, of the tests' own configuration.
    """

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.made = project.path, list[str]()
        self.fails: Callable[[str, int], bool] = lambda version, number: False
        self.loads: dict[str, str] = {}
        self.settings: dict[str, bool] = {}
        self.gpus = UUIDS[:1]
        self.pythons = [release(project.path, version) for version in ("0.9.1", "0.10.2")]
        self.cells = [Marked.from_arguments((), MARKER).cell(size, project.path) for size in (2, 8)]
        monkeypatch.setattr("pytest_energy.meters.nvml.visible_uuids", lambda: tuple(self.gpus))
        monkeypatch.setattr(one_launch, "record", self._record)
        monkeypatch.setattr(one_launch, "refuse_uncollected", lambda suite: None)

    def run(self, *arguments: str) -> int:
        """Sweep both releases over two blocks."""
        self.made.clear()
        named = [word for python in self.pythons for word in ("--python", python)]
        return main(["sweep", *named, "--launches", "2", "-o", "sweep", *arguments])

    def _record(self, suite: Suite, python: str, folder: Path) -> str | None:
        version = Path(python).parent.name
        number = len(self.made)
        self.made.append(version)
        if self.fails(version, number):
            self._write(self.cells[:1], version, "failed", kept_apart(folder))
            return "engine failed during load: no kernel image"
        version = self.loads.get(version, version)
        launch = f"{version}-{len([*folder.parents[2].rglob('*.gz')])}"
        self._write(self.cells, version, launch, folder)
        return None

    def _write(self, cells: Sequence[Cell], version: str, launch: str, folder: Path) -> None:
        for cell in cells:
            environment = {"vllm": version, "engine_args_under_test": self.settings}
            made = (
                simulated.idle_recording(cell, launch, environment=environment)
                if cell.key.is_idle
                else simulated.recording(
                    cell,
                    launch,
                    500.0 if version == "0.9.1" else 480.0,
                    cycles=12.5,
                    environment=environment,
                    power_shares={gpu: 1.0 / len(self.gpus) for gpu in self.gpus},
                )
            )
            recording_file.write(made, folder / launch / f"{cell.key.slug}.json.gz")


@pytest.fixture
def sweep(project: Project, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Without pictures, which take long and have tests of their own."""
    monkeypatch.setattr("pytest_energy.report.release_pictures.pictures", lambda *_: ())
    return Sweep(project, monkeypatch)


def test_every_release_is_launched_once_a_block_and_compared(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.run() == 0
    assert sorted(sweep.made[:2]) == sorted(sweep.made[2:]) == ["0.10.2", "0.9.1"]
    said = capsys.readouterr().out
    assert re.findall(r"launch \d of 4, block \d: vLLM [\d.]+(.*)", said) == [
        "", *[", 1 min left"] * 3
    ]  # fmt: skip
    assert "  bs=2  0.9.1    0.5000" in said
    assert "-4.0" in said
    written = {path.name for path in Path("sweep").iterdir()}
    assert written == {"recordings", "releases.md", "releases.csv", "verdicts.csv"}
    assert sweep.run() == 0
    assert sweep.made == []


def test_a_sweep_goes_on_with_what_is_not_recorded(sweep: Sweep) -> None:
    def interrupt(version: str, number: int) -> bool:
        if number == 3:
            raise KeyboardInterrupt
        return False

    sweep.fails = interrupt
    assert sweep.run() == 130
    *_, last = sweep.made
    assert not Path("sweep/releases.md").exists()
    sweep.fails = lambda version, number: False
    assert sweep.run() == 0
    assert sweep.made == [last]


def test_a_release_that_does_not_load_is_said_and_the_others_are_compared(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.fails = lambda version, number: version == "0.10.2"
    assert sweep.run("--launches", "3") == 1
    assert (sweep.made.count("0.10.2"), sweep.made.count("0.9.1")) == (2, 3)
    said = capsys.readouterr()
    assert [line.partition(":")[0] for line in said.err.splitlines()] == ["pytest-energy"] * 2
    assert "(tried again later): engine failed during load: no kernel image" in said.err
    assert "(not tried again): engine failed during load" in said.err
    assert "3 open: vLLM 0.10.2 in block 1, vLLM 0.10.2 in block 2, " in said.out
    assert "  bs=2  0.9.1" in said.out


def test_a_sweep_of_which_no_launch_is_complete_says_what_is_open(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a failed launch has recorded of its first cell is no launch."""
    sweep.fails = lambda version, number: True
    assert sweep.run() == 1
    said = capsys.readouterr()
    assert "4 open: " in said.out
    assert "holds no recordings" not in said.err


def test_pairs_of_gpus_that_share_one_are_kept_apart(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
    for other in ("1", "2"):
        sweep.gpus = [UUIDS[0], f"GPU-{other * 8}{UUIDS[0][12:]}"]
        assert sweep.run() == 0
        assert len(sweep.made) == 4


def test_a_launch_of_another_vllm_than_is_installed_ends_the_sweep(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.loads = {"0.10.2": "0.9.1"}
    assert sweep.run() == 2
    said = capsys.readouterr().err
    assert re.search(r"holds a launch of vLLM 0\.9\.1, and \S+ has vLLM 0\.10\.2 installed", said)
    assert sweep.run() == 2


def test_launches_of_other_tests_are_not_mixed_with_those_before(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.run("--launches", "1")
    cells, sweep.cells = sweep.cells, sweep.cells[:1]
    assert sweep.run() == 2
    assert len(sweep.made) == 1
    said = capsys.readouterr().err
    assert "different cells or settings, so the tests or their configuration have changed" in said
    sweep.cells = cells
    assert sweep.run() == 0
    assert len(sweep.made) == 2
    assert "Sweep these tests into another folder: --output DIR\n" in said


def test_a_setting_under_test_is_launched_beside_what_is_recorded_without_it(sweep: Sweep) -> None:
    assert sweep.run() == 0
    eager = ("--", "--energy-engine-arg", "enforce_eager=true")
    assert sweep.run(*eager) == 0
    assert len(sweep.made) == 4
    names = sorted(path.name for path in Path(KEPT).iterdir())
    assert [re.sub("-[0-9a-f]{6}$", "", name) for name in names] == [
        "block-1", "block-2", "enforce-eager-true"
    ]  # fmt: skip
    assert sweep.run("--", "--energy-engine-arg=enforce-eager=True", "-v") == 0
    assert sweep.made == []


def test_launches_under_settings_that_have_changed_are_not_mixed(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.run("--launches", "1") == 0
    sweep.settings = {"enforce_eager": True}
    assert sweep.run() == 2
    assert len(sweep.made) == 1
    assert "hold launches of different cells or settings" in capsys.readouterr().err


def test_settings_that_differ_in_signs_alone_are_kept_apart(sweep: Sweep) -> None:
    for value in ("1", "-1"):
        assert sweep.run("--", "--energy-engine-arg", f"long_prefill_token_threshold={value}") == 0
        assert len(sweep.made) == 4


def test_gpus_are_kept_apart_and_averaged(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.run()
    sweep.gpus = UUIDS[1:]
    assert sweep.run() == 0
    assert len(sweep.made) == 4
    assert {path.name for path in Path("sweep/recordings").iterdir()} == {u[:12] for u in UUIDS}
    assert "2 GPUs (GPU-00000000, GPU-11111111)" in capsys.readouterr().out
    sweep.gpus = UUIDS
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert sweep.run() == 2
    assert f"export CUDA_VISIBLE_DEVICES={UUIDS[0]}" in capsys.readouterr().err


def test_a_launch_that_is_damaged_or_empty_may_be_made_again(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.run() == 0
    place = Path(KEPT, "block-1", "0.9.1")
    one, *others = place.rglob("*.gz")
    one.write_bytes(one.read_bytes()[:100])
    for damage in ("is truncated", "holds no recordings"):
        assert sweep.run() == 1
        said = capsys.readouterr().err
        assert damage in said
        assert said.endswith(f"Or remove this launch, which is then made again: rm -r {place}\n")
        for path in (one, *others):
            path.unlink(missing_ok=True)
    shutil.rmtree(place)
    assert sweep.run() == 0
    assert sweep.made == ["0.9.1"]


def test_a_sweep_of_engines_at_idle_ends_after_a_launch(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    load, sweep.cells = sweep.cells, [Marked.from_arguments((), MARKER).cell(0, sweep.path)]
    assert sweep.run() == 2
    assert len(sweep.made) == 1
    assert (
        "at idle, and releases are compared under load.\nSelect a cell" in capsys.readouterr().err
    )
    (kept,) = Path(KEPT, "block-1").glob(".*")
    assert main(["sweep", "--table", str(kept), "-o", "table"]) == 1
    assert "nothing to compare: all of this is of engines at idle" in capsys.readouterr().err
    sweep.cells += load
    assert sweep.run() == 0
    said = capsys.readouterr().out
    assert said.count("left out") == 1
    assert "left out: 4 launches at idle, as releases are compared under load\n" in said


def test_a_reference_that_there_will_not_be_is_refused_before_a_launch(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.run("--reference", "0.9.0") == 2
    assert sweep.made == []
    assert "Name one of 0.9.1, 0.10.2, or add it: --versions A,B\n" in capsys.readouterr().err
    assert sweep.run("--reference", "0.10.2") == 0
    sweep.pythons = sweep.pythons[1:]
    sweep.settings = {"enforce_eager": True}
    eager = ("--reference", "0.9.1", "--", "--energy-engine-arg", "enforce_eager=true")
    assert sweep.run(*eager) == 0
    capsys.readouterr()
    (kept,) = Path(KEPT).glob("enforce-eager*")
    assert main(["sweep", "--table", str(kept), "-o", "table", "--reference", "0.9.1"]) == 1
    assert "--reference '0.10.2 enforce_eager=True' (of 0.10.2 enforce" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_shown(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder would be another sweep."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pytest_energy.report.release_report.publish", full)
    assert sweep.run("--launches", "1") == 1
    said = capsys.readouterr()
    assert "  bs=2  0.9.1 " in said.out
    assert "No space left on device.\nFree some space, and call it again." in said.err
    assert "pytest-energy sweep --table RECORDINGS -o DIR\n" in said.err


def test_minutes_end_a_sweep_before_a_launch_that_would_pass_them(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=iter(range(0, 10**6, 60)).__next__)  # a minute a look
    monkeypatch.setattr("pytest_energy.commands.sweep.time", clock)
    assert sweep.run("--minutes", "2") == 1
    assert len(sweep.made) == 2
    said = capsys.readouterr().out
    assert "no further launch would end within --minutes 2\n" in said
    assert "2 open: " in said


def test_a_table_of_recordings_measures_nothing(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.run()
    sweep.made.clear()
    capsys.readouterr()
    assert main(["sweep", "--table", KEPT, "-o", "table", "--reference", "0.10.2"]) == 0
    assert sweep.made == []
    assert "Releases, against vLLM 0.10.2\n" in capsys.readouterr().out
    published = str(ROOT / "recordings" / "published.csv")
    assert main(["sweep", "--table", KEPT, "-o", "table", "--published", published]) == 0
    assert f"none of {published} is drawn: it is of other GPUs" in capsys.readouterr().out
    assert main(["sweep", "--table", KEPT, "-o", "table", "--", "-k", "bs2"]) == 2
    assert "--table measures nothing, and shows all cells" in capsys.readouterr().err
    assert main(["sweep", "--table", KEPT, "-o", "table", "--reference", "0.11"]) == 1
    assert "--reference 0.9.1 (of 0.9.1, 0.10.2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Name interpreters that hold them, --python PATH, or versions: --versions A,B\n"),
        (["--python", sys.executable], "has no vLLM.\n"),
        (["--python", "0.9.1/python", "--python", "./0.9.1/python"], "both hold vLLM 0.9.1, so"),
    ],
)
def test_releases_that_cannot_be_told(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["sweep", "-o", "sweep", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert sweep.made == []


RUN = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from pytest_energy.commands.main import main
from pytest_energy.measure import checks, stopping
from pytest_energy.meters import nvml
from tests import simulated
checks.AVERAGED_NS = 100_000_000
nvml.visible_uuids = lambda: (simulated.UUID,)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.nightly
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_real_sweep_that_is_interrupted_goes_on(project: Project, how: signal.Signals) -> None:
    project.pytester.makeconftest(CONFTEST)
    project.pytester.makepyfile(test_tiny=TESTS)
    pythons = [release(project.path, name, 0.002) for name in ("0.9.1", "0.10.2")]
    command = [
        sys.executable, "-c", RUN, "sweep", "--suites", "test_tiny.py", "--launches", "1",
        "-o", "sweep", "--python", pythons[0], "--python", pythons[1],
    ]  # fmt: skip
    block = Path(KEPT, "block-1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "launch 2 of 2" in line:
                break
        while not any(path.name.startswith(".") for path in block.iterdir()):
            time.sleep(0.01)
        run.send_signal(how)
        run.stdout.read()
    assert run.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[how]
    (whole,) = (path.name for path in block.iterdir() if not path.name.startswith("."))
    before = {path: path.read_bytes() for path in (block / whole).rglob("*.gz")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2 launches are recorded already" in done.stdout
    assert {path.name for path in block.iterdir()} == {"0.9.1", "0.10.2"}
    assert {path: path.read_bytes() for path in (block / whole).rglob("*.gz")} == before
    assert "  bs=2  0.9.1" in done.stdout


@pytest.mark.nightly
def test_real_sweeps_of_releases_and_of_a_setting_are_compared_between_weights(
    project: Project,
) -> None:
    project.pytester.makeconftest(CONFTEST)
    marked = TESTS.replace('weights="dummy", ', "")
    assert marked != TESTS
    tests = [
        marked.replace("@pytest", f'@pytest.mark.energy(weights="{name}")\n@pytest').replace(
            "test_tiny", f"test_{name}"
        )
        for name in ("dummy", "random")
    ]
    project.pytester.makepyfile(test_tiny="\n".join(tests))
    old, new = (release(project.path, name, 0.002) for name in ("0.9.1", "0.10.2"))
    setting = ["--", "--energy-engine-arg", "async_scheduling=false"]
    swept = ["--suites", "test_tiny.py", "--launches", "1", "-o"]
    for arguments in (
        ["--python", old, "--python", new, *swept, "sweep"],
        ["--python", new, *swept, "no-async", *setting],
        ["--table", "sweep", "no-async", "--reference", "0.10.2", "-o", "table"],
    ):
        command = [sys.executable, "-c", RUN, "sweep", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.partition("Does a change of J/token carry over between weights?")[2]
    for label in ("0.9.1", "0.10.2 async_scheduling=False"):
        assert re.search(rf" {label} +dummy +\S+ +random +\S+ +\S+ ±", said), done.stdout
    assert "differ" in said.partition("Does a change of tokens/s")[0]
