"""Options that do not go together, refused before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import pytest

from pytest_energy.safety import redact
from pytest_energy.settings import MIN_LAUNCHES

Value = Callable[[str], Any]  # of an option, by its name
Conflicts = Iterator[tuple[Any, str]]  # whether there is a conflict, and its message


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
        _of_servers(value),
    ):
        if conflict:
            raise pytest.UsageError(message)


def _under_xdist(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput") or bool(getattr(config.option, "numprocesses", None))


def _of_stores(value: Value, launches: int, under_xdist: bool) -> Conflicts:
    update, noise = value("energy_update"), value("energy_noise")
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
        f"--energy-launches {launches}: --energy-update needs at least {MIN_LAUNCHES} launches; "
        "nothing was measured",
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
        value("energy_engine") == "attached" and not replay and not value("energy_url"),
        "--energy-engine attached replays recordings of a server that was already running: give "
        "--energy-replay DIR, or the server's --energy-url",
    )
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
        f"--energy-launches {launches}: an interleaved comparison needs at least {MIN_LAUNCHES} "
        "pairs of launches",
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


def _of_servers(value: Value) -> Conflicts:
    """What makes no sense with a server that already runs."""
    url = value("energy_url")
    if url is None:
        yield (
            value("energy_gpu"),
            "--energy-gpu names the GPUs of a running server: give its --energy-url, too",
        )
        return
    one_launch = (
        "a running server is one launch, however often it is measured.\nRestart it for each "
        "launch, keep each with --energy-record DIR, and put them together: --energy-engine "
        "attached --energy-replay A B C"
    )
    launches, engine = value("energy_launches"), value("energy_engine")
    yield (
        value("energy_replay"),
        "--energy-url measures a server, and --energy-replay measures nothing: give one of them",
    )
    yield (
        engine not in (None, "attached"),
        f"--energy-engine {engine} starts an engine, and --energy-url does not: give one of them",
    )
    yield (
        value("energy_engine_arg"),
        "--energy-engine-arg sets up an engine, and the server of --energy-url is already set up: "
        "leave it out",
    )
    yield (
        value("energy_python"),
        "--energy-python starts an engine, and the server of --energy-url already runs: leave it "
        "out",
    )
    yield (
        value("energy_reference_python") or value("energy_reference_engine_arg"),
        "an interleaved comparison launches both engines: leave out --energy-url",
    )
    yield (
        value("energy_update"),
        f"--energy-update with --energy-url: a baseline needs {MIN_LAUNCHES} launches, and "
        f"{one_launch} --energy-update",
    )
    yield (
        value("energy_noise"),
        f"--energy-noise with --energy-url: {one_launch} --energy-noise",
    )
    yield (
        launches not in (None, 1),
        f"--energy-launches {launches} with --energy-url: {one_launch}",
    )
    complaint = _not_here(url)
    yield bool(complaint), complaint


def _not_here(url: str) -> str:
    """Why a server's energy cannot be read from here; empty if it can."""
    from pytest_energy.engines.attached import address_of, is_local

    shown = redact.url(url)
    try:
        host, port = address_of(url)
        if is_local(host):
            return ""
    except ValueError:
        return (
            f"--energy-url {shown}: it must be http://host:port, without a path, user or password"
        )
    except OSError as error:
        return f"--energy-url {shown}: no such host ({error.strerror})"
    return (
        f"--energy-url {url}: {host} is another machine, and the energy of its GPUs cannot be read "
        "from here.\nRun pytest on the machine that has them, with "
        f"--energy-url http://localhost:{port}"
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
