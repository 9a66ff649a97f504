"""What the user asked for, checked. Light: every pytest run in an environment with the plugin reads it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LaunchSettings:
    """How engines are launched.

    Attributes:
        python: interpreter whose vLLM is measured.
        engine_args_under_test: settings from the command line, over those of the suite.
        load_timeout_s, progress_timeout_s: limits for start with load, and for no token while under load.
        url: of a server that runs already and is measured instead of launching one; None to launch.
        gpu_uuids: of its GPUs; empty to find them.
    """

    python: str
    engine_args_under_test: Mapping[str, Any]
    load_timeout_s: float
    progress_timeout_s: float
    url: str | None = None
    gpu_uuids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """One run's settings.

    Attributes:
        baselines: folder of the store.
        update: whether baselines are written.
        update_reason: why an update may accept a loss, None where none was given.
        noise: whether the runner's noise is measured and stored instead of judging.
        replay: recordings to judge instead of measuring; empty for a live run.
        record: folder that keeps the recordings of a live run, None to drop them.
        launches: engine launches per cell in a live run: at most for a verdict, all of them for an update or the noise.
        inconclusive_fails: whether a test fails that stays undecided.
        launch: how engines are launched.
        engine: what is measured, whatever a test's marker says; None to leave it to the marker.
        default_engine: what is measured where neither says.
        reference: how the other side of an interleaved comparison is launched; None to compare with baselines.
        reference_replay: recordings of the other side, judged in pairs with `replay`; empty to compare with baselines.
        report: folder that a report is written to, None for none.
        interleave: what takes turns in a live comparison: "periods" of two engines that are resident together, "launches", or "auto",
            periods if both engines fit on the GPU.
        lock_timeout_s: limit for waiting until other runs on this host have left the GPUs.
    """

    baselines: Path
    update: bool
    update_reason: str | None
    noise: bool
    replay: tuple[Path, ...]
    record: Path | None
    launches: int
    inconclusive_fails: bool
    launch: LaunchSettings
    reference: LaunchSettings | None = None
    reference_replay: tuple[Path, ...] = ()
    report: Path | None = None
    interleave: str = "auto"
    engine: str | None = None
    default_engine: str = "offline"
    lock_timeout_s: float = 3600.0

    @property
    def paired(self) -> bool:
        """Whether two engines are compared launch by launch, and no baseline is asked."""
        return self.reference is not None or bool(self.reference_replay)


def parse_engine_args(texts: Sequence[str]) -> dict[str, Any]:
    """Texts "name=value" as engine arguments; a value that is JSON is taken as such, else as a string.

    Raises:
        ValueError: a text has no "=", an empty name, or a name given twice.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or not name.isidentifier():
            raise ValueError(f"{text!r} is not NAME=VALUE, as in enforce_eager=true")
        if name in arguments:
            raise ValueError(f"{name} is given twice")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return arguments
