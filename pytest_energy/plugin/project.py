"""The project of a run: where its store is, whatever paths stand after options.

pytest takes the words after options for test paths when it looks for its rootdir and its ini file,
because plugins declare their options later. So neither serves: a path of recordings in another
repository would bring that repository's store and settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_energy.settings import Settings

_INI_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml",
              "tox.ini", "setup.cfg")  # fmt: skip
_MARKS = ("baselines", ".git", *_INI_FILES)
_OUR_SETTING = re.compile(r"^\s*energy_\w+\s*=", re.MULTILINE)


def folder(config: pytest.Config) -> Path:
    """The project of the tests that are asked for, else of the folder that pytest was called in."""
    if config.getoption("rootdir"):
        return config.rootpath
    here = config.invocation_params.dir
    found = {_marked_folder(place) for place in _test_folders(config)}
    return (found.pop() if len(found) == 1 else None) or _marked_folder(here) or here


def _test_folders(config: pytest.Config) -> list[Path]:
    """The folders of the test paths on the command line, or of the ini file's testpaths."""
    paths = [config.invocation_params.dir / given.partition("::")[0] for given in config.args]
    return [path if path.is_dir() else path.parent for path in paths if path.exists()]


def _marked_folder(start: Path) -> Path | None:
    """The nearest folder, from `start` up, that holds a store, a repository or settings."""
    for place in _up(start):
        if any((place / name).exists() for name in _MARKS):
            return place
    return None


def _up(start: Path) -> Sequence[Path]:
    """A folder and those above it, links in their names as they are: a suite may be one."""
    place = Path(os.path.normpath(start.absolute()))
    return (place, *place.parents)


def refuse(config: pytest.Config, settings: Settings) -> None:
    """Refuse tests taken for recordings, settings of another project, and writing to its store.

    Raises:
        pytest.UsageError: the first of them.
    """
    _refuse_tests_after_replay(config, settings)
    _refuse_settings(config)
    _refuse_several(config)
    _refuse_store(config, settings)


def _refuse_tests_after_replay(config: pytest.Config, settings: Settings) -> None:
    """Refuse to run other tests than those whose folder stands among the folders to replay."""
    if config.args_source is config.ArgsSource.ARGS:
        return
    for path in settings.replay:
        # Recordings first: with one there, a large folder is not searched whole.
        if not any(path.rglob("*.json.gz")) and any(path.rglob("test_*.py")):
            raise pytest.UsageError(
                f"{path} holds tests and no recordings, but stands among the folders of "
                f"--energy-replay.\nName the tests first: pytest {path.name} --energy-replay DIR"
            )


def _refuse_settings(config: pytest.Config) -> None:
    """Refuse a run whose ini file pytest has taken from, or lost to, a path after an option."""
    if config.getoption("inifilename"):
        return
    starts = _test_folders(config) or [config.invocation_params.dir]
    above = {place.resolve() for start in starts for place in _up(start)}
    taken = config.inipath
    if taken is not None and taken.parent.resolve() in above:
        return
    lost = (place / name for place in _up(starts[0]) for name in _INI_FILES)
    own = next((path for path in lost if _is_ini_file(path)), None)
    for path, how in ((taken, "in force, and are another project's"), (own, "not in force")):
        if path is not None and _OUR_SETTING.search(path.read_text(errors="replace")):
            raise pytest.UsageError(
                f"{path}: its energy settings are {how}, because pytest looked for its ini file at "
                f"a path after an option.\nName the test paths first, pytest {starts[0]} ..., or "
                "join option and path, as in --energy-replay=DIR."
            )


def _is_ini_file(path: Path) -> bool:
    """Whether pytest would read it: files of other tools, too, hold a section for pytest."""
    return path.is_file() and (
        "pytest" in path.name or "pytest" in path.read_text(errors="replace")
    )


def _refuse_several(config: pytest.Config) -> None:
    """Refuse tests of several projects, of which each has a store of its own."""
    if config.getoption("rootdir") or config.getoption("energy_baselines"):
        return
    found = sorted({str(place) for p in _test_folders(config) if (place := _marked_folder(p))})
    if len(found) > 1:
        raise pytest.UsageError(
            f"the tests that are asked for belong to several projects, {' and '.join(found)}, and "
            "each has a store of its own.\nRun one after the other, pytest "
            f"{found[0]} and so on, or name one store for all: --energy-baselines DIR"
        )


def _refuse_store(config: pytest.Config, settings: Settings) -> None:
    """Refuse to write to a store that was found outside of the project pytest was called in."""
    if not (settings.update or settings.noise) or config.getoption("energy_baselines"):
        return
    here = config.invocation_params.dir.resolve()
    by_ini = config.inipath is not None and config.getini("energy_baselines")
    of = config.inipath.parent if by_ini and config.inipath else folder(config)
    own = (_marked_folder(here) or here).resolve()
    if of.resolve().is_relative_to(own) or (by_ini and of.resolve() in here.parents):
        return
    option = "--energy-update" if settings.update else "--energy-noise"
    raise pytest.UsageError(
        f"{option} would write to {settings.baselines}, which is outside of the project that "
        f"pytest was called in, {own}.\n"
        f"Call it there, cd {of}, or name the store: --energy-baselines {settings.baselines}"
    )
