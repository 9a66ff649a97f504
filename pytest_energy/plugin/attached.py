"""Options for a server that already runs: declared, refused, and repeated in commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pytest_energy.safety import redact
from pytest_energy.settings import MIN_LAUNCHES

Value = Callable[[str], Any]  # of an option, by its name
Conflicts = Iterator[tuple[Any, str]]  # whether there is a conflict, and its message
ATTACHED = "attached"


def add_options(group: pytest.OptionGroup) -> None:
    """Declare the options."""
    group.addoption(
        "--energy-url",
        metavar="http://HOST:PORT",
        help="measure a server that already runs on this machine, and leave it running",
    )
    group.addoption(
        "--energy-gpu",
        action="append",
        metavar="UUID",
        default=[],
        help="a GPU of that server, if it is not found (repeatable)",
    )


def words(url: str, gpu_uuids: Sequence[str]) -> list[str]:
    """The options that name this server again."""
    return ["--energy-url", url, *(word for gpu in gpu_uuids for word in ("--energy-gpu", gpu))]


def refuse_several_models(url: str | None, models: set[str]) -> None:
    """A running server serves one model, which would be measured under each name.

    Raises:
        pytest.UsageError: it is asked for several models.
    """
    if url is not None and len(models) > 1:
        raise pytest.UsageError(
            f"the server at {url} serves one model, and the selected tests name {len(models)}: "
            f"{', '.join(sorted(models))}.\nSelect the tests of the model that it serves: -k NAME"
        )


_ONE_LAUNCH = (
    "a running server is one launch, however often it is measured.\nRestart it for each launch, "
    "keep each with --energy-record DIR, and put them together: --energy-engine attached "
    "--energy-replay A B C"
)


def conflicts(value: Value) -> Conflicts:
    """What makes no sense with a server that already runs."""
    url, replay = value("energy_url"), value("energy_replay")
    yield (
        value("energy_engine") == "attached" and not replay and not url,
        "--energy-engine attached replays recordings of a server that was already running: give "
        "--energy-replay DIR, or the server's --energy-url",
    )
    if url is None:
        yield (
            value("energy_gpu"),
            "--energy-gpu names the GPUs of a running server: give its --energy-url, too",
        )
        return
    launches, engine = value("energy_launches"), value("energy_engine")
    yield (
        replay,
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
        value("energy_reference_install"),
        "--energy-reference-install launches the reference, which --energy-url does not: give one "
        "of them",
    )
    yield (
        value("energy_update"),
        f"--energy-update with --energy-url: a baseline needs {MIN_LAUNCHES} launches, and "
        f"{_ONE_LAUNCH} --energy-update",
    )
    yield (
        value("energy_noise"),
        f"--energy-noise with --energy-url: {_ONE_LAUNCH} --energy-noise",
    )
    yield (
        launches not in (None, 1),
        f"--energy-launches {launches} with --energy-url: {_ONE_LAUNCH}",
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
