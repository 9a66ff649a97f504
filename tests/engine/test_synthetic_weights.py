"""Synthetic weights must do the work of real ones, and all of an engine's GPUs must be known."""

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.engines.engine import EngineReady
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.errors import EngineError


def ready(python: str, fault: str | None = None, **arguments: Any) -> EngineReady:
    with OfflineEngine(
        python, {"model": "nothing", "fault": fault, **arguments}, 120, 120
    ) as engine:
        assert engine.ready is not None
        return engine.ready


def refusal(python: str, fault: str | None = None, **arguments: Any) -> str:
    with pytest.raises(EngineError) as raised:
        ready(python, fault, **arguments)
    assert raised.value.stage == "load"
    return str(raised.value)


def test_what_the_check_of_synthetic_weights_found_is_kept(python: str) -> None:
    assert ready(python).synthetic_weights == {}
    assert ready(python, load_format="auto").synthetic_weights == {}
    dummy = ready(python, load_format="dummy").synthetic_weights
    assert dummy["load_format"] == "dummy"
    assert 0 < dummy["likeliest_above_even_nats"] < 1
    random = ready(python, load_format="random").synthetic_weights
    assert random["load_format"] == "random"
    assert (random["weight_deviation"], random["zero_weights"]) == ([0.02, 0.02], 1e-5)
    assert (random["mlps"], random["rounded_to_zero_in_fp8"]) == (2, 0.0003)


@pytest.mark.parametrize("weights", ["dummy", "random"])
@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("nan_logits", "the logits are not finite"),
        ("even_logits", "all logits are equal, as if activations were zero"),
        ("deaf_to_the_end", "the logits do not depend on the last token"),
    ],
)
def test_an_engine_that_computes_nothing_is_refused(
    python: str, weights: str, fault: str, what: str
) -> None:
    said = refusal(python, fault, load_format=weights)
    assert (
        f"do not exercise the model as real weights would: {what}. Such an engine draws "
        "less power, so nothing was measured." in said
    )
    assert "weights='auto'" in said


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("flat_logits", "the likeliest token's log probability is"),
        ("deaf_to_context", "attention carries nothing"),
        ("tiny_weights", "deviations lie between 0.0006 and 0.0006 instead of about 0.02"),
        ("no_norms", "the norms' weights lie between 0 and 1 instead of at 1"),
        ("zero_weights", "98 % of the quantized weights are zero"),
        (
            "vanishing",
            "100 % of an MLP's activations round to zero in FP8, and 100 % of its results are zero",
        ),
        ("infinite", "an MLP's activations are not finite"),
    ],
)
def test_random_weights_must_do_more(python: str, fault: str, what: str) -> None:
    assert what in refusal(python, fault, load_format="random")


@pytest.mark.parametrize("fault", ["flat_logits", "deaf_to_context"])
def test_dummies_of_a_healthy_engine_raise_no_false_alarm(python: str, fault: str) -> None:
    """With vLLM's dummies logits differ by 1e-5, and only the last token shows."""
    assert ready(python, fault, load_format="dummy").synthetic_weights["load_format"] == "dummy"


def test_the_models_own_weights_are_not_checked(python: str) -> None:
    for fault in ("nan_logits", "even_logits"):
        assert ready(python, fault, load_format="auto").synthetic_weights == {}


def test_vllms_dummies_in_a_quantized_model_are_refused(python: str) -> None:
    said = refusal(python, load_format="dummy", quantization="fp8")
    assert "vLLM's dummy weights are too small for a quantized model (fp8)" in said
    assert "weights='random'" in said
    assert ready(python, load_format="random", quantization="fp8").settings["quantization"] == "fp8"
    assert ready(python, quantization="fp8").settings["quantization"] == "fp8"


def test_weights_that_are_quantized_already_cannot_be_synthesized(
    python: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"vocab_size": 100, "quantization_config": {"quant_method": "fp8"}})
    )
    said = refusal(python, model=str(tmp_path), load_format="random")
    assert "config.json has a quantization_config" in said
    assert "engine_args={'quantization': 'fp8'}" in said


def test_the_gpus_of_an_engine_are_reported_in_rank_order(
    python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPUS", "GPU-b,GPU-a,GPU-c")
    assert ready(python, tensor_parallel_size=2).gpu_uuids == ("GPU-b", "GPU-a")
    assert ready(python).gpu_uuids == ("GPU-b",)


def test_replicas_whose_gpus_are_not_known_are_refused(python: str, tmp_path: Path) -> None:
    """Before the load if the suite asks for them, since vLLM would wait; else once known."""
    for said in (
        refusal(python, "hang_on_load", data_parallel_size=2),
        refusal(python, "two_replicas"),
    ):
        assert "2 replicas (data_parallel_size)" in said
        assert "the energy of the others would be left out" in said
        assert "tensor_parallel_size" in said
    (tmp_path / "config.json").write_text('{"vocab_size": 100}')
    arguments = {"model": str(tmp_path), "load_format": "dummy", "fault": "two_replicas"}
    with (
        pytest.raises(EngineError, match="2 replicas \\(data_parallel_size\\)"),
        ServerEngine(python, arguments, 120, 120),
    ):
        pass
