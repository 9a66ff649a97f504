"""Two processes that change one file of the store at the same moment: neither's result is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_energy.measure.measurement import measure
from pytest_energy.plugin.marker import Marked
from pytest_energy.safety import files
from pytest_energy.store.baselines import Store
from tests import simulated
from tests.conftest import ROOT
from tests.driver import UUIDS
from tests.faults import setting
from tests.simulated import GPU_NAME

# Each waits between reading and writing, so that without a lock the other would come between.
CODE = """
import sys, time
from pathlib import Path
from pytest_energy.store import baselines, noise, noise_file
from pytest_energy.plugin.marker import Marked
from pytest_energy.measure.measurement import measure
from tests import simulated
from tests.faults import setting
from tests.driver import UUIDS

kind, name, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
project = Path(sys.argv[4])
cell = Marked.from_arguments((), {**setting.MARKER, "batch_sizes": [2, 4]}).cell(size, project)
launches = [
    measure(
        simulated.recording(
            cell, f"{name}-{n}", 100.0, 400.0, cycles=80.5,
            environment={"gpu_uuids": (UUIDS[0],), "vllm": name},
        )
    )
    for n in range(3)
]
for module in (baselines, noise_file):
    def slow(path, content, write=module.write_atomically):
        time.sleep(0.5)
        write(path, content)
    module.write_atomically = slow
print("ready", flush=True)
sys.stdin.readline()
if kind == "update":
    baselines.Store(project / "baselines").update(launches, {})
else:
    noise.NoiseStore(project / "baselines").add(launches)
"""


def both(folder: Path, kind: str, sizes: tuple[int, int]) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, kind, name, str(size), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for name, size in zip(("one", "two"), sizes, strict=True)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    for run in runs:
        run.communicate(timeout=60)
        assert run.returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    setting.make(tmp_path, {**setting.MARKER, "batch_sizes": [2, 4]})
    return tmp_path


def test_two_updates_of_different_cells_are_both_kept(folder: Path) -> None:
    both(folder, "update", (2, 4))
    entries = [
        entry for entry in Store(folder / "baselines").entries() if entry.gpus == (UUIDS[0],)
    ]
    assert sorted(entry.environment.vllm for entry in entries) == ["one", "two"]
    assert [len(entry.history) for entry in entries] == [1, 1]


def test_of_two_updates_of_one_cell_the_later_has_the_earlier_in_its_history(folder: Path) -> None:
    both(folder, "update", (2, 2))
    (entry,) = [
        entry
        for entry in Store(folder / "baselines").entries()
        if entry.gpus == (UUIDS[0],) and entry.key.batch_size == 2
    ]
    assert sorted([entry.environment.vllm, entry.history[-1].vllm]) == ["one", "two"]
    assert entry.history[0].vllm == "0.0.1"


def test_noise_that_two_runs_add_is_all_there(folder: Path) -> None:
    before = json.loads(
        (folder / "baselines" / "simulated-gpu" / "noise" / "tiny.json").read_text()
    )
    both(folder, "noise", (2, 2))
    after = json.loads((folder / "baselines" / "simulated-gpu" / "noise" / "tiny.json").read_text())
    counts = [
        {cell["key"]["batch_size"]: len(cell["launches"]) for cell in content["cells"]}
        for content in (before, after)
    ]
    assert counts[1][2] == counts[0][2] + 6
    assert counts[1][4] == counts[0][4]


def test_an_update_sees_what_others_have_stored_since_the_file_was_read(folder: Path) -> None:
    store = Store(folder / "baselines")
    (key, *_) = [
        entry.key for entry in store.entries() if entry.key.batch_size == 2
    ]  # read, and remembered
    both(folder, "update", (2, 4))
    cell = Marked.from_arguments((), {**setting.MARKER, "batch_sizes": [2, 4]}).cell(2, folder)
    made = [
        simulated.recording(
            cell, f"x{n}", 100.0, 400.0, cycles=80.5, environment={"gpu_uuids": (UUIDS[0],)}
        )
        for n in range(3)
    ]
    store.update([measure(recorded) for recorded in made], {})
    found = Store(folder / "baselines").find(key, GPU_NAME, UUIDS[:1])
    assert found is not None
    assert [entry.vllm for entry in found.history] == ["0.0.1", "one"]


def test_a_store_that_stays_locked_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_WAIT_S", 0.1)
    with (
        files.exclusively(tmp_path),
        pytest.raises(
            TimeoutError, match=r"another process has been changing files in .*\nWait for it to end"
        ),
        files.exclusively(tmp_path),
    ):
        pass
    with files.exclusively(tmp_path):
        assert list(tmp_path.iterdir()) == []
