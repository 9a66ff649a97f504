"""Where files can be written, and what is said where they cannot."""

import os
from pathlib import Path

import pytest

from pytest_energy.safety import files


def test_a_file_is_replaced_whole_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    files.write_atomically(path, b"old")
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_left_of_a_file_that_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        assert self.parent == target.parent, "only a rename in one folder is atomic"
        self.unlink()  # as another process may
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"^the disk is full$"):
        files.write_atomically(tmp_path / "x.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: str | Path, flags: int, *mode: int) -> int:
        if Path(path) == tmp_path:
            raise OSError("no")
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    files.write_atomically(tmp_path / "x.json", b"new")
    assert (tmp_path / "x.json").read_bytes() == b"new"


def test_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.user_cache() == Path("/home/me/.cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert files.user_cache() == Path("/cache")


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.unwritable(tmp_path) is None
    assert files.unwritable(tmp_path / "to" / "make") is None
    (tmp_path / "file").write_text("")
    assert files.unwritable(tmp_path / "file" / "x") == f"{tmp_path / 'file'} is not a folder"
    (tmp_path / "link").symlink_to("nothing")
    assert files.unwritable(tmp_path / "link") == f"{tmp_path / 'link'} is a link to nothing"

    def denied(path: Path, mode: int) -> bool:
        return mode != os.W_OK | os.X_OK

    monkeypatch.setattr(os, "access", denied)  # root may write anywhere
    assert files.unwritable(tmp_path) == f"{tmp_path} cannot be written to"


def test_errors_of_the_system_in_words() -> None:
    assert files.in_words(OSError(28, "No space left on device", "x")) == (
        "x: No space left on device"
    )
    assert files.in_words(OSError(28, "No space left on device")) == "No space left on device"
    assert files.in_words(OSError("a timeout")) == "a timeout"
