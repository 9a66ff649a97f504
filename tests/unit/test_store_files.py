"""What sync tools, editors, merges and Git LFS leave in a store."""

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.errors import BaselineError, EnergyError, NoiseError
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.safety.files import unwritable
from pytest_energy.store.baselines import Store, Update
from pytest_energy.store.noise import NoiseStore
from tests.simulated import GPU_NAME, UUID, recording

BASELINE, NOISE = "simulated-gpu/tiny.gpu-00000000.json", "simulated-gpu/noise/tiny.json"


def launches(cell: Cell, names: str = "abc", power_w: float = 500.0) -> list[Measurement]:
    return [measure(recording(cell, name, power_w, cycles=12.5)) for name in names]


def update(folder: Path, measured: Sequence[Measurement]) -> Update:
    return Store(folder).update(measured, {"joules_per_token": 0.03})


def write_noise(folder: Path, measured: Sequence[Measurement]) -> int:
    return NoiseStore(folder).add(measured)


def stored_j(folder: Path, cell: Cell) -> float:
    found = Store(folder).find(cell.key, GPU_NAME, [UUID])
    assert found is not None
    return found.summary.joules_per_token


@pytest.fixture
def store(tmp_path: Path, cell: Cell) -> Path:
    """A store with a baseline and a noise file."""
    folder = tmp_path / "baselines"
    update(folder, launches(cell))
    NoiseStore(folder).add(launches(cell))
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(kind: type[EnergyError], folder: Path, cell: Cell) -> str:
    """What both reading and writing say; neither changes a file."""
    said, before = set(), contents(folder)
    if kind is BaselineError:
        with pytest.raises(BaselineError) as caught:
            Store(folder).entries()
        said.add(str(caught.value))
        with pytest.raises(BaselineError) as caught:
            update(folder, launches(cell, power_w=450.0))
        said.add(str(caught.value))
    else:
        with pytest.raises(NoiseError) as error:
            NoiseStore(folder).check()
        said.add(str(error.value))
        with pytest.raises(NoiseError) as error:
            NoiseStore(folder).add(launches(cell, "d"))
        said.add(str(error.value))
    assert contents(folder) == before
    (message,) = said
    return message


@pytest.mark.parametrize("copy", ["tiny (1).json", "tiny - Copy.json", "tiny_REMOTE_4711.json"])
@pytest.mark.parametrize(("kind", "file"), [(BaselineError, BASELINE), (NoiseError, NOISE)])
def test_a_copy_beside_the_original_is_refused_by_both_names(
    store: Path, cell: Cell, kind: type[EnergyError], file: str, copy: str
) -> None:
    original = store / file
    shutil.copy(original, original.with_name(copy))
    message = refusal(kind, store, cell)
    assert "stands twice in the store" in message
    assert str(original) in message
    assert str(original.with_name(copy)) in message
    assert "Delete the copy" in message


def test_a_copy_in_another_folder_is_refused(store: Path, cell: Cell) -> None:
    shutil.copytree(store / "simulated-gpu", store / "simulated-gpu.old")
    assert "simulated-gpu.old/tiny.gpu-00000000.json" in refusal(BaselineError, store, cell)


def test_an_entry_twice_in_one_file_is_refused(store: Path, cell: Cell) -> None:
    path = store / BASELINE
    content = json.loads(path.read_text())
    ((name, entry),) = content["cells"].items()
    content["cells"] = {name: entry, f"{name} (2)": entry}
    path.write_text(json.dumps(content))
    assert f"{name} (2)" in refusal(BaselineError, store, cell)


@pytest.mark.parametrize("what", ["launch", "cell"])
@pytest.mark.parametrize(("kind", "file"), [(BaselineError, BASELINE), (NoiseError, NOISE)])
def test_what_a_union_merge_doubles_does_not_count_twice(
    store: Path, cell: Cell, kind: type[EnergyError], file: str, what: str
) -> None:
    content = json.loads((store / file).read_text())
    cells = content["cells"]
    entry = cells[0] if file == NOISE else next(iter(cells.values()))
    if what == "launch":
        entry["launches"].append(entry["launches"][0])
    elif file == NOISE:
        cells.append(entry)
    else:
        cells["again"] = entry
    (store / file).write_text(json.dumps(content))
    assert "stands" in (message := refusal(kind, store, cell))
    assert "twice" in message


def test_an_update_writes_where_the_entry_was_found(store: Path, cell: Cell) -> None:
    renamed = (store / BASELINE).rename(store / "simulated-gpu" / "tiny-bf16.json")
    other = replace(cell, batch_size=4)
    for measured in (launches(cell, power_w=450.0), launches(other)):
        assert update(store, measured).path == renamed
    assert [path for path in contents(store) if "noise" not in path.parts] == [renamed]
    assert stored_j(store, cell) == pytest.approx(0.45, rel=1e-3)


def test_noise_is_found_and_added_to_whatever_its_file_is_called(store: Path, cell: Cell) -> None:
    renamed = (store / NOISE).rename(store / "simulated-gpu/noise/tiny-bf16.json")
    assert NoiseStore(store).noise(cell.key, GPU_NAME, Metric.JOULES_PER_TOKEN).launches == 3
    assert NoiseStore(store).add(launches(cell, "abcd")) == 1
    assert NoiseStore(store).noise(cell.key, GPU_NAME, Metric.JOULES_PER_TOKEN).launches == 4
    assert list(renamed.parent.iterdir()) == [renamed]


def in_noise(folder: Path, cell: Cell) -> int:
    return NoiseStore(folder).noise(cell.key, GPU_NAME, Metric.JOULES_PER_TOKEN).launches


def test_baseline_and_noise_are_found_whatever_the_gpus_folder_is_called(
    store: Path, cell: Cell
) -> None:
    renamed = (store / "simulated-gpu").rename(store / "rack 7")
    assert stored_j(store, cell) == pytest.approx(0.5, rel=1e-3)
    assert in_noise(store, cell) == 3
    assert NoiseStore(store).add(launches(cell, "d")) == 1
    update(store, launches(cell, power_w=450.0))
    assert {*contents(store)} == {
        renamed / "tiny.gpu-00000000.json",
        renamed / "noise" / "tiny.json",
    }


def test_the_folder_of_a_gpu_may_hold_the_files_of_another(store: Path, cell: Cell) -> None:
    """As after folders were renamed; their noise is not taken for the other model's."""
    for path in contents(store):
        path.write_text(path.read_text().replace(GPU_NAME, "simulated GPU "))
    assert in_noise(store, cell) == 0
    assert NoiseStore(store).add(launches(cell, "de")) == 2
    update(store, launches(cell))
    folder = store / "simulated-gpu"
    assert {*contents(store)} == {
        *(folder / f"tiny.gpu-00000000{number}.json" for number in ("", "-2")),
        *(folder / "noise" / name for name in ("tiny.json", "tiny-2.json")),
    }
    assert in_noise(store, cell) == 2


def test_noise_of_an_earlier_version_is_its_folders_until_it_is_added_to(
    store: Path, cell: Cell
) -> None:
    content = json.loads((store / NOISE).read_text())
    del content["gpu_name"]
    (store / NOISE).write_text(json.dumps({**content, "schema_version": 2}))
    (store / "simulated-gpu").rename(store / "h100")
    assert in_noise(store, cell) == 0
    (store / "simulated-gpu").symlink_to("h100")
    assert in_noise(store, cell) == 3
    (store / "simulated-gpu").unlink()
    (store / "h100").rename(store / "simulated-gpu")
    assert in_noise(store, cell) == 3
    assert NoiseStore(store).add(launches(cell, "d")) == 1
    assert json.loads((store / NOISE).read_text())["gpu_name"] == GPU_NAME


@pytest.mark.parametrize("of_old_version", [True, False])
def test_noise_of_one_gpu_in_two_folders_is_refused(
    store: Path, cell: Cell, of_old_version: bool
) -> None:
    copy = store / "copy" / "noise" / "tiny.json"
    copy.parent.mkdir(parents=True)
    shutil.copy(store / NOISE, copy)
    if of_old_version:
        content = json.loads(copy.read_text())
        del content["gpu_name"]
        (store / NOISE).write_text(json.dumps({**content, "schema_version": 2}))
    message = refusal(NoiseError, store, cell)
    assert str(copy) in message
    assert str(store / NOISE) in message


@pytest.mark.parametrize(
    ("link", "to"),
    [
        ("h100", "simulated-gpu"),
        ("simulated-gpu/alias.json", "tiny.gpu-00000000.json"),
        ("simulated-gpu/noise/alias.json", "tiny.json"),
        ("same", "."),
    ],
)
def test_a_link_within_the_store_is_no_copy(store: Path, cell: Cell, link: str, to: str) -> None:
    (store / link).symlink_to(to)
    assert stored_j(store, cell) == pytest.approx(0.5, rel=1e-3)
    assert in_noise(store, cell) == 3
    NoiseStore(store).check()
    assert NoiseStore(store).add(launches(cell, "d")) == 1
    update(store, launches(cell, power_w=450.0))
    assert stored_j(store, cell) == pytest.approx(0.45, rel=1e-3)
    assert (store / link).is_symlink()


@pytest.mark.parametrize(
    ("kind", "file", "name"),
    [
        (BaselineError, BASELINE, "simulated-gpu/copy.json"),
        (BaselineError, BASELINE, "simulated-gpu.old/tiny.gpu-00000000.json"),
        (NoiseError, NOISE, "simulated-gpu/noise/copy.json"),
        (NoiseError, NOISE, "simulated-gpu.old/noise/tiny.json"),
    ],
)
def test_a_hard_link_is_no_copy_until_the_file_is_replaced(
    store: Path, cell: Cell, kind: type[EnergyError], file: str, name: str
) -> None:
    """As tools that save space make them of copies; Git and other machines have two files."""
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    (store / name).hardlink_to(store / file)
    assert stored_j(store, cell) == pytest.approx(0.5, rel=1e-3)
    assert in_noise(store, cell) == 3
    NoiseStore(store).check()
    before = contents(store)
    write = update if kind is BaselineError else write_noise
    with pytest.raises(kind, match="are one file under two names") as caught:
        write(store, launches(cell, "def"))
    assert contents(store) == before
    (command,) = re.findall(r"rm \S+$", str(caught.value))
    subprocess.run(shlex.split(command), check=True)
    update(store, launches(cell, power_w=450.0))
    assert stored_j(store, cell) == pytest.approx(0.45, rel=1e-3)
    write_noise(store, launches(cell, "d"))
    assert in_noise(store, cell) == 4


def test_a_hard_link_outside_of_the_store_keeps_what_it_was(store: Path, cell: Cell) -> None:
    """As in a backup."""
    backup = store.with_name("backup.json")
    backup.hardlink_to(store / BASELINE)
    before = backup.read_bytes()
    update(store, launches(cell, power_w=450.0))
    assert backup.read_bytes() == before


def test_a_store_is_looked_through_once_however_many_cells_are_looked_up(
    store: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again for an update, since others may have changed it."""
    scans: list[str] = []
    scandir = os.scandir

    def counted(path: str | Path = ".") -> object:
        scans.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)

    def lookups(store_: Store, noise: NoiseStore, cells: int) -> int:
        scans.clear()
        for batch_size in range(1, cells + 1):
            key = replace(cell, batch_size=batch_size).key
            store_.find(key, GPU_NAME, [UUID])
            store_.near_misses(key, GPU_NAME)
            noise.floor(key, GPU_NAME, Metric.JOULES_PER_TOKEN)
        return len(scans)

    one = lookups(Store(store), NoiseStore(store), cells=1)
    baselines, noise = Store(store), NoiseStore(store)
    assert lookups(baselines, noise, cells=4) == one > 0
    assert lookups(baselines, noise, cells=4) == 0
    other = replace(cell, batch_size=8)
    update(store, launches(other))  # of another process
    NoiseStore(store).add(launches(cell, "d"))
    baselines.update(launches(cell, "def", power_w=450.0), {"joules_per_token": 0.03})
    assert noise.add(launches(cell, "de")) == 1
    assert {entry.key.batch_size for entry in baselines.entries()} == {cell.batch_size, 8}
    assert noise.noise(cell.key, GPU_NAME, Metric.JOULES_PER_TOKEN).launches == 5


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (BaselineError, "simulated-gpu/other.json"),
        (NoiseError, "simulated-gpu/noise/other.json"),
        (BaselineError, "h100"),
        (NoiseError, "h100"),
        (NoiseError, "simulated-gpu/noise"),
    ],
)
@pytest.mark.parametrize(
    ("to", "remedy"), [("gone", "rm "), (".git/annex/objects/SHA256E-s9", "git annex get ")]
)
def test_a_link_to_nothing_hides_no_file(
    store: Path, cell: Cell, kind: type[EnergyError], link: str, to: str, remedy: str
) -> None:
    """What a submodule, a mount or git-annex would bring is unknown, and not missing."""
    if (store / link).exists():
        shutil.rmtree(store / link)
    (store / link).symlink_to(to)
    message = refusal(kind, store, cell)
    assert f"{store / link} is a link to {to}, and nothing is there" in message
    assert f"{remedy}{store / link}" in message


def test_a_store_that_is_a_link_to_nothing_is_not_empty(store: Path) -> None:
    link = store.with_name("linked")
    link.symlink_to("gone")
    assert unwritable(link) == f"{link} is a link to nothing"
    for use in (Store(link).entries, NoiseStore(link).check):
        with pytest.raises(EnergyError, match="linked is a link to gone, and nothing is there"):
            use()


@pytest.mark.parametrize("kind", [BaselineError, NoiseError])
@pytest.mark.parametrize(
    ("file", "to"),
    [
        (BASELINE, "rack/simulated-gpu/tiny.gpu-00000000.json"),
        (NOISE, "rack/simulated-gpu/noise/tiny.json"),
        (NOISE, "simulated-gpu/Noise/tiny.json"),
        (BASELINE, "simulated-gpu/tiny.JSON"),
        (BASELINE, "tiny.json"),
        (NOISE, "simulated-gpu/tiny.json"),
        (NOISE, "simulated-gpu/other.json"),
        (NOISE, "tiny.json"),
        (BASELINE, "simulated-gpu/noise/tiny.json"),
        (BASELINE, "simulated-gpu/noise/other.json"),
    ],
)
def test_a_file_where_none_is_looked_for_is_not_passed_over(
    store: Path, cell: Cell, kind: type[EnergyError], file: str, to: str
) -> None:
    (store / to).parent.mkdir(parents=True, exist_ok=True)
    (store / file).rename(store / to)
    message = refusal(kind, store, cell)
    what = "baseline" if file == BASELINE else "noise"
    assert f"{store / to} is a {what} file, and is not looked for there" in message


def test_other_peoples_files_in_a_store_are_theirs(store: Path, cell: Cell) -> None:
    theirs = store / "other" / "tool" / "package.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{"schema_version": 1, "cells": []}')
    assert stored_j(store, cell) == pytest.approx(0.5, rel=1e-3)
    assert in_noise(store, cell) == 3


@pytest.mark.parametrize("kind", [BaselineError, NoiseError])
def test_a_folder_that_cannot_be_looked_into_is_not_empty(
    store: Path, cell: Cell, kind: type[EnergyError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser, as who tests run in containers, may look into each: so a stand-in refuses."""
    iterdir = Path.iterdir

    def refuse(place: Path) -> Iterator[Path]:
        if place.name == "simulated-gpu":
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(place)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "simulated-gpu cannot be read: Permission denied" in refusal(kind, store, cell)


def test_models_whose_names_make_one_file_name_get_two_files(store: Path, cell: Cell) -> None:
    other = replace(cell, model=replace(cell.model, name="Tiny"))
    assert update(store, launches(other, power_w=400.0)).path.name == "tiny.gpu-00000000-2.json"
    assert update(store, launches(other, "def", power_w=400.0)).done == "changed"
    assert stored_j(store, other) == pytest.approx(0.4, rel=1e-3)
    assert stored_j(store, cell) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "simulated-gpu/._tiny.json",  # AppleDouble: a Mac's copy to a foreign file system
        "simulated-gpu/.#tiny.json",  # Emacs' lock, a link to nothing
        "simulated-gpu/~$tiny.json",
        "simulated-gpu/tiny.gpu-00000000.json~",
        "simulated-gpu/#tiny.json#",
        "simulated-gpu/.tiny.json.swp",
        ".ipynb_checkpoints/tiny-checkpoint.json",
        "simulated-gpu/noise/._tiny.json",
        ".stversions/noise/tiny.json",
    ],
)
def test_what_editors_and_file_managers_leave_is_skipped(
    store: Path, cell: Cell, name: str
) -> None:
    left = store / name
    left.parent.mkdir(parents=True, exist_ok=True)
    if ".#" in name:
        left.symlink_to("me@host.4711")
    else:
        left.write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    assert stored_j(store, cell) == pytest.approx(0.5, rel=1e-3)
    NoiseStore(store).check()
    update(store, launches(cell, power_w=450.0))
    assert NoiseStore(store).add(launches(cell, "d")) == 1


def git(folder: Path, *words: str, check: bool = True) -> str:
    me = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", folder, *me, *words], capture_output=True, text=True, check=check
    )
    return done.stdout


def conflict(folder: Path, file: str, how: str) -> None:
    """Leave conflict markers in a file that two branches changed."""

    def commit(number: str) -> None:
        path = folder / file
        path.write_text(re.sub(r"\[0\.\d*", f"[0.{number}", path.read_text()))
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", number)

    git(folder, "init", "-q", "-b", "main")
    commit("5")
    git(folder, "checkout", "-qb", "other")
    commit("48")
    git(folder, "checkout", "-q", "main")
    commit("49")
    git(folder, *how.split(), "other", check=False)


@pytest.mark.parametrize("how", ["merge", "rebase", "cherry-pick"])
@pytest.mark.parametrize(("kind", "file"), [(BaselineError, BASELINE), (NoiseError, NOISE)])
def test_in_a_merge_the_command_that_the_message_names_mends_it(
    store: Path, cell: Cell, kind: type[EnergyError], file: str, how: str
) -> None:
    conflict(store, file, how)
    message = refusal(kind, store, cell)
    assert re.search(r"holds both sides of a merge \(conflict marker in line \d+\)", message)
    (command,) = re.findall(r"git checkout HEAD -- \S+", message)
    subprocess.run(shlex.split(command), cwd=store, check=True, capture_output=True)
    assert git(store, "diff", "--name-only", "--diff-filter=U") == ""
    Store(store).entries()
    NoiseStore(store).check()


def test_markers_that_were_committed_are_mended_from_an_earlier_commit(
    store: Path, cell: Cell
) -> None:
    conflict(store, BASELINE, "merge")
    git(store, "add", "-A")
    git(store, "commit", "-qm", "markers and all")
    message = refusal(BaselineError, store, cell)
    (log,) = re.findall(r"git log --oneline -- \S+", message)
    listed = subprocess.run(
        shlex.split(log), cwd=store, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    (command,) = re.findall(r"git checkout HEAD -- \S+", message)
    earlier = command.replace("HEAD", listed[1].split()[0])
    subprocess.run(shlex.split(earlier), cwd=store, check=True, capture_output=True)
    Store(store).entries()


@pytest.mark.parametrize(
    ("content", "said", "command"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n"
            b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
            b"size 12345\n",
            "is a Git LFS pointer, and not the file itself",
            "git lfs pull",
        ),
        (b"/annex/objects/SHA256E-s9--4d7a.json\n", "is a git-annex pointer", "git annex get"),
        (b"\0GITCRYPT\0\x12\x34", "is encrypted by git-crypt", "git-crypt unlock"),
    ],
)
@pytest.mark.parametrize(("kind", "file"), [(BaselineError, BASELINE), (NoiseError, NOISE)])
def test_a_stand_in_for_a_file_is_fetched_not_restored(
    store: Path,
    cell: Cell,
    kind: type[EnergyError],
    file: str,
    content: bytes,
    said: str,
    command: str,
) -> None:
    """The pointer is the example of github.com/git-lfs/git-lfs, docs/spec.md."""
    (store / file).write_bytes(content)
    message = refusal(kind, store, cell)
    assert said in message
    assert command in message
    assert "git checkout" not in message


def test_a_damaged_file_that_was_never_committed_has_a_way_out(store: Path, cell: Cell) -> None:
    (store / BASELINE).write_text("{")
    message = refusal(BaselineError, store, cell)
    assert message.endswith("If it was never committed, delete it and measure again.")


def test_a_path_in_a_command_is_one_word(store: Path, cell: Cell) -> None:
    (store / BASELINE).rename(store / "simulated-gpu" / "my tiny.json").write_text("{")
    command = refusal(BaselineError, store, cell).partition("Restore it: ")[2].splitlines()[0]
    assert shlex.split(command)[-1] == str(store / "simulated-gpu" / "my tiny.json")
