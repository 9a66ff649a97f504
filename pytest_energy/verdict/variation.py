"""How much interleaved launches vary from period to period, and so their noise. Pure."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_energy.measure.cycles import Cycles
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor, Spread, launch_value, pooled
from pytest_energy.verdict.comparison import exceeds


@dataclass(frozen=True)
class Variation:
    """How much periods and pairs differ; deviations of the logarithm of candidate ÷ reference.

    Attributes:
        periods: of neighbouring periods, within a pair of launches.
        pairs: of pairs of launches.
        by_periods: of pairs of launches, if the periods' deviation were all there is.
    """

    periods: Spread
    pairs: Spread
    by_periods: float

    @property
    def of_launch(self) -> Spread:
        """How uncertain a launch is, by its periods."""
        return Spread(self.by_periods / math.sqrt(2), self.periods.degrees_of_freedom)


def variation(
    metric: Metric, candidate: Sequence[Measurement], reference: Sequence[Measurement]
) -> Variation | None:
    """Of interleaved launches; None for fewer than two pairs, or if they hold no periods.

    Args:
        metric: whose.
        candidate, reference: valid measurements, one per pair, in order.
    """
    pairs = list(zip(candidate, reference, strict=True))
    neighbours = [_neighbours(metric, a, b) for a, b in pairs]
    of_periods = pooled(neighbours)
    of_pairs = pooled([[getattr(a, metric.value) / getattr(b, metric.value) for a, b in pairs]])
    if of_periods is None or of_pairs is None or not all(neighbours):
        return None
    shrunk = math.sqrt(math.fsum(1 / len(ratios) for ratios in neighbours) / len(neighbours))
    return Variation(of_periods, of_pairs, of_periods.deviation * shrunk)


def raised(floor: NoiseFloor, own: Spread | None) -> NoiseFloor:
    """The noise floor, or what launches show of their own uncertainty if that is more.

    An assumed floor gives way at once; a measured one only if the excess is no chance (F test).

    Args:
        floor: the runner's noise between launches.
        own: how uncertain a launch is, by its periods; None if they show nothing.
    """
    if own is None or own.deviation <= floor.deviation:
        return floor
    degrees = own.degrees_of_freedom
    kind, detail = "by these launches' periods", f", {degrees:.0f} degrees of freedom"
    if not floor.measured:
        return dataclasses.replace(floor, deviation=own.deviation, kind=kind, detail=detail)
    if not exceeds(own, floor):
        return floor
    return NoiseFloor(own.deviation, degrees, True, kind, detail)


def _neighbours(metric: Metric, candidate: Measurement, reference: Measurement) -> list[float]:
    """Candidate ÷ reference of neighbouring periods.

    Periods come in blocks (ends, middle, ends): each half of the middle one is compared with the
    end beside it. Empty if they do not.
    """
    periods = sorted(
        [(period.started_ns, True, period.cycles) for period in candidate.periods]
        + [(period.started_ns, False, period.cycles) for period in reference.periods]
    )
    ratios = []
    for start in range(0, len(periods) - 2, 3):
        block = periods[start : start + 3]
        (_, is_candidate, first), (_, is_other, middle), (_, is_again, last) = block
        if is_candidate != is_again or is_candidate == is_other:
            return []
        half = len(middle.time_s) // 2
        for end, part in ((first, slice(half)), (last, slice(half, None))):
            beside = Cycles(middle.energy_j[part], middle.time_s[part], middle.tokens[part])
            ratio = _value(metric, end) / _value(metric, beside)
            ratios.append(ratio if is_candidate else 1 / ratio)
    return ratios


def _value(metric: Metric, cycles: Cycles) -> float:
    return launch_value(metric, cycles.of(metric), cycles.weights)
