"""The pytest plugin: its hooks. What they do is in the other files, imported when first needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_energy.plugin import collection, options
from pytest_energy.plugin.arguments import ARGUMENTS
from pytest_energy.plugin.fixtures import PARENTS_GPUS, check_unchecked, forget, take_back
from pytest_energy.plugin.fixtures import energy as energy
from pytest_energy.plugin.fixtures import energy_batch_size as energy_batch_size
from pytest_energy.plugin.fixtures import idle_power as idle_power
from pytest_energy.plugin.fixtures import throughput as throughput
from pytest_energy.plugin.state import FOUND, RUN, Run, fixtures_of
from pytest_energy.plugin.terminal import Summary, header

if TYPE_CHECKING:
    from pytest_energy.meters.zeus_meter import Meter


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and their ini equivalents."""
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Hooks that other plugins and conftest files may implement."""
    from pytest_energy.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options and declare the marker."""
    lines = [f"energy({', '.join(ARGUMENTS)}): what our fixtures measure."]
    lines += [f"    {name}: {text}" for name, text in ARGUMENTS.items()]
    config.addinivalue_line("markers", "\n".join(lines))
    settings = options.settings_of(config)
    run = Run(settings, header(settings, config.invocation_params.dir))
    config.stash[RUN] = run
    outputs = os.environ.get("GITHUB_OUTPUT") if settings.report is not None else None
    if (settings.verdict_status or outputs) and not hasattr(config, "workerinput"):
        from pytest_energy.plugin.outcome import Outcome

        taken = Path(outputs) if outputs else None
        config.pluginmanager.register(Outcome(run, taken))
    if settings.report is not None:
        from pytest_energy.plugin.report_files import ReportPlugin

        config.pluginmanager.register(ReportPlugin(run, settings.report))
    config.pluginmanager.register(Summary(run))  # later, so that it shows first


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let other runs use the GPUs, even if this process goes on."""
    run = config.stash.get(RUN, None)
    if run is not None and run.session is not None:
        run.session.close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker which GPUs its parent sees, so that it knows if it was given its own."""
    node.workerinput[PARENTS_GPUS] = os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """End the run as it would have ended without xdist if a worker has refused it."""
    refused = (getattr(node, "workeroutput", None) or {}).get(collection.REFUSED)
    if refused is not None:
        raise pytest.UsageError(refused)


@pytest.hookimpl(trylast=True)
def pytest_energy_open_meter(
    gpu_uuids: Sequence[str], is_engine_process: Callable[[int], bool]
) -> Meter:
    """The meter of real GPUs."""
    from pytest_energy.meters.zeus_meter import ZeusMeter

    return ZeusMeter(gpu_uuids, is_engine_process)


def pytest_report_header(config: pytest.Config) -> str | None:
    """The settings in force, under xdist, whose controller collects nothing (else: Summary)."""
    distributed = config.getoption("dist", "no") != "no"
    return f"energy: {config.stash[RUN].header}" if distributed else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per batch size."""
    if fixtures_of(metafunc):
        collection.parametrize(metafunc)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Give each gated test its cell, and those that stay selected a session."""
    gated: list[pytest.Item] = []
    with collection.refusals(config, items):
        gated = collection.give_cells(items)
    result = yield
    with collection.refusals(config, items):
        collection.open_session(config, gated, items)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that is run again leaves one record, that of its last run."""
    if FOUND in item.stash:
        forget(item)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Check what the test's body has not checked, inside the test, so that the test fails."""
    result = yield
    check_unchecked(pyfuncitem)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: a failure may become an expected one
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send what a test found along with its report, also from xdist's workers."""
    report = yield
    if not fixtures_of(item):
        return report
    crash, excinfo = getattr(report.longrepr, "reprcrash", None), call.excinfo
    failed = excinfo is not None and excinfo.errisinstance(pytest.fail.Exception)
    if report.when == "call" and not (report.failed and failed):
        take_back(item)
    if crash is not None and excinfo is not None and failed:
        # Its first line: where CI is set, pytest repeats all of it in the short summary.
        crash.message = str(excinfo.value).partition("\n")[0]
    report.energy_found = list(item.stash.get(FOUND, {}).values())  # type: ignore[attr-defined]
    return report
