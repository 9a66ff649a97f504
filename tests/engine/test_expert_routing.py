"""How a mixture's routers spread tokens is measured, recorded, and refused if it is degenerate."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.workers import vllm_worker
from pytest_energy.errors import EngineError
from pytest_energy.recording.experts import ExpertRouting
from tests.engine.test_synthetic_weights import ready

WEIGHTS = ["auto", "dummy", "random"]
EXPERTS = 8


@pytest.fixture
def mixture(tmp_path: Path) -> str:
    return model(tmp_path, num_local_experts=EXPERTS)


def model(folder: Path, **config: Any) -> str:
    (folder / "config.json").write_text(json.dumps({"vocab_size": 100, **config}))
    return str(folder)


def routing(python: str, fault: str | None = None, **arguments: Any) -> ExpertRouting | None:
    return ready(python, fault, **arguments).experts


@pytest.mark.parametrize("weights", WEIGHTS)
def test_what_routers_choose_is_summarised(python: str, mixture: str, weights: str) -> None:
    found = routing(python, model=mixture, load_format=weights)
    assert found is not None
    assert (found.experts, found.per_token, found.layers) == (EXPERTS, 2, 2)
    assert found.tokens is not None
    assert found.tokens >= 2048
    # Of one layer all experts are used alike, of the other two take five eighths.
    entropy = -(2 * 5 / 16 * math.log(5 / 16) + 6 / 16 * math.log(1 / 16))
    assert found.least_effective == pytest.approx(math.exp(entropy), rel=0.03)
    assert found.effective == pytest.approx((math.exp(entropy) + EXPERTS) / 2, rel=0.02)


@pytest.mark.parametrize("weights", ["dummy", "random"])
def test_a_router_that_sends_all_tokens_to_the_same_experts_is_refused(
    python: str, mixture: str, weights: str
) -> None:
    with pytest.raises(EngineError) as raised:
        routing(python, "one_for_all", model=mixture, load_format=weights)
    said = str(raised.value)
    assert raised.value.stage == "load"
    assert (
        "do not exercise the model as real weights would: tokens use 2.0 of a layer's 8 experts, "
        "as if that many were used alike, and 8.0 if routers chose at random, 2 if they always "
        "chose the same. Such an engine draws less power, so nothing was measured."
    ) in said
    assert "weights='auto'" in said


def test_real_weights_are_never_refused(python: str, mixture: str) -> None:
    found = routing(python, "one_for_all", model=mixture)
    assert found is not None
    assert found.effective == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("fault", ["silent", "replayed"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_what_vllm_does_not_tell_is_not_known(
    python: str, mixture: str, fault: str, weights: str
) -> None:
    found = routing(python, fault, model=mixture, load_format=weights)
    assert found == ExpertRouting(experts=EXPERTS)


def test_a_worker_extension_of_the_suite_is_kept(python: str, mixture: str) -> None:
    found = routing(python, model=mixture, worker_extension_cls="own.Extension")
    assert found == ExpertRouting(experts=EXPERTS)


@pytest.mark.parametrize(
    "config", [{}, {"num_experts": None}, {"num_local_experts": 1}, {"num_experts": "many"}]
)
def test_models_without_experts_have_no_routing(
    python: str, tmp_path: Path, config: dict[str, Any]
) -> None:
    for weights in WEIGHTS:
        assert routing(python, model=model(tmp_path, **config), load_format=weights) is None


@pytest.mark.parametrize(
    "config", [{"num_experts": 16}, {"n_routed_experts": 16}, {"moe_num_experts": [16, 16]}]
)
def test_experts_have_several_names(python: str, tmp_path: Path, config: dict[str, Any]) -> None:
    found = routing(python, model=model(tmp_path, **config))
    assert found is not None
    assert found.experts == 16


def test_a_malformed_report_is_an_error_of_the_load(
    python: str, mixture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    source = Path(vllm_worker.__file__).read_text()
    worker.write_text(source.replace('"layers": len(layers),', '"layers": "all",'))
    monkeypatch.setattr(OfflineEngine, "program", worker)
    with pytest.raises(EngineError, match=r"the worker's report is incomplete.*layers"):
        routing(python, model=mixture)


@pytest.mark.parametrize(
    ("counts", "effective"),
    [([5, 5, 5, 5], 4.0), ([9, 0, 0, 0], 1.0), ([3, 0, 3, 0], 2.0), ([2, 1, 1, 0], 2.8284)],
)
def test_the_effective_number_is_the_exponential_of_the_entropy(
    counts: list[int], effective: float
) -> None:
    assert vllm_worker.effective_experts(counts) == pytest.approx(effective, rel=1e-4)
