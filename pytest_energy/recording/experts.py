"""How a mixture's routers spread tokens over its experts, as the engine was seen to when loaded."""

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, Le
from pydantic import TypeAdapter

from pytest_energy.safety.schema import STRICT, Count, checked

Effective = Annotated[float, Gt(0), Le(1e9)]


@dataclass(frozen=True)
class ExpertRouting:
    """What the routers of a loaded engine chose for random prompts; all but the first may be None.

    Attributes:
        experts: of a layer.
        per_token: of which each token uses so many.
        layers: that have experts.
        tokens: that each layer routed.
        effective, least_effective: as if so many experts were used alike, the exponential of the
            entropy of their shares: mean over layers, and the least of them.
    """

    __pydantic_config__ = STRICT

    experts: Count
    per_token: Count | None = None
    layers: Count | None = None
    tokens: Count | None = None
    effective: Effective | None = None
    least_effective: Effective | None = None


_ADAPTER = TypeAdapter(ExpertRouting | None)


def routing_from_json(content: Any) -> ExpertRouting | None:
    """From plain JSON values; None for a model without experts.

    Raises:
        Malformed: they describe none.
    """
    return checked(_ADAPTER, content)
