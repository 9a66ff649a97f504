"""Bombs: files that unpack or parse to more than a machine has are refused quickly.

Each reader meets them in a process that may take no more than the stated memory on top.
"""

import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.hostile import seeds

_LIMIT_MB = {"recording": 400, "baseline": 400, "noise": 400, "results": 800, "config": 400}
_LIMIT_CPU_S = 20

_CHILD = """
import resource, sys, time
from pathlib import Path
from pytest_energy.store.baselines import Store
from pytest_energy.cell.model import Model
from pytest_energy.errors import EnergyError
from pytest_energy.store.noise import NoiseStore
from pytest_energy.recording.recording_file import read_launches
from pytest_energy.report import results, results_file

kind, limit_mb = sys.argv[1], int(sys.argv[2])
readers = {
    "recording": lambda folder: list(read_launches([folder])),
    "baseline": lambda folder: Store(folder).entries(),
    "noise": lambda folder: NoiseStore(folder).check(),
    "results": lambda folder: results_file.read(folder / "results.json"),
    "config": Model.from_folder,
}
pages = int(Path("/proc/self/statm").read_text().split()[0])
size = pages * resource.getpagesize() + limit_mb * 1_000_000
resource.setrlimit(resource.RLIMIT_AS, (size, size))
for folder in map(Path, sys.argv[3:]):
    started = time.process_time()
    try:
        readers[kind](folder)
        print("read")
    except EnergyError as error:
        print("refused in", time.process_time() - started, "s:", str(error).replace("\\n", " "))
"""
_PLACES = {
    "recording": "x.json.gz",
    "baseline": "gpu/model.json",
    "noise": "gpu/noise/model.json",
    "results": "results.json",
    "config": "config.json",
}


def gzipped(head: bytes, block: bytes, times: int) -> bytes:
    """A gzip stream of `head` and many times `block`, made fast: its checksum is wrong."""
    packer = zlib.compressobj(9, wbits=31)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)) * times


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50_000_000_000)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def wide(path: Path) -> None:
    """As many empty objects as fit."""
    path.write_bytes(b"[" + b"{}," * 3_000_000 + b"{}]")


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 5_000_000)


def long_number(path: Path) -> None:
    path.write_bytes(b"[" + b"9" * 9_000_000 + b"]")


PLAIN: list[Callable[[Path], None]] = [sparse, endless, wide, deep, long_number]
PACKED = {
    "spaces": lambda: gzipped(b"", b" " * 50_000_000, 200),  # 10 GB
    "zeros": lambda: gzipped(b'{"schema_version":2,"tokens":[', b"0," * 20_000_000, 250),
    "objects": lambda: gzipped(b"[", b"{}," * 6_000_000, 1),
    "empty members": lambda: zlib.compress(b"", wbits=31) * 400_000,
    "twice": lambda: zlib.compress(zlib.compress(b" " * 400_000_000, 9, 31), 9, 31),
}


def refusals(kind: str, *folders: Path) -> list[str]:
    """What a process of little memory says of each folder, which it must refuse quickly."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, kind, str(_LIMIT_MB[kind]), *map(str, folders)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    lines = child.stdout.splitlines()
    assert len(lines) == len(folders)
    for line in lines:
        assert line.startswith("refused in "), line
        assert float(line.split()[2]) < _LIMIT_CPU_S
    return lines


@pytest.mark.parametrize("kind", _PLACES)
def test_files_of_any_size(tmp_path: Path, kind: str) -> None:
    places = {}
    for damage in PLAIN:
        if kind == "config" and damage is wide:
            continue  # it is vLLM's file, and may hold what it likes within its size
        path = tmp_path / damage.__name__ / _PLACES[kind]
        path.parent.mkdir(parents=True)
        damage(path)
        places[tmp_path / damage.__name__] = path
    for line, path in zip(refusals(kind, *places), places.values(), strict=True):
        assert str(path) in line


def test_recordings_that_unpack_without_end(tmp_path: Path) -> None:
    for bomb, content in PACKED.items():
        (tmp_path / bomb).mkdir()
        (tmp_path / bomb / "x.json.gz").write_bytes(content())
    told = dict(
        zip(PACKED, refusals("recording", *(tmp_path / bomb for bomb in PACKED)), strict=True)
    )
    for bomb, line in told.items():
        assert str(tmp_path / bomb / "x.json.gz") in line
        assert "Fetch it again, or leave it out." in line
    for bomb in ("spaces", "zeros"):
        assert "it unpacks to more than 20 MB, and a real one to some 50 kB" in told[bomb]


def test_results_with_nothing_but_errors(tmp_path: Path) -> None:
    content = seeds.results()[0]
    content["entries"][0]["reasons"] = [0] * 490_000
    (tmp_path / "results.json").write_text(json.dumps(content, separators=(",", ":")))
    assert "reasons.0 is 0, but must be a text." in refusals("results", tmp_path)[0]


def test_the_limit_is_far_from_what_ships() -> None:
    """The largest recording of a real launch is four hundred times smaller than the limit."""
    largest = max(
        len(zlib.decompress(path.read_bytes(), wbits=31))
        for path in (ROOT / "recordings").rglob("*.json.gz")
    )
    assert largest < 20_000_000 / 100
