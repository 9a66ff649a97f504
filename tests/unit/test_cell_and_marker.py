"""Cells and their keys, markers and their refusals, workloads, engine arguments."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.errors import UsageError
from pytest_energy.plugin.marker import Marked
from pytest_energy.settings import parse_engine_args


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text('{"vocab_size": 2048}')
    (tmp_path / "models" / "empty").mkdir()
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "config.json").write_text("[1")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models/empty", "no config.json"),
        ("models/broken", "cannot be read as a model configuration"),
        ("models/none", "no such folder"),
        ("./none", "no such folder"),
        ("/none", "no such folder"),
        ("a b", "no such folder"),
    ],
)
def test_models_that_are_none(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model.resolve(name, folder)


def test_models(folder: Path) -> None:
    local = Model.resolve("models/tiny", folder / "elsewhere", folder)
    assert (local.name, local.location) == ("tiny", str(folder / "models" / "tiny"))
    assert local.config_sha256
    assert Model.resolve("meta-llama/Llama-3.1-8B", folder) == Model(
        "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"
    )


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf{\r\n}\r\n", b"{\r\n}\r\n", b"\xef\xbb\xbf{\n}\n"]
)
def test_line_ends_and_a_byte_order_mark_make_no_other_model(folder: Path, content: bytes) -> None:
    """As Git for Windows checks files out, and editors there save them."""
    (folder / "models" / "tiny" / "config.json").write_bytes(b"{\n}\n")
    before = Model.resolve("models/tiny", folder)
    (folder / "models" / "tiny" / "config.json").write_bytes(content)
    assert Model.resolve("models/tiny", folder) == before


def test_a_model_behind_a_link_has_the_links_name(folder: Path) -> None:
    """What it leads to is named after a revision, or lies elsewhere on another machine."""
    (folder / "models" / "tiny").rename(folder / "0e9e39f249a1")
    (folder / "models" / "tiny").symlink_to("../0e9e39f249a1")
    assert Model.resolve("models/tiny", folder).name == "tiny"
    assert Model.resolve("models/broken/../tiny", folder).name == "tiny"
    (folder / "suites").symlink_to(folder / "models" / "empty")
    assert Model.resolve("suites/../tiny", folder).location == str(folder / "0e9e39f249a1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda config: config.write_text("version https://git-lfs.github.com/spec/v1\n"),
            "config.json is a Git LFS pointer, and not the file itself.\nFetch it: git lfs pull",
        ),
        (
            lambda config: config.symlink_to("../../blobs/0e9e39"),
            "config.json is a link to ../../blobs/0e9e39, and nothing is there.\n"
            "Fetch that, or copy the folder with what its links lead to: cp -rL",
        ),
    ],
)
def test_a_stand_in_for_a_config_is_fetched(
    folder: Path, make: Callable[[Path], object], message: str
) -> None:
    make(folder / "models" / "empty" / "config.json")
    with pytest.raises(UsageError, match=re.escape(message)):
        Model.resolve("models/empty", folder)


def test_the_server_is_another_cell_with_the_offline_engines_settings(folder: Path) -> None:
    of_engine = {
        engine: marked().cell(8, folder, engine=engine) for engine in ("offline", "server")
    }
    offline, server = of_engine["offline"], of_engine["server"]
    assert (offline.name, server.name) == ("tiny bs=8 512/256", "tiny server bs=8 512/256")
    assert (offline.key.engine, server.key.engine) == ("offline", "server")
    # LLMEngine's own default, which the offline engine is not told.
    assert server.launch_args["max_num_batched_tokens"] == 2048
    same = set(offline.launch_args) - {"skip_tokenizer_init"}
    assert {name: server.launch_args[name] for name in same} == {
        name: offline.launch_args[name] for name in same
    }
    small = Marked.from_arguments(
        (), {"model": "models/tiny", "batch_sizes": [1], "input_tokens": 100, "output_tokens": 50}
    )
    assert small.cell(1, folder, engine="server").launch_args["max_num_batched_tokens"] == 150
    own = marked(engine_args={"max_num_batched_tokens": 8192}).cell(8, folder, engine="server")
    assert own.launch_args["max_num_batched_tokens"] == 8192


def test_an_engine_without_settings_of_its_own_is_refused(folder: Path) -> None:
    other = marked().cell(8, folder, engine="other")
    with pytest.raises(UsageError, match="'other' is not one of 'offline', 'server', 'attached'"):
        _ = other.launch_args


def test_a_latency_limit_needs_a_server(folder: Path) -> None:
    limited = marked(max_itl_ms=50, max_ttft_ms=2000)
    assert (
        limited.cell(8, folder, engine="server").key
        == marked().cell(8, folder, engine="server").key
    )
    with pytest.raises(
        UsageError, match=r"max_ttft_ms limits what a server's clients see(.|\n)*engine='server'"
    ):
        limited.cell(8, folder, engine="offline")


def marked(**arguments: Any) -> Marked:
    return Marked.from_arguments((), {"model": "models/tiny", "batch_sizes": [1, 8], **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batchsizes": [1]}, "no argument 'batchsizes'"),
        ({"max_itl_ms": 0}, "max_itl_ms is 0: it must be a positive number"),
        ({"engine": "online"}, "engine is 'online': it must be 'offline' or 'server'"),
        ({"batch_sizes": [0]}, r"batch_sizes is \[0\]: it must be a list of whole numbers"),
        ({"batch_sizes": [1.5]}, r"batch_sizes is \[1.5\]"),
        ({"batch_sizes": ["8"]}, r"batch_sizes is \['8'\]"),
        ({"batch_sizes": [True]}, r"batch_sizes is \[True\]"),
        ({"batch_sizes": [-3]}, r"batch_sizes is \[-3\]"),
        ({"batch_sizes": []}, r"batch_sizes is \[\]"),
        ({"batch_sizes": 8}, "batch_sizes is 8"),
        ({"batch_sizes": [8, 8]}, r"batch_sizes is \[8, 8\]: .* each of them once"),
        ({"model": 7}, "model is 7"),
        ({"weights": "zeros"}, "weights is 'zeros'"),
        ({"input_tokens": 0}, "input_tokens is 0"),
        ({"output_tokens": "many"}, "output_tokens is 'many'"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"tolerance": 3}, "tolerance is 3"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"throughput_tolerance": "5%"}, "throughput_tolerance is '5%'"),
        ({"max_power_w": 0}, "max_power_w is 0"),
        ({"engine_args": ["x"]}, "engine_args is"),
        ({"engine_args": {"dtype": object()}}, "engine_args is"),
    ],
)
def test_refused_marker_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        marked(**arguments)


@pytest.mark.parametrize("missing", ["model", "batch_sizes"])
def test_a_marker_says_model_and_batch_sizes(missing: str) -> None:
    arguments = {"model": "m", "batch_sizes": [1]}
    del arguments[missing]
    with pytest.raises(UsageError, match=f"no marker gives {missing}"):
        Marked.from_arguments((), arguments)


def test_a_marker_takes_no_positional_argument() -> None:
    with pytest.raises(UsageError, match="keyword arguments only"):
        Marked.from_arguments(("m",), {})


def test_cells_of_one_marker_share_a_launch(folder: Path) -> None:
    one, eight = (marked().cell(size, folder) for size in (1, 8))
    assert one.launch_args == eight.launch_args
    assert one.launch_args["max_num_seqs"] == 8
    assert one.key != eight.key
    assert one.key.slug != eight.key.slug


def test_max_num_seqs_may_be_set(folder: Path) -> None:
    assert (
        marked(engine_args={"max_num_seqs": 256}).cell(1, folder).launch_args["max_num_seqs"] == 256
    )


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        ({"weights": "dummy"}, "engine_args.load_format: auto → dummy"),
        ({"input_tokens": 100}, "workload.input_tokens: 512 → 100"),
        ({"engine_args": {"dtype": "float16"}}, "engine_args.dtype: None → float16"),
    ],
)
def test_whatever_is_measured_is_in_the_key(
    folder: Path, arguments: dict[str, Any], difference: str
) -> None:
    usual, other = marked().cell(1, folder), marked(**arguments).cell(1, folder)
    assert difference in usual.key.differences(other.key)


def test_another_config_is_another_key(folder: Path) -> None:
    before = marked().cell(1, folder)
    (folder / "models" / "tiny" / "config.json").write_text('{"vocab_size": 4096}')
    assert marked().cell(1, folder).key != before.key


@given(st.integers(1, 512), st.integers(1, 512))
def test_first_wave_is_staggered(batch_size: int, output_tokens: int) -> None:
    wave = Workload(8, output_tokens).first_wave(batch_size)
    assert len(wave) == batch_size
    assert list(wave) == sorted(wave)
    assert wave[0] >= 1
    assert wave[-1] == output_tokens
    gaps = {b - a for a, b in itertools.pairwise(wave)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


@given(st.integers(0, 100), st.integers(1, 2**17))
def test_prompts(seed: int, vocabulary_size: int) -> None:
    workload = Workload(16, 8, seed)
    prompts = workload.prompts(3, vocabulary_size)
    assert [len(prompt) for prompt in prompts] == [16] * 3
    assert all(0 <= token < vocabulary_size for prompt in prompts for token in prompt)
    assert prompts == workload.prompts(3, vocabulary_size)


def test_engine_args() -> None:
    assert parse_engine_args(
        ["enforce-eager=true", "a=False", "n=3", "dtype=float16", 'c={"x": 1}', "e="]
    ) == {
        "enforce_eager": True,
        "a": False,
        "n": 3,
        "dtype": "float16",
        "c": {"x": 1},
        "e": "",
    }


@pytest.mark.parametrize(
    ("texts", "message"), [(["a"], "NAME=VALUE"), (["=1"], "NAME=VALUE"), (["a=1", "a=2"], "twice")]
)
def test_bad_engine_args(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_engine_args(texts)
