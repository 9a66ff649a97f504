"""Do ratios of releases carry over between weights? Simulated, and the command on recordings."""

import dataclasses
import itertools
import math
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy import stats

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.key import CellKey
from pytest_energy.commands.main import main
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from pytest_energy.report import release_table, release_weights, releases
from pytest_energy.report.release_noise import Launches
from tests import simulated
from tests.conftest import ROOT
from tests.plugin.project import MARKER

GPUS = [f"GPU-{n}" + simulated.UUID[5:] for n in range(1, 4)]
ENERGY, RATE = Metric.JOULES_PER_TOKEN.value, Metric.TOKENS_PER_S.value
NEW, NO_ASYNC = "1.1", {"engine_args_under_test": {"async_scheduling": False}}
RELEASES = ("1.0", "1.1", "1.1 async_scheduling=False")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text('{"vocab_size": 2048}')
    return tmp_path


@pytest.fixture
def template(folder: Path) -> Measurement:
    return measure(simulated.recording(cell(folder, "dummy", 2), cycles=12.5))


def cell(folder: Path, weights: str, batch_size: int) -> Cell:
    marked = Marked.from_arguments((), {**MARKER, "batch_sizes": [2, 4, 8], "weights": weights})
    return marked.cell(batch_size, folder)


class Simulated:
    """Launches whose figures are drawn.

    Attributes:
        deviation: of a launch, J/token.
        of_gpus: what GPUs draw relative to each other.
    """

    def __init__(
        self, folder: Path, template: Measurement, seed: int, deviation: float = 0.005
    ) -> None:
        self._folder, self._template = folder, template
        self._random, self.deviation = np.random.default_rng(seed), deviation
        self.of_gpus = dict(zip(GPUS, (1.0, 1.1, 0.93), strict=True))
        self._numbers = itertools.count()

    def launches(
        self,
        weights: str,
        batch_size: int,
        energy: Mapping[str, float],
        gpus: Sequence[str] = GPUS[:1],
        launches: int = 3,
    ) -> list[Measurement]:
        """Of each release, by the energy that it takes, on each of the GPUs."""
        key = cell(self._folder, weights, batch_size).key
        return [
            self._launch(key, release, times * self.of_gpus[gpu], gpu)
            for release, times in energy.items()
            for gpu in gpus
            for _ in range(launches)
        ]

    def _launch(self, key: CellKey, release: str, energy: float, gpu: str) -> Measurement:
        assert self._template.cycles is not None
        version, *settings = release.split()
        environment = dataclasses.replace(
            self._template.environment,
            vllm=version,
            gpu_uuids=(gpu,),
            **(NO_ASYNC if settings else {}),
        )
        drawn = energy * math.exp(self._random.normal(0.0, self.deviation))
        cycles = dataclasses.replace(
            self._template.cycles,
            energy_j=tuple(drawn * e for e in self._template.cycles.energy_j),
        )
        return dataclasses.replace(
            self._template,
            key=key,
            launch_id=f"launch-{next(self._numbers)}",
            environment=environment,
            cycles=cycles,
        )


def energy(*ratios: float, of: float = 1.0) -> dict[str, float]:
    """What the releases take, by their ratios to 1.1."""
    old, no_async = ratios
    return {"1.0": of * old, NEW: of, RELEASES[2]: of * no_async}


def only(made: Sequence[Measurement]) -> releases.Table:
    (table,) = releases.tables(made, NEW)
    return table


def text(table: releases.Table) -> str:
    return " ".join("\n".join(release_table.lines(table)).split())


@pytest.fixture
def simulation(folder: Path, template: Measurement) -> Simulated:
    return Simulated(folder, template, 1)


def test_ratios_that_carry_over_are_alike_though_energies_differ(simulation: Simulated) -> None:
    """Under random weights all releases take 30 % more than under dummy ones."""
    made = [
        m
        for size in (2, 4, 8)
        for weights, of in (("dummy", 1.0), ("random", 1.3))
        for m in simulation.launches(weights, size, energy(1.06, 1.08, of=of))
    ]
    table = only(made)
    assert [
        (of.cell.batch_size, of.release, of.cell.weights, of.against.weights)
        for of in table.under_weights
    ] == [(size, release, "random", "dummy") for size in (2, 4, 8) for release in RELEASES[::2]]
    for of in table.under_weights:
        expected = 1.06 if of.release == "1.0" else 1.08
        assert of.ratios[ENERGY] == pytest.approx(expected, abs=0.015)
        assert of.ratios_against[ENERGY] == pytest.approx(expected, abs=0.015)
        assert of.apart[ENERGY].value == pytest.approx(
            of.ratios[ENERGY] / of.ratios_against[ENERGY]
        )
        assert not of.differs(ENERGY)
        assert of.alike_within(ENERGY) < 0.04
    within = max(of.alike_within(ENERGY) for of in table.under_weights)
    assert f"alike within {math.ceil(1000 * within) / 10:.1f} %." in text(table)
    assert text(table).count("No ratio differs between weights: all are alike within") == 2


def test_a_ratio_that_does_not_carry_over_is_named(simulation: Simulated) -> None:
    made = [
        m
        for size in (2, 4, 8)
        for weights, no_async in (("dummy", 1.08), ("random", 1.02 if size == 4 else 1.08))
        for m in simulation.launches(weights, size, energy(1.06, no_async))
    ]
    table = only(made)
    (differs,) = (of for of in table.under_weights if of.differs(ENERGY))
    assert (differs.cell.batch_size, differs.release) == (4, RELEASES[2])
    assert differs.apart[ENERGY].low < 1.02 / 1.08 < differs.apart[ENERGY].high
    said = text(table)
    assert (
        "1 of 6 ratios differs between weights, most that of vLLM 1.1 async_scheduling=False at "
        "bs=4 under weights=random (-4.0 ±1.8 %); all are alike within 5.8 %."
    ) in said
    assert "No ratio differs between weights" in said  # tokens/s


def test_synthetic_weights_are_compared_with_the_models_own(simulation: Simulated) -> None:
    both = energy(1.06, 1.08)
    made = [m for w in ("random", "auto", "dummy") for m in simulation.launches(w, 2, both)]
    table = only(made)
    assert [(of.cell.weights, of.against.weights) for of in table.under_weights] == [
        *(("dummy", "auto"), ("random", "auto")) * 2
    ]
    assert "auto: the model's own." in text(table)


def test_only_gpus_that_have_launched_all_four_are_compared(simulation: Simulated) -> None:
    """A GPU on which weights or a release are missing tells nothing."""
    two = {"1.0": 1.06, NEW: 1.0}
    made = simulation.launches("dummy", 2, two, GPUS[:2])
    made += simulation.launches("random", 2, two, GPUS[1:2])
    made += simulation.launches("random", 2, {NEW: 1.0}, GPUS[:1])
    (of,) = only(made).under_weights
    assert of.on == ((GPUS[1],),)
    assert of.apart[ENERGY].low < 1 < of.apart[ENERGY].high
    elsewhere = simulation.launches("dummy", 2, two, GPUS[:1])
    elsewhere += simulation.launches("random", 2, two, GPUS[1:2])
    assert only(elsewhere).under_weights == ()


def test_cells_that_differ_elsewhere_are_not_compared(simulation: Simulated) -> None:
    both = energy(1.06, 1.08)
    made = simulation.launches("dummy", 2, both) + simulation.launches("random", 4, both)
    table = only(made)
    assert table.under_weights == ()
    assert "carry over" not in text(table)


def test_cells_of_several_weights_are_told_apart_in_the_other_parts(simulation: Simulated) -> None:
    both = energy(1.06, 1.08)
    made = [m for w in ("random", "dummy") for m in simulation.launches(w, 2, both)]
    lines = release_table.lines(only(made))
    heads = [line for line in lines if line.startswith("tiny ")]
    named = [f"tiny weights={weights} 64/250" for weights in ("dummy", "random")]
    assert heads == [*named * 4, *["tiny 64/250"] * 2]
    assert "tiny weights=random bs=2 64/250" in release_table.markdown(only(made))
    alone = only([m for m in made if m.key.weights == "dummy"])
    assert "weights" not in text(alone)


@pytest.mark.parametrize(
    ("gpus", "launches", "apart"),
    [
        (1, 3, 1.03),
        pytest.param(2, 3, 1.0, marks=pytest.mark.nightly),
        pytest.param(3, 1, 1.03, marks=pytest.mark.nightly),
    ],
)
def test_the_intervals_hold_together_in_95_percent_of_tables(
    folder: Path, template: Measurement, gpus: int, launches: int, apart: float
) -> None:
    """In 300 tables of six rows (binomial, 99.9 %), and they are no wider than noise demands."""
    simulation = Simulated(folder, template, 10 * gpus + launches)
    truth = {
        "dummy": energy(1.06, 1.08),
        "random": energy(1.06 * apart, 1.08 / apart, of=1.3),
    }
    held, widths = 0, []
    for _ in range(300):
        cells: dict[CellKey, Launches] = {}
        for weights, of in truth.items():
            for size in (2, 4, 8):
                for m in simulation.launches(weights, size, of, GPUS[:gpus], launches):
                    on = m.environment
                    label = " ".join((str(on.vllm), *on.settings_under_test))
                    of_release = cells.setdefault(m.key, {}).setdefault(label, {})
                    of_release.setdefault(on.gpus, []).append(m)
        found = release_weights.under_weights(cells, RELEASES, NEW, {})
        assert len(found) == 6
        expected = {"1.0": apart, RELEASES[2]: 1 / apart}
        held += all(
            of.apart[ENERGY].low <= expected[of.release] <= of.apart[ENERGY].high for of in found
        )
        widths += [math.log(of.apart[ENERGY].high / of.apart[ENERGY].low) / 2 for of in found]
    assert held >= stats.binom.ppf(0.001, 300, 0.95)
    each = math.sqrt(4 / (gpus * launches)) * simulation.deviation
    assert np.mean(widths) < each * 1.4 * stats.norm.ppf((1 + 0.95 ** (1 / 6)) / 2)


def record(folder: Path, to: Path, versions: Mapping[str, float], **environment: object) -> None:
    """A sweep's recordings under both kinds of weights, in which releases take different power."""
    for weights, version, luck in itertools.product(
        ("dummy", "random"), versions, (0.997, 1.0, 1.003)
    ):
        launch = f"{to.name}-{version}-{weights}-{luck}"
        for size in (2, 4):
            of = cell(folder, weights, size)
            made = simulated.recording(
                of,
                launch,
                versions[version] * luck * (1.2 if weights == "random" else 1.0),
                cycles=12.5,
                environment={"vllm": version, **environment},
            )
            recording_file.write(made, to / launch / f"{of.key.slug}.json.gz")


def test_the_command_compares_weights_of_releases_and_of_a_setting(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep of releases and one with a setting under test, side by side."""
    record(folder, folder / "releases", {"0.11.1": 510.0, "0.25.1": 480.0})
    record(folder, folder / "no-async", {"0.25.1": 510.0}, **NO_ASYNC)
    recordings = [str(folder / name) for name in ("releases", "no-async")]
    table = folder / "table"
    arguments = ["--reference", "0.25.1", "-o", str(table)]
    assert main(["sweep", "--table", *recordings, *arguments]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("No ratio differs between weights: all are alike within ") == 2
    assert (
        "bs=4 0.11.1 dummy +6.2 random +6.2 +0.0 ±1.1 "
        "0.25.1 async_scheduling=False dummy +6.2 random +6.2 +0.0 ±1.1"
    ) in said
    assert str(table / "weights.csv") in said
    page = (table / "releases.md").read_text()
    assert "### Does a change of tokens/s carry over between weights?" in page
    assert ": tiny weights=random 64/250 on simulated GPU" in page
    written = pandas.read_csv(table / "weights.csv")
    assert list(written.vllm) == ["0.11.1", "0.25.1 async_scheduling=False"] * 2
    assert set(written.weights + " / " + written.against_weights) == {"random / dummy"}
    expected = written.joules_per_token_ratio / written.joules_per_token_ratio_against
    assert list(written.joules_per_token_apart) == pytest.approx(list(expected))
    assert (written.joules_per_token_apart_low < 1).all()
    assert (written.joules_per_token_apart_high > 1).all()
    figures = pandas.read_csv(table / "releases.csv")
    assert sorted(set(figures.weights)) == ["dummy", "random"]


def test_a_folder_of_weights_is_compared_with_synthetic_ones_of_its_config(folder: Path) -> None:
    """Digests are of config.json alone, so that it may lie elsewhere."""
    elsewhere = folder / "elsewhere"
    (elsewhere / "tiny").mkdir(parents=True)
    (elsewhere / "tiny" / "config.json").write_bytes((folder / "tiny/config.json").read_bytes())
    (elsewhere / "tiny" / "model.safetensors").write_bytes(b"weights")
    own, synthetic = cell(elsewhere, "auto", 2).key, cell(folder, "dummy", 2).key
    assert own.differences(synthetic) == ["engine_args.load_format: auto → dummy"]
    assert own.but_weights == synthetic.but_weights
    (elsewhere / "tiny" / "config.json").write_text('{"vocab_size": 4096}')
    assert cell(elsewhere, "auto", 2).key.but_weights != synthetic.but_weights


def suite_keys(file: str, test: str) -> list[CellKey]:
    """Of the cells of a test in suites/."""
    path = ROOT / "suites" / file
    module = runpy.run_path(str(path))
    marks = [module["pytestmark"], *getattr(module[test], "pytestmark", [])]
    arguments = {name: value for mark in marks for name, value in mark.kwargs.items()}
    marked = Marked.from_arguments((), arguments)
    return [marked.cell(size, path.parent).key for size in arguments["batch_sizes"]]


def test_the_suite_has_cells_that_differ_in_their_weights_alone() -> None:
    """Those with dummy weights are the quiet suite's."""
    dummy = suite_keys("weights/test_llama_3_1_8b.py", "test_dummy_weights")
    random = suite_keys("weights/test_llama_3_1_8b.py", "test_random_weights")
    assert [key.weights for key in dummy + random] == ["dummy"] * 3 + ["random"] * 3
    assert [key.but_weights for key in dummy] == [key.but_weights for key in random]
    assert set(dummy) < set(suite_keys("test_llama_3_1_8b.py", "test_energy"))
