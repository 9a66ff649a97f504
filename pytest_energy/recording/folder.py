"""Which files below a folder are recordings; none is passed over without a word."""

import contextlib
import os
import shlex
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from pytest_energy.errors import RecordingError
from pytest_energy.safety.files import is_hidden, link_to_nothing

SUFFIX = ".json.gz"
# The names of a recording are sorted; the second and third are of its first three versions.
_BEGINNINGS = b'{"client":', b'{"beside":', b'{"cpu":'
_GZIP, _ZIP, _TAR = b"\x1f\x8b", b"PK\x03\x04", b"ustar"  # the last at byte 257
_START = 4_000  # bytes that tell what a file is


def files_below(folder: Path) -> list[Path]:
    """The files, sorted. Links to folders are followed, but for those that lead up or back.

    Raises:
        RecordingError: a folder cannot be looked into, a link leads to nothing, or a recording has
            a name that is not looked for: how many launches there are is unknown.
    """
    files = []
    try:
        for path in _walk(folder):
            _refuse_link_to_nothing(path)
            if path.name.endswith(SUFFIX):
                files.append(path)
            else:
                _refuse_other_name(path)
    except OSError as problem:
        raise RecordingError(
            f"{problem.filename} cannot be read: {problem.strerror}. What it holds is unknown.\n"
            f"Make it readable, or move it out of {folder}."
        ) from None
    return sorted(files)


def _walk(folder: Path) -> Iterator[Path]:
    """All files, without what editors and file managers leave."""

    def stop(problem: OSError) -> None:
        raise problem

    walked = {os.path.realpath(folder)}

    def is_new(path: Path) -> bool:
        """Whether it is to be walked: neither hidden, nor above this folder, nor walked before."""
        leads_to = os.path.realpath(path)
        up = Path(os.path.realpath(path.parent)).is_relative_to(leads_to)
        if up or is_hidden(path, folder) or leads_to in walked:
            return False
        walked.add(leads_to)
        return True

    for top, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        place = Path(top)
        folders[:] = [name for name in sorted(folders) if is_new(place / name)]
        yield from (place / name for name in names if not is_hidden(place / name, folder))


def _refuse_link_to_nothing(path: Path) -> None:
    words = link_to_nothing(path)
    if words:
        raise RecordingError(
            f"{path} {words}: what it holds is unknown.\n"
            f"Fetch or mount that, or delete the link: rm {shlex.quote(str(path))}"
        )


def _refuse_other_name(path: Path) -> None:
    """Refuse a recording that a browser unpacked, a copy under another name, and a part of one."""
    start = _start(path)
    if start.startswith(_BEGINNINGS):
        raise RecordingError(
            f"{path} is a recording that was unpacked, and would not count.\n"
            f"Pack it again, or move it elsewhere: gzip {shlex.quote(str(path))}"
        )
    if _unpacked(start).startswith(_BEGINNINGS):
        raise RecordingError(
            f"{path} is a recording, or a part of one, and would not count.\n"
            f"Let its name end with {SUFFIX}, fetch it whole, or move it elsewhere."
        )


def archive(path: Path) -> str | None:
    """What kind of archive a file is, as CI systems pack recordings; None if it is none."""
    start = _start(path)
    if start.startswith(_ZIP):
        return "a zip archive"
    return "a tar archive" if _TAR in (start[257:262], _unpacked(start)[257:262]) else None


def _start(path: Path) -> bytes:
    """The first bytes of a regular file that can be read; of others none."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                return file.read(_START)
    return b""


def _unpacked(start: bytes) -> bytes:
    if not start.startswith(_GZIP):
        return b""
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(wbits=31).decompress(start, _START)
    return b""
