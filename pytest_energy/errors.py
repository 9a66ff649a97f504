"""The errors that pytest-energy raises.

Every message says what happened, what it means and what to type next.
"""


class EnergyError(Exception):
    """Base of all errors raised by pytest-energy."""


class UsageError(EnergyError):
    """The command line, the configuration or a marker asks for something impossible."""


class EngineError(EnergyError):
    """The engine did not load, crashed, hung or miscounted.

    Attributes:
        stage: "start", "load", "tokenize", "run", "pause", "count" or "stop".
        message: what happened, without the log.
        log_tail: the end of its log.
        out_of_memory: whether its log says that GPU memory was short.
    """

    def __init__(
        self, stage: str, message: str, log_tail: str = "", out_of_memory: bool = False
    ) -> None:
        super().__init__(
            f"engine failed during {stage}: {message}"
            + (f"\n--- engine log ---\n{log_tail}" if log_tail else "")
        )
        self.stage, self.message, self.log_tail, self.out_of_memory = (
            stage,
            message,
            log_tail,
            out_of_memory,
        )


class MeterError(EnergyError):
    """Energy cannot be read: no GPU, no counter, or the driver refused."""


class RecordingError(EnergyError):
    """A recording cannot be read or written, or none fits."""


class LaunchError(RecordingError):
    """The launches of a cell failed, so that it has no recordings."""


class BaselineError(EnergyError):
    """A baseline file cannot be read, or an update was refused."""


class NoiseError(EnergyError):
    """A noise file cannot be read, or a launch cannot be added to it."""


class ResultsError(EnergyError):
    """A results.json cannot be read, or a report cannot be made or written."""


class LockError(EnergyError):
    """A GPU is measured by another run, or its lock cannot be used."""
