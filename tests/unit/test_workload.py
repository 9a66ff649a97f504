"""What is asked of the engine if lengths vary: drawn by seed alone; equal work in every pass."""

import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.cell.key import CellKey
from pytest_energy.cell.lengths import LengthDistribution, Lognormal
from pytest_energy.cell.plan import Plan, tokens_in_flight
from pytest_energy.cell.prompts import Conversation, Prompts
from pytest_energy.cell.workload import Workload
from pytest_energy.errors import UsageError
from pytest_energy.plugin.marker import Marked

LENGTHS = st.builds(
    lambda longest, share, sigma: Lognormal(max(1.0, share * longest), sigma, longest),
    st.integers(1, 4096),
    st.floats(0.01, 1.0),
    st.floats(0.05, 2.0),
)
BATCH_SIZES = st.integers(1, 300)


def file_of(*conversations: Conversation) -> Prompts:
    return Prompts("prompts.jsonl", "0123456789abcdef", conversations)


def asked(number: int, answer: int) -> Conversation:
    return Conversation(number, (("user", "x" * number),), "y" * answer)


@given(LENGTHS, LENGTHS, BATCH_SIZES, st.integers(0, 10**6))
def test_what_is_drawn_lies_within_its_bounds_and_is_the_same_each_time(
    tokens_in: Lognormal, out: Lognormal, batch_size: int, seed: int
) -> None:
    workload = Workload(tokens_in, out, seed)
    plan = workload.plan(batch_size)
    assert plan == Workload(replace(tokens_in), replace(out), seed).plan(batch_size)
    assert (
        len(plan.lengths)
        == workload.requests_per_pass(batch_size)
        == workload.key(batch_size).requests
    )
    assert len(plan.lengths) % batch_size == 0
    assert len(plan.lengths) >= 8
    assert all(
        1 <= length <= tokens_in.max and 1 <= answer <= out.max for length, answer in plan.lengths
    )
    assert len(plan.first_wave) == batch_size
    # What is left of a request is no more than it has: with its prompt it never is too long.
    assert all(1 <= left <= plan.lengths[number][1] for number, left in plan.first_wave)
    assert workload.longest_request == tokens_in.max + out.max


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 8, 64, 256]))
def test_few_requests_stand_for_the_distribution(seed: int, batch_size: int) -> None:
    """Drawn freely, the mean of 8 requests would have a deviation of 23 %, of 24 one of 13 %."""
    drawn = [
        length
        for length, _ in Workload(Lognormal(512, 0.6, 4096), 100, seed).plan(batch_size).lengths
    ]
    assert statistics.median(drawn) == pytest.approx(512, rel=0.01)
    assert statistics.mean(drawn) == pytest.approx(
        512 * math.exp(0.6**2 / 2), rel=0.02 if len(drawn) >= 24 else 0.04
    )


def test_longer_requests_than_the_limit_are_not_drawn_rather_than_cut() -> None:
    drawn = [length for length, _ in Workload(Lognormal(100, 1.0, 120), 10).plan(256).lengths]
    assert Counter(drawn)[120] < 10
    assert max(drawn) <= 120


def test_input_and_output_lengths_are_drawn_apart() -> None:
    lengths = Workload(Lognormal(512, 0.6, 4096), Lognormal(256, 0.6, 2048)).plan(256).lengths
    assert abs(statistics.correlation(*zip(*lengths, strict=True))) < 0.2


def test_another_seed_draws_other_requests() -> None:
    one, other = (
        Workload(Lognormal(512, 0.6, 4096), Lognormal(256, 0.6, 2048), seed).plan(8)
        for seed in (0, 1)
    )
    assert one.lengths != other.lengths


@given(st.integers(1, 64), st.integers(1, 500))
def test_equal_lengths_begin_evenly_staggered_whatever_the_input(batch_size: int, out: int) -> None:
    first_wave = Workload(Lognormal(100, 0.5, 500), out).plan(batch_size).first_wave
    assert sorted(left for _, left in first_wave) == list(Workload(100, out).first_wave(batch_size))


def test_the_first_wave_has_what_is_left_of_requests_in_flight() -> None:
    """A slot is rather at a long request, and half through it: mean square over twice the mean."""
    plan = Workload(100, Lognormal(256, 0.8, 4096)).plan(256)
    outputs = [out for _, out in plan.lengths]
    left = statistics.mean(out**2 for out in outputs) / (2 * statistics.mean(outputs))
    assert statistics.mean(left for _, left in plan.first_wave) == pytest.approx(left, rel=0.15)


def test_of_a_file_one_conversation_is_drawn_from_each_stratum() -> None:
    file = file_of(*(asked(number, 1 + number % 50) for number in range(1, 241)))
    drawn = Workload(output_tokens=None, prompts_file=file).drawn(8)
    assert len({conversation.line for conversation in drawn}) == len(drawn) == 24
    by_length = sorted(file.conversations, key=lambda c: (len(c.reply or ""), c.line))
    # Ten of 240 are in each stratum, and they do not come in its order.
    strata = [by_length.index(conversation) // 10 for conversation in drawn]
    assert sorted(strata) == list(range(24)) != strata


def test_of_a_short_file_conversations_come_again() -> None:
    drawn = Workload(
        output_tokens=None, prompts_file=file_of(asked(1, 5), asked(2, 7), asked(3, 9))
    ).drawn(8)
    assert Counter(c.line for c in drawn) == {1: 8, 2: 8, 3: 8}


def test_lengths_of_a_file_are_the_tokenizers_and_the_lines() -> None:
    file = file_of(asked(1, 5), Conversation(2, (("user", "x"),), None, 33))
    workload = Workload(output_tokens=None, prompts_file=file)
    tokenized = [(10 * c.line, None if c.reply is None else 3) for c in workload.drawn(8)]
    assert set(workload.plan(8, tokenized).lengths) == {(10, 3), (20, 33)}
    # Given in the marker, one length holds for all.
    assert set(replace(workload, output_tokens=50).plan(8, tokenized).lengths) == {
        (10, 50),
        (20, 50),
    }
    assert workload.longest_request is None


def test_an_empty_reply_of_the_tokenizer_is_one_token() -> None:
    workload = Workload(output_tokens=None, prompts_file=file_of(asked(1, 5)))
    assert {out for _, out in workload.plan(1, [(4, 0)] * 8).lengths} == {1}


def played(plan: Plan, batch_size: int, block_size: int) -> int:
    """The most tokens in flight, step by step, over ten passes."""
    left = [[plan.lengths[n % len(plan.lengths)][1], n] for n in range(batch_size)]
    sent, most = batch_size, 0
    while sent < 10 * len(plan.lengths):
        most = max(
            most,
            sum(
                -(-sum(plan.lengths[n % len(plan.lengths)]) // block_size) * block_size
                for _, n in left
            ),
        )
        for slot in left:
            slot[0] -= 1
            if not slot[0]:
                slot[:] = [plan.lengths[sent % len(plan.lengths)][1], sent]
                sent += 1
    return most


@given(st.integers(1, 20), st.sampled_from([1, 16]), st.integers(0, 100), st.floats(0.1, 1.0))
def test_tokens_in_flight(batch_size: int, block_size: int, seed: int, sigma: float) -> None:
    plan = Workload(Lognormal(40, sigma, 200), Lognormal(20, sigma, 100), seed).plan(batch_size)
    needed = tokens_in_flight(plan.lengths, batch_size, block_size)
    assert needed >= 0.8 * played(plan, batch_size, block_size)
    longest = -(-max(map(sum, plan.lengths)) // block_size) * block_size
    assert sum(plan.lengths[0]) <= needed <= batch_size * longest


def test_tokens_in_flight_of_equal_requests() -> None:
    assert tokens_in_flight([(512, 256)], 64, 16) == 64 * 768
    assert tokens_in_flight([(64, 250)], 8, 16) == 8 * 320


KEY = {"model": "m/m", "batch_sizes": [1, 8, 64]}
MEDIAN = {"lognormal": {"median": 512, "sigma": 0.6, "max": 2048}}


def cell_key(folder: Path, batch_size: int = 8, **arguments: Any) -> CellKey:
    return Marked.from_arguments((), {**KEY, **arguments}).cell(batch_size, folder).key


def test_the_key_of_a_fixed_workload_is_as_it_was(tmp_path: Path) -> None:
    assert cell_key(tmp_path, input_tokens=100).plain["workload"] == {
        "input_tokens": 100,
        "output_tokens": 256,
        "seed": 0,
    }


def test_the_key_holds_all_that_is_drawn_from(tmp_path: Path) -> None:
    key = cell_key(tmp_path, input_tokens=MEDIAN)
    assert key.plain["workload"] == {
        "input_tokens": MEDIAN,
        "output_tokens": 256,
        "requests": 24,
        "seed": 0,
    }
    assert key.engine_args["max_model_len"] == 2304
    assert json.loads(key.canonical) == key.plain
    assert CellKey.from_plain(json.loads(key.canonical)) == key
    assert (
        cell_key(tmp_path, input_tokens={"lognormal": {"median": 512.0, "max": 2048, "sigma": 0.6}})
        == key
    )
    other = cell_key(
        tmp_path, input_tokens={"lognormal": {"median": 500, "max": 2048, "sigma": 0.6}}
    )
    assert key.differences(other) == ["workload.input_tokens.lognormal.median: 512.0 → 500.0"]


@pytest.mark.parametrize(
    "lengths",
    [
        {"normal": {}},
        {"lognormal": 512},
        {"lognormal": {"median": 512, "sigma": 0.6}},
        {"lognormal": {**MEDIAN["lognormal"], "mean": 1}},
        {"lognormal": {**MEDIAN["lognormal"], "median": 0}},
        {"lognormal": {**MEDIAN["lognormal"], "median": None}},
        {"lognormal": {**MEDIAN["lognormal"], "median": 3000}},
        {"lognormal": {**MEDIAN["lognormal"], "median": 0.5}},
        {"lognormal": {**MEDIAN["lognormal"], "sigma": -1}},
        {"lognormal": {**MEDIAN["lognormal"], "sigma": float("nan")}},
        {"lognormal": {**MEDIAN["lognormal"], "sigma": 60}},
        {"lognormal": {**MEDIAN["lognormal"], "max": 10.5}},
        {"lognormal": {**MEDIAN["lognormal"], "max": True}},
        {1: 2},
        [512],
        None,
    ],
)
def test_lengths_that_are_none(lengths: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Marked.from_arguments((), {**KEY, "input_tokens": lengths})
    assert str(caught.value).startswith(
        f"input_tokens is {lengths!r}: it must be a whole number from 1 to 1,000,000,000, or as in "
        "{'lognormal': {'median': 512, 'sigma': 0.6, 'max': 2048}}, the median from 1 to max"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": 7}, "prompts is 7: it must be a text, the name of a JSONL file"),
        ({"prompts": ""}, "prompts is ''"),
        ({"prompts": None}, "prompts is None"),
        (
            {"prompts": "a.jsonl", "input_tokens": 5},
            "input_tokens and prompts are given, but prompts have lengths of their own",
        ),
        ({"prompts": "a.jsonl", "output_tokens": 0}, "output_tokens is 0"),
    ],
)
def test_refused_prompts(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Marked.from_arguments((), {**KEY, **arguments})
    assert message in str(caught.value)


SHAREGPT = {
    "id": "a",
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}],
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*lines: object) -> Path:
        texts = [
            line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
            for line in lines
        ]
        (tmp_path / "prompts.jsonl").write_text("\n".join(texts), encoding="utf-8")
        return tmp_path

    return written


def test_the_three_kinds_of_lines(write: Write) -> None:
    periods = [
        {"from": "system", "value": "Be brief."},
        *SHAREGPT["conversations"],
        {"from": "human", "value": "Bye"},
    ]  # type: ignore[misc]
    messages = [
        {"role": "user", "content": "Größe?\u2028"},
        {"role": "assistant", "content": "1 m"},
    ]
    folder = write(
        SHAREGPT,
        "",
        {"messages": messages, "output_tokens": 7},
        {"prompt": "Go on", "output_tokens": 9},
        {"conversations": periods},
        "  ",
    )
    assert Prompts.resolve("prompts.jsonl", folder).conversations == (
        Conversation(1, (("user", "Hi"),), "Hello there"),
        Conversation(3, (("user", "Größe?\u2028"),), "1 m", 7),
        Conversation(4, (("user", "Go on"),), None, 9),
        Conversation(
            5,
            (
                ("system", "Be brief."),
                ("user", "Hi"),
                ("assistant", "Hello there"),
                ("user", "Bye"),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is nested too deeply"),
        ("7", "it is not a JSON object"),
        (
            [SHAREGPT],
            "it is a JSON array; in JSONL every conversation has a line of its own (jq -c '.[]'",
        ),
        ({}, "it has no prompt"),
        ({"prompt": "a", "messages": []}, "it has 'messages' and 'prompt'"),
        ({"prompt": 7}, "prompt is 7: it must be a text"),
        ('{"prompt": "\\ud800"}', "prompt holds half of a surrogate pair"),
        (
            {"prompt": "a", "output_tokens": 0},
            "output_tokens is 0: it must be a whole number of at least 1",
        ),
        ({"prompt": "a", "output_tokens": True}, "output_tokens is True"),
        ({"conversations": "a"}, "conversations is not a list of messages"),
        ({"messages": []}, "messages is not a list of messages"),
        ({"messages": ["a"]}, "messages is not a list of messages"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            "a message has role 'tool'; it must be one of system, user, assistant",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "content is None: it must be a text"),
        (
            {"conversations": [{"from": ["human"], "value": "a"}]},
            "a message has from ['human']; it must be one of human, user, gpt",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a"}]},
            "there is nothing to answer: the last message must be the user's",
        ),
        ({"messages": [{"role": "system", "content": "a"}]}, "there is nothing to answer"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
            "its reply is empty",
        ),
    ],
)
def test_lines_that_are_no_conversation(write: Write, line: object, message: str) -> None:
    folder = write(SHAREGPT, line)
    with pytest.raises(UsageError) as caught:
        Prompts.resolve("prompts.jsonl", folder)
    text = str(caught.value)
    assert f"prompts {folder / 'prompts.jsonl'}, line 2: {message}" in text
    assert text.endswith("Correct the line, or remove it.")


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=8,
    )
)
def test_no_content_gets_through_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = ("prompt", "messages", "conversations", "output_tokens")
    for count, line in itertools.product(range(2), [content, *({name: content} for name in names)]):
        (folder / f"{count}.jsonl").write_text(json.dumps(line))
        try:
            found = Prompts.resolve(f"{count}.jsonl", folder)
        except UsageError:
            continue
        assert all(isinstance(text, str) for c in found.conversations for _, text in c.messages)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match=r"prompts 'none.jsonl': no such file \(looked for (.|\n)*never fetched"
    ):
        Prompts.resolve("none.jsonl", tmp_path / "a", tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UsageError, match=r"empty.jsonl is empty"):
        Prompts.resolve("empty.jsonl", tmp_path)
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "Größe"}'.encode("latin-1"))
    with pytest.raises(UsageError, match="line 1: it is not UTF-8"):
        Prompts.resolve("latin.jsonl", tmp_path)
    (tmp_path / "wide.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-16")
    with pytest.raises(UsageError, match=r"wide.jsonl is in UTF-16, (.|\n)*Convert it: iconv"):
        Prompts.resolve("wide.jsonl", tmp_path)
    (tmp_path / "pointer.jsonl").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match=r"is a Git LFS pointer(.|\n)*Fetch it: git lfs pull"):
        Prompts.resolve("pointer.jsonl", tmp_path)
    monkeypatch.setattr("pytest_energy.cell.prompts.MAX_BYTES", 10)
    with pytest.raises(UsageError, match=r"larger than (.|\n)*head -n 5000 FILE"):
        Prompts.resolve("latin.jsonl", tmp_path)


def test_line_ends_and_a_byte_order_mark_make_no_other_prompts(tmp_path: Path) -> None:
    lines = b'{"prompt": "a", "output_tokens": 1}\n{"prompt": "b", "output_tokens": 2}\n'
    read = []
    for content in (lines, lines.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + lines):
        (tmp_path / f"{len(read)}.jsonl").write_bytes(content)
        read.append(Prompts.resolve(f"{len(read)}.jsonl", tmp_path))
    assert len({found.sha256 for found in read}) == 1
    assert len({found.conversations for found in read}) == 1


def test_a_file_that_cannot_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(SHAREGPT)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match=r"prompts\.jsonl cannot be read: Permission denied"):
        Prompts.resolve("prompts.jsonl", folder)


def test_the_files_content_is_the_key_and_never_its_name(write: Write) -> None:
    folder = write(SHAREGPT)
    key = cell_key(folder, prompts="prompts.jsonl")
    assert key.plain["workload"] | {"prompts_sha256": ""} == {
        "input_tokens": "prompts",
        "output_tokens": "replies",
        "prompts_sha256": "",
        "requests": 24,
        "seed": 0,
    }
    assert "skip_tokenizer_init" not in key.engine_args
    assert "max_model_len" not in key.engine_args
    (folder / "sub").mkdir()
    (folder / "sub" / "other.jsonl").write_bytes((folder / "prompts.jsonl").read_bytes())
    assert cell_key(folder, prompts="sub/other.jsonl") == key
    write(SHAREGPT, SHAREGPT)
    (difference,) = key.differences(cell_key(folder, prompts="prompts.jsonl"))
    assert difference.startswith("workload.prompts_sha256: ")
    assert difference.endswith(" (another file of prompts, or its content was changed)")


def test_prompts_without_replies_need_a_length(write: Write) -> None:
    folder = write(SHAREGPT, {"prompt": "a"})
    with pytest.raises(
        UsageError, match=r"line 2: it has no reply and no output_tokens(.|\n)*output_tokens=256"
    ):
        cell_key(folder, prompts="prompts.jsonl")
    assert cell_key(folder, prompts="prompts.jsonl", output_tokens=99).workload.output_tokens == 99
    assert cell_key(
        folder, prompts="prompts.jsonl", output_tokens=MEDIAN
    ).workload.output_tokens == LengthDistribution(Lognormal(512, 0.6, 2048))


def test_a_model_without_a_tokenizer_takes_no_prompts(write: Write) -> None:
    folder = write(SHAREGPT)
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text('{"vocab_size": 2048}')
    with pytest.raises(
        UsageError,
        match=r"has no tokenizer, so the prompts of prompts.jsonl(.|\n)*Copy the model's tokenizer",
    ):
        cell_key(folder, model="tiny", prompts="prompts.jsonl")
    assert cell_key(
        folder, model="tiny", prompts="prompts.jsonl", engine_args={"tokenizer": "org/name"}
    )
    (folder / "tiny" / "tokenizer.json").write_text("{}")
    assert cell_key(folder, model="tiny", prompts="prompts.jsonl")


def test_workloads_in_words(write: Write) -> None:
    folder = write(SHAREGPT)

    def words(**arguments: Any) -> str:
        return str(cell_key(folder, **arguments).workload)

    assert words() == "512 tokens in, 256 out"
    assert (
        words(input_tokens=MEDIAN)
        == "lognormal (median 512, sigma 0.6, at most 2048) tokens in, 256 out"
    )
    digest = str(cell_key(folder, prompts="prompts.jsonl").workload.prompts_sha256)[:8]
    assert words(prompts="prompts.jsonl") == f"prompts {digest}, answers as long as the file's"
    assert words(prompts="prompts.jsonl", output_tokens=99) == f"prompts {digest}, 99 tokens out"
