"""Options that do not go together, refused before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import pytest

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


def refuse_folders(settings: Settings) -> None:
    """Refuse what cannot be read or written, before anything is measured.

    Raises:
        pytest.UsageError: the first such folder.
    """
    store = settings.baselines
    for what, folder, written in (
        ("--energy-baselines", store, settings.update or settings.noise),
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
    if (store / "noise").is_dir():
        raise pytest.UsageError(
            f"--energy-baselines {store}: it holds the files of one GPU model.\n"
            f"Give the store, which is the folder above: --energy-baselines {store.parent}"
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
        live and launches < MIN_LAUNCHES,
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
