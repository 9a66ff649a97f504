"""Prompts with a shared prefix: asked for, sent, counted, and told of."""

import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.key import CellKey, WorkloadKey
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.server_load import RequestStream
from pytest_energy.engines.server_process import Counters
from pytest_energy.engines.workers import vllm_worker
from pytest_energy.errors import UsageError
from pytest_energy.measure import checks
from pytest_energy.measure.limits import cached_share, computed_tokens
from pytest_energy.measure.measurement import measure
from pytest_energy.measure.metric import Metric
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import schema
from pytest_energy.recording.recording import PrefixCache, Recording
from pytest_energy.report import host, prefix_cache
from pytest_energy.report.explanation import explain
from pytest_energy.safety.untrusted import Malformed
from pytest_energy.store.baseline import Baseline
from pytest_energy.verdict.attribution import CachedShares, cached_shares
from pytest_energy.verdict.judge import judge
from pytest_energy.verdict.rule import Verdict
from tests.simulated import recording
from tests.unit.figures import environment, launches, measurement
from tests.unit.test_slowdown import STEPS

KEY = {"model": "m/m", "batch_sizes": [1, 4], "input_tokens": 64, "output_tokens": 8}
SHARED = {**KEY, "shared_prefix_tokens": 48, "engine_args": {"enable_prefix_caching": True}}


def cell_of(marker: dict[str, Any], folder: Path = Path(), engine: str = "offline") -> Cell:
    return Marked.from_arguments((), marker).cell(4, folder, engine=engine)


@given(st.integers(1, 100), st.data(), st.integers(0, 1000))
def test_prompts_begin_alike_and_go_on_by_themselves(length: int, data: Any, seed: int) -> None:
    shared = data.draw(st.integers(0, length - 1))
    prompts = Workload(length, 8, seed, None, shared).prompts(8, 128_256)
    assert {len(prompt) for prompt in prompts} == {length}
    assert len({tuple(prompt[:shared]) for prompt in prompts}) == 1
    # By chance two of 8 are equal in one of 4,600 draws of a single token.
    assert len({tuple(prompt[shared:]) for prompt in prompts}) >= 7
    assert prompts == Workload(length, 8, seed, None, shared).prompts(8, 128_256)


def test_prompts_without_a_shared_prefix_are_as_they_were() -> None:
    assert Workload(3, 8).prompts(2, 1000) == [[864, 394, 776], [911, 430, 41]]


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(200, 128_256))
def test_no_two_numbers_open_alike(one: int, other: int, size: int) -> None:
    first, second = (vllm_worker.opening(number, range(size), 4) for number in (one, other))
    assert (first == second) == (one == other)


class Engine:
    """Keeps what it is sent; each request ends with its next step."""

    def __init__(self, cached: int | None) -> None:
        self.sent: list[list[int]] = []
        self._cached, self._waiting = cached, list[str]()

    def add_request(self, request_id: str, prompt: dict[str, list[int]], _: object) -> None:
        self.sent.append(prompt["prompt_token_ids"])
        self._waiting.append(request_id)

    def step(self) -> Iterator[Any]:
        ended, self._waiting = self._waiting, []
        completion = SimpleNamespace(token_ids=[1])
        for request_id in ended:
            yield SimpleNamespace(
                request_id=request_id,
                outputs=[completion],
                finished=True,
                num_cached_tokens=self._cached,
            )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that the worker imports from vLLM."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=dict))


def sent_offline(
    monkeypatch: pytest.MonkeyPatch, shared: int, cached: int | None = 0, warm_up: int = 0
) -> tuple[list[list[int]], dict[str, int] | None]:
    """The prompts of two loads of one launch, and what the second counts."""
    monkeypatch.setattr(vllm_worker.ClosedLoop, "_unique", itertools.count())
    engine, workload = Engine(cached), Workload(64, 1, shared_prefix_tokens=shared)
    for run in (1, 2):
        loop = vllm_worker.ClosedLoop(
            engine, run, [[0, 1]], [[64, 1]], workload.prompts(4, 2048), shared, warm_up
        )
        for _ in range(20):
            loop.step()
    return engine.sent, loop.prefix_cache()


@pytest.mark.parametrize("shared", [0, 48])
def test_the_offline_engine_is_sent_no_prompt_twice_and_the_same_in_each_launch(
    offline: None, monkeypatch: pytest.MonkeyPatch, shared: int
) -> None:
    sent, _ = sent_offline(monkeypatch, shared)
    assert len(sent) > 40
    assert len({tuple(prompt[:shared]) for prompt in sent}) == 1
    assert len({tuple(prompt[shared : shared + 4]) for prompt in sent}) == len(sent)
    assert sent_offline(monkeypatch, shared)[0] == sent


def test_a_file_of_prompts_is_sent_as_it_is(offline: None) -> None:
    engine, prompts = Engine(None), [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]
    loop = vllm_worker.ClosedLoop(engine, 1, [[0, 1]], [[5, 1], [5, 1]], prompts)
    for _ in range(3):
        loop.step()
    assert engine.sent == [*prompts, *prompts][: len(engine.sent)]


@pytest.mark.parametrize(
    ("cached", "warm_up", "counted"),
    [
        (48, 0, {"prompt_tokens": 20 * 64, "cached_tokens": 20 * 48}),
        (48, 5, {"prompt_tokens": 15 * 64, "cached_tokens": 15 * 48}),
        (0, 100, {"prompt_tokens": 0, "cached_tokens": 0}),
        (None, 0, None),
        (-1, 0, None),
    ],
)
def test_what_is_counted_offline(
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
    cached: int | None,
    warm_up: int,
    counted: dict[str, int] | None,
) -> None:
    assert sent_offline(monkeypatch, 48, cached, warm_up)[1] == counted


@pytest.mark.parametrize("shared", [0, 48])
def test_a_server_is_sent_no_prompt_twice(shared: int) -> None:
    prompts = Workload(64, 1, shared_prefix_tokens=shared).prompts(4, 2048)
    command = {
        "lengths": [[64, 1]],
        "first_wave": [[0, 1]],
        "prompts": prompts,
        "shared_prefix_tokens": shared,
    }
    requests = RequestStream("tiny", command, {})
    sent = [json.loads(requests.next().body)["prompt"] for _ in range(40)]
    assert {len(prompt) for prompt in sent} == {64}
    assert {tuple(prompt[:shared]) for prompt in sent} == {tuple(prompts[0][:shared])}
    assert len({tuple(prompt[shared : shared + 4]) for prompt in sent}) == 40
    assert [prompt[shared + 4 :] for prompt in sent] == [p[shared + 4 :] for p in prompts] * 10


NOTHING = Counters(0, None, None, None, None)


@pytest.mark.parametrize(
    ("before", "after", "served"),
    [
        (Counters(9, 0, 64, 64, 0), Counters(99, 0, 640, 640, 432), (576, 432)),
        # Prefix caching is off: nothing is looked up.
        (Counters(9, 0, 64, 0, 0), Counters(99, 0, 640, 0, 0), (576, 0)),
        (Counters(9, 0, 64, None, None), Counters(99, 0, 640, None, None), None),
        (Counters(9, 0, 64, 64, 64), Counters(99, 0, 640, 640, 0), None),
        (NOTHING, NOTHING, None),
    ],
)
def test_what_a_server_counts(
    before: Counters, after: Counters, served: tuple[int, int] | None
) -> None:
    expected = served and dict(zip(("prompt_tokens", "cached_tokens"), served, strict=True))
    assert after.served_since(before) == expected


def test_the_key_and_the_name_of_a_cell() -> None:
    plain, shared = cell_of(KEY), cell_of(SHARED)
    assert plain.key.plain["workload"] == {"input_tokens": 64, "output_tokens": 8, "seed": 0}
    assert cell_of({**KEY, "shared_prefix_tokens": 0}).key == plain.key
    assert shared.key.plain["workload"] == {
        **plain.key.plain["workload"],
        "shared_prefix_tokens": 48,
    }
    assert CellKey.from_plain(json.loads(shared.key.canonical)) == shared.key
    assert shared.name == "m/m bs=4 48+16/8"
    assert str(shared.key.workload) == "64 tokens in (the first 48 shared), 8 out"
    assert shared.key.engine_args["enable_prefix_caching"] is True
    assert cell_of(SHARED, engine="server").key.workload == shared.key.workload


@pytest.mark.parametrize(
    "workload",
    [
        {"input_tokens": 64, "shared_prefix_tokens": 64},
        {"input_tokens": 64, "shared_prefix_tokens": 0},
        {"input_tokens": 64, "shared_prefix_tokens": True},
        {
            "input_tokens": "prompts",
            "prompts_sha256": "a",
            "requests": 8,
            "shared_prefix_tokens": 1,
        },
    ],
)
def test_keys_that_are_none(workload: dict[str, Any]) -> None:
    content = {**cell_of(KEY).key.plain, "workload": {"output_tokens": 8, "seed": 0, **workload}}
    with pytest.raises(Malformed, match=r"shared_prefix_tokens|cannot share"):
        CellKey.from_plain(content)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared_prefix_tokens": -1}, "shared_prefix_tokens is -1: it must be a whole number"),
        ({"shared_prefix_tokens": 1.5}, "shared_prefix_tokens is 1.5: it must be"),
        ({"shared_prefix_tokens": None}, "shared_prefix_tokens is None: it must be"),
        (
            {"shared_prefix_tokens": 64},
            "shared_prefix_tokens is 64: it must be less than input_tokens, 64, so",
        ),
        (
            {"input_tokens": {"lognormal": {"median": 9, "sigma": 1, "max": 64}}},
            "shared_prefix_tokens needs prompts of one length",
        ),
    ],
)
def test_refused_markers(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Marked.from_arguments((), {**SHARED, **arguments})


def test_neither_a_file_nor_the_default_length_goes_with_any_prefix() -> None:
    without = {name: value for name, value in SHARED.items() if name != "input_tokens"}
    with pytest.raises(UsageError, match="prompts share what their texts do"):
        Marked.from_arguments((), {**without, "prompts": "p.jsonl"})
    assert cell_of({**without, "shared_prefix_tokens": 511}).name == "m/m bs=4 511+1/8"
    with pytest.raises(UsageError, match="less than input_tokens, 512"):
        Marked.from_arguments((), {**without, "shared_prefix_tokens": 512})


def counted(cell: Cell, *cached: int | None) -> list[Recording]:
    """Periods of a launch: of 1,000 prompt tokens each so many were cached; None if uncounted."""
    return [
        replace(recording(cell), prefix_cache=None if n is None else PrefixCache(1000, n))
        for n in cached
    ]


@pytest.mark.parametrize(
    ("cached", "share"),
    [((750,), 0.75), ((0,), 0.0), ((600, 800), 0.7), ((600, None), None), ((None,), None)],
)
def test_the_share_of_a_launch(
    cell: Cell, cached: tuple[int | None, ...], share: float | None
) -> None:
    assert cached_share(counted(cell, *cached)) == share
    none_sent = replace(recording(cell), prefix_cache=PrefixCache(0, 0))
    assert cached_share([none_sent]) is None


def test_a_measurement_and_a_baseline_keep_the_share(cell: Cell) -> None:
    (recorded,) = counted(cell, 750)
    measured = measure(recorded)
    assert measured.cached_share == Baseline.of([measured]).cached_share == 0.75
    assert Baseline.of([measure(recording(cell))]).cached_share is None


def test_recordings_of_version_6_counted_nothing(cell: Cell) -> None:
    (recorded,) = counted(cell, 750)
    content = schema.to_json(recorded)
    assert schema.from_json(content) == recorded
    del content["prefix_cache"]
    older = schema.from_json({**content, "schema_version": 6})
    assert older == replace(recorded, prefix_cache=None)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"enable_prefix_caching": True}, 32 + 4 * (80 - 32)),
        ({"enable_prefix_caching": False}, 4 * 80),
        ({}, 4 * 80),
    ],
)
@pytest.mark.parametrize(
    "output_tokens", [8, {"lognormal": {"median": 8, "sigma": 0.01, "max": 8}}]
)
def test_the_kv_cache_holds_whole_blocks_of_the_prefix_once(
    settings: dict[str, bool], needed: int, output_tokens: Any
) -> None:
    of = cell_of({**SHARED, "shared_prefix_tokens": 40, "output_tokens": output_tokens})
    known = {"engine_settings": {"block_size": 16, **settings}}
    recorded = recording(of, environment=known, cycles=20.5)
    assert checks.kv_cache(replace(recorded, kv_cache_tokens=needed)) == []
    (fault,) = checks.kv_cache(replace(recorded, kv_cache_tokens=needed - 1))
    assert fault.endswith(f"the batch needs {needed}")


def test_a_step_computes_what_the_cache_does_not_hold(cell: Cell) -> None:
    assert [computed_tokens(2048, share) for share in (None, 0.0, 0.78125)] == [2048, 2048, 448]
    bound = replace(STEPS, captured_tokens=64, time_outside=0.5, host_bound=0.4)
    reasons, _ = host.host_bound([measurement(cell, step_times=bound, cached_share=0.0)])
    assert "a step with a prompt has 71 tokens, CUDA graphs hold 64" in reasons[0]
    reasons, ways = host.host_bound([measurement(cell, step_times=bound, cached_share=0.75)])
    assert "steps with several prompts outgrow CUDA graphs of 64 tokens" in reasons[0]
    assert ways == ["set max_cudagraph_capture_size=128"]
    small = replace(bound, captured_tokens=32)
    reasons, ways = host.host_bound([measurement(cell, step_times=small, cached_share=0.25)])
    assert "a step with a prompt has 55 tokens, CUDA graphs hold 32" in reasons[0]
    assert ways == ["set max_cudagraph_capture_size=64, or prompts of at most 41 tokens"]


def side(cell: Cell, energy: float, share: float | None, name: str = "candidate") -> list[Any]:
    return launches(cell, [energy, 1.002 * energy, 0.998 * energy], name, cached_share=share)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (0.75, 0.0, CachedShares(0.75, 0.0)),
        (0.0, 0.75, CachedShares(0.0, 0.75)),
        (0.75, 0.74, None),
        (None, 0.75, None),
        (0.75, None, None),
    ],
)
def test_shares_that_differ(
    cell: Cell, before: float | None, after: float | None, found: CachedShares | None
) -> None:
    assert cached_shares(side(cell, 0.5, after), Baseline.of(side(cell, 0.5, before))) == found


def explained(cell: Cell, joules: float, share: float, before: float) -> tuple[Verdict, Any]:
    reference = Baseline.of(side(cell, 0.5, before, "baseline"))
    judgement = judge(Metric.JOULES_PER_TOKEN, side(cell, joules, share), reference)
    return judgement.verdict, explain("cell", judgement, "pytest", replayed=True)


def test_a_loss_to_a_cache_that_serves_less_is_more_work(cell: Cell) -> None:
    verdict, explanation = explained(cell, 0.6, 0.03, 0.87)
    assert verdict is Verdict.REGRESSED
    assert explanation.changed.in_words.startswith(
        "more work (the prefix cache served 3 % of prompt tokens, baseline 87 %); "
    )
    assert "kernels" not in explanation.split
    for share in (0.87, 0.84):  # too little less to be the cause
        _, explanation = explained(cell, 0.6, share, 0.87)
        assert "more work" not in explanation.changed.in_words
        assert "kernels" in explanation.split
    assert "cached_prompt_percent: 87 → 84" in explanation.changed.in_words


@pytest.mark.parametrize(("joules", "verdict"), [(0.4, Verdict.IMPROVED), (0.5, Verdict.PASS)])
@pytest.mark.parametrize(("before", "after"), [(3, 87), (87, 3)])
def test_other_shares_without_a_loss_are_told_as_a_difference(
    cell: Cell, joules: float, verdict: Verdict, before: int, after: int
) -> None:
    found, explanation = explained(cell, joules, after / 100, before / 100)
    assert found is verdict
    assert explanation.changed.in_words == f"cached_prompt_percent: {before} → {after}"


def unserved(marker: dict[str, Any], share: float | None, **settings: Any) -> list[str]:
    made = environment(engine_settings={"block_size": 16, **settings})
    return prefix_cache.unserved(
        [measurement(cell_of(marker), i, cached_share=share, environment=made) for i in "ab"]
    )


def test_a_shared_prefix_of_which_nothing_was_served() -> None:
    start = "the prefix cache served none of the 48 tokens that its prompts share: "
    assert unserved(SHARED, 0.0, enable_prefix_caching=False) == [
        f"{start}the engine runs without prefix caching (2 launches)"
    ]
    (line,) = unserved(SHARED, 0.0, enable_prefix_caching=True)
    assert "prefix caching is on, but no prompt found its prefix in the cache" in line
    (line,) = unserved(SHARED, 0.0, enable_prefix_caching=True, block_size=64)
    assert "its blocks have 64 tokens, and the prefix is shorter" in line
    assert unserved(SHARED, 0.75) == unserved(SHARED, None) == []
    not_asked = {**SHARED, "engine_args": {}}
    assert unserved(not_asked, 0.0) == unserved(KEY, 0.0) == []


def test_short_names_are_apart() -> None:
    names = [WorkloadKey(64, 8, 0, None, None, shared).short for shared in (None, 1, 63)]
    assert names == ["64/8", "1+63/8", "63+1/8"]
    assert all(re.fullmatch(r"[0-9+]+/8", name) for name in names)
