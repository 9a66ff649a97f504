"""Which engine a cell asks for: one function for each name."""

from collections.abc import Callable, Mapping
from typing import Any

from pytest_energy.cell.cell import Cell
from pytest_energy.engines.attached import AttachedEngine
from pytest_energy.engines.engine import Engine
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.errors import UsageError
from pytest_energy.meters.processes import compute_processes
from pytest_energy.settings import LaunchSettings

# Token ids that every tokenizer has, for a model whose config.json is not at hand.
_SAFE_VOCABULARY = 1000


def new_engine(cell: Cell, settings: LaunchSettings, **engine_args: Any) -> Engine:
    """The engine of a cell, not started.

    Settings under test override `engine_args`, which override the suite's.

    Raises:
        UsageError: there is no such engine.
    """
    if settings.url is not None:
        return _attached(cell, settings, settings.url)
    arguments = {
        **cell.launch_args,
        "model": cell.model.location,
        **engine_args,
        **settings.engine_args_under_test,
    }
    if cell.engine not in _ENGINES:
        raise UsageError(f"engine {cell.engine!r} cannot be launched")
    return _ENGINES[cell.engine](settings, arguments)


def _offline(settings: LaunchSettings, arguments: Mapping[str, Any]) -> Engine:
    return OfflineEngine(
        settings.python, arguments, settings.load_timeout_s, settings.progress_timeout_s
    )


def _server(settings: LaunchSettings, arguments: Mapping[str, Any]) -> Engine:
    return ServerEngine(
        settings.python, arguments, settings.load_timeout_s, settings.progress_timeout_s
    )


def _attached(cell: Cell, settings: LaunchSettings, url: str) -> Engine:
    return AttachedEngine(
        url,
        settings.gpu_uuids,
        cell.model.vocabulary_size or _SAFE_VOCABULARY,
        cell.workload.longest_request or 0,  # that of prompts is known once tokenized
        compute_processes,
        settings.progress_timeout_s,
    )


_ENGINES: Mapping[str, Callable[[LaunchSettings, Mapping[str, Any]], Engine]] = {
    "offline": _offline,
    "server": _server,
}
