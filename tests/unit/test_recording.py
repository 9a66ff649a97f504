"""The recording's file: what goes in comes out; damage is named; nothing is half written."""

import contextlib
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import RecordingError
from pytest_energy.recording import recording_file, schema
from tests import simulated


def packed(content: object) -> bytes:
    return gzip.compress(json.dumps(content).encode())


def test_round_trip(cell: Cell, tmp_path: Path) -> None:
    recorded = simulated.recording(cell, noise=0.1)
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz") == recorded


def test_what_clients_saw_survives(cell: Cell, tmp_path: Path) -> None:
    recorded = replace(simulated.recording(cell), client=simulated.client(13_000, preemptions=None))
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz") == recorded


@pytest.mark.parametrize(
    "damage",
    [
        {"first_token": {"value_us": [1], "count": []}},
        {"streamed_tokens": "1"},
        {"cpu_cores": None},
        {"server_tokens": 1.5},
        {"x": 1},
    ],
)
def test_a_damaged_account_of_clients(
    cell: Cell, tmp_path: Path, damage: dict[str, object]
) -> None:
    content = schema.to_json(replace(simulated.recording(cell), client=simulated.client(13_000)))
    (tmp_path / "a.json.gz").write_bytes(
        packed({**content, "client": {**content["client"], **damage}})
    )
    with pytest.raises(RecordingError, match=r"a\.json\.gz"):
        recording_file.read(tmp_path / "a.json.gz")


def test_equal_recordings_give_equal_bytes_and_small_ones(cell: Cell, tmp_path: Path) -> None:
    for name in ("a", "b"):
        recording_file.write(simulated.recording(cell, noise=0.1), tmp_path / f"{name}.json.gz")
    content = (tmp_path / "a.json.gz").read_bytes()
    assert content == (tmp_path / "b.json.gz").read_bytes()
    assert len(content) < 100_000


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_crash_while_writing_leaves_the_old_file(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json.gz"
    recording_file.write(simulated.recording(cell), path)
    before = path.read_bytes()

    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, crash)
    with pytest.raises(OSError, match="No space"):
        recording_file.write(simulated.recording(cell, power_w=1.0), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def damaged(cell: Cell) -> dict[str, bytes]:
    content = schema.to_json(simulated.recording(cell))
    whole = packed(content)
    tokens = content["tokens"]
    return {
        "empty": b"",
        "not gzip": b"{}",
        "truncated": whole[: len(whole) // 2],
        "flipped": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        "not JSON": gzip.compress(b"{"),
        "a list": packed([content]),
        "no version": packed(
            {name: value for name, value in content.items() if name != "schema_version"}
        ),
        "other version": packed({**content, "schema_version": 8}),
        "field missing": packed({name: value for name, value in content.items() if name != "gpus"}),
        "lengths differ": packed({**content, "tokens": {**tokens, "finished": [0]}}),
        "a float": packed(
            {**content, "tokens": {**tokens, "tokens": [0.5] * len(tokens["tokens"])}}
        ),
        "key no object": packed({**content, "key": "x"}),
        "series no object": packed({**content, "tokens": []}),
        "deep": gzip.compress(b"[" * 100_000),
        "bomb": gzip.compress(b" " * 30_000_000),
    }


def test_version_4_knew_only_the_mean_of_a_second(cell: Cell, tmp_path: Path) -> None:
    content = {**schema.to_json(simulated.recording(cell)), "schema_version": 4}
    for gpu in content["gpus"]:
        del gpu["power"]
    (tmp_path / "old.json.gz").write_bytes(packed(content))
    assert recording_file.read(tmp_path / "old.json.gz") == simulated.recording(cell)


def test_every_damage_is_told_with_the_files_name(cell: Cell, tmp_path: Path) -> None:
    for name, content in damaged(cell).items():
        path = tmp_path / f"{name}.json.gz"
        path.write_bytes(content)
        with pytest.raises(RecordingError, match=f"{name}.json.gz"):
            recording_file.read(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=8,
    )
)
def test_no_content_gets_through_unnoticed(tmp_path: Path, cell: Cell, content: object) -> None:
    whole = schema.to_json(simulated.recording(cell, cycles=0.1))
    path = tmp_path / "x.json.gz"
    for name in (
        "key",
        "tokens",
        "gpus",
        "client",
        "requests",
        "environment",
        "faults",
        "load_stopped_ns",
    ):
        path.write_bytes(gzip.compress(json.dumps({**whole, name: content}).encode()))
        with contextlib.suppress(RecordingError):  # any other exception fails the test
            recording_file.read(path)


def test_find(cell: Cell, tmp_path: Path) -> None:
    file = tmp_path / "one" / "launch" / "cell.json.gz"
    recording_file.write(simulated.recording(cell), file)
    assert list(recording_file.find(tmp_path)) == list(recording_file.find(file)) == [file]
    with pytest.raises(RecordingError, match="does not exist"):
        list(recording_file.find(tmp_path / "two"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="holds no recordings"):
        list(recording_file.find(tmp_path / "empty"))


def test_faults_survive(cell: Cell, tmp_path: Path) -> None:
    recorded = replace(simulated.recording(cell), faults=("a: b",))
    recording_file.write(recorded, tmp_path / "a.json.gz")
    assert recording_file.read(tmp_path / "a.json.gz").faults == ("a: b",)


def test_what_file_managers_leave_among_recordings_is_skipped(cell: Cell, tmp_path: Path) -> None:
    recording_file.write(simulated.recording(cell), tmp_path / "a" / "b.json.gz")
    for name in ("._b.json.gz", ".stversions/b.json.gz"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"not a recording")
    assert list(recording_file.find(tmp_path)) == [tmp_path / "a" / "b.json.gz"]


def test_a_git_lfs_pointer_is_no_damage(tmp_path: Path) -> None:
    """The pointer is the example of github.com/git-lfs/git-lfs, docs/spec.md."""
    (tmp_path / "a.json.gz").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
    )
    with pytest.raises(RecordingError, match=r"is a Git LFS pointer.*; git lfs pull"):
        recording_file.read(tmp_path / "a.json.gz")
