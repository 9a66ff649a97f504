"""The command line and its ini equivalents: declared, checked, turned into Settings. Light: every pytest run loads it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.safety import redact
from pytest_energy.settings import LaunchSettings, Settings, parse_engine_args


def add(parser: pytest.Parser) -> None:
    """Options and their ini equivalents."""
    group = parser.getgroup("energy", "energy per token of LLM engines (pytest-energy)")
    option = group.addoption
    option(
        "--energy-update",
        action="store_true",
        help="create or replace the baselines of the selected tests",
    )
    option(
        "--energy-update-reason",
        metavar="TEXT",
        help="why an update may accept a loss; kept with the baseline",
    )
    option(
        "--energy-noise",
        action="store_true",
        help="measure and store the runner's noise, judge nothing (pytest-energy noise)",
    )
    option(
        "--energy-replay",
        nargs="+",
        action="extend",
        metavar="DIR",
        default=[],
        help="judge recordings, measure nothing",
    )
    option("--energy-record", metavar="DIR", help="keep the recordings of a live run in DIR")
    option(
        "--energy-python",
        metavar="PATH",
        help="the interpreter whose vLLM is measured (default: this one)",
    )
    option(
        "--energy-engine",
        metavar="offline|server",
        help="what is measured, whatever the tests say: the engine, or vllm serve",
    )
    option(
        "--energy-url",
        metavar="http://HOST:PORT",
        help="measure a server that runs already on this machine, and leave it running",
    )
    option(
        "--energy-gpu",
        action="append",
        metavar="UUID",
        default=[],
        help="a GPU of that server, where they are not found (repeatable)",
    )
    option(
        "--energy-engine-arg",
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="an engine setting under test (repeatable)",
    )
    option(
        "--energy-reference-python",
        metavar="PATH",
        help="compare with the vLLM of this interpreter, in turns on this GPU",
    )
    option(
        "--energy-reference-engine-arg",
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="an engine setting of that other side",
    )
    option(
        "--energy-interleave",
        metavar="auto|periods|launches",
        help="what takes turns: cycles of both engines on the GPU, or launches",
    )
    option(
        "--energy-reference-replay",
        nargs="+",
        action="extend",
        metavar="DIR",
        default=[],
        help="recordings of that other side",
    )
    option(
        "--energy-report",
        metavar="DIR",
        help="write report.html, report.md, results.json and pictures to DIR",
    )
    option(
        "--energy-baselines",
        metavar="DIR",
        help="the store of baselines (default: baselines in the project)",
    )
    option(
        "--energy-launches",
        metavar="N",
        help="engine launches at most, until all verdicts are clear (default: 5)",
    )
    option(
        "--energy-inconclusive",
        metavar="fail|warn",
        help="what becomes of a test that stays undecided (default: fail)",
    )
    option(
        "--energy-load-timeout",
        metavar="SECONDS",
        help="limit for an engine to start and load (default: 1200)",
    )
    option(
        "--energy-progress-timeout",
        metavar="SECONDS",
        help="limit for no token while under load (default: 60)",
    )
    option(
        "--energy-lock-timeout",
        metavar="SECONDS",
        help="limit for waiting until other runs have left the GPUs (default: 3600)",
    )
    parser.addini(
        "energy_engine", "what is measured where a test does not say: offline (default) or server"
    )
    for name in (
        "python", "baselines", "record", "report", "launches", "inconclusive", "interleave", "load_timeout", "progress_timeout", "lock_timeout",
    ):  # fmt: skip
        parser.addini(f"energy_{name}", f"default of --energy-{name.replace('_', '-')}")
    parser.addini(
        "energy_engine_args",
        "defaults of --energy-engine-arg, one NAME=VALUE a line",
        type="linelist",
        default=[],
    )


def _option(config: pytest.Config, name: str) -> tuple[str | None, Path]:
    """An option or else its ini value, and the folder that relative paths in it start from."""
    value = config.getoption(f"energy_{name}")
    if value is not None:
        return value, config.invocation_params.dir
    return config.getini(
        f"energy_{name}"
    ) or None, config.inipath.parent if config.inipath else config.rootpath


def _number(config: pytest.Config, name: str, default: float, whole: bool = False) -> float:
    text, _ = _option(config, name)
    if text is None:
        return default
    try:
        number = int(text) if whole else float(text)
        if not 0 < number < 1e9:
            raise ValueError
    except ValueError:
        kind = "whole number" if whole else "number"
        raise pytest.UsageError(
            f"--energy-{name.replace('_', '-')} {text}: it must be a positive {kind}"
        ) from None
    return number


def _project_folder(config: pytest.Config) -> Path:
    """Where the default store lies: the repository's top, seen from where pytest was called.

    pytest's own rootdir is no help: it takes the words after --energy-replay for test paths, and moves up to what they
    have in common.
    """
    here = config.invocation_params.dir
    if config.getoption("rootdir"):
        return config.rootpath
    for folder in (here, *here.parents):
        if any(
            (folder / name).exists()
            for name in (
                "baselines",
                ".git",
                "pyproject.toml",
                "pytest.ini",
                "tox.ini",
                "setup.cfg",
            )
        ):
            return folder
    return config.rootpath


def _refuse_conflicts(
    config: pytest.Config, launches: int, inconclusive: str, interleave: str
) -> None:
    """Combinations that make no sense, before anything is measured."""
    value = config.getoption
    update, noise, replay = value("energy_update"), value("energy_noise"), value("energy_replay")
    reason = value("energy_update_reason")
    reference = value("energy_reference_python") or value("energy_reference_engine_arg")
    workers = hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None)
    conflicts: list[tuple[Any, str]] = [
        (
            (update or noise) and workers,
            f"--energy-{'update' if update else 'noise'} does not work under pytest-xdist: several workers would write one file.\n"
            "Run it again with -n 0.",
        ),
        (
            update and noise,
            "--energy-update stores a baseline, --energy-noise the runner's noise: give one of them",
        ),
        (
            update and not replay and launches < 3,
            f"--energy-launches {launches}: --energy-update needs three launches at least, nothing was measured",
        ),
        (
            reason is not None and not (update and reason.strip()),
            "--energy-update-reason goes with --energy-update, and says something",
        ),
        (
            inconclusive not in ("fail", "warn"),
            f"--energy-inconclusive {inconclusive}: it must be fail or warn",
        ),
        *(
            (
                engine and engine not in ("offline", "server", *more),
                f"{name} {engine}: it must be offline or server",
            )
            for name, engine, more in (
                ("--energy-engine", value("energy_engine"), ("attached",)),
                ("energy_engine =", config.getini("energy_engine"), ()),
            )
        ),
        (
            value("energy_engine") == "attached" and not (replay or value("energy_url")),
            "--energy-engine attached replays recordings of a server that was attached to: give --energy-replay, or its --energy-url",
        ),
        *_conflicts_of_url(config),
        (
            replay and value("energy_record"),
            "--energy-record keeps what is measured, and --energy-replay measures nothing: give one of them",
        ),
        (
            replay and value("energy_engine_arg"),
            "--energy-engine-arg sets up an engine, and --energy-replay launches none: leave it out",
        ),
        (
            (value("energy_reference_replay") and not replay) or (replay and reference),
            "a comparison in turns is live on both sides (--energy-reference-python, --energy-reference-engine-arg) or replayed on both "
            "(--energy-replay NEW --energy-reference-replay OLD)",
        ),
        (
            reference and launches < 3,
            f"--energy-launches {launches}: a comparison in turns needs three pairs of launches at least",
        ),
        (
            noise and value("energy_report"),
            "--energy-report reports verdicts, and --energy-noise (pytest-energy noise) judges nothing: leave it out",
        ),
        (
            interleave not in _TURNS,
            f"--energy-interleave {interleave}: it must be auto, periods or launches",
        ),
        (
            update and reference and value("energy_interleave") == "periods",
            "--energy-update stores launches that had the GPU to themselves: leave --energy-interleave periods out, and launches alternate",
        ),
        (
            noise and (reference or value("energy_reference_replay")),
            "--energy-noise measures one engine: leave the reference out",
        ),
    ]
    for conflict, message in conflicts:
        if conflict:
            raise pytest.UsageError(message)


def _conflicts_of_url(config: pytest.Config) -> list[tuple[Any, str]]:
    """What makes no sense with a server that runs already."""
    value = config.getoption
    url = value("energy_url")
    if url is None:
        return [
            (
                value("energy_gpu"),
                "--energy-gpu names the GPUs of a server that runs already: give its --energy-url, too",
            )
        ]
    one_launch = (
        "a server that runs is one launch, however often it is measured.\nRestart it for each launch, keep each with "
        "--energy-record DIR, and put them together: --energy-engine attached --energy-replay A B C"
    )
    return [
        (
            value("energy_replay"),
            "--energy-url measures a server, and --energy-replay measures nothing: give one of them",
        ),
        (
            value("energy_engine") not in (None, "attached"),
            f"--energy-engine {value('energy_engine')} starts an engine, --energy-url none",
        ),
        (
            value("energy_engine_arg"),
            "--energy-engine-arg sets up an engine, and the server of --energy-url is set up: leave it out",
        ),
        (
            value("energy_python"),
            "--energy-python starts an engine, and the server of --energy-url runs already: leave it out",
        ),
        (
            value("energy_reference_python") or value("energy_reference_engine_arg"),
            "a comparison in turns launches both engines: leave --energy-url out",
        ),
        (
            value("energy_update"),
            f"--energy-update with --energy-url: a baseline needs three launches, and {one_launch} --energy-update",
        ),
        (value("energy_noise"), f"--energy-noise with --energy-url: {one_launch} --energy-noise"),
        (
            value("energy_launches") not in (None, "1"),
            f"--energy-launches {value('energy_launches')} with --energy-url: {one_launch}",
        ),
        (complaint := _not_here(url), complaint),
    ]


def _not_here(url: str) -> str:
    """Why a server's energy cannot be read from here; empty where it may be."""
    from pytest_energy.engines.attached import address_of, is_local

    try:
        host, port = address_of(url)
        if is_local(host):
            return ""
    except ValueError:
        return f"--energy-url {redact.url(url)}: it must be http://host:port, without a path, user or password"
    except OSError as error:
        return f"--energy-url {redact.url(url)}: no such host ({error.strerror})"
    return (
        f"--energy-url {url}: {host} is another machine, and the energy of its GPUs cannot be read from here.\n"
        f"Run pytest on the machine that has them, with --energy-url http://localhost:{port}"
    )


def _refuse_engine_args(where: str, arguments: Mapping[str, Any]) -> None:
    if redact.asks_for_remote_code(arguments):
        raise pytest.UsageError(
            f"{where}: trust_remote_code runs code that comes with a model, and only the suite may ask for that, by its name.\n"
            'Set it in the test: @pytest.mark.energy(..., engine_args={"trust_remote_code": True})'
        )
    complaint = redact.complaint(arguments, where)
    if complaint:
        raise pytest.UsageError(complaint)


def _interpreter(path: str | None, relative_to: Path) -> str | None:
    return str(relative_to / Path(path).expanduser()) if path and "/" in path else path


def settings_of(config: pytest.Config) -> Settings:
    """What the command line and the ini file ask for.

    Raises:
        pytest.UsageError: something impossible.
    """
    here = config.invocation_params.dir
    launches = int(_number(config, "launches", 5, whole=True))
    inconclusive = _option(config, "inconclusive")[0] or "fail"
    interleave = _option(config, "interleave")[0] or "auto"
    _refuse_conflicts(config, launches, inconclusive, interleave)
    url = config.getoption("energy_url")
    replay, reference_python = (
        config.getoption("energy_replay"),
        config.getoption("energy_reference_python"),
    )
    baselines, baselines_from = _option(config, "baselines")
    record, record_from = _option(config, "record")
    report, report_from = _option(config, "report")
    try:
        of_ini = parse_engine_args(config.getini("energy_engine_args"))
        of_new = parse_engine_args(config.getoption("energy_engine_arg"))
        of_reference = parse_engine_args(config.getoption("energy_reference_engine_arg"))
    except ValueError as error:
        raise pytest.UsageError(f"--energy-engine-arg: {error}") from None
    for where, given in (
        ("energy_engine_args", of_ini),
        ("--energy-engine-arg", of_new),
        ("--energy-reference-engine-arg", of_reference),
    ):
        _refuse_engine_args(where, given)
    launch = LaunchSettings(
        python=_interpreter(*_option(config, "python")) or sys.executable,
        engine_args_under_test={} if url else {**of_ini, **of_new},
        load_timeout_s=_number(config, "load_timeout", 1200.0),
        progress_timeout_s=_number(config, "progress_timeout", 60.0),
        url=url,
        gpu_uuids=tuple(config.getoption("energy_gpu")),
    )
    reference = None
    if reference_python or of_reference:
        python = _interpreter(reference_python, here) or launch.python
        reference = replace(
            launch, python=python, engine_args_under_test={**of_ini, **of_reference}
        )
    return Settings(
        baselines=baselines_from / Path(baselines).expanduser()
        if baselines
        else _project_folder(config) / "baselines",
        update=config.getoption("energy_update"),
        update_reason=" ".join(reason.split())
        if (reason := config.getoption("energy_update_reason")) is not None
        else None,
        noise=config.getoption("energy_noise"),
        replay=tuple(here / path for path in replay),
        record=record_from / record if record and not replay else None,
        launches=1 if url else launches,
        inconclusive_fails=inconclusive == "fail",
        launch=launch,
        reference=reference,
        engine="attached" if url else config.getoption("energy_engine"),
        default_engine=config.getini("energy_engine") or "offline",
        reference_replay=tuple(here / path for path in config.getoption("energy_reference_replay")),
        report=report_from / report if report and not config.getoption("energy_noise") else None,
        # A baseline is measured with the GPU for itself.
        interleave="launches" if config.getoption("energy_update") else interleave,
        lock_timeout_s=_number(config, "lock_timeout", 3600.0),
    )


_TURNS = {
    "auto": "periods if both engines fit on the GPU",
    "periods": "periods",
    "launches": "launches",
}


def header(settings: Settings, here: Path) -> str:
    """The settings in force, in one line; paths relative to `here`."""

    def short(path: Path) -> str:
        return os.path.relpath(path, here)

    def engine(launch: LaunchSettings) -> str:
        arguments = ", ".join(f"{k}={v}" for k, v in launch.engine_args_under_test.items())
        return redact.home(launch.python) + (f" with {arguments}" if arguments else "")

    if settings.replay:
        source = "replay of " + ", ".join(map(short, settings.replay))
        if settings.reference_replay:
            source += " in turns with " + ", ".join(map(short, settings.reference_replay))
    elif settings.reference is not None:
        upto = "" if settings.update else "up to "
        source = (
            f"live, {upto}{settings.launches} pairs of launches ({_TURNS[settings.interleave]}): "
        )
        source += f"{engine(settings.launch)} in turns with {engine(settings.reference)}"
    elif settings.launch.url is not None:
        source = f"live, the server at {settings.launch.url}"
    else:
        upto = "" if settings.update or settings.noise or settings.launches == 1 else "up to "
        launches = "1 launch" if settings.launches == 1 else f"{settings.launches} launches"
        source = f"live, {upto}{launches} of {engine(settings.launch)}"
    kept = f", recordings kept in {short(settings.record)}" if settings.record else ""
    stored = (
        "noise ADDED to"
        if settings.noise
        else "baselines UPDATED in"
        if settings.update
        else "baselines in"
    )
    return f"energy: {source}, {stored} {short(settings.baselines)}{kept}"
