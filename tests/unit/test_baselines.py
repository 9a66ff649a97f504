"""The store: created, changed, refused, never damaged."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import BaselineError
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.store.baselines import NearMiss, Store, Update
from tests.damage import UNREADABLE
from tests.simulated import GPU_NAME, UUID, recording


def launches(
    cell: Cell, names: Sequence[str] = ("a", "b", "c"), **kwargs: Any
) -> list[Measurement]:
    return [measure(recording(cell, launch_id=name, cycles=12.5, **kwargs)) for name in names]


TOLERANCE = {"joules_per_token": 0.03, "tokens_per_s": 0.10}


def update(folder: Path, measured: Sequence[Measurement], reason: str | None = None) -> Update:
    return Store(folder).update(measured, TOLERANCE, reason)


def only_file(folder: Path) -> Path:
    (path,) = (p for p in folder.rglob("*") if p.is_file())
    return path


def test_create_then_change(cell: Cell, tmp_path: Path) -> None:
    created = update(tmp_path, launches(cell))
    assert created.done == "created"
    assert created.path.relative_to(tmp_path) == Path("simulated-gpu/tiny.gpu-00000000.json")
    changed = update(
        tmp_path, launches(cell, ("d", "e", "f"), power_w=450.0, environment={"vllm": "0.0.2"})
    )
    assert changed.done == "changed"
    assert changed.change == pytest.approx(-0.1, abs=1e-4)
    found = Store(tmp_path).find(cell.key, GPU_NAME, [UUID])
    assert found is not None
    assert found.summary.joules_per_token == pytest.approx(0.45, rel=1e-3)
    assert [entry.vllm for entry in found.history] == ["0.0.1"]
    assert found.history[0].joules_per_token == pytest.approx(0.5, rel=1e-3)


def test_a_file_of_the_first_version_is_read(cell: Cell, tmp_path: Path) -> None:
    """As written before synthetic weights had their name."""
    seen = {"synthetic_weights": {"norms": [1.0, 1.0]}}
    update(tmp_path, launches(cell, environment=seen))
    path, now = only_file(tmp_path), Store(tmp_path).entries()
    content = json.loads(path.read_text())
    for entry in content["cells"].values():
        entry["environment"]["made_up_weights"] = entry["environment"].pop("synthetic_weights")
    path.write_text(json.dumps({**content, "schema_version": 1}))
    assert Store(tmp_path).entries() == now
    assert now[0].environment.synthetic_weights == seen["synthetic_weights"]


def test_what_is_read_is_what_was_measured(cell: Cell, tmp_path: Path) -> None:
    measured = launches(cell, noise=0.1)
    update(tmp_path, measured)
    found = Store(tmp_path).find(cell.key, GPU_NAME, [UUID])
    assert found is not None
    for name in ("joules_per_token", "tokens_per_s", "power_w"):
        assert getattr(found, name) == pytest.approx([getattr(m, name) for m in measured], rel=1e-4)


def test_equal_updates_write_equal_bytes(cell: Cell, tmp_path: Path) -> None:
    for name in ("one", "two"):
        update(tmp_path / name, launches(cell))
    assert only_file(tmp_path / "one").read_bytes() == only_file(tmp_path / "two").read_bytes()


def test_an_update_is_a_small_diff(cell: Cell, tmp_path: Path) -> None:
    other = replace(cell, batch_size=4)
    update(tmp_path, launches(cell))
    update(tmp_path, launches(other))
    before = only_file(tmp_path).read_text().splitlines()
    update(tmp_path, launches(cell, power_w=501.0))
    after = only_file(tmp_path).read_text().splitlines()
    assert len(set(after) - set(before)) < 30
    assert (
        json.loads("\n".join(after))["cells"].keys()
        == json.loads("\n".join(before))["cells"].keys()
    )


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (lambda c: launches(c, ("a", "b")), "at least 3 launches, but there are only 2"),
        (lambda c: launches(c, ("a", "b", "b")), "there are only 2"),
        (
            lambda c: [
                *launches(c),
                measure(recording(c, launch_id="x", faults=["throttled: hot"])),
            ],
            "throttled: hot",
        ),
        (
            lambda c: [*launches(c), *launches(c, ("x",), environment={"gpu_name": "other"})],
            "differ in gpu_name",
        ),
        (
            lambda c: [*launches(c), *launches(c, ("x",), environment={"vllm": "9"})],
            "differ in vllm",
        ),
        (
            lambda c: [*launches(c), *launches(c, ("x",), environment={"power_limit_w": 500.0})],
            "differ in power_limit_w",
        ),
        (
            lambda c: [*launches(c), *launches(c, ("x",), environment={"gpu_uuids": ("GPU-x",)})],
            "differ in gpu_uuids",
        ),
    ],
)
def test_refused_updates_write_nothing(
    cell: Cell, tmp_path: Path, measured: Any, reason: str
) -> None:
    with pytest.raises(BaselineError, match=reason):
        update(tmp_path, measured(cell))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_crash_during_an_update_leaves_the_old_file(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    update(tmp_path, launches(cell))
    before = only_file(tmp_path).read_bytes()

    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, crash)
    with pytest.raises(OSError, match="No space"):
        update(tmp_path, launches(cell, power_w=400.0))
    assert only_file(tmp_path).read_bytes() == before


def test_near_misses_tell_why(cell: Cell, tmp_path: Path) -> None:
    update(tmp_path, launches(cell))
    store = Store(tmp_path)
    more = replace(cell, engine_args=(("max_num_seqs", 16),))
    assert store.find(more.key, GPU_NAME, [UUID]) is None
    assert store.near_misses(more.key, GPU_NAME) == [
        NearMiss("one differs in engine_args.max_num_seqs: 8 → 16", other_hardware=False)
    ]
    assert store.near_misses(cell.key, "NVIDIA H200") == [
        NearMiss(
            "one was measured on another GPU model, simulated GPU (vLLM 0.0.1)", other_hardware=True
        )
    ]


def test_each_gpu_has_its_own_baseline(cell: Cell, tmp_path: Path) -> None:
    for on, power_w in ((["GPU-b"], 560.0), (["GPU-a"], 500.0), (["GPU-d", "GPU-a"], 900.0)):
        update(tmp_path, launches(cell, power_w=power_w, environment={"gpu_uuids": on}))
    store = Store(tmp_path)
    found = {uuid: store.find(cell.key, GPU_NAME, [uuid]) for uuid in ("GPU-a", "GPU-b", "GPU-c")}
    assert [b and round(b.summary.power_w) for b in found.values()] == [500, 560, None]
    assert [miss.reason for miss in store.near_misses(cell.key, GPU_NAME)] == [
        "one was measured on other GPUs, GPU-a and GPU-d (vLLM 0.0.1)",
        "one was measured on another GPU, GPU-a (vLLM 0.0.1)",
        "one was measured on another GPU, GPU-b (vLLM 0.0.1)",
    ]


def test_small_steps_that_add_up_need_a_reason(cell: Cell, tmp_path: Path) -> None:
    def step(number: int, power_w: float, reason: str | None = None) -> Update:
        names = [f"{number}{letter}" for letter in "abc"]
        return update(
            tmp_path,
            launches(cell, names, power_w=power_w, environment={"date": f"day {number}"}),
            reason,
        )

    step(1, 500.0)
    step(2, 510.0)
    with pytest.raises(
        BaselineError,
        match=r"J/token \+4\.0 % against the best entry \(0\.5, vLLM 0\.0\.1, day 1\)",
    ):
        step(3, 520.0)
    found = Store(tmp_path).find(cell.key, GPU_NAME, [UUID])
    assert found is not None
    assert found.environment.date == "day 2"
    step(3, 520.0, "FP8 was wrong before")
    assert (
        json.loads(only_file(tmp_path).read_text())["cells"].popitem()[1]["update_reason"]
        == "FP8 was wrong before"
    )
    step(4, 530.0)  # the accepted loss is the new level
    with pytest.raises(BaselineError, match=r"against the best entry .*, day 3"):
        step(5, 540.0)


def test_a_loss_of_throughput_needs_a_reason_too(cell: Cell, tmp_path: Path) -> None:
    update(tmp_path, launches(cell))
    with pytest.raises(BaselineError, match=r"tokens/s -15\.0 % against the best entry"):
        update(tmp_path, launches(cell, ("d", "e", "f"), power_w=425.0, tokens_per_s=850.0))


def test_a_gain_needs_no_reason_and_keeps_none(cell: Cell, tmp_path: Path) -> None:
    update(tmp_path, launches(cell))
    update(tmp_path, launches(cell, ("d", "e", "f"), power_w=400.0), "never mind")
    assert "never mind" not in only_file(tmp_path).read_text()


def spoil(content: dict[str, Any], **changes: Any) -> str:
    (entry,) = content["cells"].values()
    return json.dumps({**content, "cells": {"x": {**entry, **changes}}})


@pytest.mark.parametrize(
    "damage",
    [
        *UNREADABLE,
        lambda text: text.replace('"schema_version": 2', '"schema_version": 3'),
        lambda text: json.dumps({**json.loads(text), "cells": []}),
        lambda text: spoil(json.loads(text), launches=[]),
        lambda text: spoil(json.loads(text), key={}),
        lambda text: spoil(json.loads(text), environment=None),
        lambda text: text.replace('"tokens_per_s": [1', '"tokens_per_s": [-1'),
        lambda text: text.replace('"tokens_per_s": [', '"tokens_per_s": ["x", '),
        lambda text: text.replace('"tokens_per_s": [', '"tokens_per_s": [NaN, '),
    ],
)
def test_a_damaged_file_is_named_and_kept(cell: Cell, tmp_path: Path, damage: Any) -> None:
    update(tmp_path, launches(cell))
    path = only_file(tmp_path)
    spoiled = damage(path.read_text())
    assert spoiled != path.read_text()
    path.write_text(spoiled)
    for use in (
        lambda s: s.find(cell.key, GPU_NAME, [UUID]),
        lambda s: s.update(launches(cell), TOLERANCE),
    ):
        with pytest.raises(BaselineError, match=r"tiny\.gpu-00000000\.json"):
            use(Store(tmp_path))
    assert path.read_text() == spoiled
