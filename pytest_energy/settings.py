"""What the user asked for, checked. Light: every pytest run with the plugin installed loads it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

# Fewer launches, or pairs of launches, say too little about how launches differ.
MIN_LAUNCHES = 3
DEFAULT_LAUNCHES = 5  # at most, of a cell that is judged
MOST_OF_BASELINE = 8  # an update makes no more of itself
# What a suite may ask for; launch/engines.py makes it.
EngineName = Literal["offline", "server"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


@dataclass(frozen=True)
class LaunchSettings:
    """How engines are launched.

    Attributes:
        python: interpreter whose vLLM is measured.
        engine_args_under_test: settings from the command line; they override those of the suite.
        load_timeout_s: limit for an engine to start and load.
        progress_timeout_s: limit for an engine under load to generate no token.
        url: of a running server that is measured instead of launching an engine; None to launch.
        gpu_uuids: of that server's GPUs; empty to find them.
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
        update_reason: why an update may accept a loss; None if no reason was given.
        noise: whether the runner's noise is measured and stored, and nothing judged.
        replay: recordings to judge instead of measuring; empty for a live run.
        record: folder that keeps the recordings of a live run, None to drop them.
        launches: engine launches per cell of a live run, at most or exactly.
        launches_given: whether the user said how many.
        gpu_minutes: that a live run may use; None for no limit.
        inconclusive_fails: whether a test fails if its verdict is inconclusive.
        verdict_status: whether the exit status tells the verdict.
        launch: how the engine, or the candidate of an interleaved comparison, is launched.
        reference: how the reference is launched; None to compare with baselines alone.
        reference_install: whether the reference is installed as the store pins it, if it is needed.
        reference_replay: recordings of the reference; empty to compare with baselines alone.
        gpu_cache: folder for launches of the reference that later runs on this machine may use;
            None for one in the user's cache folder.
        report: folder for a report, None for none.
        interleave: what alternates in a comparison with the reference: "periods" of two engines
            that are resident on the GPU together, "launches", or "auto": periods if both engines
            fit on the GPU. "never": the reference stands in for baselines that fit no GPU here.
        engine: what is measured, whatever a test's marker says; None to leave it to the marker.
        default_engine: what is measured if neither says.
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
    reference_install: bool = False
    reference_replay: tuple[Path, ...] = ()
    report: Path | None = None
    interleave: str = "auto"
    engine: str | None = None
    default_engine: str = "offline"
    lock_timeout_s: float = 3600.0
    launches_given: bool = True
    gpu_minutes: float | None = None
    verdict_status: bool = False
    gpu_cache: Path | None = None

    @property
    def exactly(self) -> bool:
        """Whether each cell gets all launches, and not only those that its noise asks for."""
        return self.noise or (self.update and self.launches_given)

    @property
    def paired(self) -> bool:
        """Whether two engines are compared pair by pair, without a baseline."""
        given = self.reference is not None or bool(self.reference_replay)
        return given and self.interleave != "never"

    @property
    def reference_first(self) -> bool:
        """Whether the reference is launched where neither store nor cache has launches of it."""
        given = self.reference is not None or self.reference_install
        return given and not (self.paired or self.update or self.noise)


def parse_engine_args(texts: Sequence[str]) -> dict[str, Any]:
    """Texts "name=value" as engine arguments; a value that is JSON is read as such, else a string.

    Raises:
        ValueError: a text has no "=" or no name, or a name is given twice.
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
