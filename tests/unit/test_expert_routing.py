"""How tokens spread over experts, in fingerprints and between them."""

from dataclasses import replace

import pytest

from pytest_energy.recording.experts import ExpertRouting, routing_from_json
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.safety.untrusted import Malformed
from pytest_energy.verdict.attribution import what_changed
from tests.unit.figures import environment

SEEN = ExpertRouting(128, 8, 48, 2048, 65.9, 27.85)


@pytest.mark.parametrize("seen", [SEEN, ExpertRouting(128), None])
def test_fingerprints_keep_it(seen: ExpertRouting | None) -> None:
    made = environment(experts=seen)
    assert Fingerprint.from_plain(made.plain) == made
    assert made.plain.get("experts", {}).keys() <= {"experts"} or seen is SEEN
    assert ("experts" in made.plain) is (seen is not None)


def test_it_explains_no_change() -> None:
    """A layer's choices differ a little from launch to launch."""
    reference = environment(experts=SEEN)
    candidate = environment(experts=replace(SEEN, effective=66.2), torch="2")
    assert what_changed(reference, candidate) == ["torch: None → 2"]


@pytest.mark.parametrize(("before", "after"), [(None, SEEN), (SEEN, None)])
def test_older_recordings_that_lack_it_differ_in_nothing(
    before: ExpertRouting | None, after: ExpertRouting | None
) -> None:
    assert what_changed(environment(experts=before), environment(experts=after)) == []


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"experts": 0},
        {"experts": 8, "effective": 0.0},
        {"experts": 8, "effective": float("nan")},
        {"experts": 8, "counts": [1]},
        {"experts": 8, "layers": "all"},
    ],
)
def test_what_describes_no_routing_is_refused(content: object) -> None:
    with pytest.raises(Malformed):
        routing_from_json(content)
