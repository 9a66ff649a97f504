"""vLLM's offline engine (LLMEngine) in a worker process."""

from pathlib import Path

from pytest_energy.engines.engine import Engine, EngineReady

WORKER = Path(__file__).parent / "workers" / "vllm_worker.py"


class OfflineEngine(Engine):
    """One launch of LLMEngine; its worker runs under the interpreter whose vLLM is measured."""

    program = WORKER

    def worker_command(self, events_fd: int, commands_fd: int) -> list[str]:
        """See `Engine`."""
        # -u: the log is whole when the process dies.
        return [self._python, "-u", str(self.program), str(events_fd), str(commands_fd)]

    def _load(self) -> EngineReady:
        return self._load_with(self._load_timeout_s, engine_args=self._engine_args)
