"""`pytest-energy init`: a repository with a model and a pin becomes one with a gate."""

import json
import subprocess
from pathlib import Path

import pytest

from pytest_energy.commands.main import main
from pytest_energy.meters import nvml
from pytest_energy.meters.nvml import Listed
from tests.conftest import ROOT

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 2048})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, on a machine without GPU, vLLM and downloaded models."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(nvml, "list_gpus", lambda: ())
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    monkeypatch.chdir(folder)
    return folder


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True)


def save(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def check(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is missing."""
    capsys.readouterr()
    status = main(["init", "--check"])
    lines = capsys.readouterr().out.splitlines()
    missing = [line.removeprefix("missing  ") for line in lines if line.startswith("missing")]
    assert status == (1 if missing else 0)
    return missing


def test_what_is_found_becomes_a_gate(
    here: Path, capsys: pytest.CaptureFixture[str], pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(here)  # pytester has a folder of its own
    save(here / "models" / "Tiny-1B" / "config.json", CONFIG)
    save(here / "requirements-serving.txt", "torch==2.11\nvllm==0.20.2\n")
    monkeypatch.setattr(nvml, "list_gpus", lambda: (Listed(0, "GPU-1", "NVIDIA H200 NVL"),))
    save(here / "bin" / "uv", "").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{Path('/usr/bin')}:{Path('/bin')}")
    assert check(capsys)[0] == "a pinned vLLM: pytest-energy init"
    assert main(["init"]) == 0
    assert (here / "requirements" / "vllm.txt").read_text() == "vllm==0.20.2\n"
    assert (here / "requirements" / "energy.txt").read_text() == "pytest-energy[report]==0.1.0\n"
    gate = (ROOT / ".github" / "workflows" / "energy-gate.yml").read_text()
    written = here / ".github" / "workflows"
    assert (written / "energy-gate.yml").read_text() == gate.replace('"h100"]', '"h200"]')
    assert '"h200"]' in (written / "energy.yml").read_text()
    assert check(capsys) == [
        "all of them in git: git add requirements suites .github/workflows && git commit"
    ]
    git(here, "add", "requirements", "suites", ".github")
    git(here, "commit", "--quiet", "--message", "gate")
    assert check(capsys) == []
    collected = pytester.runpytest_inprocess("--rootdir", here, here / "suites", "--collect-only")
    collected.stdout.fnmatch_lines(["*test_tiny_1b?bs64?*"])


def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(here / "tiny" / "config.json", CONFIG)
    mine = save(here / "requirements" / "vllm.txt", "vllm==0.11.1  # mine\n")
    assert main(["init"]) == 0
    assert mine.read_text() == "vllm==0.11.1  # mine\n"
    assert "requirements/vllm.txt exists and is left as it is" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(["init", "--vllm", "0.25.1", "--model", "tiny"]) == 0
    assert before == {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}


def test_a_downloaded_model_and_options_serve(here: Path, tmp_path: Path) -> None:
    snapshot = "models--meta-llama--Llama-3.1-8B/snapshots/abc/config.json"
    save(tmp_path / "huggingface" / "hub" / snapshot, CONFIG)
    assert main(["init", "--vllm", "0.25.1", "--label", "big"]) == 0
    suite = (here / "suites" / "test_llama_3.1_8b.py".replace(".1", "_1")).read_text()
    assert "model='meta-llama/Llama-3.1-8B'" in suite
    assert "weights='auto'" in suite
    assert '"big"]' in (here / ".github" / "workflows" / "energy.yml").read_text()


def test_a_gitlab_gets_its_job(here: Path) -> None:
    git(here, "remote", "add", "origin", "git@gitlab.example:team/serving.git")
    save(here / "tiny" / "config.json", CONFIG)
    assert main(["init", "--vllm", "0.25.1", "--label", "a100"]) == 0
    assert "tags: [a100]" in (here / ".gitlab-ci.yml").read_text()
    assert not (here / ".github").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vllm", "0.25.1"], "Type: pytest-energy init --model MODEL --vllm 0.25.1"),
        (["--model", "tiny"], "Type: pytest-energy init --model tiny --vllm VERSION"),
    ],
)
def test_what_cannot_be_found_is_asked_for_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["init", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == [".git"]


@pytest.mark.parametrize(
    "pin",
    [
        "\ufeffvllm==0.20.2\r\n",
        "VLLM == 0.20.2\n",
        "vllm[flashinfer]==0.20.2\n",
        "vllm==0.20.2;python_version>'3'\n",
        "vllm==0.20.2#mine\n",
        "vllm==0.20.2 \\\n  --hash=sha256:abc\n",
        "#vllm==0.1\nvllm==0.20.2\nvllm-other==0.3\nvllm==0.20.2\n",
    ],
)
def test_a_pin_is_read_in_every_form(
    here: Path, pin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(here / "tiny" / "config.json", CONFIG)
    save(here / "requirements.txt", pin)
    assert main(["init"]) == 0
    written = here / "requirements" / "vllm.txt"
    assert written.read_text() == "vllm==0.20.2\n"
    save(written, pin)
    assert "pinned" not in "".join(check(capsys))


def test_what_pins_no_version_or_several_is_not_guessed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(here / "tiny" / "config.json", CONFIG)
    pins = save(here / "requirements.txt", "vllm==0.20.*\n")
    assert main(["init"]) == 2
    assert "pytest-energy init --model tiny --vllm VERSION" in capsys.readouterr().err
    pins.write_text("vllm==0.20.2\n")
    save(here / "requirements-old.txt", "vllm==0.10.0\n")
    assert main(["init"]) == 2
    said = capsys.readouterr().err
    assert "0.10.0 in requirements-old.txt, 0.20.2 in requirements.txt" in said
    assert not (here / "requirements").exists()


def test_what_is_left_as_it_is_is_not_to_be_written_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(capsys)[4] == "all of them in git: pytest-energy init"
    pin = save(here / "requirements" / "vllm.txt", "vllm>=0.20\n")
    first = check(capsys)[0]
    assert first == "a pinned vLLM: write vllm==VERSION into requirements/vllm.txt"
    pin.write_text("vllm @ https://example.org/vllm-0.20.2-py3-none-any.whl\n")
    assert check(capsys)[0] != first
