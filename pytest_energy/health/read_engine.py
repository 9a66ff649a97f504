"""Imports vLLM under an interpreter, in its own process, as the engine's worker does."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile

from pytest_energy.engines.worker_process import end_session
from pytest_energy.health.facts import EngineFacts

TIMEOUT_S = 300.0
_MARK = "pytest-energy: "
_ASK = f"""
import json, platform, time
started = time.monotonic()
import vllm
from vllm import EngineArgs, LLMEngine
import torch
took = time.monotonic() - started
found = dict(
    vllm=str(vllm.__version__), torch=str(torch.__version__), python=platform.python_version(),
    import_s=took,
)
print("\\n{_MARK}" + json.dumps(found), flush=True)
"""


def read_engine(interpreter: str, timeout_s: float = TIMEOUT_S) -> EngineFacts:
    """Versions of vllm, torch and Python there, or the error.

    Never raises; leaves no process and no file.
    """
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [interpreter, "-c", _ASK],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or str(error)
            return EngineFacts(interpreter, stage="start", error=what)
        try:
            status = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            what = f"importing vLLM took more than {timeout_s:.0f} s"
            return EngineFacts(interpreter, stage="timeout", error=what)
        finally:
            end_session(process.pid)
            process.wait()
        size = output.tell()
        text = os.pread(output.fileno(), 100_000, max(0, size - 100_000)).decode(errors="replace")
    return _facts(interpreter, status, [line.strip() for line in text.splitlines() if line.strip()])


def _facts(interpreter: str, status: int, lines: list[str]) -> EngineFacts:
    """What the interpreter printed, by its exit status."""
    answer = next((line for line in reversed(lines) if line.startswith(_MARK)), None)
    if status == 0 and answer is not None:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found = json.loads(answer.removeprefix(_MARK))
            return EngineFacts(
                interpreter,
                str(found["vllm"]),
                str(found["torch"]),
                str(found["python"]),
                import_s=round(float(found["import_s"]), 1),
            )
    if lines and status > 0:
        return EngineFacts(interpreter, stage="import", error=lines[-1][:300])
    how = f"ended by {_signal(-status)}" if status < 0 else f"exit status {status}"
    what = f"the interpreter printed nothing ({how})"
    return EngineFacts(interpreter, stage="import", error=what)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
