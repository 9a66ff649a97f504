"""`pytest-energy fleet --verdicts`: one upgrade's change over several GPUs."""

import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from pytest_energy.commands.main import main
from pytest_energy.report import results_file
from pytest_energy.report.fleet_verdicts import pooled
from tests.reports import made


def write(folder: Path, number: int, *ratios: float, **changes: object) -> str:
    """The results.json of a run on a GPU, with a cell for each ratio."""
    gpu = replace(made.GPU, uuids=(f"GPU-{number:08d}-x",))
    entries = [
        made.entry(size, ratio, gpu=gpu, metric=metric, **changes)
        for size, ratio in zip((8, 64), ratios, strict=False)
        for metric in ("joules_per_token", "tokens_per_s")
    ]
    path = folder / f"{number}.json"
    path.write_text(results_file.to_json(made.of(*entries)))
    return str(path)


def test_an_upgrade_is_pooled_and_its_worst_gpu_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("statsmodels")
    ratios = [(1.01, 1.03), (1.02, 1.05), (1.06, 1.08), (1.00, 1.02)]
    paths = [write(tmp_path, number, *of) for number, of in enumerate(ratios)]
    assert main(["fleet", "--verdicts", *paths]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if len(line) > 80] == []
    lines = [" ".join(line.split()) for line in shown]
    assert lines[0] == "vLLM 2.0 against vLLM 1.0 on 4 GPUs, simulated GPU, 2 cells"
    assert lines[2:6] == [
        "GPU-00000002 +7.0 4 regressed",
        "GPU-00000001 +3.5 4 regressed",
        "GPU-00000000 +2.0 4 regressed",
        "GPU-00000003 +1.0 4 regressed",
    ]
    logs = [statistics.fmean(map(math.log, of)) for of in ratios]
    half = student.ppf(0.975, 3) * statistics.stdev(logs) / 2
    low, mean, high = (
        f"{100 * math.expm1(statistics.fmean(logs) + by):+.1f}" for by in (-half, 0, half)
    )
    assert " ".join(lines[6:]) == (
        f"J/token over the fleet: {mean} % ({low} to {high} %), by a random-effects model; worst: "
        "GPU-00000002, +7.0 %"
    )


def test_the_interval_holds_the_change_in_95_percent_of_fleets() -> None:
    pytest.importorskip("statsmodels")
    rng = np.random.default_rng(3)
    runs, held = 150, 0
    for _ in range(runs):
        of_gpus = 0.03 + rng.normal(0, 0.01, 4)
        logs = {
            (f"GPU-{g}",): {c: float(mean + rng.normal(0, 0.005)) for c in "abcd"}
            for g, mean in enumerate(of_gpus)
        }
        found = pooled(logs)
        held += abs(found.mean - 0.03) <= found.half
    assert held / runs >= 0.90


def test_one_cell_on_each_gpu_is_enough() -> None:
    pytest.importorskip("statsmodels")
    found = pooled({(f"GPU-{n}",): {"cell": log} for n, log in enumerate((0.01, 0.02, 0.03))})
    assert found.mean == pytest.approx(0.02)
    assert found.half == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)


def test_gpus_that_agree_to_the_digit_have_no_interval() -> None:
    pytest.importorskip("statsmodels")
    found = pooled({(f"GPU-{n}",): {"one": 0.02, "two": 0.03} for n in range(3)})
    assert (found.mean, found.half) == (pytest.approx(0.025), pytest.approx(0))


def test_what_cannot_be_pooled_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = [write(tmp_path, number, 1.0) for number in range(2)]
    assert main(["fleet", "--verdicts", *two]) == 1
    assert "engines on 2 GPUs; pooling needs 3 or more" in capsys.readouterr().err
    other = write(tmp_path, 2, 1.0, candidate=made.side(0.5, 1000, "3.0"))
    assert main(["fleet", "--verdicts", *two, other]) == 1
    assert "not of one upgrade on one GPU model: vLLM 2.0 against" in capsys.readouterr().err


def test_without_statsmodels_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.regression.mixed_linear_model", None)
    three = [write(tmp_path, number, 1.0) for number in range(3)]
    assert main(["fleet", "--verdicts", *three]) == 2
    assert "pip install 'pytest-energy[fleet]'" in capsys.readouterr().err
