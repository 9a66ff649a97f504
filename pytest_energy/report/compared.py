"""One metric of one cell on both sides: what a judgement and a bare comparison have in common."""

from dataclasses import dataclass

from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import NoiseFloor
from pytest_energy.store.baselines import Baseline
from pytest_energy.verdict.attribution import Split
from pytest_energy.verdict.comparison import Comparison
from pytest_energy.verdict.judgement import Judgement, Sample


@dataclass(frozen=True)
class Compared:
    """The figures, without a verdict.

    Attributes:
        candidate: None if no launch was valid.
        reference: a stored baseline or the other engine's launches; None if there is neither.
        ratio: candidate ÷ reference; None if nothing was compared.
        split: of a change in J/token; None if it cannot be determined.
        noise: between launches; None if nothing was compared.
        changed: what differs between the environments, one line each.
        paired: whether the launches of both sides were interleaved.
    """

    metric: Metric
    candidate: Sample | None = None
    reference: Baseline | None = None
    ratio: Comparison | None = None
    split: Split | None = None
    noise: NoiseFloor | None = None
    changed: tuple[str, ...] = ()
    paired: bool = False

    @classmethod
    def of(cls, judgement: Judgement) -> "Compared":
        """The figures that a judgement rests on."""
        return cls(
            metric=judgement.metric,
            candidate=judgement.sample,
            reference=judgement.baseline,
            ratio=judgement.ratio,
            split=judgement.split,
            noise=judgement.noise,
            changed=judgement.changed,
            paired=judgement.paired,
        )
