"""vLLM releases side by side: ratios within a GPU, intervals that hold together, verdicts."""

import csv
import dataclasses
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy import stats

from pytest_energy.errors import ResultsError, UsageError
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.plugin.marker import Marked
from pytest_energy.report import (
    published,
    release_chart,
    release_noise,
    release_pictures,
    release_report,
    release_table,
    releases,
)
from pytest_energy.report.release_steps import ROLES, first_verdict
from pytest_energy.report.releases import Table
from pytest_energy.store.noise import NoiseStore
from tests import simulated
from tests.conftest import ROOT
from tests.plugin.project import MARKER

H200 = ROOT / "recordings" / "h200-sxm-141gb"
INTERLEAVED = ROOT / "recordings" / "h100-sxm-80gb" / "vllm-0.20.2-to-0.25.1"
RECORDED = [H200 / "vllm-0.20.2", H200 / "vllm-0.25.1"]
GPUS = [f"GPU-{n}" + simulated.UUID[5:] for n in range(1, 4)]
ONE = {GPUS[0]: 1.0}
ENERGY = Metric.JOULES_PER_TOKEN
SPREAD = (0.997, 1.0, 1.003)  # of launches


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text('{"vocab_size": 2048}')
    return tmp_path


def launches(
    folder: Path,
    power_w: dict[str, float],
    gpus: dict[str, float],
    batch_size: int = 2,
    tokens_per_s: float = 1000.0,
    **changed: object,
) -> list[Measurement]:
    """Three launches of each release on each GPU.

    Args:
        power_w: by version.
        gpus: what they draw relative to it, by UUID.
    """
    cell = Marked.from_arguments((), {**MARKER, "batch_sizes": [batch_size]}).cell(
        batch_size, folder
    )
    return [
        measure(
            simulated.recording(
                cell,
                f"{version}-{uuid}-{number}",
                power * times * luck,
                tokens_per_s,
                cycles=12.5,
                environment={"vllm": version, **changed},
                power_shares={uuid: 1.0},
            )
        )
        for version, power in power_w.items()
        for uuid, times in gpus.items()
        for number, luck in enumerate(SPREAD)
    ]


def only(found: tuple[Table, ...]) -> Table:
    (table,) = found
    return table


def test_releases_are_ordered_by_version_and_what_is_no_version_comes_last() -> None:
    names = ["0.11.1", "main", "0.5.4", "0.11.1rc1", "0.11.1 async_scheduling=False", "0.33.0"]
    assert releases.in_order(names) == [
        "0.5.4", "0.11.1rc1", "0.11.1", "0.11.1 async_scheduling=False", "0.33.0", "main"
    ]  # fmt: skip


def test_gpus_that_differ_more_than_releases_do_not_hide_the_change(folder: Path) -> None:
    """Nor does a GPU that has launched one release alone."""
    made = launches(folder, {"1.0": 500.0, "1.1": 520.0}, {GPUS[0]: 1.0, GPUS[1]: 1.1})
    made += launches(folder, {"1.1": 520.0}, {GPUS[2]: 0.8})
    before, after = only(releases.tables(made)).figures
    ratio = after.ratios[ENERGY.value]
    assert ratio.value == pytest.approx(1.04, abs=1e-4)
    assert ratio.high - ratio.low < 0.02
    assert (after.ratio_gpus, len(after.by_gpus), len(after.on)) == (2, 3, 2)
    assert after.values[ENERGY.value].value == pytest.approx(0.52 * math.sqrt(1.1), rel=1e-3)
    assert before.values[ENERGY.value].value == pytest.approx(0.5 * math.sqrt(1.1), rel=1e-3)
    assert after.ratios["power_w"].value == pytest.approx(1.04, abs=1e-4)
    assert after.ratios["tokens_per_s"].value == pytest.approx(1.0, abs=1e-4)
    assert before.ratios == {}


def test_the_intervals_hold_together(folder: Path) -> None:
    """Šidák's level over all ratios, Student's t by the launches of all releases and GPUs."""
    power_w = {"1.0": 500.0, "1.1": 520.0, "1.2": 530.0}
    made = launches(folder, power_w, {GPUS[0]: 1.0, GPUS[1]: 1.1})
    table = only(releases.tables(made))
    logs = [math.log(m.joules_per_token) for m in made]
    groups = [logs[i : i + 3] for i in range(0, len(logs), 3)]
    degrees = 2 * len(groups)
    deviation = math.sqrt(sum(statistics.variance(group) for group in groups) / len(groups))
    level = 0.95 ** (1 / 2)
    half = stats.t.ppf((1 + level) / 2, degrees) * deviation * math.sqrt(4 / 3) / 2
    for figures, expected in zip(table.figures[1:], (1.04, 1.06), strict=True):
        ratio = figures.ratios[ENERGY.value]
        assert math.log(ratio.high / ratio.value) == pytest.approx(half, rel=1e-3)
        assert math.log(ratio.value / ratio.low) == pytest.approx(half, rel=1e-3)
        assert ratio.value == pytest.approx(expected, abs=1e-3)


def test_of_three_gpus_intervals_are_by_how_ratios_scatter_over_them(folder: Path) -> None:
    """The residual of complete blocks, log figure = GPU + release; one launch each is enough."""
    power_w = {"1.0": 500.0, "1.1": 520.0, "1.2": 530.0}
    by_gpu = {GPUS[0]: (1.0, 1.01, 0.99), GPUS[1]: (1.1, 1.1, 1.11), GPUS[2]: (0.9, 0.89, 0.9)}
    made = [
        launches(folder, {version: power}, {gpu: times[number]})[1]
        for number, (version, power) in enumerate(power_w.items())
        for gpu, times in by_gpu.items()
    ]
    table = only(releases.tables(made))
    logs = np.log([m.joules_per_token for m in made]).reshape(3, 3)
    left = logs - logs.mean(0) - logs.mean(1)[:, None] + logs.mean()
    level = 0.95 ** (1 / 2)
    half = stats.t.ppf((1 + level) / 2, 4) * math.sqrt((left**2).sum() / 4) * math.sqrt(2 / 3)
    for figures, own in zip(table.figures[1:], logs[1:], strict=True):
        ratio = figures.ratios[ENERGY.value]
        assert figures.of_blocks
        assert math.log(ratio.value) == pytest.approx((own - logs[0]).mean(), abs=1e-6)
        assert math.log(ratio.high / ratio.value) == pytest.approx(half, rel=1e-6)
    said = " ".join("\n".join(release_table.lines(table)).split())
    assert "(mean of those that launched both), ± 95 % over GPUs and launches, for all" in said


def test_blocks_that_lack_releases_tell_how_ratios_scatter_too(folder: Path) -> None:
    """As what is left when means of GPUs and of releases are taken off in turn, until none is."""
    made = one_launch_each(folder, dict.fromkeys("abcd", 1.0), 0.01, np.random.default_rng(3))
    made = [m for number, m in enumerate(made) if number not in {1, 2, 7, 8}]
    logs = np.log([m.joules_per_token for m in made])
    sides = [m.environment.gpus for m in made], [m.environment.vllm for m in made]
    for _ in range(500):
        for side in sides:
            for one in set(side):
                alike = [of == one for of in side]
                logs[alike] -= logs[alike].mean()
    degrees = 12 - (4 + 4 - 1)
    level = 0.95 ** (1 / 3)
    error = math.sqrt(2 * (logs**2).sum() / degrees)
    half = stats.t.ppf((1 + level) / 2, degrees) * error
    for figures in only(releases.tables(made)).figures[1:]:
        ratio = figures.ratios[ENERGY.value]
        assert figures.of_blocks
        expected = half / math.sqrt(figures.ratio_gpus)
        assert math.log(ratio.high / ratio.value) == pytest.approx(expected, rel=1e-4)


def one_launch_each(
    folder: Path, times: dict[str, float], deviation: float, random: np.random.Generator
) -> list[Measurement]:
    """A launch of each release, by what it takes, on each of four GPUs, which differ."""
    template = launches(folder, {"1.0": 500.0}, {GPUS[0]: 1.0})[0]
    assert template.cycles is not None
    made = []
    for number in range(4):
        uuid = f"GPU-{number}" + simulated.UUID[5:]
        of_gpu = random.normal(0.0, 0.05)
        for release, factor in times.items():
            environment = dataclasses.replace(template.environment, vllm=release, gpu_uuids=(uuid,))
            energy = factor * math.exp(of_gpu + random.normal(0.0, deviation))
            cycles = dataclasses.replace(
                template.cycles, energy_j=tuple(energy * e for e in template.cycles.energy_j)
            )
            made.append(
                dataclasses.replace(
                    template, launch_id=f"{release}-{uuid}", environment=environment, cycles=cycles
                )
            )
    return made


def over_gpus(made: list[Measurement], metric: Metric = ENERGY) -> dict[tuple[str, str], str]:
    """The verdict of each release and role."""
    table = only(releases.tables(made))
    return {
        (release, role): first_verdict(steps, metric)[0]
        for role in ROLES
        for (_, release), steps in table.judged(role).items()
    }


def test_where_each_gpu_launched_all_releases_once_the_verdict_is_over_the_gpus(
    folder: Path,
) -> None:
    times = {"1.0": 1.0, "1.1": 1.0, "1.2": 1.07, "1.3": 1.0}
    made = one_launch_each(folder, times, 0.004, np.random.default_rng(1))
    assert over_gpus(made) == {
        ("1.1", "before"): "pass",
        ("1.2", "before"): "regressed",
        ("1.3", "before"): "improved",
        ("1.1", "first"): "pass",
        ("1.2", "first"): "regressed",
        ("1.3", "first"): "pass",
        ("1.1", "best so far"): "pass",
        ("1.2", "best so far"): "regressed",
        ("1.3", "best so far"): "pass",
    }
    assert set(over_gpus(made, Metric.TOKENS_PER_S).values()) == {"pass"}
    table = only(releases.tables(made))
    assert table.comparisons == 2 * math.comb(4, 2)
    text = " ".join("\n".join(release_table.lines(table)).split())
    assert "over the GPUs that launched both releases, at a risk of 1 %" in text
    assert "alarm among all 12 comparisons of releases." in text
    records = release_table.step_records([table])
    pooled = [r for r in records if r["gpus"] == 4 and r["metric"] == ENERGY.value]
    assert len(pooled) == len(table.over_gpus)
    assert pooled[0]["gpu_uuids"].split() == sorted(m.environment.gpus[0] for m in made[::4])
    assert {r["comparisons"] for r in records if r["gpus"] == 1} == {2 * 4 * math.comb(4, 2)}


def test_a_gpu_that_lacks_a_release_has_verdicts_of_its_own_where_two_others_have_all(
    folder: Path,
) -> None:
    made = one_launch_each(folder, {"1.0": 1.0, "1.1": 1.0}, 0.004, np.random.default_rng(1))
    table = only(releases.tables(made[:-3]))
    assert table.over_gpus == ()
    assert "each GPU for itself" in " ".join(release_table.lines(table))


def test_releases_that_three_gpus_launched_are_judged_over_these_whatever_others_lack(
    folder: Path,
) -> None:
    times = {"1.0": 1.0, "1.1": 0.9, "1.2": 0.97}
    made = one_launch_each(folder, times, 0.004, np.random.default_rng(1))
    made = [m for number, m in enumerate(made) if number not in {1, 4}]  # 1.1 on two of four
    table = only(releases.tables(made))
    assert {(step.release, step.against): len(step.over) for step in table.over_gpus} == {
        ("1.2", "1.0"): 4
    }
    verdicts = {
        (release, role): (first_verdict(steps, ENERGY)[0], [len(step.over) for step in steps])
        for role in ROLES
        for (_, release), steps in table.judged(role).items()
    }
    assert verdicts["1.1", "before"][1] == verdicts["1.2", "before"][1] == [1, 1]
    assert verdicts["1.2", "first"] == ("improved", [4])
    # 1.1 is the best, which only two GPUs know.
    assert verdicts["1.2", "best so far"][1] == [1, 1]
    assert table.comparisons == 2 * (1 + 2 * 2)
    said = " ".join("\n".join(release_table.lines(table)).split())
    assert "over the GPUs that launched both releases, if three did, else each GPU for" in said


def test_releases_that_share_no_gpu_with_others_leave_no_best_one(folder: Path) -> None:
    times = {"1.0": 1.0, "1.1": 1.0, "1.2": 0.9, "1.3": 0.9}
    early = one_launch_each(folder, times, 0.004, np.random.default_rng(1))
    late = [renamed(m, "other") for m in early if m.environment.vllm in ("1.2", "1.3")]
    early = [m for m in early if m.environment.vllm in ("1.0", "1.1")]
    table = only(releases.tables([*early, *late]))
    assert {(step.release, step.roles) for step in table.over_gpus} == {
        ("1.1", ("before", "first")),
        ("1.3", ("before",)),
    }


def renamed(m: Measurement, gpu: str) -> Measurement:
    """The same launch on another GPU."""
    uuids = tuple(f"{uuid[:6]}{gpu}{uuid[6:]}" for uuid in m.environment.gpus)
    environment = dataclasses.replace(m.environment, gpu_uuids=uuids)
    return dataclasses.replace(m, environment=environment, launch_id=f"{m.launch_id}-{gpu}")


@pytest.mark.nightly
@pytest.mark.parametrize(("lacking", "worse"), [(set(), 1.07), ({1, 4, 9}, 1.15)])
def test_verdicts_over_gpus_keep_the_risks_that_the_table_states(
    folder: Path, lacking: set[int], worse: float
) -> None:
    """Of 400 tables at most 1 % raise an alarm (binomial, 99.9 %); a rise is seen in 95 %."""
    random, alarms, found = np.random.default_rng(7), 0, 0

    def made(times: dict[str, float]) -> list[Measurement]:
        launched = one_launch_each(folder, times, 0.01, random)
        return [m for number, m in enumerate(launched) if number not in lacking]

    for _ in range(400):
        same = dict.fromkeys(("1.0", "1.1", "1.2"), 1.0)
        verdicts = over_gpus(made(same))
        alarms += "regressed" in verdicts.values()
        found += over_gpus(made(same | {"1.2": worse}))["1.2", "first"] == "regressed"
    assert alarms <= stats.binom.ppf(0.999, 400, 0.01)
    assert found >= 380


def test_a_step_too_small_for_the_rule_is_found_once_steps_add_up(folder: Path) -> None:
    power_w = {"1.0": 500.0, "1.1": 490.0, "1.2": 500.0, "1.3": 510.0}
    made = [m for size in (2, 4, 8) for m in launches(folder, power_w, {GPUS[0]: 1.0}, size)]
    table = only(releases.tables(made))
    assert table.comparisons == 3 * 6 * 2
    found = {
        (step.release, step.against): (step.roles, step.judgements[ENERGY].verdict.value)
        for step in table.steps
        if step.cell.batch_size == 2
    }
    assert found == {
        ("1.1", "1.0"): (("before", "first", "best so far"), "pass"),
        ("1.2", "1.1"): (("before", "best so far"), "pass"),
        ("1.2", "1.0"): (("first",), "pass"),
        ("1.3", "1.2"): (("before",), "pass"),
        ("1.3", "1.0"): (("first",), "pass"),
        ("1.3", "1.1"): (("best so far",), "regressed"),
    }
    text = "\n".join(release_table.lines(table))
    assert "+2.0 pass  +2.0 pass  +4.1 regressed (1.1)" in text
    assert "alarm among all 36 comparisons" in text


def test_a_gpu_that_lacks_the_release_before_has_no_step_from_it(folder: Path) -> None:
    made = launches(folder, {"1.0": 500.0, "1.1": 450.0}, {GPUS[0]: 1.0})
    made += launches(folder, {"1.0": 500.0, "1.2": 400.0, "1.3": 400.0}, {GPUS[1]: 1.0})
    made += launches(folder, {"1.1": 450.0, "1.3": 400.0}, {GPUS[2]: 1.0})
    table = only(releases.tables(made))
    assert {(step.release, step.against): step.roles for step in table.steps} == {
        ("1.1", "1.0"): ("before", "first", "best so far"),
        ("1.2", "1.0"): ("first", "best so far"),
        ("1.3", "1.2"): ("before", "best so far"),
        ("1.3", "1.0"): ("first",),
    }
    text = "\n".join(release_table.lines(table))
    assert re.search(r"1\.2 +- +- +- +- +- +-\n", text)
    assert re.search(r"1\.2 +- +-20\.0 improved +as first\n", text)


def test_gpus_do_not_pass_for_releases_if_none_launched_all(folder: Path) -> None:
    made = launches(folder, {"1.0": 500.0, "1.1": 450.0}, {GPUS[0]: 1.0})
    made += launches(folder, {"1.0": 500.0, "1.2": 450.0}, {GPUS[1]: 1.21})
    table = only(releases.tables(made))
    assert [f.values[ENERGY.value].value for f in table.figures] == pytest.approx(
        [0.55, 0.495, 0.495], abs=1e-3
    )
    text = " ".join("\n".join(release_table.lines(table)).split())
    assert "(of a release that others launched: 1.0's times its change)" in text
    made += launches(folder, {"1.2": 450.0}, {GPUS[2]: 1.0})
    of = only(releases.tables(made)).figures[2]
    assert of.values[ENERGY.value].value == pytest.approx(0.495, abs=1e-3)
    assert (of.on, len(of.shown)) == (((GPUS[1],),), 3)  # the third GPU tells no ratio


def test_a_release_that_no_gpu_compares_is_said_to_be_of_others(folder: Path) -> None:
    made = launches(folder, {"1.0": 500.0, "1.1": 450.0}, ONE)
    assert "do not compare" not in " ".join(release_table.lines(only(releases.tables(made))))
    made += launches(folder, {"1.2": 400.0}, {GPUS[1]: 1.21})
    text = " ".join("\n".join(release_table.lines(only(releases.tables(made)))).split())
    assert "-: no GPU launched both, and figures of different GPUs do not compare." in text


def test_launches_of_the_store_tell_how_much_single_ones_vary(folder: Path, tmp_path: Path) -> None:
    store = NoiseStore(tmp_path / "baselines")
    made = launches(folder, {"1.0": 500.0, "1.1": 506.0}, {GPUS[0]: 1.0})
    single = [made[0], made[3]]

    def after() -> tuple[float, str]:
        table = only(releases.tables(single, noise_store=store))
        interval = table.figures[1].ratios[ENERGY.value]
        (step,) = table.steps
        return interval.high - interval.low, step.judgements[ENERGY].verdict.value

    assumed, verdict = after()
    assert verdict == "inconclusive"
    store.add(single)  # what is judged is no evidence of its noise
    assert after() == (assumed, verdict)
    store.add(launches(folder, {"0.9": 510.0}, {GPUS[0]: 1.0, GPUS[1]: 1.1, GPUS[2]: 0.9}))
    measured, verdict = after()
    assert measured < assumed / 3
    assert verdict == "pass"


def test_what_three_launches_hardly_know_stays_in_its_columns(folder: Path) -> None:
    """As after an interruption: one degree of freedom at the level of many comparisons."""
    releases_of = {"1.0": 500.0, **{f"1.{number}": 600.0 for number in range(1, 6)}}
    made = [m for m in launches(folder, releases_of, {GPUS[0]: 1.0}) if m.launch_id.endswith("0")]
    made += launches(folder, {"1.0": 600.0}, {GPUS[0]: 1.0})[2:]
    text = release_table.lines(only(releases.tables(made)))
    assert max(map(len, "\n".join(text).splitlines())) <= 80
    assert re.search(r"1\.1 .* ±>1,000 ", "\n".join(text))
    assert re.search(r"1\.1 .* >1,000$", "\n".join(text), flags=re.M)


def test_assumed_noise_is_said(folder: Path) -> None:
    """Of single launches, too; and if cells of one batch size differ in it, how many rest on it."""
    power_w, on = {"1.0": 500.0, "1.1": 506.0}, {GPUS[0]: 1.0}

    def says(made: list[Measurement]) -> str:
        text = " ".join("\n".join(release_table.lines(only(releases.tables(made)))).split())
        return text.partition("releases together.")[2].partition("Steps")[0].strip()

    measured = [m for size in (2, 4, 8) for m in launches(folder, power_w, on, size)]
    single = launches(folder, power_w, on, 16)[::3]
    assert says(single) == "Noise is assumed."
    measured += launches(folder, {"1.2": 500.0}, {GPUS[0]: 1.0, GPUS[1]: 1.0}, 8)
    assert says(measured) == "Noise is assumed at batch size 2, 4, measured at the others."
    longer = [
        dataclasses.replace(m, key=dataclasses.replace(m.key, engine="server")) for m in single
    ]
    alike = [dataclasses.replace(m, key=dataclasses.replace(m.key, batch_size=8)) for m in longer]
    assert says(measured + alike) == "Noise is assumed in 3 of 4 cells."


@pytest.mark.parametrize("number", [1, 2])
def test_a_verdict_by_assumed_noise_alone_says_what_its_risk_rests_on(
    folder: Path, number: int
) -> None:
    """With two launches each their own spread decides, however wrong the assumption is."""
    made = launches(folder, {"1.0": 500.0, "1.1": 500.0}, {GPUS[0]: 1.0})
    made = [m for m in made if int(m.launch_id.rpartition("-")[2]) < number]
    text = " ".join("\n".join(release_table.lines(only(releases.tables(made)))).split())
    said = "comparisons of releases. Noise is assumed. Launches that vary more raise more alarms."
    assert text.count(said) == (len(UNDER_LOAD) if number == 1 else 0)


def test_cells_of_one_name_say_what_tells_them_apart(folder: Path) -> None:
    """As those of suites/published, whose engines differ."""
    made = [m for s in (2, 8) for m in launches(folder, {"1.0": 500.0, "1.1": 500.0}, ONE, s)]
    engine_args = {**made[0].key.engine_args, "max_num_batched_tokens": 64}
    key = dataclasses.replace(made[0].key, engine_args=engine_args)
    worse = launches(folder, {"1.0": 500.0, "1.1": 550.0}, ONE)
    table = only(releases.tables(made + [dataclasses.replace(m, key=key) for m in worse]))
    figures, *_ = "\n".join(release_table.lines(table)).partition("Geometric means")
    rows = re.findall(r"^tiny .*|^  bs=\d|[+-]\d+\.\d(?= ±\S+ +\d+ )", figures, flags=re.M)
    assert rows == [
        "tiny 64/250", "  bs=2", "+0.0", "  bs=8", "+0.0",
        "tiny max_num_batched_tokens=64 64/250", "  bs=2", "+10.0",
    ]  # fmt: skip
    named = r"| tiny max\_num\_batched\_tokens=64 bs=2 64/250 | 1.0 |"
    assert named in release_table.markdown(table)
    drawn = release_pictures.pictures([table])
    titles = {picture.title.partition(": ")[2].partition(" on ")[0] for picture in drawn}
    assert titles == {"tiny 64/250", "tiny max_num_batched_tokens=64 64/250"}


def test_settings_are_compared_with_the_reference_and_are_no_step(folder: Path) -> None:
    made = launches(folder, {"1.0": 500.0, "1.1": 510.0}, {GPUS[0]: 1.0})
    eager = {"engine_args_under_test": {"enforce_eager": True}}
    made += launches(folder, {"1.0": 700.0, "1.1": 707.0}, {GPUS[0]: 1.0}, **eager)
    table = only(releases.tables(made))
    assert table.releases == ("1.0", "1.0 enforce_eager=True", "1.1", "1.1 enforce_eager=True")
    ratios = [f.ratios[ENERGY.value].value for f in table.figures[1:]]
    assert ratios == pytest.approx([1.4, 1.02, 1.414], abs=1e-3)
    assert [(step.release, step.against) for step in table.steps] == [
        ("1.1", "1.0"),
        ("1.1 enforce_eager=True", "1.0 enforce_eager=True"),
    ]
    assert table.comparisons == 4


def test_gpus_that_disagree_are_counted(folder: Path) -> None:
    made = []
    for size in (2, 4, 8):
        made += launches(folder, {"1.0": 500.0, "1.1": 500.0}, {GPUS[0]: 1.0}, size)
        made += launches(folder, {"1.0": 500.0, "1.1": 540.0}, {GPUS[1]: 1.0}, size)
    table = only(releases.tables(made))
    text = " ".join("\n".join(release_table.lines(table)).split())
    assert text.count("1.1 +3.9 regressed 1/2 +3.9 regressed 1/2 as before") == 3


def test_other_gpu_models_and_power_limits_have_tables_of_their_own(folder: Path) -> None:
    made = launches(folder, {"1.0": 500.0, "1.1": 510.0}, {GPUS[0]: 1.0})
    made += launches(folder, {"1.1": 300.0}, {GPUS[1]: 1.0}, power_limit_w=400.0)
    found = releases.tables(made)
    assert [(str(t.machine), t.reference) for t in found] == [
        ("simulated GPU, 400.0 W", "1.1"),
        ("simulated GPU, 700.0 W", "1.0"),
    ]
    with pytest.raises(ResultsError, match=r"no launch of vLLM 1\.0 on simulated GPU, 400"):
        releases.tables(made, "1.0")
    assert [len(release_table.parts(t)) for t in found] == [1, 4]


def test_energies_of_a_gpu_and_of_a_whole_module_are_not_compared(folder: Path) -> None:
    """As on one that tells them apart since its driver was changed."""
    made = launches(folder, {"1.0": 500.0}, {GPUS[0]: 1.0})
    made += launches(folder, {"1.1": 700.0}, {GPUS[0]: 1.0}, energy_scope="module")
    found = releases.tables(made)
    assert [(str(t.machine), t.releases) for t in found] == [
        ("simulated GPU, 700.0 W", ("1.0",)),
        ("simulated GPU, 700.0 W, energy of the whole module", ("1.1",)),
    ]


def test_invalid_launches_are_left_out_and_said(folder: Path) -> None:
    made = launches(folder, {"1.0": 500.0, "1.1": 510.0}, {GPUS[0]: 1.0})
    made[5] = dataclasses.replace(made[5], faults=("unsteady: J/token rose",))
    table = only(releases.tables(made))
    assert [len(figures.shown) for figures in table.figures] == [3, 2]
    (line,) = table.notes
    assert line.startswith("left out: vLLM 1.1, tiny bs=2 64/250, launch 1.1-")
    assert line in " ".join("\n".join(release_table.lines(table)).split())
    with pytest.raises(ResultsError, match=r"no launch is valid.* unsteady: J/token rose"):
        releases.tables(made[5:])


def test_a_machine_that_changed_between_launches_is_said(folder: Path) -> None:
    """Its change may be taken for a release's."""
    dated = {"driver": "580", "date": "2026-11-01T00:00:00+00:00"}
    before = launches(folder, {"1.0": 500.0}, dict.fromkeys(GPUS[:2], 1.0), **dated)
    dated = {"driver": "590", "date": "2026-11-02T00:00:00+00:00"}
    after = launches(folder, {"1.1": 500.0}, {GPUS[0]: 1.0}, **dated)
    assert only(releases.tables(before)).notes == ()
    table = only(releases.tables([*after, *before]))
    assert table.notes == (
        f"{GPUS[0][:12]}: the machine changed between launches (driver 580 → 590), which ratios "
        "and verdicts hold, too",
    )


def test_a_shared_prefix_that_no_cache_served_is_said(folder: Path) -> None:
    """What a release then computes is other work."""
    made = launches(folder, {"1.0": 500.0, "1.1": 400.0}, ONE)
    workload = dataclasses.replace(made[0].key.workload, shared_prefix_tokens=48)
    key = dataclasses.replace(
        made[0].key,
        workload=workload,
        engine_args={**made[0].key.engine_args, "enable_prefix_caching": True},
    )
    made = [
        dataclasses.replace(m, key=key, cached_share=0.75 * (m.environment.vllm == "1.1"))
        for m in made
    ]
    (note,) = only(releases.tables(made)).notes
    assert note.startswith("vLLM 1.0, tiny bs=2 48+16/250: the prefix cache served none of the 48")
    assert note.endswith(" (3 launches)")


def test_interleaved_launches_alone_are_judged_in_pairs_instead() -> None:
    with pytest.raises(ResultsError, match=r"co-resident on its GPUs.\nJudge them in pairs: "):
        releases.tables(releases.read([INTERLEAVED]))


def test_interleaved_launches_among_others_are_left_out_and_said() -> None:
    alone = INTERLEAVED.parent / "gpu-a30fa4a8" / "vllm-0.25.1"
    table = only(releases.tables(releases.read([INTERLEAVED, alone])))
    (note,) = table.notes
    assert note == (
        "left out: 6 launches with another engine co-resident on the GPUs, which pairs alone judge"
    )


def test_recorded_launches_give_the_ratios_that_pandas_gives(tmp_path: Path) -> None:
    measured = releases.read(RECORDED)
    found = releases.tables(measured)
    frame = pandas.DataFrame(
        {
            "vllm": m.environment.vllm,
            "batch_size": m.key.batch_size,
            **{name: math.log(getattr(m, name)) for name in release_noise.QUANTITIES},
        }
        for m in measured
    )
    means = frame.groupby(["vllm", "batch_size"]).mean()
    expected = (means.loc["0.25.1"] - means.loc["0.20.2"]).map(math.exp)
    release_report.publish(found, tmp_path)
    written = pandas.read_csv(tmp_path / "releases.csv")
    written = written[written.vllm == "0.25.1"].set_index("batch_size")
    for name in release_noise.QUANTITIES:
        assert written[f"{name}_ratio"].to_dict() == pytest.approx(expected[name].to_dict())
    products = written.joules_per_token_ratio * written.tokens_per_s_ratio
    assert products.to_dict() == pytest.approx(written.power_w_ratio.to_dict())
    with (tmp_path / "verdicts.csv").open() as file:
        verdicts = {row["verdict"] for row in csv.DictReader(file)}
    assert verdicts == {"pass", "inconclusive"}


def test_the_table_fits_in_80_columns_and_its_pictures_on_their_canvas(tmp_path: Path) -> None:
    table = only(releases.tables(releases.read(RECORDED)))
    assert max(map(len, "\n".join(release_table.lines(table)).splitlines())) <= 80
    paths = release_report.publish([table], tmp_path)
    page = (tmp_path / "releases.md").read_text()
    drawn = release_pictures.pictures([table])
    assert [p.name for p in drawn] == ["against-batch-size", "releases", "power-throughput"]
    for picture in drawn:
        assert picture.faults() == []
        assert f'src="pictures/{picture.name}-light.svg"' in page
        assert {tmp_path / "pictures" / f"{picture.name}-{t}.svg" for t in ("light", "dark")} <= {
            *paths
        }
    assert "10 May" in drawn[1].svg("light")  # of 0.20.2
    assert all("vLLM 0.20.2 (reference)" in drawn[i].svg("light") for i in (0, 2))
    assert "; vLLM 0.25.1 0.07180 J/token (0.07123 to 0.07238), -2.4 %, pass. " in drawn[1].words


def test_of_too_many_releases_the_first_and_the_newest_are_drawn(folder: Path) -> None:
    made = launches(folder, {f"1.{n}": 500.0 + n for n in range(10)}, {GPUS[0]: 1.0})
    against, over, plane = release_pictures.pictures(releases.tables(made))
    for picture in (against, plane):
        assert picture.caption.endswith(" 2 of 10 releases are not drawn.")
        assert "vLLM 1.0" in picture.words
        assert "vLLM 1.9" in picture.words
        assert "vLLM 1.2" not in picture.words
    assert "vLLM 1.2" in over.words


def test_published_points_are_drawn_beside_cells_like_theirs(folder: Path) -> None:
    file = folder / "published.csv"
    file.write_text(
        "source,vllm,model,precision,h100_gpus,max_num_seqs,joules_per_token,power_w,tokens_per_s\n"
        "A study,0.5.4,tiny,,1,2,.6,300,500\nA study,0.5.4,tiny,,2,2,.7,300,500\n"
        "A study,0.5.4,tiny,fp8,1,2,.8,300,500\nA study,0.5.4,other,,1,2,.9,300,500\n",
        encoding="utf-8-sig",
    )
    points = published.read(file)
    on_h100 = launches(
        folder, {"1.0": 500.0, "1.1": 510.0}, {GPUS[0]: 1.0}, gpu_name="NVIDIA H100 80GB HBM3"
    )
    _, picture, _ = release_pictures.pictures(releases.tables(on_h100), points)
    assert "A study, vLLM 0.5.4: 0.6000 J/token." in picture.words
    assert picture.words.count("A study") == 1
    single = launches(folder, {"1.0": 500.0}, {GPUS[0]: 1.0}, gpu_name="NVIDIA H100 80GB HBM3")
    _, picture = release_pictures.pictures(releases.tables(single), points)
    assert "vLLM 1.0 0.500" in picture.words
    assert "A study, vLLM 0.5.4: 0.6000 J/token." in picture.words
    elsewhere = launches(folder, {"1.0": 500.0, "1.1": 510.0}, {GPUS[0]: 1.0})
    assert "A study" not in release_pictures.pictures(releases.tables(elsewhere), points)[1].words


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("vllm,model\n0.5.4,tiny\n", "it has no column source"),
        (",".join(published._COLUMNS) + "\nx,1,m,bf16,1,8,zero,1,1\n", "could not convert string"),
        (",".join(published._COLUMNS) + "\nx,1,m,bf16,1,8,-1,1,1\n", "is not an energy per token"),
        (",".join(published._COLUMNS) + "\nx,1\n", "could not convert string to float: ''.\n"),
    ],
)
def test_a_file_of_published_points_that_is_none(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "file.csv").write_text(content, encoding="utf-8-sig")
    with pytest.raises(UsageError, match=says):
        published.read(tmp_path / "file.csv")


def test_releases_have_the_dates_of_the_file_that_says_where_they_are_from() -> None:
    dates = release_chart.release_dates()
    assert (dates["0.5.4"], dates["0.25.1"]) == ("2024-08-05", "2026-07-14")
    assert list(dates.values()) == sorted(dates.values())


def test_long_settings_stand_below_their_figures() -> None:
    h100 = ROOT / "recordings" / "h100-sxm-80gb" / "gpu-6ac11e84"
    table = only(releases.tables(releases.read([h100 / "baseline", h100 / "piecewise"])))
    text = "\n".join(release_table.lines(table))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(
        r"^  bs=8 +0\.25\.1 .*\n +0\.25\.1 +0\.4330 .*\n"
        r" {12}compilation_config=\{'cudagraph_mode': 'PIECEWISE'\}\n  bs=64 ",
        text,
        re.M,
    )
