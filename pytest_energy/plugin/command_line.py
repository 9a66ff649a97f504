"""The pytest command that measures a test again."""

import json
import os
import shlex
import sys
from collections.abc import Iterator

import pytest

from pytest_energy.plugin import attached
from pytest_energy.plugin.state import RUN, test_id
from pytest_energy.safety import redact
from pytest_energy.settings import LaunchSettings


def rerun(item: pytest.Item) -> str:
    """The command, with all options in force that decide what is measured."""
    config = item.config
    settings, here = config.stash[RUN].settings, config.invocation_params.dir
    node = "::".join([os.path.relpath(item.path, here), *test_id(item).split("::")[1:]])
    words = ["pytest", node]
    if settings.launch.url is not None:
        words += attached.words(settings.launch.url, settings.launch.gpu_uuids)
    else:
        if settings.launch.python != sys.executable:
            words += ["--energy-python", settings.launch.python]
        if settings.engine is not None:
            words += ["--energy-engine", settings.engine]
    words += _engine_args("--energy-engine-arg", settings.launch)
    if settings.reference is not None:
        words += ["--energy-reference-python", settings.reference.python]
        words += _engine_args("--energy-reference-engine-arg", settings.reference)
    if settings.reference_install:
        words += ["--energy-reference-install"]
    if config.getoption("energy_interleave"):
        words += ["--energy-interleave", config.getoption("energy_interleave")]
    if config.getoption("energy_gpu_cache"):
        words += ["--energy-gpu-cache", config.getoption("energy_gpu_cache")]
    if config.getoption("energy_baselines"):
        words += ["--energy-baselines", config.getoption("energy_baselines")]
    return shlex.join(map(redact.home, words))  # our options expand ~


def _engine_args(option: str, launch: LaunchSettings) -> Iterator[str]:
    for name, value in launch.engine_args_under_test.items():
        yield from (option, f"{name}={json.dumps(value)}")
