"""The command line and its ini equivalents, turned into Settings. Light: all runs load it."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.plugin import attached, conflicts
from pytest_energy.plugin.attached import ATTACHED
from pytest_energy.safety.files import expanded
from pytest_energy.settings import (
    DEFAULT_LAUNCHES,
    ENGINES,
    MOST_OF_BASELINE,
    LaunchSettings,
    Settings,
    parse_engine_args,
)

INCONCLUSIVE = ("fail", "warn")
INTERLEAVE = ("auto", "periods", "launches", "never")
EXIT_STATUS = ("pytest", "verdict")
_FAR = 1e9


def positive(text: str) -> float:
    """A positive number.

    Raises:
        ArgumentTypeError: it is not.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < _FAR:
        raise ArgumentTypeError(f"{text} is not a positive number")
    return number


def positive_int(text: str) -> int:
    """A positive whole number.

    Raises:
        ArgumentTypeError: it is not.
    """
    if not text.strip().isdecimal() or not 0 < int(text) < _FAR:
        raise ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


def words(text: str) -> str:
    """A text on one line.

    Raises:
        ArgumentTypeError: it is empty.
    """
    joined = " ".join(text.split())
    if not joined:
        raise ArgumentTypeError("the text is empty")
    return joined


def named(text: str) -> str:
    """The name of a file or folder.

    Raises:
        ArgumentTypeError: it is empty, as an unset variable is.
    """
    if not text.strip():
        raise ArgumentTypeError("the name is empty; is a variable not set?")
    return text


def one_of(choices: tuple[str, ...], text: str) -> str:
    """One of the choices.

    Raises:
        ArgumentTypeError: it is not.
    """
    if text not in choices:
        raise ArgumentTypeError(f"{text} is not one of {', '.join(choices)}")
    return text


# What the ini file may set, and how its text is read.
_INI: Mapping[str, Callable[[str], Any]] = {
    "engine": partial(one_of, ENGINES),
    "python": str,
    "baselines": str,
    "record": str,
    "report": str,
    "launches": positive_int,
    "inconclusive": partial(one_of, INCONCLUSIVE),
    "exit_status": partial(one_of, EXIT_STATUS),
    "interleave": partial(one_of, INTERLEAVE),
    "gpu_cache": str,
    "load_timeout": positive,
    "progress_timeout": positive,
    "lock_timeout": positive,
}


def add(parser: pytest.Parser) -> None:
    """Declare the options and their ini equivalents."""
    group = parser.getgroup("energy", "energy per token of LLM engines (pytest-energy)")
    _add_measured(group)
    _add_compared(group)
    _add_reference(group)
    _add_limits(group)
    for name in _INI:
        parser.addini(f"energy_{name}", f"default of --energy-{name.replace('_', '-')}")
    parser.addini(
        "energy_engine_args",
        "defaults of --energy-engine-arg, one NAME=VALUE per line",
        type="linelist",
        default=[],
    )


def _add_measured(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--energy-python",
        type=named,
        metavar="PATH",
        help="interpreter whose vLLM is measured (default: this one)",
    )
    group.addoption(
        "--energy-engine",
        choices=(*ENGINES, ATTACHED),
        help="what is measured, whatever the tests say: vLLM's engine, vllm serve, or (in replays) "
        "a server that was already running",
    )
    group.addoption(
        "--energy-engine-arg",
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="engine setting under test (repeatable)",
    )
    attached.add_options(group)
    group.addoption(
        "--energy-replay",
        type=named,
        nargs="+",
        action="extend",
        metavar="DIR",
        default=[],
        help="judge recordings instead of measuring",
    )
    group.addoption(
        "--energy-record",
        type=named,
        metavar="DIR",
        help="keep the recordings of a live run in DIR",
    )
    group.addoption(
        "--energy-report",
        type=named,
        metavar="DIR",
        help="write report.html, report.md, results.json and pictures to DIR",
    )


def _add_compared(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--energy-baselines",
        type=named,
        metavar="DIR",
        help="the store of baselines (default: baselines/ in the project)",
    )
    group.addoption(
        "--energy-update",
        action="store_true",
        help="create or replace the baselines of the selected tests",
    )
    group.addoption(
        "--energy-update-reason",
        type=words,
        metavar="TEXT",
        help="why this update may accept a loss; stored with the baseline",
    )
    group.addoption(
        "--energy-noise",
        action="store_true",
        help="measure and store the runner's noise, judge nothing (as pytest-energy noise does)",
    )


def _add_reference(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--energy-reference-python",
        type=named,
        metavar="PATH",
        help="compare with the vLLM of this interpreter on the same GPU",
    )
    group.addoption(
        "--energy-reference-install",
        action="store_true",
        help="on a GPU that no baseline is of, install the vLLM of the newest one with uv and "
        "compare with that",
    )
    group.addoption(
        "--energy-gpu-cache",
        type=named,
        metavar="DIR",
        help="where launches of the reference are kept for later runs on this machine's GPUs "
        "(default: pytest-energy/gpus in the user's cache folder)",
    )
    group.addoption(
        "--energy-reference-engine-arg",
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="engine setting of the reference (repeatable)",
    )
    group.addoption(
        "--energy-reference-replay",
        type=named,
        nargs="+",
        action="extend",
        metavar="DIR",
        default=[],
        help="recordings of the reference",
    )
    group.addoption(
        "--energy-interleave",
        choices=INTERLEAVE,
        help="what alternates: periods of two engines that are on the GPU together, or launches; "
        "never: the reference is launched where no baseline of it fits the GPU (default: auto, "
        "never if the baselines are of the reference's vLLM and quiet, else periods if both fit)",
    )


def _add_limits(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--energy-launches",
        type=positive_int,
        metavar="N",
        help="maximum number of engine launches; stops early once every verdict is clear "
        "(default: 5). With --energy-update the number of launches (default: 3 to 8, as the "
        "measured noise asks for; 5 if it is not measured)",
    )
    group.addoption(
        "--energy-minutes",
        type=positive,
        metavar="N",
        help="GPU minutes that the run may use: no launch is begun that would pass them, as long "
        "as earlier ones of this run took (default: no limit)",
    )
    group.addoption(
        "--energy-inconclusive",
        choices=INCONCLUSIVE,
        help="whether an inconclusive test fails or warns (default: fail)",
    )
    group.addoption(
        "--energy-exit-status",
        choices=EXIT_STATUS,
        help="verdict: if nothing but verdicts failed tests, exit with 10 (regressed), 11 "
        "(invalid), 12 (not comparable), 13 (no baseline) or 14 (inconclusive), the lowest that "
        "occurs (default: pytest, which exits with 1)",
    )
    for name, limits, default in (
        ("load", "an engine may take to start and load", 1200),
        ("progress", "an engine under load may go without a token", 60),
        ("lock", "to wait until other runs have left the GPUs", 3600),
    ):
        group.addoption(
            f"--energy-{name}-timeout",
            type=positive,
            metavar="SECONDS",
            help=f"longest time {limits} (default: {default})",
        )


def _ini(config: pytest.Config, name: str) -> Any:
    text = config.getini(f"energy_{name}")
    if not text:
        return None
    try:
        return _INI[name](text)
    except ArgumentTypeError as error:
        raise pytest.UsageError(f"{config.inipath}: energy_{name}: {error}") from None


def _given(config: pytest.Config, name: str) -> tuple[Any, Path]:
    """An option, else its ini value, else None; and the folder that a relative path starts from."""
    given = config.getoption(f"energy_{name}")
    if given is not None:
        return given, config.invocation_params.dir
    return _ini(config, name), config.inipath.parent if config.inipath else config.rootpath


def _value(config: pytest.Config, name: str, default: Any) -> Any:
    given, _ = _given(config, name)
    return default if given is None else given


def _path(config: pytest.Config, name: str) -> Path | None:
    given, folder = _given(config, name)
    return folder / expanded(given) if given else None


def _interpreter(given: str | None, folder: Path) -> str | None:
    """An interpreter: a path, or the name of a program in PATH."""
    return str(folder / expanded(given)) if given and "/" in given else given or None


def _engine_args(config: pytest.Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings under test of the candidate, and those of the reference."""
    found = {}
    for name, texts in (
        ("energy_engine_args", config.getini("energy_engine_args")),
        ("--energy-engine-arg", config.getoption("energy_engine_arg")),
        ("--energy-reference-engine-arg", config.getoption("energy_reference_engine_arg")),
    ):
        try:
            found[name] = parse_engine_args(texts)
        except ValueError as error:
            raise pytest.UsageError(f"{name}: {error}") from None
        conflicts.refuse_engine_args(name, found[name])
    of_ini, candidate, reference = found.values()
    return {**of_ini, **candidate}, {**of_ini, **reference}


def _launches(config: pytest.Config) -> tuple[LaunchSettings, LaunchSettings | None]:
    """How the candidate is launched, and how the reference is; None without a live reference."""
    value = config.getoption
    candidate_args, reference_args = _engine_args(config)
    url = value("energy_url")
    launch = LaunchSettings(
        python=_interpreter(*_given(config, "python")) or sys.executable,
        engine_args_under_test={} if url else candidate_args,
        load_timeout_s=_value(config, "load_timeout", 1200.0),
        progress_timeout_s=_value(config, "progress_timeout", 60.0),
        url=url,
        gpu_uuids=tuple(value("energy_gpu")),
    )
    python = _interpreter(value("energy_reference_python"), config.invocation_params.dir)
    if not python and not value("energy_reference_engine_arg"):
        return launch, None
    reference = replace(
        launch, python=python or launch.python, engine_args_under_test=reference_args
    )
    return launch, reference


def settings_of(config: pytest.Config) -> Settings:
    """What the command line and the ini file ask for.

    Raises:
        pytest.UsageError: something impossible.
    """
    from pytest_energy.plugin import project

    value, here = config.getoption, config.invocation_params.dir
    url, update = value("energy_url"), value("energy_update")
    given = _value(config, "launches", None)
    launches = given or (MOST_OF_BASELINE if update else DEFAULT_LAUNCHES)
    interleave = _value(config, "interleave", "auto")
    conflicts.refuse(config, launches)
    launch, reference = _launches(config)
    return Settings(
        baselines=_path(config, "baselines") or project.folder(config) / "baselines",
        update=update,
        update_reason=value("energy_update_reason"),
        noise=value("energy_noise"),
        replay=tuple(here / path for path in value("energy_replay")),
        record=None if value("energy_replay") else _path(config, "record"),
        launches=1 if url else launches,
        launches_given=url is not None or given is not None,
        gpu_minutes=value("energy_minutes"),
        inconclusive_fails=_value(config, "inconclusive", "fail") == "fail",
        verdict_status=_value(config, "exit_status", "pytest") == "verdict",
        launch=launch,
        reference=reference,
        reference_install=value("energy_reference_install"),
        gpu_cache=_path(config, "gpu_cache"),
        engine=ATTACHED if url else value("energy_engine"),
        default_engine=_ini(config, "engine") or "offline",
        reference_replay=tuple(here / path for path in value("energy_reference_replay")),
        report=None if value("energy_noise") else _path(config, "report"),
        # A baseline is measured with the GPU to itself.
        interleave="launches" if update else interleave,
        lock_timeout_s=_value(config, "lock_timeout", 3600.0),
    )
