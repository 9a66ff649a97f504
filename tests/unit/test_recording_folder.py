"""Which files of a folder count as recordings: no launch is passed over without a word."""

import gzip
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import RecordingError
from pytest_energy.recording import recording_file
from tests import simulated

NOT_LOOKED_FOR = "is a recording, or a part of one, and would not count.\nLet its name end with "


@pytest.fixture
def file(cell: Cell, tmp_path: Path) -> Path:
    """A launch's recording in a folder of launches."""
    path = tmp_path / "launches" / "one" / "cell.json.gz"
    recording_file.write(simulated.recording(cell), path)
    return path


def launches(file: Path) -> list[Path]:
    return list(recording_file.find(file.parents[1]))


def refusal(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        list(recording_file.find(path))
    return str(caught.value)


@pytest.mark.parametrize("name", ["cell.JSON.GZ", "cell.json (1).gz", "cell.json.gz.part", "cell"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_copy_or_part_of_another_name(file: Path, name: str, share: float) -> None:
    content = file.read_bytes()
    other = file.with_name(name)
    other.write_bytes(content[: int(share * len(content))])
    assert refusal(file.parents[1]).startswith(f"{other} {NOT_LOOKED_FOR}")


def test_one_that_a_browser_unpacked(file: Path) -> None:
    unpacked = file.with_suffix("")
    unpacked.write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()
    assert refusal(file.parents[1]) == (
        f"{unpacked} is a recording that was unpacked, and would not count.\n"
        f"Pack it again, or move it elsewhere: gzip {unpacked}"
    )


def test_other_files_are_passed_over(file: Path) -> None:
    file.with_name("results.json").write_text('{"entries": []}')
    file.with_name("log.gz").write_bytes(gzip.compress(b"log"))
    file.with_name("broken.gz").write_bytes(b"\x1f\x8bnot gzip")
    os.mkfifo(file.with_name("pipe"))
    assert launches(file) == [file]


def test_a_launch_behind_a_link_counts_once(file: Path, tmp_path: Path) -> None:
    elsewhere = file.parent.rename(tmp_path / "elsewhere")
    (file.parents[1] / "two").symlink_to(elsewhere)
    (file.parents[1] / "latest").symlink_to(elsewhere)
    (path,) = launches(file)
    assert path.samefile(elsewhere / file.name)


def test_a_launch_that_is_named_twice_counts_once(file: Path) -> None:
    for paths in ([file, file], [file.parent, file], [file.parent, file.parent]):
        assert len([*recording_file.read_launches(paths)]) == 1


def test_links_that_lead_up_or_back_are_not_followed(file: Path) -> None:
    (file.parent / "up").symlink_to("..")
    (file.parent / "top").symlink_to("/")
    (file.parents[1] / "two").mkdir()
    (file.parents[1] / "two" / "other").symlink_to("../three")
    (file.parents[1] / "three").mkdir()
    (file.parents[1] / "three" / "other").symlink_to("../two")
    assert launches(file) == [file]


def test_a_link_to_nothing_may_have_led_to_launches(file: Path) -> None:
    link = file.parents[1] / "two"
    link.symlink_to("/not/mounted")
    assert refusal(file.parents[1]) == (
        f"{link} is a link to /not/mounted, and nothing is there: what it holds is unknown.\n"
        f"Fetch or mount that, or delete the link: rm {link}"
    )


def test_a_folder_that_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def denied(path: Path) -> object:
        if Path(path) == file.parent:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)  # root may read all
    assert refusal(file.parents[1]) == (
        f"{file.parent} cannot be read: Permission denied. What it holds is unknown.\n"
        f"Make it readable, or move it out of {file.parents[1]}."
    )


def zipped(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(folder)


def tarred(mode: str) -> Callable[[Path, Path], None]:
    def pack(folder: Path, archive: Path) -> None:
        with tarfile.open(archive, mode) as packed:  # type: ignore[call-overload]
            packed.add(folder)

    return pack


@pytest.mark.parametrize(
    ("name", "pack", "kind"),
    [
        ("artifact.zip", zipped, "zip"),
        ("artifact.tar.gz", tarred("w:gz"), "tar"),
        ("artifact.json.gz", tarred("w"), "tar"),
    ],
)
def test_an_archive_is_to_be_unpacked(
    file: Path, tmp_path: Path, name: str, pack: Callable[[Path, Path], None], kind: str
) -> None:
    pack(file.parent, tmp_path / name)
    assert refusal(tmp_path / name) == (
        f"{tmp_path / name} is a {kind} archive. Unpack it, and give the folder."
    )
