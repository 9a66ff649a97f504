"""The summary: coloured by verdict on a terminal, plain in logs, six lines for a regression."""

import contextlib
import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_energy.plugin.marker import Marked
from pytest_energy.plugin.terminal import ProgressLine
from pytest_energy.recording import recording_file
from tests import simulated
from tests.plugin.project import MARKER, TESTS, Project

ESCAPE = "\x1b["


def colours(result: pytest.RunResult) -> dict[str, str]:
    """SGR codes (1 bold, 31 red, 32 green, 33 yellow) by verdict, of the cells' rows."""
    found = {}
    for line in result.outlines:
        match = re.match(
            r"((?:\x1b\[\d+m)+)  bs=\d+ "
            r".* (pass|regressed|improved|inconclusive)\b",
            line,
        )
        if match:
            found[match[2]] = " ".join(re.findall(r"\[(\d+)m", match[1]))
    return found


@pytest.mark.parametrize(
    ("power_w", "verdict", "codes"),
    [(500, "pass", "32"), (560, "regressed", "31 1"), (440, "improved", "32 1")],
)
def test_rows_are_coloured_by_verdict(
    project: Project, power_w: float, verdict: str, codes: str
) -> None:
    project.store()
    project.record("new", power_w=power_w)
    assert colours(project.run("--energy-replay", "new", "--color=yes")) == {verdict: codes}


@pytest.mark.parametrize("inconclusive", ["fail", "warn"])
def test_what_is_undecided_is_yellow_whether_it_fails_or_not(
    project: Project, inconclusive: str
) -> None:
    project.store()
    project.record("vague", launches=1, power_w=512.0)
    arguments = ("--energy-replay", "vague", "--color=yes", "--energy-inconclusive", inconclusive)
    assert colours(project.run(*arguments)) == {"inconclusive": "33"}


def on_a_terminal(project: Project, **environment: str) -> str:
    """What a run writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--energy-replay", "dear"]
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "PY_COLORS", "FORCE_COLOR")
    }
    with subprocess.Popen(
        command,
        stdout=theirs,
        stderr=theirs,
        cwd=project.path,
        env={**plain, "TERM": "xterm", **environment},
    ):
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # how a terminal says that it was closed
            while read := os.read(ours, 65536):
                written += read
    os.close(ours)
    return written.decode()


def test_no_colour_under_no_color_and_in_logs(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0)
    assert ESCAPE not in project.run("--energy-replay", "dear").stdout.str()
    red = f"{ESCAPE}31m{ESCAPE}1m  bs=2 "
    assert red in on_a_terminal(project)
    assert ESCAPE + "3" not in on_a_terminal(project, NO_COLOR="1")


def test_a_regression_takes_six_lines(project: Project) -> None:
    project.store()
    project.record("dear", power_w=560.0, environment={"vllm": "0.0.2"})
    lines = project.run("--energy-replay", "dear", "-k", "test_energy and bs2").outlines
    start = next(i for i, line in enumerate(lines) if line.startswith("REGRESSED: "))
    assert [re.sub(r"\d+\.\d+|\d+", "#", line) for line in lines[start : start + 6]] == [
        "REGRESSED: tiny bs=# #/#, J/token #, +# % vs the baseline's #",
        "  how sure: # % interval +# % to +# %, tolerance # %; # launches against # of vLLM #.#",
        "  power # W (+# %) ÷ throughput #,# tokens/s (+# %) = # J/token; mostly work per token: "
        "other kernels or another precision (static part +# to +# of +# J/token)",
        "  what changed: vllm: #.# → #.#",
        "  next: if the change is intended: pytest 'test_tiny.py::test_energy[bs#]' "
        "--energy-update --energy-update-reason WHY --energy-replay A B C   "
        "(recordings of at least # launches)",
        "  next: if it is not: take back what changed, one at a time, until it passes",
    ]
    assert not lines[start + 6].startswith("  ")


def test_a_limit_that_alone_is_broken_is_the_headline(project: Project) -> None:
    project.store()
    module = project.path / "test_tiny.py"
    module.write_text(module.read_text().replace("**{", "max_power_w=502, **{"))
    project.record("warm", power_w=504.0)
    lines = project.run("--energy-replay", "warm", "-k", "test_energy and bs2").outlines
    start = next(i for i, line in enumerate(lines) if line.startswith("REGRESSED: "))
    said = [re.sub(r"interval .*", "interval", line) for line in lines[start : start + 3]]
    assert said == [
        "REGRESSED: tiny bs=2 64/250, power 504.0 W is over the budget of 502 W (max_power_w)",
        "  J/token 0.5035, +0.8 % vs the baseline's 0.4995; 95 % interval",
        "  power 504 W (+0.8 %) ÷ throughput 1,001 tokens/s (+0.0 %) = 0.5035 J/token",
    ]
    assert lines[start + 4].startswith("  next: raise max_power_w in the test")
    project.record("hot", power_w=600.0)
    result = project.run("--energy-replay", "hot", "-k", "test_energy and bs2")
    result.stdout.fnmatch_lines(["REGRESSED: *J/token 0.5994, +20.0 %*", "*power 600.0 W is over*"])


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_failure_is_told_once_also_where_pytest_repeats_messages(
    project: Project, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    project.store()
    project.record("dear", power_w=560.0, environment={"vllm": "0.0.2"})
    lines = project.run("--energy-replay", "dear", "-k", "test_energy and bs2").outlines
    told = [line for line in lines if line.startswith("  what changed:")]
    assert told == ["  what changed: vllm: 0.0.1 → 0.0.2"]
    (short,) = [line for line in lines if line.startswith("FAILED ")]
    assert short.startswith("FAILED test_tiny.py::test_energy[bs2] - REGRESSED: tiny bs=2 64/250")


def test_a_run_without_a_gate_shows_nothing_of_ours(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_other(): pass")
    result = project.run("test_other.py")
    assert not [line for line in result.outlines if line.startswith("energy")]


def test_the_benchmark_table_is_shown_only_if_it_is_asked_for(project: Project) -> None:
    project.store()
    table = "*benchmark 'energy': 4 tests*"
    project.run("--energy-replay", "old").stdout.no_fnmatch_line(table)
    project.run("--energy-replay", "old", "--benchmark-columns=mean").stdout.fnmatch_lines([table])
    project.pytester.makeini("[pytest]\naddopts = --benchmark-sort=name")
    project.run("--energy-replay", "old").stdout.fnmatch_lines([table])


def test_the_header_follows_pytests_own(project: Project) -> None:
    project.store()
    shown = "energy: replay of old, baselines in baselines"
    for quieter, lines in ((), 1), (("-q",), 0), (("--no-header",), 0):
        assert project.run("--energy-replay", "old", *quieter).outlines.count(shown) == lines


class Reporter:
    """A terminal reporter that keeps what is written."""

    def __init__(self, isatty: bool) -> None:
        self.isatty, self.written = isatty, list[str]()

    def rewrite(self, line: str, erase: bool) -> None:
        assert erase
        self.written.append(line)

    def write_line(self, line: str) -> None:
        self.written.append(line + "\n")

    def ensure_newline(self) -> None:
        pass

    def flush(self) -> None:
        pass


def progress(isatty: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], Any, Reporter]:
    """A clock's time, a progress line, and the reporter that it writes to."""
    monkeypatch.setenv("COLUMNS", "80")
    now_s, reporter = [0.0], Reporter(isatty)
    plugins = {"terminalreporter": reporter}
    config: Any = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=plugins.get))
    return now_s, ProgressLine(config, lambda: now_s[0]), reporter


MEASURING = "3 min left: launch 1 of up to 5: llama-3.1-8b bs=8 256/256: measuring, 2.0 cycles"


def test_on_a_terminal_progress_is_one_line_that_is_rewritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, line, reporter = progress(True, monkeypatch)
    for now_s[0] in (0.0, 1.0, 2.0):
        line(MEASURING)
    assert reporter.written == [f"energy    {s} s  {MEASURING}"[:79] for s in range(3)]


def test_in_a_log_progress_is_a_line_when_something_is_new_and_every_30_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, line, reporter = progress(False, monkeypatch)
    line("3 min left: launch 1 of up to 5: tiny: loading (python)")
    for now_s[0] in range(1, 100):
        line(f"3 min left: launch 1 of up to 5: tiny bs=8 64/250: measuring, {now_s[0]} cycles")
    line("3 min left: launch 2 of up to 5: tiny: loading (python)")
    line("launches alternate: the two engines do not fit")
    shown = [re.sub(r" +", " ", text).split(": ")[0] for text in reporter.written]
    assert shown == [
        "energy 0 s 3 min left",
        "energy 1 s 3 min left",
        "energy 31 s 3 min left",
        "energy 61 s 3 min left",
        "energy 91 s 3 min left",
        "energy 99 s 3 min left",
        "energy 99 s launches alternate",
    ]
    assert reporter.written[2].endswith(": tiny bs=8 64/250: measuring, 31 cycles\n")


def test_a_locale_that_lacks_characters_shows_what_happened_legibly(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONIOENCODING stands for LC_ALL=C where Python does not turn to UTF-8 on its own."""
    project.store()
    project.record("dear", power_w=560.0)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = project.pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--energy-replay", "dear"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["  power * W (*) / throughput *", "  bs=2 *+12.0 +/-*regressed*"])
    assert "\\x" not in result.stdout.str()
    assert "\\u" not in result.stdout.str()


BOTH = TESTS.replace("def test_energy(energy):\n        energy.check()", "").replace(
    "def test_throughput(throughput)", "def test_both(energy, throughput)"
)


@pytest.mark.parametrize("tests", [TESTS, BOTH])
@pytest.mark.parametrize(
    ("verdict", "cause", "next_"),
    [
        ("INVALID", "throttled: hot", "leave the invalid launches out"),
        ("NO BASELINE", "no baseline", "if the cell is new, store a baseline"),
        ("NOT COMPARABLE", "another GPU model", "compare with recordings of the baseline's vLLM"),
    ],
)
def test_a_cause_that_both_fixtures_share_is_told_once(
    project: Project, tests: str, verdict: str, cause: str, next_: str
) -> None:
    project.pytester.makepyfile(test_tiny=tests)
    if verdict != "NO BASELINE":
        project.store()
    asked: dict[str, Any] = {
        "INVALID": {"faults": ("throttled: hot",)},
        "NOT COMPARABLE": {"environment": {"gpu_name": "NVIDIA H200"}},
    }
    project.record("new", **asked.get(verdict, {}))
    lines = project.run("--energy-replay", "new", "-k", "bs2").outlines
    told = [i for i, line in enumerate(lines) if line.startswith(f"{verdict}: tiny bs=2 64/250,")]
    assert len(told) == 2
    first, second = told
    assert any(cause in line for line in lines[first:second])
    assert any(line.startswith(f"  next: {next_}") for line in lines[first:second])
    where = ", above" if tests == BOTH else " (test_tiny.py::test_energy[bs2])"
    assert lines[second + 1] == f"  why, and what to type next: as for energy{where}"
    assert not lines[second + 2].startswith("  ")
    alone = project.run("--energy-replay", "new", "-k", "throughput and bs2 or both and bs2")
    assert cause in alone.stdout.str()


def test_why_it_regressed_is_told_once(project: Project) -> None:
    project.store()
    project.record("slow", power_w=700.0, tokens_per_s=700.0, environment={"vllm": "0.0.2"})
    lines = project.run("--energy-replay", "slow", "-k", "bs2").outlines
    first, second = (i for i, line in enumerate(lines) if line.startswith("REGRESSED: "))
    assert lines[first + 3].startswith("  what changed: slower steps on the GPU ")
    assert lines[second + 1].startswith("  how sure: 95 % interval -")
    assert lines[second + 2] == (
        "  why, and what changed: as for energy (test_tiny.py::test_energy[bs2])"
    )
    assert lines[second + 3].startswith("  next: if the change is intended: ")


XFAIL = TESTS.replace("def test_energy", "@pytest.mark.xfail\n    def test_energy")
CATCH = "\n        with pytest.raises(BaseException): energy.check()"


@pytest.mark.parametrize(
    ("tests", "damaged"),
    [
        pytest.param(XFAIL, False, id="expected"),
        pytest.param(XFAIL, True, id="an error expected"),
        pytest.param(TESTS.replace("energy.check()", CATCH), False, id="caught"),
        pytest.param(BOTH.replace("pass", CATCH), False, id="caught in the same test"),
        pytest.param(
            BOTH.replace("pass", CATCH + "\n        throughput.check()"),
            True,
            id="caught before the other",
        ),
    ],
)
def test_no_failure_is_referred_to_that_is_not_shown(
    project: Project, tests: str, damaged: bool
) -> None:
    project.pytester.makepyfile(test_tiny=tests)
    project.record("new", faults=() if damaged else ("throttled: hot",))
    if damaged:
        of_gpu = project.path / "baselines" / "simulated-gpu"
        of_gpu.mkdir(parents=True)
        (of_gpu / "tiny.json").symlink_to("gone")
    result = project.run("--energy-replay", "new", "-k", "bs2")
    assert result.parseoutcomes()["failed"] == 1
    shown = result.stdout.str()
    assert ("delete the link: rm " if damaged else "throttled: hot") in shown
    assert "as for energy" not in shown
    assert "in full at" not in shown


def test_what_one_metric_alone_lacks_is_told_with_it(project: Project) -> None:
    """Limits of latency are checked with J/token, and `throughput`, which comes first, has none."""
    marker = {**MARKER, "engine": "server", "batch_sizes": [2], "max_ttft_ms": 5}
    functions = ["def test_0(throughput): pass", "def test_1(energy): pass"]
    mark = f"import pytest\npytestmark = pytest.mark.energy(**{marker!r})"
    project.pytester.makepyfile(test_tiny="\n".join([mark, *functions]))
    cell = Marked.from_arguments((), marker).cell(2, project.path, engine="server")
    for label, faults in {"good": (), "hot": ("throttled: hot",)}.items():
        made = simulated.recording(cell, launch_id=label, cycles=12.5, faults=faults)
        recording_file.write(made, project.path / "new" / label / "2.json.gz")
    result = project.run("--energy-replay", "new")
    result.stdout.fnmatch_lines(["INVALID: *tokens/s", "*throttled: hot", "INVALID: *J/token"])
    result.stdout.fnmatch_lines(["INVALID: *J/token", "*no latencies were recorded*"])


def test_cells_of_one_name_are_told_apart(project: Project) -> None:
    markers = [{**MARKER, "engine_args": {"enforce_eager": eager}} for eager in (True, False)]
    functions = [
        f"@pytest.mark.energy(**{marker!r})\ndef test_{i}(energy, throughput): pass"
        for i, marker in enumerate(markers)
    ]
    project.pytester.makepyfile(test_tiny="\n".join(["import pytest", *functions]))
    for i, marker in enumerate(markers):
        project.record(f"new/{i}", marker=marker)
    result = project.run("--energy-replay", "new")
    result.stdout.fnmatch_lines(
        [
            "tiny 64/250 (test_tiny.py::test_0)",
            "  bs=2 *",
            "  bs=8 *",
            "tiny 64/250 (test_tiny.py::test_1)",
            "  bs=2 *",
            "  bs=8 *",
        ],
        consecutive=True,
    )
