"""Every reader with all that follows a successful read.

Each takes a file's bytes and raises no exception but the project's own.

A reader must read a valid object, or say in its own error which file it is and what to do; and
whatever it let through must be
measured, compared, judged and reported without any other exception or a warning of numpy's.
"""

import asyncio
import dataclasses
import itertools
import json
import queue
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import (
    running_server,
    server_load,
    server_process,
    synthetic_tokenizer,
)
from pytest_energy.engines.attached import AttachedEngine
from pytest_energy.engines.server import ServerEngine
from pytest_energy.engines.worker_process import WorkerProcess
from pytest_energy.errors import (
    BaselineError,
    EngineError,
    NoiseError,
    RecordingError,
    ResultsError,
    UsageError,
)
from pytest_energy.measure import measurement, spread
from pytest_energy.measure.measurement import Measurement
from pytest_energy.measure.metric import UNDER_LOAD, Metric
from pytest_energy.measure.spread import NoiseFloor
from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file, schema
from pytest_energy.recording.fingerprint import Fingerprint, fingerprint
from pytest_energy.recording.recording import Recording, TokenCounter
from pytest_energy.report import (
    collect,
    explanation,
    history,
    markdown,
    noise_table,
    prefill_decode,
    publish,
    results,
    results_file,
    rows,
    summary,
    table,
    trace,
)
from pytest_energy.report.groups import groups
from pytest_energy.store.baseline import Baseline
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from pytest_energy.verdict import judge
from pytest_energy.verdict.judgement import Limits
from pytest_energy.verdict.rule import Terms
from pytest_energy.verdict.variation import variation
from tests.hostile import seeds

_DRAWN = 200  # of so many results one is drawn, for pictures take seconds
_ALONE = Terms()
TOLERANCE = {"joules_per_token": 0.03, "tokens_per_s": 0.1}


class Readers:
    """All of them, with files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._drawn = 0
        self._ours = [schema.from_json(content) for content in seeds.recordings()]
        self.by_name: Mapping[str, Callable[[bytes], None]] = {
            "recording": self.read_recording,
            "baseline": self.read_baseline,
            "noise": self.read_noise,
            "results": self.read_results,
            "config": self.read_config,
            "marker": self.read_marker,
            "events": self.read_events,
            "stream": self.read_stream,
            "answers": self.read_answers,
        }

    def _file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def read_recording(self, content: bytes) -> None:
        """A recording, gzipped."""
        path = self._file("recordings/x.json.gz", content)
        try:
            recorded = recording_file.read(path)
        except RecordingError as error:
            return tells(
                error,
                path,
                "Fetch it again, or leave it out.",
                "Replay it with the pytest-energy that wrote it",
            )
        recording_file.write(recorded, path)
        assert recording_file.read(path) == recorded
        try:
            launches = list(recording_file.read_launches([path]))
        except RecordingError as error:
            return tells(error, "", "Fetch all of its files")
        assert launches == [(recorded,)]
        self._judge_and_report([recorded])

    def _judge_and_report(self, recordings: Sequence[Recording]) -> None:
        """All that a replay does: with itself as baseline and noise, and against one of ours."""
        for recorded in recordings:
            trace.trace(recorded)
            key = recorded.key
            copies = [dataclasses.replace(recorded, launch_id=f"copy-{i}") for i in range(3)]
            launches = [measurement.measure(copy) for copy in copies]
            ours = [
                measurement.measure(
                    dataclasses.replace(mine, key=key, environment=recorded.environment)
                )
                for mine in self._ours
            ]
            stores = self.folder / "stores"
            baseline = self._stored(launches, stores)
            of_runs = (Terms(paired=True),) if recorded.co_resident else (Terms(), Terms(4, 5))
            for metric, terms in itertools.product(UNDER_LOAD, of_runs):
                if recorded.co_resident and baseline is not None:
                    variation(metric, launches, launches)
                for new, old in (
                    (launches, baseline),
                    (launches, None),
                    (launches[:1] + ours[:2], baseline),
                    (ours, baseline),
                ):
                    self._report(new, old, metric, terms)
            engines = collect.read([self.folder / "recordings"])
            entries = collect.compared(engines, NoiseStore(self.folder / "none"))
            runs = (results.Run("", "", "recordings", "", None),)
            energies = prefill_decode.found(engines)
            self._pages(results.Results(results.SCHEMA_VERSION, runs, entries, (), energies))

    def _stored(self, launches: Sequence[Measurement], folder: Path) -> Baseline | None:
        """What becomes a baseline and noise can be read back."""
        for path in folder.rglob("*.json"):
            path.unlink()
        if not all(m.valid for m in launches):
            return None
        NoiseStore(folder).add(launches)
        NoiseStore(folder).check()
        if launches[0].co_resident:
            return Baseline.of(launches)
        Store(folder).update(launches, TOLERANCE)
        (stored,) = Store(folder).entries()
        Store(folder).near_misses(dataclasses.replace(launches[0].key, batch_size=1), "another")
        return stored

    def _report(
        self,
        new: Sequence[Measurement],
        old: Baseline | None,
        metric: Metric,
        terms: Terms = _ALONE,
        noise: Mapping[Metric, NoiseFloor] = spread.ASSUMED_NOISE,
    ) -> None:
        judged = judge.judge(metric, new, old, Limits(None, 500, 50, 50), terms, noise)
        name: Any = SimpleNamespace(name="cell bs=8 512/256", key=new[0].key)
        row = rows.row(name, judged)
        said = explanation.explain("cell bs=8 512/256", judged, "pytest", replayed=True)
        explanation.failure(judged, said)
        lines = [*table.table([row]), *noise_table.noise_lines([row]), *rows.latency_lines([row])]
        assert len(str(lines)) < 100_000
        json.dumps([row.as_dict(), row.properties()], allow_nan=False)
        entry = collect.entry_of(
            judged, new[0].key, {m: spread.ASSUMED_NOISE[m] for m in UNDER_LOAD}, said
        )
        assert results.from_plain(json.loads(json.dumps(results.to_plain(entry)))) == entry

    def read_baseline(self, content: bytes) -> None:
        """A file of the store."""
        path = self._file("baselines/gpu/model.json", content)
        try:
            entries = Store(path.parents[1]).entries()
        except BaselineError as error:
            return tells(error, path, *_STORE)
        ours = [measurement.measure(self._ours[0])]
        for entry, metric in itertools.product(entries, UNDER_LOAD):
            self._report(ours, entry, metric)
        states = history.history(Store(path.parents[1]), NoiseStore(self.folder / "none"))
        if states:
            self._pages(
                results.Results(
                    results.SCHEMA_VERSION,
                    (results.Run("", "", "baselines", "", None),),
                    (),
                    states,
                )
            )
        rows.unused(entries)

    def read_noise(self, content: bytes) -> None:
        """A runner's noise."""
        path = self._file("noises/nvidia-h200/noise/llama-3.1-8b.json", content)
        store = NoiseStore(path.parents[2])
        try:
            store.check()
        except NoiseError as error:
            return tells(error, path, *_STORE)
        ours = [measurement.measure(self._ours[0])]
        for metric in UNDER_LOAD:
            key, gpu_name = ours[0].key, "NVIDIA H200"
            name: Any = SimpleNamespace(name="cell bs=64 512/256")
            noise_table.noise_table([(name, metric, store.noise(key, gpu_name, metric))], 8)
            floors = {m: store.floor(key, gpu_name, m) for m in UNDER_LOAD}
            baseline = Baseline.of(
                [dataclasses.replace(ours[0], launch_id=str(i)) for i in range(3)]
            )
            self._report(ours * 2, baseline, metric, Terms(4, 5), floors)
        store.add(ours)
        NoiseStore(path.parents[2]).check()

    def read_results(self, content: bytes) -> None:
        """results.json."""
        path = self._file("results.json", content)
        try:
            read = results_file.read(path)
        except ResultsError as error:
            return tells(error, path, "Leave it out.", "from the recordings")
        self._pages(results_file.together([read, read]))
        self._drawn += 1
        if self._drawn % _DRAWN == 0:
            publish.publish(read, self.folder / "report")

    def _pages(self, reported: results.Results) -> None:
        """All of a report but its pictures, which take seconds."""
        markdown.page(reported)
        groups(reported)
        summary.lines(reported)
        results_file.to_json(reported)

    def read_config(self, content: bytes) -> None:
        """A model's config.json."""
        path = self._file("model/config.json", content)
        try:
            model = Model.from_folder(path.parent)
        except UsageError as error:
            return tells(error, path, "Copy the model's config.json there", "Fetch it: git")
        if (model.vocabulary_size or 10**9) < 10_000:
            synthetic_tokenizer.write(self.folder, {"vocab_size": model.vocabulary_size})

    def read_marker(self, content: bytes) -> None:
        """The arguments of a marker, as JSON values."""
        try:
            arguments = json.loads(content)
        except (ValueError, RecursionError):
            return
        if not isinstance(arguments, dict):
            return
        try:
            Marked.from_arguments((), arguments)
        except UsageError as error:
            tells(error, "", "must be", "It takes", "Mark it", "Leave one", "Give plain")

    def read_events(self, content: bytes) -> None:
        """What a worker writes to its pipe."""
        for engine in (
            ServerEngine("python", {}, 5.0, 5.0),
            AttachedEngine("http://localhost:1", [], 10, 10, dict, 5.0),
        ):
            with (
                tempfile.TemporaryFile(dir=self.folder) as log,
                tempfile.TemporaryFile(dir=self.folder) as pipe,
            ):
                pipe.write(content)
                pipe.seek(0)
                self._converse(engine, log, pipe)

    def _converse(self, engine: Any, log: Any, pipe: Any) -> None:
        engine.worker = EndedWorker(engine.events, log, pipe)
        try:
            ready = engine._load_with(5.0)
            made = fingerprint(
                ready.versions,
                ready.settings,
                {},
                {"gpu_name": "x"},
                ready.synthetic_weights,
                experts=ready.experts,
            )
            assert Fingerprint.from_plain(json.loads(json.dumps(made.plain))) == made
            engine.ready = dataclasses.replace(ready, vocabulary_size=ready.vocabulary_size or 10)
            engine.start_load(Workload(4, 4), 2)
            steps = engine.take_steps()
            assert steps.time_ns
            rest, stopped_ns = engine.stop_load()
            recorded = dataclasses.replace(
                self._ours[2],
                tokens=TokenCounter(
                    *(
                        getattr(steps, n) + getattr(rest, n)
                        for n in ("time_ns", "tokens", "finished")
                    )
                ),
                load_stopped_ns=stopped_ns,
                client=engine.client,
                prefix_cache=engine.prefix_cache,
            )
            measurement.measure(recorded)
            assert schema.from_json(json.loads(json.dumps(schema.to_json(recorded)))) == recorded
            engine.pause()
        except EngineError as error:
            tells(error, "engine failed during", "")

    def read_stream(self, content: bytes) -> None:
        """The body of a server's answer, in pieces."""
        generator = random.Random(len(content))
        cuts = sorted(generator.randrange(len(content) + 1) for _ in range(4))
        pieces = [content[a:b] for a, b in itertools.pairwise((0, *cuts, len(content)))]
        tally = server_load.Tally(1)
        command = {
            "lengths": [[4, 3]],
            "first_wave": [[0, 3]],
            "prompts": [[1, 2, 3, 4, 5]],
            "shared_prefix_tokens": 0,
        }
        requests = server_load.RequestStream("tiny", command, {})
        load = server_load.ServerLoad(_Session(pieces), requests, 1, tally)
        try:
            asyncio.run(load.send(requests.next()))
        except server_process.Failure:
            pass
        else:
            assert tally.total == 3
        server_load.distribution(tally.inter_token_us)

    def read_answers(self, content: bytes) -> None:
        """A server's answers to /metrics, /v1/models and /version, a part of the content each."""
        metrics, models, version = [*content.split(b"\x1e"), b"", b""][:3]
        told = {"/health": "", "/metrics": metrics, "/v1/models": models, "/version": version}
        original = server_process.Server.get
        try:
            server_process.Server.get = lambda _, path, timeout_s=1.0: (
                200,
                bytes(told[path] or b"").decode(errors="replace"),
            )  # type: ignore
            _, facts = running_server.attach("127.0.0.1", 1, None)
        except server_process.Failure:
            return
        finally:
            server_process.Server.get = original  # type: ignore
        self.read_events(json.dumps(facts).encode() + b"\n")


# What pydantic says of values, and what we say of errors that have no words of ours.
_FOREIGN = (
    "constrained", "literal[", "Input should", "Tuple should", "String should", "Value error",
    "valid ", "type=", "input_value", "pydantic", "something else", "[key]", "codec",
)  # fmt: skip


def tells(error: Exception, what: object, *remedies: str) -> None:
    """An error must name what is wrong, and one of the things to do, in our words."""
    if str(what) not in str(error) or not any(remedy in str(error) for remedy in remedies):
        raise AssertionError(f"an error that does not say what and what next: {error}")
    if any(word in str(error) for word in _FOREIGN):
        raise AssertionError(f"an error in pydantic's words, or Python's: {error}")


_STORE = (
    "git checkout HEAD -- ", "Use the pytest-energy that wrote it", "Fetch it: git", "Move it to ",
    "Delete one", "Delete the copy",
)  # fmt: skip


class EndedWorker(WorkerProcess):
    """A worker that wrote what the pipe holds, and exited with status 3."""

    def __init__(self, fields: Any, log: Any, pipe: Any) -> None:
        super().__init__(lambda *_: [], "python", fields, 5.0)
        self._log, self._events = log, queue.Queue()
        self._process = SimpleNamespace(wait=lambda timeout: 3, returncode=3)  # type: ignore
        self.read_events(pipe)

    def send(self, stage: str, **command: Any) -> None:
        pass


class _Session:
    """As much of aiohttp's as a client uses."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    @asynccontextmanager
    async def post(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in self._pieces:
                yield piece

        yield SimpleNamespace(status=200, content=SimpleNamespace(iter_any=pieces))
