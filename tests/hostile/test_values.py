"""Values that once became an exception, endless memory or a wrong number are refused by name."""

import contextlib
import copy
import gzip
import io
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.cell.model import Model
from pytest_energy.engines import running_server, server_process
from pytest_energy.engines.attached import address_of
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.errors import BaselineError, EngineError, NoiseError, RecordingError, UsageError
from pytest_energy.measure import measurement, spread
from pytest_energy.measure.metric import Metric
from pytest_energy.recording import recording_file, schema
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import comparison
from tests.hostile import seeds
from tests.hostile.readers import EndedWorker

RECORDING, BASELINE, NOISE = seeds.recordings()[0], seeds.baseline(), seeds.noise()


def changed(content: Any, where: str, value: Any) -> Any:
    """The content with another value at a place such as "gpus.0.uuid"."""
    content = copy.deepcopy(content)
    *way, last = [int(name) if name.isdigit() else name for name in where.split("/")]
    inner = content
    for name in way:
        inner = (
            list(inner.values())[name]
            if isinstance(inner, dict) and isinstance(name, int)
            else inner[name]
        )
    inner[last] = value
    return content


def recorded(folder: Path, content: Any) -> Path:
    path = folder / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("period", 10**9, "period is 1000000000, but must be at most 1,000,000\\."),
        ("period", True, "period is true, but must be a whole number\\."),
        ("load_stopped_ns", 2**63, "load_stopped_ns is 9223372036854775808, but must be at most"),
        ("load_stopped_ns", "1", "load_stopped_ns is '1', but must be a whole number"),
        ("launch_id", "", "launch_id is '', but must be a text of length 1 or more"),
        ("launch_id", ["x"], "launch_id is a list of length 1, but must be a text"),
        ("launch_id", "x\x1b[2J", "holds text with forbidden characters: 'x\\\\x1b"),
        ("launch_id", "x\n::stop-commands::y", "forbidden characters"),
        ("launch_id", "\ud800", "forbidden characters"),
        ("faults", ["x" * 10_001], "a text of more than 10,000 characters"),
        ("faults", "throttled", "faults is 'throttled', but must be a list"),
        ("gpus", "", "gpus is '', but must be a list"),
        ("gpus", [RECORDING["gpus"][0]] * 2, "it holds a GPU twice"),
        (
            "gpus/0/counter/energy_mj",
            [2**62, 2**62] + [0] * 173,
            "counter.energy_mj: it holds an impossible value",
        ),
        ("gpus/0/samples/time_ns", [1] + [-1] * 175, "holds an impossible value"),
        ("gpus/0/samples/average_power_mw", [-1] * 176, "holds an impossible value"),
        ("tokens/time_ns", [10**9, -1], "is not in order"),
        ("tokens/tokens", [10**9], "tokens.tokens: it holds an impossible value"),
        ("key/batch_size", 0, "key: 512 tokens in, 256 out at batch size 0"),
        ("key/batch_size", "64", "key.batch_size is '64', but must be a whole number"),
        ("key/workload", None, "key.workload is null, but must be an object"),
        ("key/model", "", "key.model is '', but must be a text of length 1 or more"),
        ("environment/gpu_name", None, "environment.gpu_name is null, but must be a text"),
        ("environment/gpu_uuids", "GPU-1", "environment.gpu_uuids is 'GPU-1', but must be a list"),
        (
            "environment/date",
            "x" * 101,
            "environment.date is 'x{40}'..., but must be a text of length 100 or less",
        ),
        (
            "environment/power_limit_w",
            1e200,
            "environment.power_limit_w is 1e\\+200, but must be at most 1,000,000 or a list\\.",
        ),
        ("environment/power_limit_w", float("nan"), "a number that is not finite"),
        (
            "environment/host",
            ["x"],
            "environment.host is a list of length 1, but must be an object",
        ),
        ("environment/engine_args_under_test", {"x": "y" * 6000}, "longer than 5,000 characters"),
        ("environment/engine_settings", json.loads("[" * 25 + "]" * 25), "nested too deeply"),
    ],
)
def test_recordings(tmp_path: Path, where: str, value: Any, message: str) -> None:
    with pytest.raises(RecordingError, match=message) as raised:
        recording_file.read(recorded(tmp_path, changed(RECORDING, where, value)))
    assert "x.json.gz" in str(raised.value)
    assert "Fetch it again, or leave it out." in str(raised.value)


def test_more_cycles_than_memory_holds(tmp_path: Path) -> None:
    small = changed(changed(RECORDING, "key/batch_size", 1), "key/workload/output_tokens", 1)
    steps = len(RECORDING["tokens"]["tokens"])
    with pytest.raises(RecordingError, match="more than 1,000,000 cycles"):
        recording_file.read(recorded(tmp_path, changed(small, "tokens/tokens", [10**6] * steps)))


def test_a_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps(RECORDING).encode()[:-1] + b',"faults":[]}'))
    with pytest.raises(RecordingError, match="holds a name twice"):
        recording_file.read(path)


def test_a_turn_that_is_missing_among_many(tmp_path: Path) -> None:
    path = recorded(tmp_path, changed(RECORDING, "period", 10**6))
    with pytest.raises(RecordingError, match="period 0 is missing"):
        list(recording_file.read_launches([path]))


def test_cycles_without_time_have_no_power() -> None:
    steps = len(RECORDING["tokens"]["tokens"])
    start, *_ = RECORDING["tokens"]["time_ns"]
    content = changed(RECORDING, "tokens/time_ns", [start, 10**10, *[0] * (steps - 2)])
    assert (
        "implausible: all tokens of a cycle have the same timestamp"
        in measurement.measure(schema.from_json(content)).faults
    )


def test_cycles_without_energy_are_no_zero() -> None:
    counter = RECORDING["gpus"][0]["counter"]["energy_mj"]
    content = changed(
        RECORDING, "gpus/0/counter/energy_mj", [counter[0], *[0] * (len(counter) - 1)]
    )
    (fault,) = [
        f
        for f in measurement.measure(schema.from_json(content)).faults
        if f.startswith("implausible")
    ]
    assert fault == "implausible: a cycle with 0 to 0 J/token"


@pytest.mark.parametrize(("bits", "thermal"), [(2**63, False), (2**63 + 0x40, True)])
def test_bit_63_of_the_throttle_reasons_hides_no_other(bits: int, thermal: bool) -> None:
    samples = len(RECORDING["gpus"][0]["samples"]["throttle_reasons"])
    content = changed(RECORDING, "gpus/0/samples/throttle_reasons", [bits] * samples)
    faults = measurement.measure(schema.from_json(content)).faults
    assert [fault.endswith("hardware thermal slowdown") for fault in faults] == [True] * thermal


def test_ratios_beyond_any_use_are_finite() -> None:
    ratio = comparison.compare(
        [1e-9, 1e12], [1e12, 1e-9], spread.ASSUMED_NOISE[Metric.JOULES_PER_TOKEN]
    )
    assert ratio.high < float("inf")
    assert spread.exp(1e9) * spread.exp(0) < float("inf")
    assert spread.expm1(1e9) < float("inf")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (
            "cells/0/launches/0/joules_per_token",
            [1e308] * 3,
            "launches.0.joules_per_token.0 is 1e\\+308, but must be at most",
        ),
        ("cells/0/launches/0/joules_per_token", [1.0], "differ in length"),
        (
            "cells/0/launches/0/static_power_w",
            "120",
            "launches.0.static_power_w is '120', but must be a number",
        ),
        (
            "cells/0/launches/0/cached_share",
            1.01,
            "launches.0.cached_share is 1.01, but must be at most 1",
        ),
        (
            "cells/1/history/0/launches",
            0,
            "history.0.launches is 0, but must be at least 1",
        ),
        ("cells/1/history/0/power_w", -1, "history.0.power_w is -1, but must be at least"),
        (
            "cells/1/history/0/date",
            "2026" * 26,
            "history.0.date is '(2026){10}'..., but must be a text of length 100 or less",
        ),
        (
            "cells/1/history/0/vllm",
            "0" * 101,
            "history.0.vllm is '0{40}'..., but must be a text of length 100 or less",
        ),
        ("cells/1/update_reason", 1, "update_reason is 1, but must be a text"),
        ("cells/0/key/batch_size", 1e3, "key.batch_size is 1000.0, but must be a whole number"),
        ("gpu_name", 3, "gpu_name is 3, but must be a text"),
        (
            "cells/0/environment/gpu_uuids",
            [1],
            "environment.gpu_uuids.0 is 1, but must be a text",
        ),
    ],
)
def test_baselines(tmp_path: Path, where: str, value: Any, message: str) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "model.json").write_text(json.dumps(changed(BASELINE, where, value)))
    with pytest.raises(BaselineError, match=f"model.json is damaged: .*{message}"):
        Store(tmp_path).entries()


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (
            "cells/0/launches/0/gpu_uuids",
            [["x"]],
            "gpu_uuids.0 is a list of length 1, but must be a text",
        ),
        (
            "cells/0/launches/0/tokens_per_s",
            [1e-300],
            "tokens_per_s.0 is 1e-300, but must be at least",
        ),
        (
            "cells/0/launches/0/power_limit_w",
            [1],
            "power_limit_w is a list of length 1, but must be a number",
        ),
        ("cells/0/launches", {}, "launches is an object, but must be a list"),
        ("cells/0/key", {}, "key.model is missing"),
    ],
)
def test_noise(tmp_path: Path, where: str, value: Any, message: str) -> None:
    (tmp_path / "gpu" / "noise").mkdir(parents=True)
    (tmp_path / "gpu" / "noise" / "model.json").write_text(json.dumps(changed(NOISE, where, value)))
    with pytest.raises(NoiseError, match=f"model.json is damaged: .*{message}"):
        NoiseStore(tmp_path).check()


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", "[]", "", '{"a":' * 10_000])
def test_configs_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        UsageError,
        match=r"config.json cannot be read as a model configuration: .*\n.*name another folder",
    ):
        Model.from_folder(tmp_path)


@pytest.mark.parametrize(
    "config",
    [{"text_config": [1]}, {"vocab_size": 10**12}, {"vocab_size": -1}, {"vocab_size": "5"}, {}],
)
def test_vocabularies_that_cannot_be(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Model.from_folder(tmp_path).vocabulary_size is None


@contextlib.contextmanager
def told(*lines: bytes) -> Iterator[OfflineEngine]:
    """An engine whose worker has said this and ended."""
    engine = OfflineEngine("python", {}, 5.0, 5.0)
    engine._run = 1
    with tempfile.TemporaryFile() as log:
        engine.worker = EndedWorker(engine.events, log, io.BytesIO(b"\n".join(lines) + b"\n"))
        yield engine


READY, STEPS = seeds.events()[:2]


@pytest.mark.parametrize(
    ("event", "step", "message"),
    [
        (b"[" * 100_000, OfflineEngine.take_steps, "unreadable message from the worker"),
        (
            json.dumps({**READY, "kv_cache_tokens": float("inf")}).encode(),
            OfflineEngine._load,
            "is not finite",
        ),
        (
            json.dumps({**READY, "versions": "vllm"}).encode(),
            OfflineEngine._load,
            "versions is not an object",
        ),
        (
            json.dumps({**READY, "gpu_uuids": "GPU"}).encode(),
            OfflineEngine._load,
            "gpu_uuids is not a list",
        ),
        (
            json.dumps({**READY, "vocabulary_size": 0}).encode(),
            OfflineEngine._load,
            "vocabulary_size is not a whole number",
        ),
        (
            json.dumps({**STEPS, "time_ns": [], "tokens": [], "finished": []}).encode(),
            OfflineEngine.take_steps,
            "report of its steps is empty",
        ),
        (
            json.dumps({**STEPS, "time_ns": [2, 1]}).encode(),
            OfflineEngine.take_steps,
            "time_ns: it is not in order",
        ),
        (
            json.dumps({**STEPS, "tokens": [10**20, 1]}).encode(),
            OfflineEngine.take_steps,
            "tokens: it holds an impossible value",
        ),
        (
            b'{"event":"error","message":"\\ud800 \\u001b[31mred"}',
            OfflineEngine.take_steps,
            "\ufffd red",
        ),
        (
            b'{"event":"stopped","run":1,"time_ns":"now"}',
            OfflineEngine.stop_load,
            "report of its last step is malformed",
        ),
        (
            b'{"event":"stopped","run":1,"time_ns":5,"prefix_cache":'
            b'{"prompt_tokens":4,"cached_tokens":5}}',
            OfflineEngine.stop_load,
            "report of its prefix cache is malformed: 5 of 4 tokens were cached",
        ),
    ],
)
def test_events_of_a_worker(
    event: bytes, step: Callable[[OfflineEngine], Any], message: str
) -> None:
    with told(event) as engine, pytest.raises(EngineError, match=message):
        step(engine)


def test_a_worker_that_tells_more_than_is_read_waits_and_its_reader_ends_with_the_engine(
    tmp_path: Path,
) -> None:
    script = tmp_path / "python"
    flood = 'while True: os.write(int(sys.argv[3]), b\'{"event":"steps","run":9}\\n\' * 1000)'
    script.write_text(f"#!{sys.executable}\nimport os, sys\n{flood}\n")
    script.chmod(0o755)
    threads = set(threading.enumerate())
    engine = OfflineEngine(str(script), {}, 5.0, 5.0)
    engine.start()
    try:
        (reader,) = set(threading.enumerate()) - threads
        time.sleep(1.0)
        assert 0 < engine.worker._events.qsize() <= 256
    finally:
        engine.close(0.0)
    reader.join(timeout=3.0)
    assert not reader.is_alive()


@pytest.mark.parametrize(
    ("metrics", "value"),
    [
        ("x 1e999", None),
        ("x 1.2.3", None),
        ("x 1e17", None),
        ("x NaN", None),
        ('x{a="b"} 2.0\nx{a="c"} 3', 5),
        ("x" * 100_000, None),
    ],
)
def test_counts_of_a_server(metrics: str, value: int | None) -> None:
    assert server_process.counter(metrics, "x") == value


@pytest.mark.parametrize(
    "answer",
    [
        '{"data":["x"]}',
        '{"data":5}',
        "[]",
        '{"data":[{"id":5}]}',
        "[" * 100_000,
        '{"data":[{"id":""}]}',
    ],
)
def test_models_of_a_server_that_are_none(answer: str) -> None:
    assert running_server.served_models(answer) is None


def test_cache_settings_take_no_time() -> None:
    assert running_server.cache_configs("vllm:cache_config_info{" + "a" * 9_000 + "} 1") == [{}]
    assert running_server.cache_configs('vllm:cache_config_info{block_size="16"} 1') == [
        {"block_size": "16"}
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@host",
        "http://user:secret@host",
        "http://host/?token=secret",
        "http://host/#secret",
    ],
)
def test_an_address_with_a_secret_is_none_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"^it is not http://host:port$"):
        address_of(url)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json.gz")
    with pytest.raises(RecordingError, match="it is not a regular file"):
        list(recording_file.read_launches([tmp_path]))
