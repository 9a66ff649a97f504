"""Power fails between any two operations of an update: the old or the new baseline is whole."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.measure.measurement import measure
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from pytest_energy.recording.folder import SUFFIX
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Store
from tests import simulated
from tests.driver import UUIDS
from tests.faults import disk, setting
from tests.simulated import GPU_NAME

Disk = dict[str, bytes]  # content by name


class Platter:
    """What may be on the disk after a power failure, given the operations so far.

    As POSIX promises and no more: a file's content is what was there when it was last synced, or
    any part of what was written since; a folder's entries are those of its last fsync, with any
    number of the changes since, in order. A rename changes one entry at once.
    """

    def __init__(self, entries: Disk) -> None:
        self._synced = dict(entries)
        self._changes: list[Callable[[Disk], None]] = []
        self._unsynced: dict[str, bytes] = {}

    def create(self, name: str) -> None:
        self._unsynced[name] = b""
        self._changes.append(lambda entries: entries.__setitem__(name, b""))

    def write(self, name: str, content: bytes) -> None:
        self._unsynced[name] = content

    def fsync(self, name: str) -> None:
        content = self._unsynced.pop(name)
        self._changes.append(lambda entries: entries.__setitem__(name, content))

    def rename(self, name: str, target: str) -> None:
        lost = self._unsynced.pop(name, None)

        def change(entries: Disk) -> None:
            entries[target] = entries.pop(name, b"")

        self._changes.append(change)
        if lost is not None:
            self._unsynced[target] = lost

    def fsync_folder(self) -> None:
        for change in self._changes:
            change(self._synced)
        self._changes.clear()

    def states(self) -> Iterator[Disk]:
        for count in range(len(self._changes) + 1):
            entries = dict(self._synced)
            for change in self._changes[:count]:
                change(entries)
            yield entries
            for name, content in self._unsynced.items():
                if name in entries:
                    for part in (content, content[: len(content) // 2], content[:1]):
                        yield {**entries, name: part}


def states_of(
    monkeypatch: pytest.MonkeyPatch, path: Path, change: Callable[[], object]
) -> tuple[list[Disk], list[Disk]]:
    """All that the folder of `path` may hold if power fails during `change` or after it."""
    folder = path.parent
    platter = Platter({path.name: path.read_bytes()} if path.exists() else {})
    seen: list[Disk] = []
    temporary = ""

    def before(operation: str, at: Path) -> None:
        nonlocal temporary
        made = {
            p.name: p.read_bytes()
            for p in folder.iterdir()
            if p.is_file() and p.name.startswith(".")
        }
        if made and not temporary:
            (temporary,) = made
            platter.create(temporary)
        if temporary and made.get(temporary) and operation == "fsync":
            platter.write(temporary, made[temporary])
        seen.extend(platter.states())
        # The operation itself, and what may be there once it has been done.
        if operation == "fsync":
            platter.fsync(at.name)
        elif operation == "rename":
            platter.rename(temporary, at.name)
        elif operation == "fsync of the folder":
            platter.fsync_folder()
        seen.extend(platter.states())

    with monkeypatch.context() as patch:
        disk.watch(patch, folder, before)
        change()
    return seen, list(platter.states())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    setting.make(tmp_path)
    return tmp_path


def found(project: Path, key: object, content: bytes | None, path: Path) -> Baseline | None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)
    return Store(project / "baselines").find(key, GPU_NAME, UUIDS[:1])  # type: ignore[arg-type]


def updated(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Disk], list[Disk], bytes | None, bytes, Path]:
    path = project / "baselines" / "simulated-gpu" / "tiny.gpu-aaaaaaaa.json"
    old = path.read_bytes() if path.exists() else None
    cell = Marked.from_arguments((), setting.MARKER).cell(2, project)
    launches = [
        measure(
            simulated.recording(
                cell, f"new-{n}", 90.0, 400.0, cycles=40.5, environment={"gpu_uuids": (UUIDS[0],)}
            )
        )
        for n in range(3)
    ]
    states, settled = states_of(
        monkeypatch, path, lambda: Store(project / "baselines").update(launches, {})
    )
    return states, settled, old, path.read_bytes(), path


@pytest.mark.parametrize("first", [False, True], ids=["replaced", "created"])
def test_a_baseline_is_the_old_one_or_the_new_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    path = project / "baselines" / "simulated-gpu" / "tiny.gpu-aaaaaaaa.json"
    if first:
        path.unlink()
    states, settled, old, new, path = updated(project, monkeypatch)
    assert {state.get(path.name) for state in states} == {old, new}
    assert states[0].get(path.name) == old
    assert settled == [{path.name: new}]
    store = Store(project / "baselines")
    key = store.entries()[0].key
    read = [found(project, key, content, path) for content in (old, new)]
    assert [b and round(b.summary.power_w) for b in read] == [None if first else 100, 90]


def test_unfinished_files_are_not_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, *_, path = updated(project, monkeypatch)
    names = {name for state in states for name in state} - {path.name}
    assert names
    for name, content in itertools.product(names, (b"", b'{"half": ')):
        (path.parent / name).write_bytes(content)
    assert len(Store(project / "baselines").entries()) == 2


def test_the_model_of_the_disk_finds_what_the_order_of_operations_guards_against() -> None:
    """A rename of a file that was not synced."""
    platter = Platter({"tiny.json": b"old"})
    platter.create(".x")
    platter.write(".x", b"new")
    platter.rename(".x", "tiny.json")
    assert {state["tiny.json"] for state in platter.states()} == {b"old", b"", b"n", b"new"}


def test_a_recording_is_there_whole_or_not_at_all(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json.gz"
    states, settled = states_of(
        monkeypatch, path, lambda: recording_file.write(simulated.recording(cell), path)
    )
    assert {state.get(path.name) for state in states} == {None, path.read_bytes()}
    assert settled == [{path.name: path.read_bytes()}]
    for state in states:
        for name in state:
            assert name == path.name or not name.endswith(SUFFIX)
