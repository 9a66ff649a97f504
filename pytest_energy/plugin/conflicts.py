"""Options that do not go together, refused before anything is measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.errors import RecordingError
from pytest_energy.plugin import attached
from pytest_energy.plugin.attached import Conflicts, Value
from pytest_energy.safety import redact
from pytest_energy.safety.files import HAS_LOCKS, NO_LOCKS, unwritable
from pytest_energy.settings import MIN_LAUNCHES, Settings


def refuse(config: pytest.Config, launches: int) -> None:
    """Refuse combinations that make no sense.

    Args:
        config: of the run.
        launches: at most, as asked for.

    Raises:
        pytest.UsageError: the first conflict.
    """
    value, under_xdist = config.getoption, _under_xdist(config)
    for conflict, message in chain(
        _of_stores(value, launches, under_xdist),
        _of_replays(value),
        _of_references(value, launches),
        attached.conflicts(value),
    ):
        if conflict:
            raise pytest.UsageError(message)


def refuse_paths(config: pytest.Config, settings: Settings) -> None:
    """Refuse what cannot be read, written or run, before anything is measured.

    Raises:
        pytest.UsageError: the first such path.
    """
    _refuse_folders(settings, bool(config.getoption("energy_baselines")))
    for option, paths in (
        ("--energy-replay", settings.replay),
        ("--energy-reference-replay", settings.reference_replay),
    ):
        _refuse_without_recordings(option, paths)
    launched = settings.launch.url is None and not settings.replay
    if not launched or config.option.collectonly:
        return
    _refuse_interpreter("--energy-python", settings.launch.python)
    if settings.reference is not None:
        _refuse_interpreter("--energy-reference-python", settings.reference.python)


def _refuse_folders(settings: Settings, store_named: bool) -> None:
    store, writes = settings.baselines, settings.update or settings.noise
    for what, folder, written in (
        ("--energy-baselines", store, writes),
        ("--energy-record", settings.record, True),
    ):
        if folder is None:
            continue
        why = unwritable(folder) if written else None
        if folder.exists() and not folder.is_dir():
            why = "it is not a folder"
        if why is not None:
            raise pytest.UsageError(
                f"{what} {folder}: {why}.\nGive another folder, or make that one writable."
            )
    # One that the ini file names, as the default one, is yet to be made by the first update.
    if store_named and not writes and not store.exists():
        raise pytest.UsageError(
            f"--energy-baselines {store}: there is no such folder.\n"
            "Give the store of baselines, or make it: --energy-update"
        )
    if (store / "noise").is_dir():
        raise pytest.UsageError(
            f"--energy-baselines {store}: it holds the files of one GPU model.\n"
            f"Give the store, which is the folder above: --energy-baselines {store.parent}"
        )


def _refuse_without_recordings(option: str, paths: Sequence[Path]) -> None:
    from pytest_energy.recording import recording_file

    for path in paths:
        try:
            next(recording_file.find(path))
        except RecordingError as error:
            raise pytest.UsageError(f"{option}: {error}") from None


def _refuse_interpreter(option: str, python: str) -> None:
    """Refuse what cannot be run; whether it has vLLM is known when it runs."""
    if shutil.which(python) is not None:
        return
    path, instead = Path(python), "/venv/bin/python"
    if path.is_dir():
        why = "it is a folder"
        if (path / "bin" / "python").exists():
            instead = str(path / "bin" / "python")
    elif path.exists():
        why = "it is not executable"
    else:
        why = "there is no such file" if "/" in python else "there is no such program in PATH"
    raise pytest.UsageError(
        f"{option} {redact.home(python)}: {why}.\n"
        f"Give the interpreter of an environment with vLLM: {option} {redact.home(instead)}"
    )


def _under_xdist(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput") or bool(getattr(config.option, "numprocesses", None))


def _of_stores(value: Value, launches: int, under_xdist: bool) -> Conflicts:
    update, noise = value("energy_update"), value("energy_noise")
    yield (
        (update or noise) and not HAS_LOCKS,
        f"--energy-{'update' if update else 'noise'} cannot write the store: {NO_LOCKS}",
    )
    yield (
        (update or noise) and under_xdist,
        f"--energy-{'update' if update else 'noise'} does not work under pytest-xdist: several "
        "workers would write one file.\nRun it again with -n 0.",
    )
    yield (
        update and noise,
        "--energy-update stores baselines, and --energy-noise the runner's noise: give one of them",
    )
    yield (
        update and not value("energy_replay") and launches < MIN_LAUNCHES,
        f"--energy-update needs at least {MIN_LAUNCHES} launches, and {launches} would be made: "
        f"give --energy-launches {MIN_LAUNCHES} or more",
    )
    yield (
        value("energy_update_reason") is not None and not update,
        "--energy-update-reason goes with --energy-update",
    )
    yield (
        noise and value("energy_report"),
        "--energy-report reports verdicts, and --energy-noise judges nothing: "
        "leave --energy-report out",
    )


def _of_replays(value: Value) -> Conflicts:
    replay = value("energy_replay")
    yield (
        replay and value("energy_record"),
        "--energy-record keeps what is measured, and --energy-replay measures nothing: give one of "
        "them",
    )
    yield (
        replay and value("energy_engine_arg"),
        "--energy-engine-arg sets up an engine, and --energy-replay launches none: leave it out",
    )


def _of_references(value: Value, launches: int) -> Conflicts:
    replayed, replay = value("energy_reference_replay"), value("energy_replay")
    live = value("energy_reference_python") or value("energy_reference_engine_arg")
    yield (
        (replayed and not replay) or (replay and live),
        "an interleaved comparison is live on both sides (--energy-reference-python, "
        "--energy-reference-engine-arg) or replayed on both (--energy-replay CANDIDATE "
        "--energy-reference-replay REFERENCE)",
    )
    yield (
        live and value("energy_reference_install"),
        "--energy-reference-install takes vLLM and settings of the reference from the newest "
        "baseline: leave out --energy-reference-python and --energy-reference-engine-arg",
    )
    interleaved = value("energy_interleave") != "never"
    yield (
        live and interleaved and launches < MIN_LAUNCHES,
        f"an interleaved comparison needs at least {MIN_LAUNCHES} pairs of launches, and "
        f"{launches} would be made: give --energy-launches {MIN_LAUNCHES} or more",
    )
    yield (
        value("energy_update") and live and value("energy_interleave") == "periods",
        "--energy-update stores launches that had the GPU to themselves: leave out "
        "--energy-interleave periods, and launches alternate",
    )
    yield (
        value("energy_noise") and (live or replayed),
        "--energy-noise measures one engine: leave out the reference",
    )


def refuse_engine_args(where: str, arguments: Mapping[str, Any]) -> None:
    """Refuse engine settings that must not be kept, or that only a suite may ask for.

    Raises:
        pytest.UsageError: naming `where`, the option or ini setting.
    """
    if redact.asks_for_remote_code(arguments):
        raise pytest.UsageError(
            f"{where}: trust_remote_code runs code that comes with a model, and only the suite may "
            "ask for that, by its name.\nSet it in the test: "
            '@pytest.mark.energy(..., engine_args={"trust_remote_code": True})'
        )
    complaint = redact.complaint(arguments, where)
    if complaint:
        raise pytest.UsageError(complaint)
