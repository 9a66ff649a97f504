"""Bad input: each its own clear message and a failing exit; nothing written, nothing lost."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.recording import recording_file, schema
from tests.plugin.project import MARKER, STORED, TESTS, Project


def everything(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


def refused(
    project: Project, arguments: list[str], *messages: str, ret: int = 1
) -> pytest.RunResult:
    """Run, expect the exit status and the messages, and that no file was touched."""
    before = project.files()
    result = project.run(*arguments)
    assert result.ret == ret, everything(result)
    for message in messages:
        assert message in everything(result)
    after = project.files()
    assert {name: after.get(name) for name in before} == before
    assert set(after) == set(before)
    assert "INTERNALERROR" not in everything(result)
    told_once(result, messages[0])
    return result


def told_once(result: pytest.RunResult, message: str) -> None:
    """The message stands once in each failure, without a traceback of ours."""
    text = everything(result).partition(" short test summary info ")[0]
    assert "During handling" not in text
    assert "Traceback" not in text
    for failure in re.split(r"^_{3,} .* _{3,}$", text, flags=re.MULTILINE)[1:]:
        assert failure.count(message) <= 1
        assert "pytest_energy/" not in failure


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (
            "batch_sizes",
            [0],
            "batch_sizes is [0]: it must be a list of whole numbers from 1 to 1,000,000",
        ),
        ("batch_sizes", [1.5], "batch_sizes is [1.5]"),
        ("batch_sizes", [10**7], "batch_sizes is [10000000]: it must be a list of whole numbers"),
        ("output_tokens", 10**10, "output_tokens is 10000000000: it must be a whole number from 1"),
        ("batch_sizes", ["8"], "batch_sizes is ['8']"),
        ("batch_sizes", "8", "batch_sizes is '8': it must be a list"),
        (
            "batch_size",
            8,
            "the energy marker has no argument 'batch_size'. It takes: model, batch_sizes",
        ),
        ("tolerance", "3%", "tolerance is '3%': it must be a number between 0 and 1, 0.03 for 3 %"),
    ],
)
def test_markers(project: Project, argument: str, value: Any, message: str) -> None:
    project.pytester.makepyfile(
        test_tiny=TESTS.replace(repr(MARKER), repr({**MARKER, argument: value}))
    )
    refused(project, [], message, "test_tiny.py::test_energy", ret=pytest.ExitCode.USAGE_ERROR)


@pytest.mark.parametrize("name", ["model", "prompts"])
def test_a_name_that_no_file_system_takes(project: Project, name: str) -> None:
    marker = {key: value for key, value in MARKER.items() if key != "input_tokens"}
    tests = TESTS.replace(repr(MARKER), repr({**marker, name: "x" * 1000}))
    project.pytester.makepyfile(test_tiny=tests)
    refused(
        project,
        [],
        "File name too long.",
        "test_tiny.py::test_energy[bs2]",
        "must be names of what can be read here",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


def test_no_marker(project: Project) -> None:
    project.pytester.makepyfile(test_tiny="def test_energy(energy): pass")
    refused(
        project,
        [],
        "no marker gives model and batch_sizes",
        "pytest.mark.energy(model=",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


def test_a_model_folder_without_a_config(project: Project) -> None:
    (project.path / "tiny" / "config.json").unlink()
    refused(
        project,
        [],
        "has no config.json",
        "Copy the model's config.json there",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


def test_a_model_folder_that_does_not_exist(project: Project) -> None:
    project.pytester.makepyfile(test_tiny=TESTS.replace("'tiny'", "'./none'"))
    refused(
        project,
        [],
        "model './none': no such folder",
        "Hugging Face id",
        ret=pytest.ExitCode.USAGE_ERROR,
    )


def test_two_tests_with_the_same_cell(project: Project) -> None:
    project.pytester.makepyfile(test_tiny=TESTS, test_other=TESTS)
    refused(
        project,
        [],
        "test_other.py::test_energy[bs2]",
        "test_tiny.py::test_energy[bs2]",
        "gate the same cell",
        ret=4,
    )


def test_one_test_that_is_repeated(project: Project) -> None:
    """As pytest-repeat does it: by one more parameter."""
    project.pytester.makeconftest(
        """
        def pytest_generate_tests(metafunc):
            metafunc.fixturenames.append("step")
            metafunc.parametrize("step", range(2))
        """
    )
    refused(
        project,
        [],
        "test_tiny.py::test_energy[1-bs2]",
        "gate the same cell",
        "Repeat launches instead: --energy-launches N",
        ret=4,
    )


@pytest.mark.parametrize("interleave", ["periods", "launches"])
def test_an_interpreter_of_the_reference_without_vllm(project: Project, interleave: str) -> None:
    result = refused(
        project,
        ["--energy-reference-python", sys.executable, "--energy-interleave", interleave],
        f"the reference engine ({sys.executable})",
        "--energy-reference-python /venv/bin/python",
    )
    assert "--energy-python" not in everything(result)


@pytest.mark.parametrize(
    ("changed", "to", "options", "message"),
    [
        ("tiny", "./tiny-2", [], "model './tiny-2': no such folder (looked for"),
        ("[2, 8]", "[0]", [], "test_tiny.py::test_energy: batch_sizes is [0]: it must be"),
        ("tiny", "tiny", ["--energy-replay", "none"], "none does not exist"),
        pytest.param(
            "tiny",
            "tiny",
            ["--energy-python", "/no/python"],
            "/no/python: there is no such file",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            "def test_energy(energy)",
            "@pytest.mark.energy(tolerance=0.1)\n    def test_energy()",
            [],
            "so nothing would be measured",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            "tiny",
            "tiny",
            ["--energy-baselines", "test_tiny.py"],
            "it is not a folder",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_what_is_refused_is_told_once_under_xdist_too(
    project: Project, changed: str, to: str, options: list[str], message: str
) -> None:
    """Workers pass no error on: some ended as INTERNALERROR, others let the tests run."""
    tests = TESTS.replace(changed, to).replace("energy.check()", "pass")
    project.pytester.makepyfile(test_tiny=tests)
    result = project.pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-p", "xdist", "-n", "2", *options
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in everything(result)
    assert everything(result).count(message) == 1
    assert " failed" not in everything(result)


def test_an_interpreter_without_vllm(project: Project) -> None:
    refused(
        project,
        ["--energy-python", sys.executable],
        "has no vLLM",
        "--energy-python /venv/bin/python",
    )


def test_no_gpu_at_all(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine loads, on something that is not a GPU."""
    packages = Path(__file__).parents[1] / "engine" / "fake_packages"
    monkeypatch.setenv("PYTHONPATH", str(packages))
    refused(
        project,
        [],
        "INVALID: tiny bs=8 64/250",
        "the engine does not run on an NVIDIA GPU",
        "--energy-replay DIR",
    )


@pytest.mark.parametrize("damaged", [STORED, "old", "noise"])
@pytest.mark.parametrize(
    "how", ["--energy-update", "--energy-noise", "--energy-exit-status=pytest"]
)
def test_a_file_that_stops_every_test_is_told_in_full_once(
    project: Project, damaged: str, how: str
) -> None:
    project.store()
    path = project.path / damaged
    if damaged == "old":
        path = next(path.rglob("*.json.gz"))
    if damaged == "noise":
        path = project.path / "baselines/simulated-gpu/noise/tiny.json"
        path.parent.mkdir()
    path.unlink(missing_ok=True)
    if damaged == "old":
        path.write_bytes(b"damaged")
    else:
        path.symlink_to("gone")
    result = project.run("--energy-replay", "old", how)
    text = everything(result)
    if (damaged, how) == (STORED, "--energy-noise"):
        assert result.ret == 0  # it needs no baseline
        return
    result.assert_outcomes(failed=4)
    remedy = "Fetch it again" if damaged == "old" else "delete the link: rm "
    failures = text.partition(" short test summary info ")[0]
    assert failures.count(remedy) == 1
    assert failures.count("(in full at tiny bs=2 64/250)") == 3
    assert failures.count(str(path)) >= 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:1000], "it is truncated or not JSON"),
        (lambda text: "no JSON", "it is truncated or not JSON"),
        (
            lambda text: text.replace('"schema_version": 2', '"schema_version": 7'),
            "has schema version 7, but this pytest-energy reads only 1 and 2",
        ),
    ],
)
@pytest.mark.parametrize("update", [[], ["--energy-update"]])
def test_damaged_baselines(project: Project, damage: Any, message: str, update: list[str]) -> None:
    project.store()
    path = project.path / "baselines/simulated-gpu/tiny.gpu-00000000.json"
    path.write_text(damage(path.read_text()))
    result = refused(
        project,
        ["--energy-replay", "old", *update],
        message,
        "simulated-gpu/tiny.gpu-00000000.json",
    )
    result.assert_outcomes(failed=4)


def test_a_recording_of_another_gpu_model(project: Project) -> None:
    project.store()
    project.record("h200", environment={"gpu_name": "NVIDIA H200"})
    refused(
        project,
        ["--energy-replay", "h200"],
        "NOT COMPARABLE: tiny bs=2 64/250",
        "measured on another GPU model, simulated GPU",
    )


def test_a_recording_under_another_power_limit(project: Project) -> None:
    project.store()
    project.record("capped", environment={"power_limit_w": 400.0})
    refused(
        project,
        ["--energy-replay", "capped"],
        "NOT COMPARABLE",
        "the power limit is 400.0 W, the baseline's was 700.0 W",
    )


def test_recordings_of_two_gpu_models_together(project: Project) -> None:
    project.record("a")
    project.record("b", environment={"gpu_name": "NVIDIA H200"})
    refused(
        project,
        ["--energy-replay", "a", "b"],
        "differ in gpu_name (NVIDIA H200, simulated GPU)",
        "Replay them separately",
    )


def test_recordings_of_two_engines_together(project: Project) -> None:
    project.record("a")
    project.record("b", environment={"engine_args_under_test": {"enforce_eager": True}})
    refused(
        project,
        ["--energy-replay", "a", "b"],
        "differ in engine_args_under_test",
        "not launches of one engine",
    )


def test_no_baseline(project: Project) -> None:
    project.record("old")
    refused(
        project,
        ["--energy-replay", "old"],
        "NO BASELINE: tiny bs=2 64/250",
        "'test_tiny.py::test_energy[bs2]' --energy-update",
    )


def test_no_recording_of_the_cell(project: Project) -> None:
    project.record("other", marker={**MARKER, "weights": "auto"})
    refused(
        project,
        ["--energy-replay", "other"],
        "no recording of tiny bs=2 64/250 in",
        "differs in engine_args.load_format: auto → dummy",
    )


@pytest.mark.parametrize("noise", [[], ["--energy-noise"]])
def test_a_damaged_recording(project: Project, noise: list[str]) -> None:
    folder = project.record("old")
    file = next(folder.rglob("*.json.gz"))
    file.write_bytes(file.read_bytes()[:500])
    refused(project, ["--energy-replay", "old", *noise], str(file), "damaged or not a recording")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--energy-replay", "a", "--energy-record", "b"], "give one of them"),
        (["--energy-replay", "a", "--energy-engine-arg", "x=1"], "leave it out"),
        (["--energy-engine-arg", "eager"], "'eager' is not NAME=VALUE"),
        (["--energy-engine-arg", "a=1", "--energy-engine-arg", "a=2"], "a is given twice"),
        (["--energy-replay="], "--energy-replay: the name is empty; is a variable not set?"),
        (["--energy-python", ""], "--energy-python: the name is empty"),
        (["--energy-record", " "], "--energy-record: the name is empty"),
        (["--energy-baselines="], "--energy-baselines: the name is empty"),
        (["--energy-reference-python="], "--energy-reference-python: the name is empty"),
        (["--energy-launches", "0"], "--energy-launches: 0 is not a positive whole number"),
        (["--energy-launches", "2.5"], "--energy-launches: 2.5 is not a positive whole number"),
        (
            ["--energy-load-timeout", "soon"],
            "--energy-load-timeout: soon is not a positive number",
        ),
    ],
)
def test_options(project: Project, arguments: list[str], message: str) -> None:
    refused(project, arguments, message, ret=pytest.ExitCode.USAGE_ERROR)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("energy_launches = 0", "energy_launches: 0 is not a positive whole number"),
        ("energy_lock_timeout = nan", "energy_lock_timeout: nan is not a positive number"),
        ("energy_interleave = both", "both is not one of auto, periods, launches"),
        ("energy_inconclusive = maybe", "energy_inconclusive: maybe is not one of fail, warn"),
        ("energy_engine_args = eager", "energy_engine_args: 'eager' is not NAME=VALUE"),
    ],
)
def test_ini_settings(project: Project, setting: str, message: str) -> None:
    project.pytester.makeini(f"[pytest]\n{setting}")
    refused(project, [], message, ret=pytest.ExitCode.USAGE_ERROR)


def test_a_counter_that_disagrees_with_power_is_no_measurement(project: Project) -> None:
    project.store()
    folder = project.record("odd")
    for file in recording_file.find(folder):
        content = schema.to_json(recording_file.read(file))
        samples = content["gpus"][0]["samples"]
        samples["average_power_mw"] = [power * 11 // 10 for power in samples["average_power_mw"]]
        recording_file.write(schema.from_json(json.loads(json.dumps(content))), file)
    refused(
        project,
        ["--energy-replay", "odd"],
        "INVALID: tiny bs=2 64/250",
        "counter_disagrees",
        "more than 3 % apart",
        "next: leave the invalid launches out, or record new ones: pytest 'test_tiny.py::",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--energy-noise"], "nothing is measured"),
        (["--energy-update", "--energy-replay", "old"], "nothing is judged"),
    ],
)
@pytest.mark.parametrize("tests", ["", "def test_other(): pass"])
def test_no_test_of_energy_is_no_silent_success(
    project: Project, arguments: list[str], message: str, tests: str
) -> None:
    project.pytester.makepyfile(test_tiny=tests)
    project.run(*arguments).stdout.fnmatch_lines(
        [
            f"energy: no selected test uses the energy or throughput fixture, so {message}.",
            f"Name the folder of your suite*pytest suites {arguments[0]}*",
        ]
    )


def test_tests_after_the_folders_to_replay_are_no_recordings(project: Project) -> None:
    """pytest would run all tests of the project instead."""
    suites = project.path / "suites"
    suites.mkdir()
    (project.path / "test_tiny.py").rename(suites / "test_tiny.py")
    project.record("old")
    result = project.run("--energy-replay", "old", "suites")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            f"ERROR: {suites} holds tests and no recordings, *",
            "Name the tests first: pytest suites --energy-replay DIR",
        ]
    )


def test_a_run_that_asks_for_nothing_is_not_told_that_nothing_is_judged(project: Project) -> None:
    project.pytester.makepyfile(test_tiny="def test_other(): pass")
    project.run().stdout.no_fnmatch_line("*no selected test*")
    project.pytester.makepyfile(test_tiny=TESTS)
    project.run("--energy-replay", "none").stdout.no_fnmatch_line("*no selected test*")


def test_a_tests_own_collection_error_is_not_taken_for_no_test(project: Project) -> None:
    project.pytester.makepyfile(test_tiny="def test_energy(energy): pass")
    project.run("--energy-noise").stdout.no_fnmatch_line("*no selected test*")


@pytest.mark.parametrize("version", ["9" * 5000, ["x"] * 5000, {"x" * 5000: 1}, None, True, 2.0])
@pytest.mark.parametrize("file", ["tiny.gpu-00000000.json", "noise/tiny.json"])
def test_a_schema_version_is_not_echoed_whole(project: Project, version: Any, file: str) -> None:
    project.store()
    project.measure_noise()
    path = project.path / "baselines/simulated-gpu" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    result = refused(
        project,
        ["--energy-replay", "old"],
        f"{path} has schema version ",
        f"but this pytest-energy reads only {'1, 2 and 3' if 'noise' in file else '1 and 2'}.",
        "Use the pytest-energy that wrote it",
    )
    assert max(map(len, result.outlines)) < 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--energy-baselines", "file"], "--energy-baselines {path}/file: it is not a folder."),
        (["--energy-record", "file"], "--energy-record {path}/file: it is not a folder."),
        (
            ["--energy-record", "file/below"],
            "--energy-record {path}/file/below: {path}/file is not",
        ),
        (
            ["--energy-baselines", "baselines/simulated-gpu"],
            "Give the store, which is the folder above: --energy-baselines {path}/baselines",
        ),
    ],
)
def test_folders_that_cannot_be_used(project: Project, arguments: list[str], message: str) -> None:
    """Refused before anything is measured, which would be lost."""
    (project.path / "file").touch()
    project.measure_noise()
    refused(project, arguments, message.format(path=project.path), ret=pytest.ExitCode.USAGE_ERROR)


@pytest.mark.parametrize("arguments", [["--energy-update"], ["--energy-noise"]])
def test_a_store_that_is_read_only(
    project: Project, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """Before the first launch; without an update it is only read."""
    project.store()
    store, access = project.path / "baselines", os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != store and access(path, mode))
    message = f"--energy-baselines {store}: {store} cannot be written to.\nGive another folder"
    refused(project, arguments, message, ret=pytest.ExitCode.USAGE_ERROR)
    assert project.run("--energy-replay", "old").ret == 0


def test_a_project_without_energy_tests_may_have_a_file_of_that_name(project: Project) -> None:
    project.pytester.makepyfile(test_tiny="def test_other(): pass")
    (project.path / "baselines").touch()
    project.run().assert_outcomes(passed=1)


def test_one_launch_in_two_files_counts_once_if_they_agree_and_is_refused_if_not(
    project: Project,
) -> None:
    project.store()
    project.record("new")
    copy = project.path / "new" / "new-0" / "2 (1).json.gz"
    copy.write_bytes((project.path / "new" / "new-0" / "2.json.gz").read_bytes())
    project.run("--energy-replay", "new").assert_outcomes(passed=4)
    dear = project.record("dear", power_w=560.0)
    other = recording_file.read(dear / "dear-0" / "2.json.gz")
    recording_file.write(replace(other, launch_id="new-0"), copy)
    refused(
        project,
        ["--energy-replay", "new", "-k", "bs2"],
        "2 (1).json.gz and ",
        "are the same launch of the same cell, and differ.",
    )
