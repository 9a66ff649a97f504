"""The table of what a second GPU costs compares like with like, and says how sure it is."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import second_gpu_table
from pytest_energy.cell.cell import Cell
from pytest_energy.measure.measurement import measure
from pytest_energy.recording import recording_file
from pytest_energy.recording.folder import SUFFIX
from pytest_energy.store.noise import NoiseStore
from tests import simulated

A, B, OTHER = "GPU-aaaaaaaa-1", "GPU-bbbbbbbb-2", "GPU-cccccccc-3"
TWO = {A: 0.5, B: 0.5}


def record(
    folder: Path,
    cell: Cell,
    gpus: int,
    count: int = 3,
    power_w: float = 500.0,
    rate: float = 1000.0,
    gpu: str = A,
    **changes: Any,
) -> Path:
    arguments = dict(cell.engine_args) | ({"tensor_parallel_size": 2} if gpus == 2 else {})
    spread = replace(cell, engine_args=tuple(sorted(arguments.items())))
    shares = TWO if gpus == 2 else {gpu: 1.0}
    for i in range(count):
        made = simulated.recording(
            spread,
            f"{gpus}-{gpu[4]}-{i}",
            power_w * (1 + i / 200),
            rate,
            power_shares=shares,
            **changes,
        )
        recording_file.write(made, folder / made.launch_id / f"{spread.key.slug}{SUFFIX}")
    return folder


def table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one: Path, two: Path
) -> list[str]:
    monkeypatch.setattr(
        "sys.argv",
        [
            "second_gpu_table",
            "--one",
            str(one),
            "--two",
            str(two),
            "--baselines",
            str(one.parent / "store"),
        ],
    )
    second_gpu_table.main()
    return capsys.readouterr().out.splitlines()


def test_a_second_gpu_costs(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = record(tmp_path / "one", cell, 1)
    for size in (2, 8):
        two = record(
            tmp_path / "two", replace(cell, batch_size=size), 2, power_w=900.0, rate=1500.0
        )
    heading, _, row = table(capsys, monkeypatch, one, two)
    assert heading.startswith("| model | batch size |")
    figures = [text.strip() for text in row.strip("|").split("|")]
    assert figures[:5] == ["tiny", "8", "3, 3", "0.5025", "0.6030"]
    assert figures[5].startswith("+20.0 % (+")
    assert figures[6:10] == ["502", "904", "1,000", "1,500"]
    assert figures[10].startswith("+50.0 % (")
    assert figures[11] == "GPU-aaaaaaaa 50.0 % (452 W), GPU-bbbbbbbb 50.0 % (452 W)"


def test_the_two_gpus_count_alike_however_many_launches_each_has(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "one" / "a", cell, 1, count=3, power_w=400.0)
    one = record(tmp_path / "one" / "b", cell, 1, count=1, power_w=402.0 * 1.21, gpu=B).parent
    two = record(tmp_path / "two", cell, 2, power_w=660.0)
    *_, row = table(capsys, monkeypatch, one, two)
    figures = [text.strip() for text in row.strip("|").split("|")]
    assert figures[2:5] == ["3 + 1, 3", "0.4422", "0.6633"]
    assert figures[5].startswith("+50.0 % (")


def test_the_noise_that_is_stored_for_a_side_counts(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches that agree by luck make no interval narrower than the runner's noise allows."""
    one, two = (
        record(tmp_path / "one", cell, 1, count=1),
        record(tmp_path / "two", cell, 2, power_w=900.0, rate=1500.0),
    )
    widths = []
    for deviation in (0.001, 0.05):
        folder, store = tmp_path / str(deviation), tmp_path / "store"
        for i in range(8):
            made = simulated.recording(
                cell,
                f"noise-{deviation}-{i}",
                500.0 * (1 + deviation * (-1) ** i),
                power_shares={A: 1.0},
            )
            recording_file.write(made, folder / made.launch_id / f"{cell.key.slug}{SUFFIX}")
        NoiseStore(store).add(
            [measure(*periods) for periods in recording_file.read_launches([folder])]
        )
        *_, row = table(capsys, monkeypatch, one, two)
        low, high = (
            float(text) for text in re.findall(r"[+-][\d.]+(?= %(?: to|\)))", row.split("|")[6])
        )
        widths.append(high - low)
        shutil.rmtree(store)
    assert widths[0] < 6 < 3 * widths[0] < widths[1]


def test_another_gpu_is_not_compared(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = record(tmp_path / "one", cell, 1, gpu=OTHER), record(tmp_path / "two", cell, 2)
    with pytest.raises(
        SystemExit,
        match="GPU-cccccccc, which was measured alone, is not one of the two GPUs",
    ):
        table(capsys, monkeypatch, one, two)


def test_one_launch_each_is_no_comparison(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = record(tmp_path / "one", cell, 1, 1), record(tmp_path / "two", cell, 2, 1)
    with pytest.raises(
        SystemExit, match="one launch each of tiny does not show how launches differ"
    ):
        table(capsys, monkeypatch, one, two)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"environment": {"vllm": "0.0.2"}}, "differ in vllm besides"),
        ({"environment": {"power_limit_w": 500.0}}, "differ in power_limit_w besides"),
        ({"faults": ("throttled: hot",)}, "launch 2-a-0 is invalid: throttled: hot"),
    ],
)
def test_unlike_launches_are_not_compared(
    cell: Cell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    what: str,
) -> None:
    one, two = record(tmp_path / "one", cell, 1), record(tmp_path / "two", cell, 2, **changed)
    with pytest.raises(SystemExit, match=what):
        table(capsys, monkeypatch, one, two)


def test_folders_that_hold_something_else(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (
        record(tmp_path / "one", cell, 1),
        record(tmp_path / "two", replace(cell, batch_size=2), 2),
    )
    with pytest.raises(SystemExit, match="no cell was measured on one GPU and on two"):
        table(capsys, monkeypatch, one, two)
    with pytest.raises(SystemExit, match="launch 1-a-0 ran on 1 GPU, not on 2"):
        table(capsys, monkeypatch, one, one)
