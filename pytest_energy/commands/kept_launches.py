"""Launches of one cell on the same GPUs in a folder, so that a command can go on with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_energy.cell.key import distinct_slug
from pytest_energy.commands import one_launch
from pytest_energy.commands.one_launch import Suite
from pytest_energy.errors import UsageError
from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.measure.metric import Metric
from pytest_energy.recording import recording_file
from pytest_energy.recording.fingerprint import Fingerprint
from pytest_energy.recording.folder import files_below
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.gpu_launches import Machine
from pytest_energy.verdict.judge import judge
from pytest_energy.verdict.rule import Verdict


@dataclass
class KeptLaunches:
    """What was recorded, by the engine's name: FOLDER/NAME/NUMBER/LAUNCH/CELL.json.gz.

    Attributes:
        folder: of all engines.
        suite: its tests, which select one cell.
    """

    folder: Path
    suite: Suite
    _known: dict[str, list[Measurement]] = field(default_factory=dict)

    def of(self, name: str, engine_args: Sequence[str] = ()) -> list[Measurement]:
        """The valid launches of an engine, in the order in which they were made.

        Args:
            name, engine_args: of the engine, as in `add`.

        Raises:
            RecordingError: a file is damaged.
            UsageError: they cannot be compared with the launches read before.
        """
        if name not in self._known:
            place = self._place(name)
            read = _measured(place) if place.is_dir() and files_below(place) else []
            self._known[name] = []
            for m in sorted((m for m in read if m.valid), key=lambda m: m.launch_id):
                self._refuse_other(m, str(place), name, engine_args)
                self._known[name].append(m)
        return self._known[name]

    def add(self, name: str, python: str, engine_args: Sequence[str] = ()) -> str | None:
        """Launch an engine once more; returns why that failed, in words, else None.

        Args:
            name, python: of the engine.
            engine_args: further settings under test, "NAME=VALUE" each.

        Raises:
            UsageError: several cells were measured, or the launch cannot be compared with the
                others. Its recordings are kept where no later call finds them.
            OSError: the folder cannot be used.
        """
        kept, place = self.of(name, engine_args), self._place(name)
        numbers = [int(path.name) for path in place.glob("*") if path.name.isdecimal()]
        folder = place / str(max(numbers, default=0) + 1)
        suite = replace(self.suite, engine_args=(*self.suite.engine_args, *engine_args))
        failure = one_launch.record(suite, python, folder)
        if failure is not None:
            return failure
        try:
            found = _measured(folder)
            _refuse_several(found)
            (m,) = found
            self._refuse_other(m, f"this launch of {name}", name, engine_args)
        except UsageError:
            folder.rename(place / f".{found[0].launch_id}")  # hidden from readers, and not lost
            raise
        if not m.valid:
            return "; ".join(m.faults)
        kept.append(m)
        return None

    def _place(self, name: str) -> Path:
        return self.folder / distinct_slug(name)

    def _refuse_other(
        self, found: Measurement, what: str, name: str, engine_args: Sequence[str]
    ) -> None:
        """Refuse what cannot be compared with the launches known so far.

        Args:
            found, what: a launch, and in words.
            name, engine_args: of its engine.
        """
        if found.key.is_idle:
            raise UsageError(
                f"{what} is of {found.key.name}, and releases are bisected under load.\n"
                "Select a cell with a batch size: -- -k bs8"
            )
        first = next((known[0] for known in self._known.values() if known), None)
        if first is None:
            return
        if found.key != first.key:
            raise UsageError(
                f"{what} is of {found.key.name}, and the others are of {first.key.name}: "
                f"{'; '.join(first.key.differences(found.key))}.\n"
                "Give each cell a folder of its own: --output DIR"
            )
        if not found.valid:
            return
        judged = judge(Metric.JOULES_PER_TOKEN, [found], Baseline.of([first]))
        reasons = judged.reasons if judged.verdict is Verdict.NOT_COMPARABLE else ()
        of_engine = (self._known[name] or [found])[0].environment
        reasons = reasons or _changed(first.environment, of_engine, found.environment, engine_args)
        if reasons:
            gpus = ",".join(first.environment.gpu_uuids)
            raise UsageError(
                f"{what} cannot be compared with the others: {'; '.join(reasons)}.\n"
                "Go on as they were made, on the same GPU "
                f"(export CUDA_VISIBLE_DEVICES={gpus}), or start anew: --output DIR"
            )


def _changed(
    first: Fingerprint, of_engine: Fingerprint, now: Fingerprint, engine_args: Sequence[str]
) -> tuple[str, ...]:
    """What is not as it was when a search began, and may be taken for a release.

    Args:
        first, of_engine: the first launch of all, and of the same engine.
        now: a later launch.
        engine_args: that make this engine what it is.
    """
    machines = Machine.of(first), Machine.of(now)
    found = [machines[0].differences(machines[1])] if machines[0].has_become(machines[1]) else []
    own = {argument.partition("=")[0] for argument in engine_args}
    was, given = (
        {name: value for name, value in of.engine_args_under_test.items() if name not in own}
        for of in (first, now)
    )
    if was != given:
        found.append(f"settings under test {was or 'none'} → {given or 'none'}")
    if of_engine.vllm != now.vllm:
        found.append(f"vLLM {of_engine.vllm} → {now.vllm}")
    return tuple(found)


def _measured(folder: Path) -> list[Measurement]:
    return [measure(*periods) for periods in recording_file.read_launches([folder])]


def _refuse_several(found: Sequence[Measurement]) -> None:
    if len(found) > 1:
        names = ", ".join(sorted(m.key.name for m in found))
        raise UsageError(
            f"the tests select {len(found)} cells: {names}.\n"
            "Select the one that got worse, by a test's name: -- -k bs8"
        )
