"""The search of `pytest-energy bisect`: launches until there is an answer, or no time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_energy.commands import one_launch, releases
from pytest_energy.commands.kept_launches import KeptLaunches
from pytest_energy.commands.releases import Release
from pytest_energy.errors import LaunchError, UsageError
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import Metric
from pytest_energy.measure.spread import ASSUMED_NOISE
from pytest_energy.report.bisection import Bisection
from pytest_energy.report.words import UNIT, count
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import ablation
from pytest_energy.verdict.ablation import Ablation, Arm, Made
from pytest_energy.verdict.bisection import Answer, Launched, Next, Outcome, Question, Step, advance
from pytest_energy.verdict.rule import DEFAULT_TOLERANCE

_TRIES = 2  # of an engine whose launches fail
_NO_TIME = "the minutes are used up"


@dataclass
class Candidate:
    """A release in the list.

    Attributes:
        name: under which it is shown and kept.
        requirement, python_version: what its environment is made of; empty if its interpreter was
            given.
        release: once its environment is made.
    """

    name: str
    requirement: str = ""
    python_version: str = ""
    release: Release | None = None

    def python(self) -> str:
        """Its interpreter.

        Raises:
            UsageError: its environment cannot be made.
            OSError: the cache folder cannot be used.
        """
        if self.release is None:
            self.release = releases.made(self.requirement, self.python_version)
        return self.release.python


@dataclass
class Search:
    """Launches what the search asks for.

    Attributes:
        candidates: from good to bad.
        kept: their launches.
        metric: what got worse.
        tolerance: the smallest loss that matters; None for the gate's.
        noise_store: has the runner's noise.
        minutes: that launches may take.
        skipped: why releases are left out, by their places.
    """

    candidates: Sequence[Candidate]
    kept: KeptLaunches
    metric: Metric
    tolerance: float | None
    noise_store: NoiseStore
    minutes: float
    skipped: dict[int, str] = field(default_factory=dict)
    _made: int = 0
    _begun_s: float = field(default_factory=time.monotonic)
    _longest_s: float = 0.0

    def run(self) -> Bisection:
        """Search, and set settings back at the step that was found.

        Raises:
            LaunchError: the good or the bad release cannot be launched.
            UsageError, RecordingError, NoiseError: launches cannot be compared, or a file is
                damaged.
            OSError: the folder cannot be used.
        """
        earlier = len(self._launched())
        while True:
            usable = [i for i in range(len(self.candidates)) if i not in self.skipped]
            question = self._question()
            found = advance(question, usable, self._launched())
            if isinstance(found, Answer) or not self._has_time():
                break
            self._launch(found)
        set_back = None
        if isinstance(found, Answer) and found.outcome is Outcome.FOUND:
            set_back = self._set_back(question, found.steps[0])
        return Bisection(
            question=question,
            names=[candidate.name for candidate in self.candidates],
            launches={i: launches for i in usable if (launches := self._of(i))},
            skipped=self.skipped,
            found=found,
            minutes=(time.monotonic() - self._begun_s) / 60,
            made=self._made,
            earlier=earlier,
            ablation=set_back,
        )

    def _question(self) -> Question:
        """With the noise of the cell, once that is known."""
        tolerance = self.tolerance or DEFAULT_TOLERANCE[self.metric]
        launches = [m for i in range(len(self.candidates)) for m in self._of(i)]
        if not launches:
            return Question(self.metric, tolerance, ASSUMED_NOISE[self.metric])
        key, gpu_name = launches[0].key, launches[0].environment.gpu_name
        ids = [m.launch_id for m in launches]
        return Question(
            self.metric, tolerance, self.noise_store.floor(key, gpu_name, self.metric, ids)
        )

    def _of(self, release: int) -> list[Measurement]:
        return self.kept.of(self.candidates[release].name)

    def _values(self, launches: Sequence[Measurement]) -> list[float]:
        return [getattr(m, self.metric.value) for m in launches]

    def _launched(self) -> list[Launched]:
        """All launches of releases in the order in which they were made."""
        made = [(m, i) for i in range(len(self.candidates)) for m in self._of(i)]
        in_order = sorted(made, key=lambda launch: launch[0].launch_id)
        return [Launched(i, *self._values([m])) for m, i in in_order]

    def _has_time(self) -> bool:
        used_s = time.monotonic() - self._begun_s
        return used_s + self._longest_s <= 60 * self.minutes

    def _launch(self, due: Next) -> None:
        """Launch a release, or leave it out.

        Raises:
            LaunchError: it is the good or the bad one.
        """
        candidate = self.candidates[due.release]
        failure = self._environment(candidate) or self._tried(
            candidate.name, candidate.python(), f"{candidate.name} ({self._so_far(due)})"
        )
        if failure is None:
            return
        if due.release in (0, len(self.candidates) - 1):
            raise LaunchError(
                f"{candidate.name} could not be launched, so nothing can be compared.\n{failure}"
            )
        self.skipped[due.release] = failure
        print(f"pytest-energy: {candidate.name} is skipped: {failure}", flush=True)

    def _so_far(self, due: Next) -> str:
        """What is known when a release is due."""
        after, until = self.candidates[due.after].name, self.candidates[due.until].name
        if due.confidence is None:
            return f"is {until} worse than {after}?"
        return f"the change is between {after} and {until}"

    def _environment(self, candidate: Candidate) -> str | None:
        """Make a release's environment; returns why that failed, else None.

        Raises:
            UsageError: there is no GPU to launch it on.
        """
        if candidate.release is None:
            one_launch.visible_gpus()
        try:
            candidate.python()
        except UsageError as error:
            return str(error)
        return None

    def _tried(
        self, name: str, python: str, shown: str, arguments: Sequence[str] = ()
    ) -> str | None:
        """Launch an engine; returns why that failed as often as it is tried, else None."""
        failure, digits = None, "#.4g" if self.metric is Metric.JOULES_PER_TOKEN else ",.0f"
        for _ in range(_TRIES):
            self._made += 1
            print(f"pytest-energy: launch {self._made}: {shown}", end="", flush=True)
            begun_s = time.monotonic()
            failure = self.kept.add(name, python, arguments)
            took_s = time.monotonic() - begun_s
            self._longest_s = max(self._longest_s, took_s)
            if failure is None:
                (value,) = self._values(self.kept.of(name)[-1:])
                print(f": {value:{digits}} {UNIT[self.metric]}, {took_s:.0f} s", flush=True)
                return None
            print(f": failed after {took_s:.0f} s", flush=True)
        return failure

    def _set_back(self, question: Question, step: Step) -> Ablation:
        """Launch the engine at a step with settings of that before it."""
        before, at = self._of(step.before), self._of(step.at)
        single, cannot = ablation.arms(before[-1].environment, at[-1].environment)
        problems = list(cannot)
        arms = len(single) + (len(single) > 1)
        candidate, of_step = self.candidates[step.at], self._values(at)
        if single:
            said = f"{candidate.name} is found; {count(len(single), 'setting')} to set back"
            print(f"pytest-energy: {said}", flush=True)

        def launches(arm: Arm) -> list[float]:
            return self._values(self.kept.of(_name(candidate, arm), arm.arguments))

        def measured(of: Sequence[Arm]) -> list[Made]:
            """Of those that could be launched, one launch of each after the other."""
            left = {arm.arguments: arm for arm in of}
            while open_ := [
                arm
                for arm in left.values()
                if ablation.is_open(question, of_step, launches(arm), arms)
            ]:
                for arm in open_:
                    problem = self._arm(candidate, arm)
                    if problem is not None:
                        problems.append(problem)
                        del left[arm.arguments]
            return [(arm, launches(arm)) for arm in left.values()]

        found = measured(single)
        all_of_them = [ablation.together([arm for arm, _ in found])] if len(found) > 1 else []
        together = next(iter(measured(all_of_them)), None)
        return ablation.ablation(question, self._values(before), of_step, found, together, problems)

    def _arm(self, candidate: Candidate, arm: Arm) -> str | None:
        """Launch a release with settings set back; returns why that cannot be, else None."""
        name = _name(candidate, arm)
        made = self.kept.of(name, arm.arguments)

        def not_taken() -> str:
            return "; ".join(arm.not_taken(made[-1].environment)) if made else ""

        if not not_taken():
            if not self._has_time():
                return f"{name}: {_NO_TIME}"
            failure = self._environment(candidate) or self._tried(
                name, candidate.python(), name, arm.arguments
            )
            if failure is not None:
                return f"{name}: {failure.splitlines()[0]}"
        return f"{name}: {not_taken()}" if not_taken() else None


def _name(candidate: Candidate, arm: Arm) -> str:
    return " ".join([candidate.name, *arm.arguments])
