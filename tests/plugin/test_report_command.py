"""`pytest-energy report` and `history`: reports of recordings, results and baselines that exist."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pytest_energy.commands.main import main
from pytest_energy.report import results_file
from tests.conftest import ROOT
from tests.plugin.project import MARKER, Project

RECORDINGS = ROOT / "recordings" / "h200-sxm-141gb"


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two releases and of an engine without CUDA graphs."""
    folder = tmp_path_factory.mktemp("compared")
    labels = [RECORDINGS / label for label in ("vllm-0.20.2", "vllm-0.25.1", "vllm-0.25.1-eager")]
    assert run("report", *labels, "-o", folder, "--baselines", ROOT / "baselines") == 0
    return folder


def test_recordings_are_compared_with_the_first_and_not_judged(compared: Path) -> None:
    found = results_file.read(compared / "results.json")
    assert {entry.verdict for entry in found.entries} == {None}
    assert {entry.reference.engine for entry in found.entries if entry.reference} == {"vLLM 0.20.2"}
    assert {entry.candidate.engine for entry in found.entries if entry.candidate} == {
        "vLLM 0.25.1",
        "vLLM 0.25.1 enforce_eager=True",
    }
    energy = {
        (entry.candidate.engine, entry.cell.batch_size): entry
        for entry in found.entries
        if entry.candidate and entry.metric == "joules_per_token"
    }
    eager = energy["vLLM 0.25.1 enforce_eager=True", 8]
    assert (
        eager.what == "llama-3.1-8b bs=8 512/256, J/token 0.4676, +36.2 % vs the reference's 0.3433"
    )
    assert len(energy) == 6
    text = (compared / "report.md").read_text()
    assert text.startswith("## ℹ️ 4 cells compared, not judged\n")
    for word in ("regressed", "tolerance", "REGRESSED"):
        assert word not in text


def test_prefill_and_decode_are_told_or_refused(tmp_path: Path) -> None:
    quiet = ROOT / "recordings" / "h100-sxm-80gb" / "gpu-2d029cfc"
    assert run("report", quiet, "-o", tmp_path, "--baselines", ROOT / "baselines") == 0
    rows = {
        (row.batch_size, row.lengths): row
        for row in results_file.read(tmp_path / "results.json").prefill_decode
    }
    told = rows[64, ("448/256",)]
    assert told.joules_per_input_token is not None
    assert told.joules_per_output_token is not None
    assert 0.011 < told.joules_per_input_token.value < 0.018
    # What a request takes is what its prompt and its tokens take.
    per_token = told.joules_per_input_token.value * 448 / 256 + told.joules_per_output_token.value
    assert per_token == pytest.approx(0.1065, rel=0.02)
    both = "input tokens per output token must differ by a factor of 2, not of 1.1"
    assert rows[64, ("448/256", "512/256")].why_not == both
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "Energy of prefill and decode" in text
        assert both in text


def test_a_lone_recording_is_shown_without_a_comparison(tmp_path: Path) -> None:
    assert run("report", RECORDINGS / "gpu-8bb286c2", "-o", tmp_path) == 0
    found = results_file.read(tmp_path / "results.json")
    assert {(entry.cell.batch_size, entry.reference, entry.ratio) for entry in found.entries} == {
        (8, None, None),
        (64, None, None),
    }
    assert (tmp_path / "pictures" / "against-batch-size-light.svg").is_file()


def test_gpus_are_not_compared(tmp_path: Path) -> None:
    """The same engine took 9 to 12 % more energy on another GPU."""
    assert (
        run("report", RECORDINGS / "vllm-0.25.1", RECORDINGS / "gpu-8bb286c2", "-o", tmp_path) == 0
    )
    assert all(
        entry.reference is None for entry in results_file.read(tmp_path / "results.json").entries
    )


def test_pandas_reads_the_results(compared: Path) -> None:
    """Its own reader makes one row per comparison, and from that one per launch."""
    entries = json.loads((compared / "results.json").read_text())["entries"]
    comparisons = pd.json_normalize(entries)
    assert len(comparisons) == 12
    cell = (comparisons["cell.batch_size"] == 8) & (comparisons.metric == "joules_per_token")
    reference = comparisons[cell].explode("reference.launches").dropna(subset="reference.launches")
    launches = pd.json_normalize(reference["reference.launches"].tolist()).drop_duplicates(
        "launch_id"
    )
    assert launches.joules_per_token.round(4).tolist() == [0.3430, 0.3428, 0.3441]
    assert launches.power_w.round().tolist() == [504, 507, 503]


def test_reports_of_several_runs_make_one(compared: Path, tmp_path: Path) -> None:
    assert (
        run("report", compared / "results.json", compared / "results.json", "-o", tmp_path / "both")
        == 0
    )
    one, both = (
        results_file.read(folder / "results.json") for folder in (compared, tmp_path / "both")
    )
    assert len(both.runs) == 2
    assert len(both.entries) == 2 * len(one.entries)


def test_a_report_of_a_results_file_is_the_one_of_the_run(compared: Path, tmp_path: Path) -> None:
    assert run("report", compared / "results.json", "-o", tmp_path) == 0
    assert (tmp_path / "report.md").read_text() == (compared / "report.md").read_text()
    assert (tmp_path / "results.json").read_bytes() == (compared / "results.json").read_bytes()


def test_the_intervals_are_those_of_the_summary_table(compared: Path) -> None:
    entry = next(
        e
        for e in results_file.read(compared / "results.json").entries
        if e.candidate and "eager" in e.candidate.engine
    )
    assert entry.ratio is not None
    assert [
        round(100 * (x - 1), 1) for x in (entry.ratio.low, entry.ratio.value, entry.ratio.high)
    ] == [33.5, 36.2, 38.9]


def test_invalid_launches_are_left_out_and_named(project: Project) -> None:
    project.record("good")
    project.record("half", environment={"vllm": "0.0.2"})
    project.record("hot", launches=1, environment={"vllm": "0.0.2"}, faults=["throttled: hot"])
    project.record("none", launches=1, environment={"vllm": "0.0.3"}, faults=["throttled: hot"])
    assert run("report", "good", "half", "hot", "none", "-o", "report") == 0
    found = {
        entry.candidate.vllm if entry.candidate else "": entry
        for entry in results_file.read(Path("report/results.json")).entries
    }
    assert found["0.0.2"].reasons == ("left out: launch hot-0: throttled: hot",)
    assert found["0.0.2"].candidate is not None
    assert len(found["0.0.2"].candidate.launches) == 3
    assert found[""].reasons == ("left out: launch none-0: throttled: hot",)
    assert "left out: launch none-0: throttled: hot" in Path("report/report.html").read_text()


def test_the_history_of_the_store(project: Project) -> None:
    project.store()
    for version, power_w in (("0.0.2", 490.0), ("0.0.3", 480.0)):
        project.record(version, power_w=power_w, environment={"vllm": version})
        project.run("--energy-replay", version, "--energy-update")
    assert run("history", "baselines", "-o", "history") == 0
    table = pd.json_normalize(json.loads(Path("history/results.json").read_text())["history"])
    eight = table[table["cell.batch_size"] == 8]
    assert eight.vllm.tolist() == ["0.0.1", "0.0.2", "0.0.3"]
    assert eight["joules_per_token.value"].round(3).tolist() == [0.5, 0.49, 0.48]
    # History keeps means only: the interval is the assumed noise's, t(3) × 1 % / √3.
    widths = eight["joules_per_token.high"] / eight["joules_per_token.value"]
    assert widths.iloc[0] == pytest.approx(1.01854, abs=1e-4)
    assert "vLLM 0.0.2" in Path("history/pictures/history-light.svg").read_text()
    assert "| tiny bs=8 64/250 | 0.0.3 |" in Path("history/report.md").read_text()
    project.record("other", power_w=490.0, environment={"gpu_uuids": ("GPU-b",), "vllm": "0.0.2"})
    assert project.run("--energy-replay", "other", "--energy-update").ret == 0
    assert run("history", "baselines", "-o", "history") == 0
    for page in ("report.md", "report.html"):
        said = Path("history", page).read_text()
        assert "tiny bs=8 64/250, GPU-00000000<" in said.replace(" |", "<")
        assert "tiny bs=8 64/250, GPU-b<" in said.replace(" |", "<")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "nowhere does not exist. Give a folder that --energy-record wrote"),
        (["report", "stores"], "stores holds no recordings"),
        (["report", "/dev/null"], "/dev/null is not a file or a folder. Give a folder"),
        (
            ["report", "stores/some/gpu/tiny.json"],
            "stores/some/gpu/tiny.json is a file of baselines, not a results.json.\n"
            "The command that reads it: pytest-energy history stores/some -o DIR",
        ),
        (
            ["report", "stores/some/gpu/noise/tiny.json"],
            "tiny.json is a file of a runner's noise, not a results.json.\n"
            "The command that reads it: pytest-energy report RECORDINGS --baselines stores/some",
        ),
        (["report", "no.json"], "results file no.json cannot be read: No such file or directory"),
        (["report", "bad.json"], "results file bad.json is damaged or not a results.json"),
        (
            ["report", "bad.json.gz"],
            "recording bad.json.gz is damaged or not a recording: it is not gzipped",
        ),
        (["history", "nowhere"], "nowhere holds no baselines"),
        (
            ["history", "stores/some/gpu"],
            "Give the store, which is the folder above: pytest-energy",
        ),
        (["history", "stores/damaged"], "tiny.json is damaged"),
    ],
)
def test_what_cannot_be_reported_is_refused_with_nothing_written(
    project: Project, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("bad.json").write_text("{}")
    Path("bad.json.gz").write_text("{}")
    store, shipped = Path("stores/some/gpu"), ROOT / "baselines" / "nvidia-h200"
    for name, of_shipped in (
        ("tiny.json", "llama-3.1-8b.gpu-809fd233.json"),
        ("noise/tiny.json", "noise/llama-3.1-8b.json"),
    ):
        (store / name).parent.mkdir(parents=True)
        (store / name).write_text((shipped / of_shipped).read_text())
    Path("stores/damaged/gpu").mkdir(parents=True)
    Path("stores/damaged/gpu/tiny.json").write_text("{}")
    assert run(*arguments, "-o", "report") == 1
    assert message in capsys.readouterr().err
    assert not Path("report").exists()


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"model": ""}, {"workload": {}}, {"batch_size": "8"}]
)
def test_a_recording_that_names_no_cell_is_refused(
    project: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    import gzip

    from pytest_energy.recording import recording_file, schema

    project.record("odd", launches=1, marker={**MARKER, "batch_sizes": [8]})
    (file,) = recording_file.find(Path("odd"))
    content = schema.to_json(recording_file.read(file))
    content["key"].update(change)
    file.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert run("report", "odd", "-o", "report") == 1
    assert "damaged or not a recording: key" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.record("some")
    Path("file").write_text("")
    assert run("report", "some", "-o", "file") == 1
    assert "file is not a folder" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("report", "some", "-o", "report") == 1
    assert "pip install 'pytest-energy[report]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["report", RECORDINGS / "gpu-8bb286c2", "-o", "out"],
            "the report was not written: No space left on device.\n"
            "Free some space, or give another folder: -o DIR\n",
        ),
        (
            ["history", ROOT / "baselines", "-o", "out"],
            "the report was not written: No space left on device.\n"
            "Free some space, or give another folder: -o DIR\n",
        ),
        (
            ["init", "--model", "org/model", "--vllm", "0.25.1"],
            "the files could not be written: No space left on device.\n"
            "Free some space, or make the folder writable, and run this again.\n",
        ),
    ],
)
def test_a_full_disk_has_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str | Path],
    says: str,
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr("os.fsync", full)
    assert run(*command) == 1
    assert capsys.readouterr().err == f"pytest-energy: {says}"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert all(f"    {name} " in said for name in ("init", "gate", "noise", "report", "history"))


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("noise", "report", "history"))
