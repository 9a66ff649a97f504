"""`pytest-energy fleet`: GPUs side by side; and the chart of each in doctor and history."""

import datetime
import re
from pathlib import Path

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.commands.main import main
from pytest_energy.measure.measurement import Measurement
from pytest_energy.store import gpu_launches
from pytest_energy.store.baselines import Store
from tests.unit.figures import environment, measurement

TODAY = datetime.datetime.now(datetime.UTC)


def launch(
    cell: Cell, gpu: str, number: int, joules_per_token: float, **known: object
) -> Measurement:
    """A launch a day, some days ago."""
    date = TODAY - datetime.timedelta(days=100 - number)
    known = {"date": date.isoformat(), "gpu_uuids": (gpu,), "driver": "580", **known}
    return measurement(
        cell, f"{gpu}-{number:03}", joules_per_token, environment=environment(**known),
        static_power_w=120.0,
    )  # fmt: skip


def add(folder: Path, *launches: Measurement) -> None:
    for of in launches:
        gpu = of.environment.gpus[0]
        gpu_launches.append(folder / gpu.lower(), of, TODAY)


def noise(number: int) -> float:
    return 0.002 * (number % 3 - 1)


@pytest.fixture
def fleet(cell: Cell, tmp_path: Path) -> Path:
    """A store of two GPUs and a cache of a third, whose driver changed."""
    store = Store(tmp_path / "store")
    for gpu, level in (("GPU-aaaaaaaa-1", 0.5), ("GPU-bbbbbbbb-2", 0.52)):
        of_gpu = [launch(cell, gpu, n, level * (1 + noise(n))) for n in range(3)]
        store.update(of_gpu, {}, None)
    third = [launch(cell, "GPU-cccccccc-3", n, 0.51 * (1 + noise(n))) for n in range(9)]
    later = [
        launch(cell, "GPU-cccccccc-3", n, 0.53 * (1 + noise(n)), driver="590") for n in range(9, 12)
    ]
    other = launch(cell, "GPU-cccccccc-3", -1, 0.9, vllm="2")
    add(tmp_path / "cache", other, *third, *later)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], fleet: Path, *arguments: str) -> list[str]:
    assert main(["fleet", *arguments, "--gpu-cache", str(fleet / "cache")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    return lines


def test_gpus_stand_side_by_side_and_engines_apart(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [" ".join(line.split()) for line in shown(capsys, fleet, str(fleet / "store"))]
    assert lines[0] == "simulated GPU, 700.0 W: vLLM 1"
    days = [f"{TODAY - datetime.timedelta(days=100 - n):%Y-%m-%d}" for n in (2, 2, 11)]
    assert lines[3:6] == [
        f"bs=8 GPU-aaaaaaaa 0.5000 3 -3.8 ±0.4 120 {days[0]}",
        f"GPU-bbbbbbbb 0.5200 3 +0.0 120 {days[1]}",
        f"GPU-cccccccc 0.5300 3 +1.9 ±0.4 120 {days[2]}",
    ]
    assert lines[7] == "simulated GPU, 700.0 W: vLLM 2"
    assert lines[10].startswith("bs=8 GPU-cccccccc 0.9000 1 - 120 ")
    text = " ".join(lines)
    assert re.search(
        r"GPU-cccccccc: no band yet: 3 launches of vLLM 1, 5 short of it; machine changed by "
        r"[-0-9]{10} \(driver 580 → 590\): J/token of the reference \+3\.9 % \(\+3\.\d to "
        r"\+4\.\d %, 8 launches before, 3 after\)",
        text,
    )


def test_without_any_gpu_it_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert main(["fleet", nowhere, "--gpu-cache", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert f"{nowhere} holds no baselines of engines under load" in message
    assert "pytest-energy fleet STORE" in message


def test_a_damaged_store_is_said(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((fleet / "store").rglob("*.json"))
    path.write_text(path.read_text()[:-50])
    assert main(["fleet", str(fleet / "store"), "--gpu-cache", str(fleet / "cache")]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_damaged_lines_of_the_cache_are_said(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((fleet / "cache").rglob(gpu_launches.NAME))
    path.write_text(path.read_text() + "{damaged\n")
    text = " ".join(" ".join(shown(capsys, fleet, str(fleet / "store"))).split())
    assert f"{path.parent.name}/launches.jsonl: 1 damaged line passed over; the next" in text
    path.write_bytes(b"\x00\xff")
    text = " ".join(" ".join(shown(capsys, fleet, str(fleet / "store"))).split())
    assert f"{path.parent.name}/launches.jsonl: 1 damaged line passed over; the next" in text


def test_history_says_where_the_charts_of_its_gpus_stand(
    cell: Cell, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(fleet / "cache", *(launch(cell, "GPU-aaaaaaaa-1", n, 0.5 + noise(n)) for n in range(9)))
    folder, cache = str(fleet / "history"), str(fleet / "cache")
    assert main(["history", str(fleet / "store"), "-o", folder, "--gpu-cache", cache]) == 0
    charts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("GPU-")]
    assert charts == ["GPU-aaaaaaaa: in its band: 9 launches of vLLM 1"]
