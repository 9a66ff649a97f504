"""`pytest-energy init`: a repository with a model and a pin becomes one with a gate."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    install_from(monkeypatch, None)
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    monkeypatch.chdir(folder)
    return folder


def install_from(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None) -> None:
    """Let this package seem to be installed from there; None: from an index."""
    found = importlib.metadata.distribution
    installed = SimpleNamespace(read_text=lambda name: json.dumps(origin) if origin else None)
    monkeypatch.setattr(
        "importlib.metadata.distribution",
        lambda name: installed if name == "pytest-energy" else found(name),
    )


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True)


def save(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def check(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What is missing, and its command."""
    capsys.readouterr()
    status = main(["init", "--check"])
    shown = re.sub(r"\n {9}(?=.*\n {9})", " ", capsys.readouterr().out)
    missing = dict(re.findall(r"^missing  (.*)\n {9}(.*)$", shown, re.M))
    assert status == (1 if missing else 0)
    return missing


def commit(folder: Path, *names: str) -> None:
    git(folder, "add", "--force", *names)
    git(folder, "commit", "--quiet", "--message", "gate")


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
    assert next(iter(check(capsys).items())) == ("a pinned vLLM", "pytest-energy init")
    assert main(["init"]) == 0
    assert (here / "requirements" / "vllm.txt").read_text() == "vllm==0.20.2\n"
    assert (here / "requirements" / "energy.txt").read_text() == "pytest-energy[report]==0.1.0\n"
    gate = (ROOT / ".github" / "workflows" / "energy-gate.yml").read_text()
    written = here / ".github" / "workflows"
    assert (written / "energy-gate.yml").read_text() == gate.replace("h100", "h200")
    assert '"h200"]' in (written / "energy.yml").read_text()
    assert check(capsys) == {
        "all of them in git": "git add requirements/vllm.txt requirements/energy.txt suites "
        '.github/workflows models/Tiny-1B/config.json && git commit -m "Energy gate"'
    }
    commit(here, "requirements", "suites", ".github", "models")
    assert check(capsys) == {}
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
    assert 'model="meta-llama/Llama-3.1-8B"' in suite
    assert 'weights="auto"' in suite
    assert '"big"]' in (here / ".github" / "workflows" / "energy.yml").read_text()


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({}, "dummy"),
        ({"num_experts": 0}, "dummy"),
        ({"num_experts": None}, "dummy"),
        ({"num_local_experts": 8}, "random"),
        ({"text_config": {"n_routed_experts": 64}}, "random"),
    ],
)
def test_a_mixture_of_experts_gets_weights_that_spread_tokens(
    here: Path, config: dict[str, Any], weights: str
) -> None:
    save(here / "tiny" / "config.json", json.dumps({**json.loads(CONFIG), **config}))
    assert main(["init", "--vllm", "0.20.2"]) == 0
    assert f'weights="{weights}"' in (here / "suites" / "test_tiny.py").read_text()


def test_a_gitlab_gets_its_job(here: Path) -> None:
    git(here, "remote", "add", "origin", "git@gitlab.example:team/serving.git")
    save(here / "tiny" / "config.json", CONFIG)
    assert main(["init", "--vllm", "0.25.1", "--label", "a100"]) == 0
    assert 'tags: ["a100"]' in (here / ".gitlab-ci.yml").read_text()
    assert not (here / ".github").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vllm", "0.25.1"], "Type: pytest-energy init --model MODEL --vllm 0.25.1"),
        (["--model", "tiny"], "Type: pytest-energy init --model tiny --vllm VERSION"),
        ([], "Type: pytest-energy init --model MODEL --vllm VERSION"),
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
    assert "a pinned vLLM" not in check(capsys)


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
    assert check(capsys)["all of them in git"] == "pytest-energy init"
    pin = save(here / "requirements" / "vllm.txt", "# vllm==0.1\n")
    say = "write vllm== and the version that production runs into requirements/vllm.txt"
    assert check(capsys)["a pinned vLLM"] == say
    for line in ("vllm>=0.20", "vllm==VERSION", "vllm"):
        pin.write_text(f"{line}\n")
        say = f'put the version that production runs in place of "{line}" in requirements/vllm.txt'
        assert check(capsys)["a pinned vLLM"] == say
    pin.write_text("vllm @ https://example.org/vllm-0.20.2-py3-none-any.whl\n")
    assert "a pinned vLLM" not in check(capsys)
    save(here / "requirements" / "energy.txt", "# pytest-energy\n")
    say = "write pytest-energy[report]==0.1.0 into requirements/energy.txt"
    assert check(capsys)["the gate's requirements"] == say


@pytest.fixture
def gated(here: Path) -> Path:
    """A repository with all that `init` writes, committed."""
    save(here / "tiny" / "config.json", CONFIG)
    assert main(["init", "--vllm", "0.20.2"]) == 0
    commit(here, ".")
    return here


def test_what_a_checkout_would_lack(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys) == {}
    save(gated / "suites" / "conftest.py", "")
    save(gated / "requirements" / "vllm.txt", "-r ../serving/pins.txt\n")
    assert check(capsys)["serving/pins.txt, which a requirements file includes"] == (
        "write serving/pins.txt"
    )
    save(gated / "serving" / "pins.txt", "vllm==0.20.2\n")
    assert check(capsys) == {
        "serving/pins.txt, which pins, among the paths that start the workflow": "add "
        "serving/pins.txt to: requirements/**, suites/**, baselines/**, "
        ".github/workflows/energy*.yml",
        "all of them in git": "git add requirements/vllm.txt serving/pins.txt suites "
        '&& git commit -m "Energy gate"',
    }
    caller = gated / ".github" / "workflows" / "energy.yml"
    caller.write_text(caller.read_text().replace("suites/**", "suites/**, serving/*.txt"))
    commit(gated, ".")
    assert check(capsys) == {}


def test_a_model_that_git_ignores(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(gated, "rm", "--quiet", "--cached", "tiny/config.json")
    save(gated / ".gitignore", "tiny/\n")
    commit(gated, ".gitignore")
    assert check(capsys) == {
        "all of them in git, which ignores some": "git add --force tiny/config.json "
        '&& git commit -m "Energy gate"'
    }
    commit(gated, "tiny/config.json")
    save(gated / "tiny" / "model.safetensors", "large")
    assert check(capsys) == {}, "synthetic weights need no more"
    suite = gated / "suites" / "test_tiny.py"
    suite.write_text(suite.read_text().replace('weights="dummy"', 'weights="auto"'))
    commit(gated, "suites")
    assert check(capsys) == {
        "the weights of tiny in git, or on the runner": "in suites/test_tiny.py, name its Hugging "
        "Face id or the runner's own folder (a whole path)"
    }


def test_a_model_of_several_suites_is_listed_once(
    gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (gated / "suites" / "test_tiny.py").read_text()
    save(gated / "suites" / "test_other.py", first)
    main(["init", "--check"])
    assert capsys.readouterr().out.count("ok       the model tiny, a folder\n") == 1


def test_a_model_that_is_not_there(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = gated / "suites" / "test_tiny.py"
    suite.write_text(suite.read_text().replace('model="tiny"', 'model="./none"'))
    ((what, command), *_) = check(capsys).items()
    assert what.startswith("a model that suites/test_tiny.py can use: model './none': no such")
    assert command.startswith("Name a folder that holds a config.json")


def test_workflows_that_cannot_run(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workflows = gated / ".github" / "workflows"
    (workflows / "energy-gate.yml").unlink()
    commit(gated, ".")
    lost = ".github/workflows/energy-gate.yml, which the workflow calls"
    assert check(capsys) == {lost: "pytest-energy init"}
    caller = workflows / "energy.yml"
    called = caller.read_text().replace("uses: ./", "uses: OWNER/pytest-energy/")
    caller.write_text(called)
    commit(gated, ".")
    address = "the address of pytest-energy in {}, which says OWNER"
    remedy = "write there the account where pytest-energy lies"
    assert check(capsys) == {address.format("the workflow"): remedy}
    ours = gated / "requirements" / "energy.txt"
    named = ours.read_text()
    ours.write_text("pytest-energy @ git+https://github.com/OWNER/pytest-energy\n")
    assert check(capsys)[address.format("requirements/energy.txt")] == remedy
    ours.write_text(named)
    caller.unlink()
    git(gated, "revert", "--no-edit", "HEAD~1")  # what is called is there, and nobody calls it
    commit(gated, ".")
    assert check(capsys) == {"a workflow that runs the gate": "pytest-energy init"}


def test_the_paths_are_those_that_the_workflow_names(
    gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gated / "serving").mkdir()
    for folder in ("requirements", "suites", "tiny"):
        (gated / folder).rename(gated / "serving" / folder)
    suite = gated / "serving" / "suites" / "test_tiny.py"
    suite.write_text(suite.read_text().replace('"tiny"', '"../tiny"'))
    commit(gated, ".")
    assert "a suite in suites" in check(capsys)
    caller = gated / ".github" / "workflows" / "energy.yml"
    caller.write_text(caller.read_text().replace("[requirements/**,", "['serving/**',"))
    lines = ["suites: serving/suites", "candidate: serving/requirements/vllm.txt"]
    lines.append("requirements: 'serving/requirements/energy.txt'")
    caller.write_text(caller.read_text() + "".join(f"      {line}\n" for line in lines))
    commit(gated, ".")
    assert check(capsys) == {}


def test_a_folder_inside_a_repository(gated: Path, capsys: pytest.CaptureFixture[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(gated / "tiny")
    for arguments in ([], ["--check"]):
        capsys.readouterr()
        assert main(["init", *arguments]) == 2
        assert capsys.readouterr().err == (
            f"pytest-energy: this folder lies in the repository {gated}, "
            "and CI reads workflows at its top.\nGo there first: cd ..\n"
        )


def test_a_folder_without_a_repository(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(here / ".git")
    assert next(iter(check(capsys).items())) == ("a git repository", "git init")


def test_the_runner_is_not_taken_for_seen(
    gated: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without uv
    assert check(capsys) == {}
    main(["init", "--check"])
    assert capsys.readouterr().out.endswith(
        "unseen   a runner, labelled self-hosted, linux, x64, gpu, with uv and a GPU. It\n"
        "         is not this machine, which has no GPU\n"
        "         on the runner: uv --version && nvidia-smi -L\n"
        "Nothing is missing here. Push it, and whatever raises the pin is measured.\n"
    )
    monkeypatch.setattr(nvml, "list_gpus", lambda: (Listed(0, "GPU-1", "NVIDIA H200 NVL"),))
    what = "uv and a GPU, if this machine is the runner, labelled self-hosted, linux, x64, gpu"
    assert check(capsys) == {what: "pip install uv"}


@pytest.mark.parametrize("model", ["no/such/folder", "./none", "models/none", "~/none"])
def test_a_path_to_nothing_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    assert main(["init", "--vllm", "0.20.2", "--model", model]) == 2
    assert f"model '{model}': no such folder" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == [".git"]


def test_what_was_taken_for_what_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(here / 'my "tiny"' / "config.json", CONFIG)
    assert main(["init", "--model", 'my "tiny"', "--vllm", "0.20.2"]) == 0
    assert capsys.readouterr().out.startswith(
        'model    my "tiny", a folder, synthetic weights\n'
        "vLLM     0.20.2\n"
        "label    gpu, as there is no GPU here to name it after; if your runner has\n"
        "         another (Settings, Actions, Runners), write that into\n"
        "         .github/workflows/energy.yml\n"
    )
    (suite,) = (here / "suites").iterdir()
    named = re.search("model=(.*),", suite.read_text())
    assert named is not None
    assert 'my "tiny"' in ast.literal_eval(named[1])
    assert "the model" not in "".join(check(capsys))
    shutil.rmtree(here / "suites")
    save(here / "requirements.txt", "-r serving.in\n")
    save(here / "serving.in", "vllm==0.25.1\n")
    (here / "requirements" / "vllm.txt").unlink()
    assert main(["init", "--model", "meta-llama/Llama-3.1-8B", "--label", "big one"]) == 2
    assert "that is not one label" in capsys.readouterr().err
    assert main(["init", "--model", "meta-llama/Llama-3.1-8B", "--label", "big"]) == 0
    assert capsys.readouterr().out.startswith(
        "model    meta-llama/Llama-3.1-8B, a Hugging Face id\n"
        "vLLM     0.25.1, pinned in serving.in\n"
        "label    big\n"
    )


def test_a_placeholder_is_no_version(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(here / "tiny" / "config.json", CONFIG)
    assert main(["init", "--vllm", "VERSION"]) == 2
    assert capsys.readouterr().err == (
        "pytest-energy: --vllm VERSION: that is not a version of vLLM.\n"
        "Give the one that production runs, as in: pytest-energy init --vllm 0.20.2\n"
    )


def test_an_installation_from_git_is_what_the_gate_installs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}}
    install_from(monkeypatch, origin)
    save(here / "tiny" / "config.json", CONFIG)
    assert main(["init", "--vllm", "0.20.2"]) == 0
    assert (here / "requirements" / "energy.txt").read_text() == (
        "pytest-energy[report] @ git+https://example.org/x.git@0a1b\n"
    )


def test_an_installation_from_a_folder_asks_where_the_gate_finds_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_from(monkeypatch, {"url": "file:///clone", "dir_info": {"editable": True}})
    save(here / "tiny" / "config.json", CONFIG)
    assert main(["init", "--vllm", "0.20.2"]) == 0
    assert (here / "requirements" / "energy.txt").read_text() == (
        "pytest-energy[report] @ git+https://github.com/OWNER/pytest-energy@v0.1.0\n"
    )
    what = "the address of pytest-energy in requirements/energy.txt, which says OWNER"
    assert check(capsys)[what] == "write there the account where pytest-energy lies"


def test_a_model_beside_the_repository_is_not_in_the_runners_checkout(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(here.parent / "tiny" / "config.json", CONFIG)
    assert main(["init", "--vllm", "0.20.2", "--model", "../tiny"]) == 0
    assert check(capsys)["the model ../tiny in this repository"] == (
        "copy it there, or name the runner's own folder (a whole path) in suites/test_tiny.py"
    )
