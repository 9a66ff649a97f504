"""What the commands say fits a terminal of 80 columns, and what was asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_energy.commands.main import main
from tests.conftest import ROOT

COMMANDS = ["init", "gate", "sweep", "bisect", "noise", "report", "history", "fleet", "doctor"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_help_text_fits_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert len(lines) > 8


def test_all_commands_are_among_these(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out.partition("COMMAND\n")[2].splitlines()
    assert [line.split()[0] for line in listed if line.startswith("    ") and line[4] != " "] == (
        COMMANDS
    )


def test_output_that_is_read_in_part_is_no_report_that_was_not_written(tmp_path: Path) -> None:
    """As that of `| head`: what was to be written is there."""
    recordings = ROOT / "recordings" / "h200-sxm-141gb" / "gpu-8bb286c2"
    command = ["sweep", "--table", str(recordings), "-o", str(tmp_path / "table")]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pytest_energy.commands.main", *command],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (
        141,
        "pytest-energy: not all of its output was read\n",
    )
    assert (tmp_path / "table" / "releases.md").exists()


@pytest.mark.parametrize("columns", ["80", "60"])
def test_what_doctor_finds_fits_the_terminal_and_json_names_its_fields(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On whatever this machine is; the interpreter is a fault."""
    monkeypatch.setenv("COLUMNS", columns)
    words = ["doctor", "--python", "/no/python"]
    assert main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > int(columns)] == []
    assert "follow the lines marked →" in " ".join(lines)
    assert main([*words, "--json"]) == 1
    following = json.loads(capsys.readouterr().out)["next"]
    assert "follow the remedies" in following
    assert "→" not in following


def test_noise_of_recordings_advises_no_other_load(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    """What would be set for the next launch of a cell whose pace is the host's."""
    result = pytester.runpytest(
        ROOT / "suites" / "host_bound", "--rootdir", ROOT, "-p", "no:cacheprovider",
        "--energy-noise", "--energy-baselines", tmp_path, "-k", "bs64 and energy",
        "--energy-replay", ROOT / "recordings" / "h200-sxm-141gb" / "vllm-0.25.1",
    )  # fmt: skip
    result.stdout.fnmatch_lines(["*is host-bound, * 575 tokens, CUDA graphs hold 512"])
