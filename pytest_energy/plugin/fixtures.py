"""The `energy`, `throughput` and `idle_power` fixtures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_energy.errors import EnergyError
from pytest_energy.plugin.collection import question
from pytest_energy.plugin.state import (
    CELL,
    FIXTURES,
    FOUND,
    IDLE,
    RUN,
    fixtures_of,
    session_of,
    test_id,
)
from pytest_energy.safety.files import in_words

if TYPE_CHECKING:
    from pytest_energy.report.explanation import Explanation
    from pytest_energy.store.baselines import Update
    from pytest_energy.verdict.judgement import Judgement

PARENTS_GPUS = "energy_parents_gpus"  # CUDA_VISIBLE_DEVICES of an xdist worker's parent


class Gated:
    """One metric of one cell, measured when it is first asked for.

    A test that ends without having called `check` is checked all the same.
    """

    def __init__(self, item: pytest.Item, fixture: str) -> None:
        self._item, self._fixture = item, fixture
        self._judgement: Judgement | None = None
        self._checked = False

    @property
    def judgement(self) -> Judgement:
        """All that was found (pytest_energy.verdict.judgement.Judgement)."""
        if self._judgement is None:
            _refuse_shared_gpus(self._item.config)
            asked = question(self._item, self._fixture)
            try:
                self._judgement = session_of(self._item.config).judge(asked)
            except EnergyError as error:
                raise pytest.fail.Exception(self._why(error), pytrace=False) from None
        return self._judgement

    @property
    def joules_per_token(self) -> float | None:
        """Energy per generated token, J; None if no launch was valid, and at idle."""
        candidate = self.judgement.candidate
        return candidate.joules_per_token.value if candidate and not candidate.is_idle else None

    @property
    def power_w(self) -> float | None:
        """Mean power under load, or at idle, W; None if no launch was valid."""
        candidate = self.judgement.candidate
        return candidate.power_w if candidate else None

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens per second; None if no launch was valid, and at idle."""
        candidate = self.judgement.candidate
        return candidate.tokens_per_s.value if candidate and not candidate.is_idle else None

    @property
    def verdict(self) -> str:
        """One of the seven verdicts, as the summary table shows it."""
        return self.judgement.verdict.value

    def check(self) -> None:
        """Fail the test unless its verdict is pass or improved.

        Under --energy-update the baseline is stored instead, under --energy-noise the noise.
        """
        take_back(self._item)
        self._check_once()

    def _check_once(self) -> None:
        if self._checked:
            return
        if self._item.config.stash[RUN].settings.noise:
            self._add_noise()
        else:
            self._check()

    def _check(self) -> None:
        from pytest_energy.plugin import benchmark, report_files
        from pytest_energy.plugin.command_line import rerun
        from pytest_energy.report import explanation, rows

        judgement, item = self.judgement, self._item
        self._checked = True
        session, cell = session_of(item.config), item.stash[CELL]
        settings = session.settings
        update, refusal = self._update() if settings.update else (None, None)
        row = rows.row(cell, judgement, update, settings.inconclusive_fails)
        row = replace(row, test=test_id(item).partition("[")[0])
        said = explanation.explain(cell.name, judgement, rerun(item), bool(settings.replay))
        shown = said if judgement.verdict.green else self._in_short(judgement, said)
        failure = "" if judgement.verdict.green else explanation.failure(judgement, shown)
        if update is None and row.green and not judgement.verdict.green:
            # Shown in the summary: as a Python warning it would fail where warnings are errors.
            row = replace(row, warning=failure)
        found = {"row": row.as_dict(), "benchmark": benchmark.of(item, session.evidence(cell), row)}
        if settings.report is not None:
            found["entry"] = report_files.entry(item, judgement, row, said)
        item.stash.setdefault(FOUND, {})[self._fixture] = found
        _set_properties(item, row.properties())
        if refusal is not None:
            pytest.fail(refusal, pytrace=False)
        if not row.green:
            pytest.fail(failure, pytrace=False)

    def _in_short(self, judgement: Judgement, said: Explanation) -> Explanation:
        """What the cell's other metric has told in full is referred to.

        Why J/token regressed is always told, because it says more than that of tokens/s.
        """
        verdict = judgement.verdict.value
        if verdict == "inconclusive" or judgement.by_limits_alone:
            return said
        regressed = verdict == "regressed"
        key, cause = self._item.stash[CELL].key.canonical, str(said.changed)
        if not regressed:  # of a launch's failure only the first lines may be told
            cause = "\n".join(reason.partition("\n")[0] for reason in judgement.reasons)
        as_other = self._as_other(f"{verdict} {cause} {key}")
        if as_other is None or (regressed and self._fixture == "energy"):
            return said
        if regressed:
            return replace(said, split=f"why, and what changed: {as_other}", changed=None)
        why = f"why, and what to type next: {as_other}"
        return replace(said, how_sure="", reasons=(why,), split="", changed=None, next=())

    def _as_other(self, cause: str) -> str | None:
        """Where another fixture has told this cause in full; None if none has."""
        asked = question(self._item, self._fixture)
        other = session_of(self._item.config).told.before(cause, asked)
        if other is None:
            return None
        (fixture,) = (name for name, metric in FIXTURES.items() if metric == other.metric.value)
        where = ", above" if other.test == asked.test else f" ({other.test})"
        return f"as for {fixture}{where}"

    def _update(self) -> tuple[Update | None, str | None]:
        """Store the baseline; what was stored, or why nothing was."""
        cell = self._item.stash[CELL]
        try:
            return session_of(self._item.config).update(cell), None
        except (EnergyError, OSError) as error:
            as_other = self._as_other(f"not updated: {error} {cell.key.canonical}")
            why = f"; why: {as_other}" if as_other else f": {self._why(error)}"
            return None, f"the baseline of {cell.name} was not updated{why}"

    def _add_noise(self) -> None:
        """Add the cell's launches to the runner's noise; nothing is judged."""
        from pytest_energy.measure.metric import Metric

        self._checked = True
        config, cell = self._item.config, self._item.stash[CELL]
        _refuse_shared_gpus(config)
        session, metric = session_of(config), Metric(FIXTURES[self._fixture])
        try:
            session.add_noise(cell)
            found = cell, metric, session.noise(cell, metric)
            if found not in config.stash[RUN].noise:  # else the test was run again
                config.stash[RUN].noise.append(found)
        except (EnergyError, OSError) as error:
            message = f"the noise of {cell.name} was not stored: {self._why(error)}"
            raise pytest.fail.Exception(message, pytrace=False) from None

    def _why(self, error: EnergyError | OSError) -> str:
        """What an error says, in full only to the first test that it stops."""
        if isinstance(error, OSError):
            error = EnergyError(
                f"{in_words(error)}.\nMend that, or give another store: --energy-baselines DIR"
            )
        asked = question(self._item, self._fixture)
        return session_of(self._item.config).told.error(error, asked)


def take_back(item: pytest.Item) -> None:
    """What a test has told and nobody is shown, as a failure that it expects, is told anew."""
    session_of(item.config).told.take_back(test_id(item))


def forget(item: pytest.Item) -> None:
    """Forget what an earlier run of the same test found."""
    from pytest_energy.report.rows import Row

    for found in item.stash[FOUND].values():
        stale = Row(**found["row"]).properties()
        item.user_properties[:] = [pair for pair in item.user_properties if pair[0] not in stale]
    del item.stash[FOUND]


def _set_properties(item: pytest.Item, properties: Mapping[str, str]) -> None:
    """JUnit's properties: each name once, also if a test has both fixtures."""
    others = [pair for pair in item.user_properties if pair[0] not in properties]
    item.user_properties[:] = [*others, *properties.items()]


def _refuse_shared_gpus(config: pytest.Config) -> None:
    """Workers of xdist that share GPUs must not measure."""
    own, worker = os.environ.get("CUDA_VISIBLE_DEVICES"), getattr(config, "workerinput", None)
    if worker is None or config.stash[RUN].settings.replay:
        return
    if own is None or own == worker.get(PARENTS_GPUS):
        pytest.fail(
            "live measurements do not work under pytest-xdist if workers share GPUs: they would "
            "measure each other.\nRun with -n 0, or give each worker its own GPUs: set "
            "CUDA_VISIBLE_DEVICES in conftest.py.",
            pytrace=False,
        )


def check_unchecked(function: pytest.Function) -> None:
    """Check all metrics that a test's body has not checked; the failures are reported together."""
    failures = []
    if fixtures_of(function):
        take_back(function)
    for name in FIXTURES:
        gated = function.funcargs.get(name)
        if isinstance(gated, Gated):
            try:
                gated._check_once()
            except pytest.fail.Exception as failure:
                failures.append(str(failure))
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


@pytest.fixture
def energy(request: pytest.FixtureRequest, energy_batch_size: int) -> Gated:
    """Gates J/token: the cell's energy per generated token against its baseline."""
    return Gated(request.node, "energy")


@pytest.fixture
def throughput(request: pytest.FixtureRequest, energy_batch_size: int) -> Gated:
    """Gates tokens/s; shares its measurement with `energy`."""
    return Gated(request.node, "throughput")


@pytest.fixture
def idle_power(request: pytest.FixtureRequest) -> Gated:
    """Gates W at idle: the power of the engine that is loaded and has no request."""
    return Gated(request.node, IDLE)


@pytest.fixture
def energy_batch_size(request: pytest.FixtureRequest) -> int:
    """The batch size of this test, one of the marker's batch_sizes."""
    return int(request.param)
