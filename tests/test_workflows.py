"""The workflows keep strangers off the self-hosted runner, and their scripts do what they say.

GitHub itself is simulated: conditions are evaluated and scripts run as its documentation says.
"""

import copy
import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_energy.commands.main import main

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
GATE = GITHUB / "workflows" / "energy-gate.yml"
BASELINE = GITHUB / "workflows" / "energy-baseline.yml"
RELEASE = GITHUB / "workflows" / "release.yml"
ACTION = ROOT / "action.yml"
WORKFLOWS = [
    *sorted((GITHUB / "workflows").glob("*.yml")),
    *sorted((GITHUB / "examples").glob("energy*.yml")),
]

Workflow = dict[str, Any]

OURS = "owner/repository"
TRUSTED = [
    {"event_name": "push"},
    {"event_name": "schedule"},
    {"event_name": "workflow_dispatch"},
    {
        "event_name": "pull_request",
        "event": {"pull_request": {"head": {"repo": {"full_name": OURS}}}},
    },
]
STRANGERS = [
    {
        "event_name": "pull_request",
        "event": {"pull_request": {"head": {"repo": {"full_name": "stranger/repository"}}}},
    },
    {
        "event_name": "pull_request",
        "event": {"pull_request": {"head": {"repo": None}}},
    },  # the fork was deleted
    {
        "event_name": "pull_request_target",
        "event": {"pull_request": {"head": {"repo": {"full_name": "stranger/repository"}}}},
    },
    {
        "event_name": "pull_request_target",
        "event": {"pull_request": {"head": {"repo": {"full_name": OURS}}}},
    },
    {"event_name": "issue_comment", "event": {}},
    {"event_name": "workflow_run", "event": {}},
    {
        "event_name": "pull_request_review",
        "event": {"pull_request": {"head": {"repo": {"full_name": OURS}}}},
    },
]


def load(path: Path) -> Workflow:
    workflow: Workflow = yaml.safe_load(path.read_text())
    workflow["on"] = workflow.pop(True)  # what YAML 1.1 makes of `on`
    return workflow


class _Context(dict[str, Any]):
    """A context of GitHub's expressions: what is not there is null, and so is all below it."""

    def __getattr__(self, name: str) -> Any:
        value = self.get(name)
        return _Context(value or {}) if value is None or isinstance(value, dict) else value


def holds(condition: str, github: dict[str, Any], **contexts: dict[str, Any]) -> bool:
    """Whether a job with this condition runs."""
    expression = (
        " ".join(condition.removeprefix("${{").removesuffix("}}").split())
        .replace("||", " or ")
        .replace("&&", " and ")
    )
    functions = {
        "contains": lambda values, value: value in values,
        "fromJSON": json.loads,
        "always": lambda: True,
    }
    names = {name: _Context(values) for name, values in contexts.items()}
    everything = {"github": _Context(repository=OURS, **github), **functions, **names}
    return bool(eval(expression, {"__builtins__": {}}, everything))


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job.get("steps", ()))


def is_self_hosted(job: dict[str, Any]) -> bool:
    return "uses" not in job and not str(job["runs-on"]).startswith("ubuntu-")


def complaints(workflow: Workflow) -> Iterator[str]:
    """What makes a workflow unsafe."""
    if {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow["on"]):
        yield "started by an event that strangers cause and that is given rights"
    if workflow["permissions"] != {}:
        yield "permissions for all jobs"
    for name, job in workflow["jobs"].items():
        for complaint in (*_of_any(job), *(_of_self_hosted(job) if is_self_hosted(job) else ())):
            yield f"{name}: {complaint}"


_TRUSTED_ACTIONS = r"actions/[\w-]+|pypa/gh-action-pypi-publish"


def _of_any(job: dict[str, Any]) -> Iterator[str]:
    if "permissions" not in job:
        yield "permissions are not stated"
    if "uses" not in job and "timeout-minutes" not in job:
        yield "no time limit"
    rights = job.get("permissions", {}).values()
    for step in (job, *steps(job)):
        uses, script = step.get("uses", ""), step.get("run", "")
        if (
            uses
            and not uses.startswith("./.github/workflows/")
            and not re.fullmatch(rf"({_TRUSTED_ACTIONS})@[0-9a-f]{{40}}", uses)
        ):
            yield f"{uses} is no action of GitHub's own or PyPA's, pinned by commit hash"
        if (
            uses.startswith("actions/checkout@")
            and step.get("with", {}).get("persist-credentials") is not False
        ):
            yield "checkout leaves its token behind"
        if "${{" in script:
            yield "an expression inside a script"
        if "write" in rights and re.search(r"pytest|uv |pip |python", script):
            yield "runs the repository's code with a right to write"


def _of_self_hosted(job: dict[str, Any]) -> Iterator[str]:
    condition = job.get("if", "true").replace("true", "True")
    for event in STRANGERS:
        if holds(condition, event):
            yield f"runs on the self-hosted runner what strangers cause: {event}"
    if job.get("permissions") != {"contents": "read"}:
        yield "more rights than to read on the self-hosted runner"
    concurrency = job.get("concurrency", {})
    if (
        "${{ inputs.gpu }}" not in concurrency.get("group", "")
        or concurrency.get("cancel-in-progress") is not False
    ):
        yield "two jobs on one GPU, or one that ends the other"
    if concurrency.get("queue") != "max":
        yield "a third waiting job cancels the second"
    for step in steps(job):
        if step.get("uses", "").startswith("actions/checkout@"):
            ref = step["with"].get("ref", "")
            if re.sub(
                r"github\.event\.(pull_request\.(head|base)\.sha|before|repository\.default_branch)"
                r"|inputs\.update|\$\{\{|\}\}|&&|\|\||''|\s",
                "",
                ref,
            ):
                yield "checks out what the caller names"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_safe(path: Path) -> None:
    assert list(complaints(load(path))) == []


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def remove(job: dict[str, Any]) -> None:
        for key in keys:
            del job[key]

    return remove


def _with(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda job: job.update({key.replace("_", "-"): value for key, value in values.items()})


MUTATIONS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no condition": (_without("if"), "strangers"),
    "no look at where the pull request comes from": (
        lambda job: job.update(
            {
                "if": job["if"].replace(
                    "&& github.event.pull_request.head.repo.full_name == github.repository", ""
                )
            }
        ),
        "strangers",
    ),
    "runs whatever happened": (
        lambda job: job.update({"if": f"always() || {job['if']}"}),
        "strangers",
    ),
    "pull_request_target": (
        lambda job: job.update({"if": job["if"].replace("schedule", "pull_request_target")}),
        "strangers",
    ),
    "no permissions": (_without("permissions"), "permissions"),
    "a right to write": (_with(permissions={"contents": "write"}), "more rights"),
    "no concurrency": (_without("concurrency"), "two jobs"),
    "cancels": (
        _with(
            concurrency={
                "group": "gpu-${{ inputs.gpu }}",
                "cancel-in-progress": True,
                "queue": "max",
            }
        ),
        "two jobs",
    ),
    "one group for each run": (
        _with(concurrency={"group": "${{ github.run_id }}", "cancel-in-progress": False}),
        "two jobs",
    ),
    "no queue": (lambda job: job["concurrency"].pop("queue"), "third"),
    "no time limit": (_without("timeout-minutes"), "time limit"),
    "action by tag": (lambda job: job["steps"][0].update(uses="actions/checkout@v6"), "pinned"),
    "action of others": (
        lambda job: job["steps"][0].update(uses=f"somebody/checkout@{'a' * 40}"),
        "pinned",
    ),
    "token left behind": (lambda job: job["steps"][0]["with"].pop("persist-credentials"), "token"),
    "any ref": (lambda job: job["steps"][0]["with"].update(ref="${{ inputs.ref }}"), "names"),
    "expression in a script": (
        lambda job: job["steps"][1].update(run="pytest ${{ inputs.suites }}"),
        "expression",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_gate_without_a_guard_is_unsafe(name: str) -> None:
    workflow = load(GATE)
    mutate, wanted = MUTATIONS[name]
    mutate(workflow["jobs"]["measure"])
    assert [
        complaint
        for complaint in complaints(workflow)
        if complaint.startswith("measure: ") and wanted in complaint
    ]


def test_gate_with_rights_for_all_jobs_or_started_by_strangers_is_unsafe() -> None:
    workflow = load(GATE)
    assert list(complaints({**workflow, "permissions": {"contents": "write"}})) == [
        "permissions for all jobs"
    ]
    assert len(list(complaints({**workflow, "on": {"pull_request_target": {}}}))) == 1


def test_code_of_the_repository_run_with_a_right_to_write_is_unsafe() -> None:
    workflow = copy.deepcopy(load(BASELINE))
    workflow["jobs"]["propose"]["steps"].append({"run": "pytest suites"})
    assert list(complaints(workflow)) == [
        "propose: runs the repository's code with a right to write"
    ]


@pytest.mark.parametrize("event", TRUSTED, ids=lambda event: event["event_name"])
def test_gate_measures_what_the_repository_itself_causes(event: dict[str, Any]) -> None:
    assert holds(load(GATE)["jobs"]["measure"]["if"], event)


@pytest.mark.parametrize("event", STRANGERS, ids=lambda event: event["event_name"])
def test_verdict_is_given_whatever_happened(event: dict[str, Any]) -> None:
    assert holds(load(GATE)["jobs"]["verdict"]["if"], event)


@pytest.mark.parametrize(
    ("event", "wanted"),
    [*((event, True) for event in TRUSTED), *((event, False) for event in STRANGERS)],
    ids=lambda value: value["event_name"] if isinstance(value, dict) else None,
)
def test_runner_refuses_what_strangers_cause_whatever_the_workflow_says(
    tmp_path: Path, event: dict[str, Any], wanted: bool
) -> None:
    payload = tmp_path / "event.json"
    payload.write_text(json.dumps(event.get("event", {})))
    env = {
        "PATH": os.environ["PATH"],
        "GITHUB_EVENT_NAME": event["event_name"],
        "GITHUB_EVENT_PATH": str(payload),
        "GITHUB_REPOSITORY": OURS,
    }
    hook = GITHUB / "examples" / "refuse-strangers.sh"
    done = subprocess.run(
        ["bash", "-e", hook], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode == 0) is wanted
    assert ("Refused before the first step" in done.stderr) is not wanted


@pytest.mark.parametrize("payload", ["", "{}", '{"pull_request": {"head": {}}}', "[]"])
def test_runner_refuses_what_it_cannot_read(tmp_path: Path, payload: str) -> None:
    (tmp_path / "event.json").write_text(payload)
    env = {
        "PATH": os.environ["PATH"],
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
    }
    hook = GITHUB / "examples" / "refuse-strangers.sh"
    assert (
        subprocess.run(
            ["bash", "-e", hook], env=env, capture_output=True, timeout=60, check=False
        ).returncode
        != 0
    )


def _labeled(name: str, owner: str, action: str = "labeled") -> dict[str, Any]:
    return {
        "event_name": "pull_request",
        "event": {
            "action": action,
            "label": {"name": name},
            "pull_request": {"head": {"repo": {"full_name": f"{owner}/repository"}}},
        },
    }


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        ({"event_name": "workflow_dispatch"}, True),
        (_labeled("energy-update", "owner"), True),
        (_labeled("energy-update", "stranger"), False),
        (_labeled("another", "owner"), False),
        (_labeled("energy-update", "owner", action="synchronize"), False),
        ({"event_name": "push"}, False),
        ({"event_name": "schedule"}, False),
        *((event, False) for event in STRANGERS),
    ],
)
def test_baselines_are_updated_only_where_a_person_asks(
    event: dict[str, Any], wanted: bool
) -> None:
    jobs = load(BASELINE)["jobs"]
    assert holds(jobs["authorize"]["if"], event, inputs={"label": "energy-update"}) is wanted
    assert jobs["measure"]["needs"] == "authorize"
    assert jobs["propose"]["needs"] == "measure"
    assert "if" not in jobs["measure"]
    assert "if" not in jobs["propose"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_pinned_actions_say_which_version_they_are(path: Path) -> None:
    for line in path.read_text().splitlines():
        if re.search(rf"uses: ({_TRUSTED_ACTIONS})@", line):
            assert re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_one_action_has_one_hash() -> None:
    found = {
        line.strip().removeprefix("- ")
        for path in (*WORKFLOWS, ACTION)
        for line in path.read_text().splitlines()
        if "uses: actions/" in line
    }
    assert len(found) == len({line.partition("@")[0] for line in found})


@pytest.mark.parametrize(
    ("caller", "called"), [(GITHUB / "examples" / "energy.yml", GATE), (BASELINE, GATE)]
)
def test_files_that_are_measured_by_default_start_a_measurement(caller: Path, called: Path) -> None:
    inputs = load(called)["on"]["workflow_call"]["inputs"]
    if caller == BASELINE:  # hands all inputs on, with the same defaults
        own = load(caller)["on"]["workflow_call"]["inputs"]
        handed_on = load(caller)["jobs"]["measure"]["with"]
        assert set(handed_on) == set(inputs)
        same = set(own) & set(inputs)
        differing = [name for name in same if own[name]["default"] != inputs[name]["default"]]
        assert differing == ["baselines"]  # the gate compares with the base branch
        return
    paths = load(caller)["on"]["pull_request"]["paths"]
    for name in ("candidate", "requirements"):
        assert f"{Path(inputs[name]['default']).parent}/**" in paths
    assert f"{inputs['suites']['default']}/**" in paths


def test_renovate_and_dependabot_raise_the_pin_that_is_measured() -> None:
    pin = load(GATE)["on"]["workflow_call"]["inputs"]["candidate"]["default"]
    renovate = json.loads((GITHUB / "examples" / "renovate.json").read_text())
    patterns = renovate["pip_requirements"]["managerFilePatterns"]
    assert any(re.search(pattern.strip("/"), pin) for pattern in patterns)
    dependabot = yaml.safe_load((GITHUB / "examples" / "dependabot.yml").read_text())
    assert [f"/{Path(pin).parent}"] == [
        update["directory"]
        for update in dependabot["updates"]
        if update["package-ecosystem"] == "pip"
    ]


def typed() -> str:
    """All that workflows run and docs/runner.md tells to type."""
    scripts = [
        step.get("run", "")
        for path in WORKFLOWS
        for job in load(path)["jobs"].values()
        for step in steps(job)
    ]
    page = (ROOT / "docs" / "runner.md").read_text()
    return "\n".join(
        [*scripts, *re.findall(r"^```sh\n.*?^```$|^    \S.*$|`[^`\n]+`", page, flags=re.M | re.S)]
    )


def test_options_that_are_typed_exist(pytester: pytest.Pytester) -> None:
    known = set(
        re.findall(
            r"^  (--energy-[a-z-]+)",
            "\n".join(pytester.runpytest_inprocess("--help").outlines),
            flags=re.M,
        )
    )
    assert "--energy-python" in known
    assert set(re.findall(r"(?<![\w-])--energy-[a-z-]+", typed())) - known == set()


@pytest.mark.parametrize("name", ["doctor", "fleet", "gate", "noise"])
def test_commands_that_are_typed_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed_names = set(re.findall(r"pytest-energy\"? ([a-z]+) ", typed()))
    assert typed_names == {"doctor", "fleet", "gate", "noise"}
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    words = set(re.findall(rf"pytest-energy\"? {name} .*?(--[a-z-]+)", typed()))
    known = capsys.readouterr().out
    assert [word for word in words if not word.startswith("--energy-") and word not in known] == []


def test_page_names_what_github_shows() -> None:
    page, gate = (ROOT / "docs" / "runner.md").read_text(), load(GATE)
    assert gate["jobs"]["verdict"]["name"] == "Verdict"
    artifact = next(
        step["with"]["name"]
        for step in steps(gate["jobs"]["measure"])
        if step.get("name") == "Keep recordings and report"
    )
    gpu = gate["on"]["workflow_call"]["inputs"]["gpu"]["default"]
    assert (
        f"`{artifact.replace('${{ inputs.gpu }}', gpu).replace('${{ github.run_attempt }}', '1')}`"
        in page
    )
    example = load(GITHUB / "examples" / "energy-baseline.yml")
    assert set(re.findall(r"--field ([a-z-]+)=", page)) == set(
        example["on"]["workflow_dispatch"]["inputs"]
    )
    assert f"`{load(BASELINE)['on']['workflow_call']['inputs']['label']['default']}`" in page


class Runner:
    """Runs the scripts of steps in `folder` as GitHub's runner does; a test's programs go first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temp, self.programs = (
            folder / "checkout",
            folder / "temp",
            folder / "programs",
        )
        for made in (
            self.folder,
            self.temp / "energy" / "bin",
            self.temp / "results",
            self.programs,
        ):
            made.mkdir(parents=True)
        self.output = folder / "output"
        self.output.touch()

    def program(self, name: str, script: str, folder: Path | None = None) -> None:
        path = (folder or self.programs) / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(
        self, workflow: Path, job: str, step: str, **env: str
    ) -> subprocess.CompletedProcess[str]:
        started = self.start(workflow, job, step, **env)
        out, err = started.communicate(timeout=300)
        return subprocess.CompletedProcess(started.args, started.returncode, out, err)

    def start(self, workflow: Path, job: str, step: str, **env: str) -> subprocess.Popen[str]:
        found = next(s for s in steps(load(workflow)["jobs"][job]) if s.get("name") == step)
        missing = set(found.get("env", {})) - set(env) - {"GH_TOKEN"}
        assert not missing, f"the step reads {missing}, which the test does not set"
        given = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.folder.parent),
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_REPOSITORY": OURS,
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_RUN_ID": "17",
            "GITHUB_RUN_ATTEMPT": "1",
            **env,
        }
        # Whoever runs these tests may ignore SIGINT.
        command = ["env", "--default-signal=INT", "bash", "--noprofile", "--norc", "-eo"]
        command += ["pipefail", "-c", found["run"]]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.mark.parametrize(
    ("result", "status", "passes", "says"),
    [
        ("success", "0", True, "Every test that ran passed"),
        ("failure", "1", False, "A test failed"),
        ("failure", "10", False, "Regressed"),
        ("failure", "11", False, "Invalid"),
        ("failure", "12", False, "Not comparable"),
        ("failure", "13", False, "No baseline"),
        ("failure", "14", False, "Inconclusive"),
        ("failure", "2", False, "interrupted"),
        ("failure", "3", False, "exit status 3"),
        ("failure", "4", False, "Wrong arguments"),
        ("failure", "5", False, "Nothing was judged"),
        ("failure", "", False, "Nothing was measured"),
        ("failure", "0", False, "exit status 0"),  # measured and green, then not kept
        ("skipped", "", False, "fork"),
        ("cancelled", "", False, "time limit"),
        ("cancelled", "0", False, "time limit"),
        ("success", "", False, "Nothing was measured"),
    ],
)
def test_the_verdict_passes_only_if_everything_was_measured_and_passed(
    runner: Runner, result: str, status: str, passes: bool, says: str
) -> None:
    done = runner.run(GATE, "verdict", "Explain the exit status", RESULT=result, STATUS=status)
    assert (done.returncode == 0) is passes
    assert says in done.stdout
    assert done.stdout.startswith("::notice" if passes else "::error")


MEASURE = {
    "SUITES": "suites",
    "CANDIDATE": "requirements/vllm.txt",
    "PYTHON_VERSION": "3.12",
    "BASELINES": "baselines",
    "PYTEST_ADDOPTS": "",
    "UPDATE": "false",
    "BECAUSE": "",
}


def measure(runner: Runner, **changed: str) -> subprocess.CompletedProcess[str]:
    return runner.run(GATE, "measure", "Measure and judge", **{**MEASURE, **changed})


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_run_ends_pytest(runner: Runner, sent: signal.Signals) -> None:
    """Of a step that is cancelled GitHub signals the entry process alone.

    "For steps that need to be canceled, the runner machine sends SIGINT/Ctrl-C to the step's entry
    process ([...] bash/cmd/pwd when using run in a step). If the process doesn't exit within 7500
    ms, the runner will send SIGTERM/Ctrl-Break to the process, then wait for 2500 ms":
    https://docs.github.com/en/actions/reference/workflow-cancellation-reference
    """
    ended = """
        import pathlib, signal, sys, time
        handle = signal.getsignal(signal.SIGINT)  # as Python finds it when it starts
        def end(number, _):
            pathlib.Path("ended").write_text(str(number))
            sys.exit(2)
        signal.signal(signal.SIGTERM, end)
        if handle is signal.default_int_handler:
            signal.signal(signal.SIGINT, end)
        pathlib.Path("started").touch()
        time.sleep(60)
    """
    (runner.folder / "stand_in.py").write_text(textwrap.dedent(ended))
    command = f'exec "{sys.executable}" stand_in.py'
    runner.program("pytest-energy", command, runner.temp / "energy" / "bin")
    step = runner.start(GATE, "measure", "Measure and judge", **MEASURE)
    while not (runner.folder / "started").exists():
        assert step.poll() is None
    step.send_signal(sent)  # to the shell, and not to its group
    step.communicate(timeout=30)
    assert step.returncode == 2
    assert (runner.folder / "ended").read_text() == str(int(sent))


def test_the_shell_becomes_what_measures_so_that_a_cancelled_run_reaches_it() -> None:
    scripts = [
        step.get("run", "")
        for path in WORKFLOWS
        for job in load(path)["jobs"].values()
        for step in steps(job)
    ]
    scripts += [step["run"] for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]]
    measuring = [
        script for script in scripts if re.search(r'bin/pytest(-energy" gate|"? )', script)
    ]
    assert len(measuring) == 2
    for script in measuring:
        assert script.splitlines()[-2].startswith("exec ")


def arguments(runner: Runner, **changed: str) -> list[str]:
    runner.program("pytest-energy", 'printf "%s\\n" "$@"', runner.temp / "energy" / "bin")
    return measure(runner, **changed).stdout.splitlines()


def test_gate_updates_only_if_asked_to(runner: Runner) -> None:
    plain, because = arguments(runner), '"; $(id) a newer driver'
    assert not [argument for argument in plain if argument.startswith("--energy-update")]
    assert arguments(runner, BECAUSE=because) == plain
    assert arguments(runner, UPDATE="true") == [*plain, "--energy-update"]
    assert arguments(runner, UPDATE="true", BECAUSE=because) == [
        *plain,
        "--energy-update",
        f"--energy-update-reason={because}",
    ]


def test_gate_compares_with_the_base_branch_unless_baselines_are_given(runner: Runner) -> None:
    assert "--reference" not in arguments(runner)
    base = runner.folder / ".energy-reference" / "requirements" / "vllm.txt"
    base.parent.mkdir(parents=True)
    base.write_text("vllm==0.20.2")
    found = arguments(runner, BASELINES="")
    assert "--baselines" not in found
    assert found[found.index("--reference") + 1] == ".energy-reference/requirements/vllm.txt"


def test_the_environment_of_pytest_is_made_from_its_requirements(runner: Runner) -> None:
    runner.program("uv", 'printf "%s " "$@"; echo')
    (runner.temp / "results").rmdir()
    step = "Make the environment of pytest"
    given = {"REQUIREMENTS": "requirements/energy.txt", "PYTHON_VERSION": "3.12"}
    done = runner.run(GATE, "measure", step, **given)
    assert done.returncode == 0, done.stderr
    wanted = f"pip install --python {runner.temp}/energy --requirements requirements/energy.txt"
    assert wanted in done.stdout


def test_the_machine_is_checked_without_an_engine(runner: Runner) -> None:
    """Pytest's environment, which is the only one by then, need not have vLLM."""
    command = '[ "$*" = "doctor --no-vllm" ] && echo checked'
    runner.program("pytest-energy", command, runner.temp / "energy" / "bin")
    assert runner.run(GATE, "measure", "Check the runner").stdout == "checked\n"
    (check,) = (
        step
        for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]
        if step["name"] == "Check the runner"
    )
    assert check["run"].endswith("doctor --no-vllm")
    gitlab = yaml.safe_load((GITHUB / "examples" / "gitlab-ci.yml").read_text())
    assert ".energy/bin/pytest-energy doctor --no-vllm" in gitlab["energy"]["script"]


@pytest.mark.parametrize(("tag", "built"), [("v0.1.0", True), ("v0.2.0", False)])
def test_a_release_is_what_its_tag_names(runner: Runner, tag: str, built: bool) -> None:
    runner.program("pip", "exit 0")
    runner.program("uv", "mkdir dist && touch dist/pytest_energy-0.1.0-py3-none-any.whl")
    done = runner.run(RELEASE, "build", "Build what the tag names", GITHUB_REF_NAME=tag)
    assert (done.returncode == 0) is built
    assert ("Nothing was published" in done.stdout) is not built
    job = load(RELEASE)["jobs"]
    assert (job["build"]["needs"], job["publish"]["needs"]) == ("tests", "build")


@pytest.mark.parametrize(
    ("permission", "allowed"),
    [("admin", True), ("write", True), ("read", False), ("none", False), ("", False)],
)
def test_only_people_with_write_access_start_an_update(
    runner: Runner, permission: str, allowed: bool
) -> None:
    runner.program(
        "gh", f'[ "$2" = repos/{OURS}/collaborators/somebody/permission ] && echo "{permission}"'
    )
    step = "Require write access and a branch"
    done = runner.run(BASELINE, "authorize", step, ACTOR="somebody", REF_TYPE="branch")
    assert (done.returncode == 0) is allowed
    assert ("somebody has no write access" in done.stdout) is not allowed
    on_a_tag = runner.run(BASELINE, "authorize", step, ACTOR="somebody", REF_TYPE="tag")
    assert on_a_tag.returncode == 1


def test_no_update_starts_if_the_permission_cannot_be_read(runner: Runner) -> None:
    runner.program("gh", "exit 1")
    step = "Require write access and a branch"
    assert (
        runner.run(BASELINE, "authorize", step, ACTOR="somebody", REF_TYPE="branch").returncode != 0
    )


def git(*words: str | Path, cwd: Path) -> str:
    return subprocess.run(
        ["git", *map(str, words)], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def repository(runner: Runner) -> Path:
    """A checkout with a baseline; returns the repository that it is pushed to."""
    origin = runner.folder.parent / "origin.git"
    git("init", "--quiet", "--bare", origin, cwd=runner.folder)
    git("init", "--quiet", "--initial-branch", "main", cwd=runner.folder)
    stored = runner.folder / "baselines" / "gpu" / "model.json"
    stored.parent.mkdir(parents=True)
    stored.write_text("old")
    git("add", ".", cwd=runner.folder)
    git(
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "commit",
        "--quiet",
        "--message",
        "old",
        cwd=runner.folder,
    )
    git("remote", "add", "origin", origin, cwd=runner.folder)
    runner.program("gh", f'echo "$@" >> {runner.folder.parent}/gh')
    sent = runner.temp / "baselines" / "gpu"
    (sent / "noise").mkdir(parents=True)
    (sent / "model.json").write_text("old")
    report = runner.temp / "results" / "report"
    report.mkdir(parents=True)
    (report / "report.md").write_text("## the report\n")
    return origin


def propose(runner: Runner) -> subprocess.CompletedProcess[str]:
    reason = "a newer driver $(touch injected)"
    env = {
        "ACTOR": "somebody",
        "BASELINES": "baselines",
        "BASE": "main",
        "GPU": "h100 a",
        "REASON": reason,
    }
    return runner.run(BASELINE, "propose", "Open the pull request", **env)


def test_new_baselines_are_proposed_with_the_report(runner: Runner, repository: Path) -> None:
    sent = runner.temp / "baselines"
    (sent / "gpu" / "model.json").write_text("new")
    (sent / "gpu" / "noise" / "other model.json").write_text("noise")
    (sent / "gpu" / "evil.sh").write_text("not a baseline")
    (sent / "gpu" / "link.json").symlink_to("/etc/passwd")
    done = propose(runner)
    assert done.returncode == 0, done.stderr
    branch = "energy-baseline/17-1-h100-a"
    changed = git("diff", "--name-only", "main", branch, cwd=runner.folder).splitlines()
    assert changed == ["baselines/gpu/model.json", "baselines/gpu/noise/other model.json"]
    assert git("show", f"{branch}:baselines/gpu/model.json", cwd=repository) == "new"
    asked = (runner.folder.parent / "gh").read_text()
    assert f"pr create --base main --head {branch}" in asked
    body = (runner.temp / "body.md").read_text()
    assert "> a newer driver $(touch injected)" in body
    assert "actions/runs/17" in body
    assert body.endswith("## the report\n")
    assert not (runner.folder / "injected").exists()


def test_baselines_that_did_not_change_are_not_proposed(runner: Runner, repository: Path) -> None:
    done = propose(runner)
    assert done.returncode == 1
    assert "nothing to propose" in done.stdout
    assert git("branch", "--list", cwd=repository) == ""
    assert "pr create" not in (
        (runner.folder.parent / "gh").read_text() if (runner.folder.parent / "gh").exists() else ""
    )
