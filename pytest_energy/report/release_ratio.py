"""A release's figures over another's on the same GPUs, and their errors. Pure."""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_energy.cell.key import CellKey
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.spread import Spread, exp, log_moments
from pytest_energy.report import release_noise
from pytest_energy.report.release_noise import Gpus, Launches, Stored, values
from pytest_energy.report.results import Interval, interval
from pytest_energy.verdict.comparison import Moderated, error_bound


@dataclass(frozen=True)
class Varies:
    """How much a quantity of a cell varies.

    Attributes:
        launches: from launch to launch.
        blocks: beside GPU and release, if three or more GPUs have launched several releases.
        assumed: whether neither is measured.
    """

    launches: Moderated
    blocks: Moderated | None
    assumed: bool

    @classmethod
    def of(
        cls, name: str, key: CellKey, cells: Mapping[CellKey, Launches], stored: Stored
    ) -> "Varies":
        """By all launches of the table and the store."""
        of_launches = release_noise.noise(name, key, cells, stored)
        blocks = release_noise.of_blocks(name, key, cells)
        measured = blocks or release_noise.floor(name, key, cells, stored).measured
        return cls(of_launches, blocks, not measured)


@dataclass(frozen=True)
class LogFigure:
    """The logarithm of a figure or of a ratio, and its standard error."""

    value: float
    error: Moderated

    def less(self, other: "LogFigure") -> "LogFigure":
        """The ratio of two, of launches of their own."""
        return self._with(other, self.value - other.value)

    def plus(self, other: "LogFigure") -> "LogFigure":
        """The product of two, likewise."""
        return self._with(other, self.value + other.value)

    def _with(self, other: "LogFigure", value: float) -> "LogFigure":
        """With both errors.

        What is known of both errors may come from the same further cells, so that their degrees of
        freedom do not add up.
        """
        one, two = self.error, other.error
        degrees = min(one.spread.degrees_of_freedom, two.spread.degrees_of_freedom)
        deviation = math.hypot(one.spread.deviation, two.spread.deviation)
        error = Moderated(Spread(deviation, degrees), math.hypot(one.assumed, two.assumed))
        return LogFigure(value, error)

    def interval(self, confidence: float) -> Interval:
        """The figure, no longer a logarithm."""
        half = error_bound(self.error.spread, self.error.assumed, (1 + confidence) / 2)
        return interval(exp(self.value), exp(self.value - half), exp(self.value + half))


def mean(
    name: str, release: Mapping[Gpus, Sequence[Measurement]], on: Collection[Gpus], varies: Varies
) -> LogFigure:
    """Over these GPUs, each of which has launched the release."""
    counts = [len(release[gpus]) for gpus in on]
    return LogFigure(
        statistics.fmean(_log(name, release[gpus]) for gpus in on),
        _times(varies.launches, _root(counts, len(on))),
    )


def ratio(
    name: str,
    release: Mapping[Gpus, Sequence[Measurement]],
    other: Mapping[Gpus, Sequence[Measurement]],
    on: Collection[Gpus],
    varies: Varies,
) -> LogFigure:
    """Release ÷ other, the mean over these GPUs, each of which has launched both."""
    value = statistics.fmean(_log(name, release[g]) - _log(name, other[g]) for g in on)
    if varies.blocks is not None:
        return LogFigure(value, _times(varies.blocks, math.sqrt(2 / len(on))))
    counts = [len(side[gpus]) for side in (release, other) for gpus in on]
    return LogFigure(value, _times(varies.launches, _root(counts, len(on))))


def _log(name: str, launches: Sequence[Measurement]) -> float:
    return log_moments(values(name, launches))[0]


def _root(launches: Iterable[int], gpus: int) -> float:
    """Times the deviation of a launch, the standard error of a mean over GPUs of their means."""
    return math.sqrt(math.fsum(1 / count for count in launches)) / gpus


def _times(noise: Moderated, root: float) -> Moderated:
    spread = noise.spread
    return Moderated(
        Spread(spread.deviation * root, spread.degrees_of_freedom), noise.assumed * root
    )
