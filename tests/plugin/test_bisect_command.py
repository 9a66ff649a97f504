"""`pytest-energy bisect`: from a list of releases to the one at which a cell got worse."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.commands import one_launch, releases
from pytest_energy.commands.main import main
from pytest_energy.commands.one_launch import Suite
from pytest_energy.commands.releases import Release
from pytest_energy.errors import UsageError
from pytest_energy.measure import checks
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import PrefixCache
from tests import simulated
from tests.engine.conftest import release
from tests.plugin.project import MARKER, Project
from tests.plugin.test_gate_in_ci import CONFTEST, TESTS

VERSIONS = "1.0", "1.1", "1.2", "1.3", "1.4", "1.5"
WORSE = "1.3"  # from here on


def since(version: str, power_w: float, before_w: float = 500.0) -> Callable[[str], float]:
    return lambda of: power_w if VERSIONS.index(of) >= VERSIONS.index(version) else before_w


class Engines:
    """Stand-ins for launches: each writes a recording of constant power.

    Attributes:
        power_w, tokens_per_s: of a version.
        settings: of a version, and how much power each costs unless it is set back.
        failing: versions whose launches fail, and why.
        prefix_caches: what they served, by version.
        launched: versions and engine arguments, in order.
    """

    def __init__(self, project: Project) -> None:
        self.power_w = since(WORSE, 535.0)
        self.tokens_per_s: Callable[[str], float] = lambda _: 1000.0
        self.settings: Mapping[str, Mapping[str, Any]] = {}
        self.saved_w: Mapping[str, float] = {}
        self.failing: dict[str, str] = {}
        self.cells, self.environment = (8,), dict[str, Any]()
        self.prefix_caches: Mapping[str, PrefixCache] = {}
        self.launched: list[tuple[str, ...]] = []
        self._path = project.path

    def record(self, suite: Suite, python: str, folder: Path) -> str | None:
        version, number = Path(python).parent.name, len(self.launched)
        self.launched.append((version, *suite.engine_args))
        if version in self.failing:
            return self.failing[version]
        arguments = dict(argument.split("=", 1) for argument in suite.engine_args)
        given = {name: json.loads(value) for name, value in arguments.items()}
        given.update(given.pop("compilation_config", {}))
        saved_w = sum(self.saved_w.get(name, 0.0) for name in given)
        launch_id = f"20261129T{len([*self._path.rglob('*.json.gz')]):06d}Z-{version}"
        for size in self.cells:
            made = simulated.recording(
                Marked.from_arguments((), MARKER).cell(size, self._path),
                launch_id,
                self.power_w(version) - saved_w + (0.5, -0.5, 1.0)[number % 3],
                tokens_per_s=self.tokens_per_s(version) + number % 3,
                cycles=12.5,
                environment={
                    "vllm": version,
                    "engine_settings": {**self.settings.get(version, {}), **given},
                    **self.environment,
                },
            )
            made = replace(made, prefix_cache=self.prefix_caches.get(version))
            recording_file.write(made, folder / launch_id / f"{size}.json.gz")
        return None


@pytest.fixture
def engines(project: Project, monkeypatch: pytest.MonkeyPatch) -> Engines:
    made = Engines(project)
    monkeypatch.setattr(one_launch, "record", made.record)
    monkeypatch.setattr("pytest_energy.meters.nvml.visible_uuids", lambda: (simulated.UUID,))
    monkeypatch.setattr(
        one_launch, "refuse_uncollected", lambda suite: one_launch.refuse_without_tests(suite.path)
    )
    monkeypatch.setattr(releases, "of_python", lambda p: Release(Path(p).parent.name, p))
    monkeypatch.setattr(
        releases, "made", lambda line, _: Release(line[6:], f"/made/{line[6:]}/python")
    )
    project.measure_noise()
    return made


def bisect(*arguments: str, versions: Sequence[str] = VERSIONS) -> int:
    given = () if not versions else ("--versions", ",".join(versions))
    return main(["bisect", *given, "--suites", "test_tiny.py", "-o", "found", *arguments])


def test_without_a_gpu_no_environment_is_made(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pytest_energy.meters.nvml.visible_uuids", lambda: ())
    monkeypatch.setattr(releases, "made", lambda *_: pytest.fail("an environment was made"))
    assert bisect() == 2
    assert capsys.readouterr().err == (
        "pytest-energy: no GPU is visible, so there is nothing to measure on.\n"
        "Look for why: pytest-energy doctor.\n"
    )


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_are_a_positive_number(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bisect("--minutes", minutes)
    assert f"--minutes: {minutes} is not a positive number" in capsys.readouterr().err


def answer() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("found/bisection.json").read_text())
    return found


def test_the_release_is_found_and_said_first(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect() == 0
    said = capsys.readouterr().out
    text = said.partition("\n\n")[2]
    sentence = " ".join(text.split())
    assert re.match(
        r"1\.3 takes 7\.\d ± \d\.\d % more J/token than 1\.2, tiny bs=8 64/250: 99\.\d % sure, "
        rf"{len(engines.launched)} launches, 0 min",
        sentence,
    )
    assert re.search(r"^1\.3 +2 .* regressed$", text, flags=re.M)
    assert max(map(len, text.splitlines())) <= 80
    assert said.count("pytest-energy: launch ") == len(engines.launched) <= 9
    (step,) = answer()["steps"]
    assert (step["before"], step["at"]) == ("1.2", "1.3")
    assert step["change"]["low"] < 0.07 < step["change"]["high"]


def test_a_prefix_cache_that_serves_less_is_what_changed(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    engines.prefix_caches = {v: PrefixCache(100, 75 if v < WORSE else 0) for v in VERSIONS}
    assert bisect() == 0
    assert "at 1.3 what changed: cached_prompt_percent: 75 → 0\n" in capsys.readouterr().out


def test_throughput_that_fell(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    engines.tokens_per_s = lambda version: 1000.0 if version < "1.2" else 800.0
    assert bisect("--metric", "tokens_per_s") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r" 1\.2 gives (19\.\d|20\.\d) ± \d\.\d % fewer tokens/s than 1\.1, ", said)
    assert re.search(r"launch 1: 1\.0 \(is 1\.5 worse than 1\.0\?\): 1,?00\d tokens/s", said)


def test_good_and_bad_may_be_named_and_the_list_given_in_other_ways(engines: Engines) -> None:
    assert bisect("--good", "1.2", "--bad", "1.4") == 0
    assert {version for version, *_ in engines.launched} <= {"1.2", "1.3", "1.4"}
    pythons = [word for v in VERSIONS for word in ("--python", f"/venvs/{v}/python")]
    assert bisect(*pythons, "-o", "other", versions=()) == 0


def test_requirements_are_named_by_their_versions(
    engines: Engines, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel's path is relative to the file that lists it."""
    wheel = project.path / "wheels" / "vllm-1.3-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    lines = "# nightlies", "vllm==1.2", "", "vllm-1.3-py3-none-any.whl", "vllm @ https://x/y"
    (wheel.parent / "list.txt").write_text("\n".join(lines))
    asked = []

    def made(line: str, _: str) -> Release:
        asked.append(line)
        version = {"vllm==1.2": "1.2", str(wheel.resolve()): "1.3"}.get(line, "1.4")
        return Release(version, f"/made/{version}/python")

    monkeypatch.setattr(releases, "made", made)
    assert bisect("--requirements", "wheels/list.txt", versions=()) == 0
    assert set(asked) == {"vllm==1.2", str(wheel.resolve()), "vllm @ https://x/y"}
    assert [r["release"] for r in answer()["releases"]] == ["1.2", "1.3", "vllm @ https://x/y"]


def test_an_interrupted_search_goes_on_with_what_is_recorded(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    record = engines.record

    def interrupted(suite: Suite, python: str, folder: Path) -> str | None:
        if len(engines.launched) == 5:
            raise KeyboardInterrupt
        return record(suite, python, folder)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(one_launch, "record", interrupted)
        assert bisect() == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert bisect() == 0
    in_all = len(engines.launched)
    found = answer()
    assert found["launches_now"] == in_all - 5
    assert f"{in_all - 5} launches now" in " ".join(capsys.readouterr().out.split())
    engines.launched.clear()
    assert bisect("-o", "anew") == 0
    assert len(engines.launched) == in_all
    assert bisect() == 0
    assert answer()["launches_now"] == 0


def test_minutes_that_are_used_up(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    assert bisect("--minutes", "1e-12") == 5
    text = capsys.readouterr().out
    assert "cannot tell yet: the minutes are used up" in text
    assert engines.launched == []
    assert bisect() == 0


def test_a_release_that_does_not_load_is_skipped_and_told(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    engines.failing = {"1.2": "engine failed during load: no kernel image\n--- engine log ---"}
    assert bisect() == 0
    assert engines.launched.count(("1.2",)) == 2
    text = capsys.readouterr().out
    assert "1.2 or 1.3 takes" in text
    assert "1.2 is skipped: engine failed during load: no kernel image\n" in text
    (step,) = answer()["steps"]
    assert (step["before"], step["at"]) == ("1.1", "1.3")


def test_a_good_release_that_does_not_load_is_an_error(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    engines.failing = {"1.0": "no energy test is selected."}
    assert bisect() == 1
    assert (
        "1.0 could not be launched, so nothing can be compared.\nno energy test is selected."
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize(
    ("power_w", "status", "says"),
    [
        (lambda _: 500.0, 3, "nothing to bisect: 1.5 is not worse than 1.0, tiny bs=8 64/250; "),
        (
            lambda v: 500.0 if v < WORSE else 513.0,
            5,
            "cannot tell whether 1.5 is worse than 1.0, tiny bs=8 64/250; 5 launches of each leave",
        ),
        (
            lambda v: {"1.0": 500.0, "1.5": 600.0}.get(v, 550.0),
            4,
            "no single release: 1.5 takes ",
        ),
    ],
)
def test_other_answers_have_statuses_of_their_own(
    engines: Engines,
    capsys: pytest.CaptureFixture[str],
    power_w: Callable[[str], float],
    status: int,
    says: str,
) -> None:
    engines.power_w = power_w
    assert bisect() == status
    assert says in " ".join(capsys.readouterr().out.split())


def test_settings_that_changed_are_set_back_alone_and_together(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"async_scheduling": True, "cudagraph_mode": "FULL", "dtype": "bfloat16"}
    new = {"async_scheduling": False, "cudagraph_mode": "PIECEWISE", "dtype": "float16"}
    engines.settings = {v: old if v < WORSE else new for v in VERSIONS}
    engines.power_w = since(WORSE, 550.0)
    engines.saved_w = {"async_scheduling": 30.0, "cudagraph_mode": 0.0}
    assert bisect() == 0
    asked = {
        arguments
        for _, *arguments in map(list, engines.launched)
        if arguments
        for arguments in [tuple(arguments)]
    }
    graphs = 'compilation_config={"cudagraph_mode": "FULL"}'
    assert asked == {
        ("async_scheduling=true",), (graphs,), ("async_scheduling=true", graphs)
    }  # fmt: skip
    found = answer()["ablation"]
    by_name = {tuple(part["values"]): part for part in found["set_back"]}
    assert by_name["async_scheduling",]["share"]["value"] == pytest.approx(0.6, abs=0.1)
    assert by_name["async_scheduling",]["verdict"] == "regressed"
    assert by_name["cudagraph_mode",]["share"]["value"] == pytest.approx(0, abs=0.1)
    assert found["unexplained"]["value"] == pytest.approx(0.4, abs=0.1)
    assert found["not_set_back"] == ["dtype: bfloat16 → float16"]
    text = capsys.readouterr().out
    assert "pytest-energy: 1.3 is found; 2 settings to set back\n" in text
    assert re.search(r"^async_scheduling=True +2 .* regressed$", text, flags=re.M)
    assert "unexplained by settings, so code or packages: " in text
    assert "do not add up" not in text


def test_a_setting_that_does_not_take_is_listed(engines: Engines) -> None:
    engines.settings = {v: {"block_size": 16 if v < WORSE else 32} for v in VERSIONS}
    record = engines.record

    def stubborn(suite: Suite, python: str, folder: Path) -> str | None:
        return record(Suite(suite.path), python, folder)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(one_launch, "record", stubborn)
        for _ in range(2):  # the second time it is known
            assert bisect() == 0
            not_set_back = answer()["ablation"]["not_set_back"]
            assert not_set_back == ["1.3 block_size=16: block_size is 32"]
    assert engines.launched.count(("1.3",)) == 3  # one of them was to have another block_size


def test_several_cells_are_refused(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    engines.cells = 2, 8
    assert bisect() == 2
    said = capsys.readouterr().err
    assert "the tests select 2 cells: tiny bs=2 64/250, tiny bs=8 64/250." in said
    assert "-- -k bs8" in said
    engines.cells = (8,)
    assert bisect() == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"gpu_uuids": ("GPU-other",)}, "the reference ran on another GPU"),
        ({"power_limit_w": 500.0}, "the power limit is 500.0 W, the baseline's was 700.0 W"),
    ],
)
def test_gpus_and_power_limits_are_not_mixed(
    engines: Engines, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], says: str
) -> None:
    """Launches on the first one still count afterwards."""
    record = engines.record

    def elsewhere(suite: Suite, python: str, folder: Path) -> str | None:
        engines.environment = changed if len(engines.launched) > 3 else {}
        return record(suite, python, folder)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(one_launch, "record", elsewhere)
        assert bisect() == 2
    said = capsys.readouterr().err
    assert f"this launch of 1.2 cannot be compared with the others: {says}" in said
    assert "export CUDA_VISIBLE_DEVICES=GPU-0000" in said
    engines.environment = {}
    assert bisect() == 0
    assert answer()["launches_now"] == len(engines.launched) - 5


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"driver": "590"}, "driver 580 → 590"),
        ({"engine_args_under_test": {"x": 1}}, "settings under test none → {'x': 1}"),
        ({"vllm": "2.0"}, "vLLM 1.0 → 2.0"),
    ],
)
def test_a_search_goes_on_as_it_began(
    engines: Engines, capsys: pytest.CaptureFixture[str], now: dict[str, Any], says: str
) -> None:
    engines.environment = {"driver": "580"}
    assert bisect(versions=("1.0", "1.5")) == 0
    *_, last = sorted(Path("found/launches/1.0").rglob("*.gz"))
    last.unlink()
    last.parent.rmdir()
    engines.environment |= now
    assert bisect() == 2
    said = capsys.readouterr().err
    assert f"this launch of 1.0 cannot be compared with the others: {says}.\n" in said


def test_all_gpus_of_an_engine_are_named_to_go_on_with(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    engines.environment = {"gpu_uuids": ("GPU-b", "GPU-a")}
    assert bisect(versions=("1.0", "1.5")) == 0
    engines.environment = {"gpu_uuids": ("GPU-b", "GPU-c")}
    assert bisect() == 2
    assert "export CUDA_VISIBLE_DEVICES=GPU-b,GPU-a)" in capsys.readouterr().err


def test_settings_that_are_set_back_are_no_change_of_the_search(engines: Engines) -> None:
    engines.settings = {v: {"block_size": 16 if v < WORSE else 32} for v in VERSIONS}
    record = engines.record

    def told(suite: Suite, python: str, folder: Path) -> str | None:
        given = {"block_size": 16} if suite.engine_args else {}
        engines.environment = {"engine_args_under_test": {**given, "x": 1}}
        return record(suite, python, folder)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(one_launch, "record", told)
        assert bisect() == 0
        assert bisect() == 0
    (part,) = answer()["ablation"]["set_back"]
    assert part["values"] == {"block_size": 16}
    assert answer()["launches_now"] == 0


def test_another_cell_needs_another_folder(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect("--minutes", "100", versions=("1.0", "1.5")) == 0
    engines.cells = (2,)
    assert bisect() == 2
    assert "Give each cell a folder of its own: --output DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "versions", "says"),
    [
        ((), ("1.0",), "the list holds no bad release after the good one."),
        ((), (), "the list holds no bad release after the good one."),
        (("--good", "0.9"), VERSIONS, "--good 0.9 is not in the list: 1.0, 1.1, 1.2"),
        (("--good", "1.3", "--bad", "1.2"), VERSIONS, "no bad release after the good one"),
        (("--requirements", "none.txt"), (), "none.txt cannot be read: No such file"),
        (("--requirements", "index.txt"), (), "has an option, --index-url https://x, where each"),
        (("--requirements", "binary.txt"), (), "binary.txt cannot be read: it is not text"),
        (("--suites", "none.py"), VERSIONS, "there is no file or folder none.py"),
    ],
)
def test_what_is_refused(
    engines: Engines,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    versions: Sequence[str],
    says: str,
) -> None:
    Path("binary.txt").write_bytes(b"vllm==1.0\xff")
    Path("index.txt").write_text("--index-url https://x\nvllm==1.0\nvllm==1.1\n")
    assert bisect(*arguments, versions=versions) == 2
    assert says in capsys.readouterr().err
    assert engines.launched == []
    assert not Path("found").exists()


def test_tests_that_select_nothing_are_refused_before_a_launch(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bisect("--", "-k", "nothing") == 2
    assert "no energy test is selected" in capsys.readouterr().err
    assert not Path("found").exists()


def test_arguments_of_pytest_without_dashes_before_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        bisect("-k", "bs8")
    assert capsys.readouterr().err.endswith(" -o found -- -k bs8\n")


def test_a_step_that_is_most_of_the_change_says_that_there_is_more(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    rise = {"1.3": 560.0, "1.4": 560.0, "1.5": 575.0}
    engines.power_w = lambda version: rise.get(version, 500.0)
    assert bisect() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1.3 takes 12" in said
    assert "of the change from 1.0 to 1.5; the rest is at other releases" in said


def test_an_environment_that_cannot_be_made_is_skipped(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = releases.made

    def refuse(line: str, python_version: str) -> Release:
        if line == "vllm==1.2":
            raise UsageError("the environment of vllm==1.2 could not be made.\nno such version")
        return made(line, python_version)

    monkeypatch.setattr(releases, "made", refuse)
    assert bisect() == 0
    skipped = {r["release"]: r["skipped"] for r in answer()["releases"] if r["skipped"]}
    assert skipped.keys() == {"1.2"}
    assert ("1.2",) not in engines.launched


POWER = """

VERSION = next(word for word in sys.argv if word.startswith("--energy-python=")).split("/")[-2]

def pytest_energy_open_meter(gpu_uuids, is_engine_process):
    is_worse = VERSION >= "1.2" and "--energy-engine-arg=async_scheduling=true" not in sys.argv
    return SimulatedMeter(power_w=160.0 if is_worse else 100.0)
"""


@pytest.mark.nightly
def test_engines_that_really_start(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 1.2 on a token takes 60 % more energy, because a setting has another default."""
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)
    project.pytester.makeconftest(CONFTEST + POWER)
    project.pytester.makepyfile(test_tiny=TESTS)
    options = []
    for version in VERSIONS[:4]:
        python = Path(release(project.path / "venvs", version, step_s=0.004))
        if version >= "1.2":
            python.write_text(python.read_text().replace("export ", "export ASYNC_SCHEDULING=0 "))
        options += ["--python", str(python)]
    before = project.files()
    status = bisect(*options, "--tolerance", "0.2", versions=())
    said = capsys.readouterr().out
    assert status == 0, said
    assert "1.2 takes " in said
    (part,) = answer()["ablation"]["set_back"]
    assert part["values"] == {"async_scheduling": True}
    assert part["share"]["value"] == pytest.approx(1, abs=0.3)
    assert {p for p in project.files() if p not in before and not p.startswith("found/")} == set()
