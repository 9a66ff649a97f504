"""Files of recordings, gzipped JSON: written whole or not at all, read within limits."""

import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_energy.errors import RecordingError
from pytest_energy.recording.folder import archive, files_below
from pytest_energy.recording.recording import Recording
from pytest_energy.recording.schema import from_json, to_json
from pytest_energy.safety import untrusted
from pytest_energy.safety.files import link_to_nothing, write_atomically
from pytest_energy.safety.untrusted import Malformed

# The largest recording of a GPU so far unpacks to 51 kB and holds some 10,000 numbers; ten minutes
# of 1 ms steps would make 7 MB.
_MAX_BYTES = 20_000_000  # unpacked
_MAX_PACKED_BYTES = 10_000_000


def write(recording: Recording, path: Path) -> None:
    """Write `recording` to `path` whole or not at all; the same recording gives the same bytes."""
    text = json.dumps(to_json(recording), separators=(",", ":"), sort_keys=True, allow_nan=False)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
        file.write(text.encode())
    write_atomically(path, packed.getvalue())


def read(path: Path) -> Recording:
    """Read the recording at `path`.

    Raises:
        RecordingError: the file cannot be read, is larger than 10 MB, unpacks to more than 20 MB,
            or does not hold a recording.
    """
    try:
        return from_json(untrusted.parse(_unpack(untrusted.read(path, _MAX_PACKED_BYTES))))
    except RecordingError as error:
        raise RecordingError(f"recording {path}: {error}") from None
    except (OSError, Malformed) as error:
        what = (
            f"is damaged or not a recording: {error}"
            if isinstance(error, Malformed)
            else link_to_nothing(path) or f"cannot be read: {error.strerror}"
        )
        raise RecordingError(
            f"recording {path} {what}.\nFetch it again, or leave it out."
        ) from None


def _unpack(packed: bytes) -> bytes:
    """What `write` packed: a single gzip stream, unpacked no further than the limit."""
    instead = untrusted.stand_in(packed)
    if instead:
        raise Malformed(f"it is {instead.what}; {instead.fetched_by}")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(packed, _MAX_BYTES + 1)
    except zlib.error:
        raise Malformed("it is not gzipped, or some of its bytes were changed") from None
    if len(content) > _MAX_BYTES:
        raise Malformed(
            f"it unpacks to more than {_MAX_BYTES / 1e6:g} MB, and a real one to some 50 kB"
        )
    if not unpacker.eof:
        raise Malformed("it is truncated")
    if unpacker.unused_data:
        raise Malformed("something follows its end")
    return content


def find(path: Path) -> Iterator[Path]:
    """The recording files at or below `path`, in a stable order.

    Raises:
        RecordingError: nothing is there, or not all that is there can be told.
    """
    kind = archive(path)
    if kind:
        raise RecordingError(f"{path} is {kind}. Unpack it, and give the folder.")
    files = files_below(path) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        what = (
            "holds no recordings (*.json.gz)"
            if path.is_dir()
            else "is not a file or a folder"
            if path.exists()
            else "does not exist"
        )
        raise RecordingError(
            f"{path} {what}. "
            "Give a folder that --energy-record wrote, such as recordings/GPU/LABEL."
        )
    yield from files


def _refuse_another(recorded: Recording, file: Path, first: Path) -> None:
    """Refuse a file of a launch that another file holds otherwise."""
    if recorded != read(first):
        raise RecordingError(
            f"{first} and {file} are the same launch of the same cell, and differ.\n"
            "Which of them counts is not known. Leave one out, or move it elsewhere."
        )


def read_launches(paths: Sequence[Path]) -> Iterator[tuple[Recording, ...]]:
    """The recordings at or below `paths` by cell and launch: each launch with its periods in order.

    They come as they are read, so that memory holds one at a time, and interleaved launches last.
    A file given twice, and a copy, count once.

    Raises:
        RecordingError: a file is damaged, a path holds no recordings, a launch lacks a period, or
            two files hold one launch otherwise.
    """
    seen: dict[tuple[str, str, int], Path] = {}
    interleaved: dict[tuple[str, str], dict[int, Recording]] = {}
    for path in paths:
        for file in find(path):
            recorded = read(file)
            launch = recorded.key.canonical, recorded.launch_id
            period = (*launch, recorded.period)
            if period in seen:
                if seen[period] != file:
                    _refuse_another(recorded, file, seen[period])
                continue
            seen[period] = file
            if recorded.co_resident is None and recorded.period == 0:
                yield (recorded,)
            else:
                interleaved.setdefault(launch, {})[recorded.period] = recorded
    for (_, launch_id), periods in interleaved.items():
        missing = next(period for period in itertools.count() if period not in periods)
        if missing < len(periods):
            raise RecordingError(
                f"launch {launch_id}: period {missing} is missing. "
                "Fetch all of its files, or leave the launch out."
            )
        yield tuple(recorded for _, recorded in sorted(periods.items()))
