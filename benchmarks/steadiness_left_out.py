"""Which recorded launches are unsteady if what is usual of a launch is estimated from the others.

The test's own figures were chosen with all of them in view. Here each launch is tested by estimates
that it has no part in: Smyth's of the deviations, means of autocorrelation and elasticity.

    python -m benchmarks.steadiness_left_out
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from pytest_energy.measure import steadiness
from pytest_energy.measure.spread import Spread
from pytest_energy.measure.steadiness import Parts, parts
from pytest_energy.measure.window import window_of
from pytest_energy.recording import recording_file
from pytest_energy.store.noise_pooling import typical

RECORDINGS = Path(__file__).parents[1] / "recordings"


@dataclass(frozen=True)
class Launch:
    """One recorded launch of one cell.

    Attributes:
        name: folder, launch and batch size.
        parts: as they are tested.
        periods: how many.
    """

    name: str
    parts: Parts
    periods: int


@dataclass(frozen=True)
class _Shown:
    """What a launch shows of what is usual; deviations are of a second."""

    pace: Spread
    power: Spread
    autocorrelation: float
    elasticity: float


def recorded() -> list[Launch]:
    """All launches in recordings/ that can be tested: those under load."""
    found = []
    for folder in sorted({file.parent.parent for file in recording_file.find(RECORDINGS)}):
        for periods in recording_file.read_launches([folder]):
            if periods[0].key.is_idle:
                continue
            windows = [window for period in periods if (window := window_of(period))]
            launch = parts(windows)
            assert launch is not None
            first, label = periods[0], folder.relative_to(RECORDINGS).as_posix()
            name = f"{label} {first.launch_id} {first.key.batch_size}"
            found.append(Launch(name, launch, len(periods)))
    return found


def unsteady_by_others(launches: Sequence[Launch]) -> list[tuple[str, float]]:
    """Those that are unsteady, and the least p of their changes."""
    shown = [_shown(launch.parts) for launch in launches]
    found = []
    for number, launch in enumerate(launches):
        with mock.patch.multiple(steadiness, **_usual([*shown[:number], *shown[number + 1 :]])):
            tested = steadiness.steadiness(launch.parts, launch.periods == 1)
        if tested and tested.unsteady:
            found.append((launch.name, min(change.p for change in tested.changes)))
    return found


def _shown(launch: Parts) -> _Shown:
    pace, power = (_centred(launch, values) for values in (launch.pace, launch.power))
    elasticity = float(pace @ power / (pace @ pace))
    rest = power - elasticity * pace
    root_s = float(launch.seconds.mean()) ** 0.5
    own = len(pace) - launch.places
    return _Shown(
        Spread(root_s * float(pace @ pace / own) ** 0.5, own),
        Spread(root_s * float(rest @ rest / (own - 1)) ** 0.5, own - 1),
        # That of independent errors is about −1/n, less half as much for the fitted step.
        float(pace[1:] @ pace[:-1] / (pace @ pace)) + 1.5 / len(pace),
        elasticity,
    )


def _centred(launch: Parts, values: np.ndarray) -> np.ndarray:
    at_place = np.arange(launch.places)[:, None] == launch.place[None, :]
    return np.asarray(values - (at_place @ values / at_place.sum(axis=1))[launch.place])


def _usual(others: Sequence[_Shown]) -> dict[str, float]:
    """The figures of steadiness.py."""
    pace, power = (typical([getattr(one, name) for one in others]) for name in ("pace", "power"))
    return {
        "_PACE_NOISE": pace.deviation,
        "_PACE_DEGREES": pace.degrees_of_freedom,
        "_POWER_NOISE": power.deviation,
        "_POWER_DEGREES": power.degrees_of_freedom,
        "_PACE_AUTOCORRELATION": float(np.mean([one.autocorrelation for one in others])),
        "_ELASTICITY": float(np.median([one.elasticity for one in others])),
    }


def main() -> None:
    launches = recorded()
    for name, p in unsteady_by_others(launches):
        print(f"{name}: p = {p:.1g}")
    print(f"{len(launches)} launches")


if __name__ == "__main__":
    main()
