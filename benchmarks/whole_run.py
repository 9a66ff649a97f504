"""Energy of a whole run beside that of its steady part: all requests sent at once, as published.

ML.ENERGY sends all requests at the start and lets max_num_seqs hold them back. Its leaderboards
took J/token until none waited, v3.0 (vLLM 0.11.1) from a full batch on; its longitudinal analysis
took the power of v2.0 (0.5.4) over the whole run (docs/generated/published.md).

    python benchmarks/whole_run.py --python /venv/bin/python --max-num-seqs 64 --json out.json

The offline engine runs them, with lengths as in suites/published. So front end, detokenization and
the data set are left out, and no fault of GPU or host is looked for. The meter keeps two updates of
the counter a second and energy between them is interpolated, so that of a short ramp-up is rough.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.lengths import Lognormal
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.engine import Steps
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.meters.zeus_meter import ZeusMeter
from pytest_energy.recording import fingerprint
from pytest_energy.recording.counters import energy_j
from pytest_energy.recording.recording import GpuTrace

ROOT = Path(__file__).parents[1]
PROMPTS = Lognormal(94, 0.82, 800)
OUTPUTS = {"v2.0": Lognormal(580, 0.82, 1024), "v3.0": Lognormal(290, 0.82, 3072)}
MAX_MODEL_LEN = 4096
REQUESTS = 2000  # of v2.0: 500 prompts four times
ONE_PASS = 64  # requests from which on a pass has no more (`Workload.requests_per_pass`)
BESIDE_S = 1.0  # the meter runs longer than the load, so that its counter spans it


@dataclass(frozen=True)
class Part:
    """A part of a run.

    Attributes:
        seconds: that it took.
        tokens: generated in it.
        joules: None without a meter.
    """

    seconds: float
    tokens: int
    joules: float | None

    @property
    def power_w(self) -> float | None:
        """Mean power."""
        return None if self.joules is None else self.joules / self.seconds

    @property
    def joules_per_token(self) -> float | None:
        """J for each token generated in it."""
        return None if self.joules is None else self.joules / self.tokens

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second."""
        return self.tokens / self.seconds


def parts(
    steps: Steps, marks_ns: Sequence[int], gpus: Sequence[GpuTrace] | None
) -> dict[str, Part]:
    """A run's parts by name; "whole" is all of them.

    Args:
        steps: of the run.
        marks_ns: when it started, the batch was full, no request waited, and the last one ended.
        gpus: whose counters span it; None without a meter.
    """
    # A step's tokens belong to the part in which it ended.
    generated = np.concatenate(([0], np.cumsum(steps.tokens)))
    tokens = generated[np.searchsorted(steps.time_ns, marks_ns, side="right")]
    joules = None if gpus is None else sum(energy_j(gpu, marks_ns) for gpu in gpus)

    def between(first: int, last: int) -> Part:
        return Part(
            (marks_ns[last] - marks_ns[first]) / 1e9,
            int(tokens[last] - tokens[first]),
            None if joules is None else float(joules[last] - joules[first]),
        )

    return {
        "ramp-up": between(0, 1),
        "steady": between(1, 2),
        "tail": between(2, 3),
        "until none waits": between(0, 2),
        "whole": between(0, 3),
    }


class WholeRunEngine(OfflineEngine):
    """The offline engine with the worker that sends all requests at once."""

    program = Path(__file__).with_name("whole_run_worker.py")
    events: ClassVar[Mapping[str, set[str]]] = {**OfflineEngine.events, "whole": {"marks_ns"}}

    def whole_run(
        self, workload: Workload, requests: int, max_num_seqs: int, sampling: Mapping[str, Any]
    ) -> tuple[Steps, list[int]]:
        """Its steps and, in ns, when it began, was full, none waited, and it ended."""
        self._run += 1
        self.worker.send(
            "run",
            command="run",
            run=self._run,
            lengths=workload.plan(requests).lengths,
            prompts=workload.prompts(64, self.ready.vocabulary_size),
            sampling=dict(sampling),
            max_num_seqs=max_num_seqs,
        )
        steps = Steps()
        while (event := self._receive("run", "token"))["event"] != "whole":
            if self._belongs(event, "steps"):
                steps += self._steps(event)
        return steps, event["marks_ns"]


def line(name: str, part: Part) -> str:
    energy = "" if part.joules is None else f" {part.joules_per_token:8.4f} {part.power_w:6.1f}"
    return f"{name:18}{part.seconds:9.2f} {part.tokens:10,}{energy} {part.tokens_per_s:9,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--model", default=str(ROOT / "suites/models/llama-3.1-8b"))
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--outputs", choices=OUTPUTS, default="v2.0", help="whose lengths")
    parser.add_argument(
        "--sampling",
        type=json.loads,
        default={"temperature": 1.0},
        metavar="JSON",
        help='of vllm.SamplingParams; v2.0\'s: \'{"temperature": 0.8, "top_p": 0.95}\'',
    )
    parser.add_argument(
        "--without-meter", action="store_true", help="for a trial on a machine without a GPU"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.requests < max(ONE_PASS, 2 * given.max_num_seqs):
        parser.error(f"--requests must be at least {ONE_PASS}, and twice --max-num-seqs")
    workload = Workload(PROMPTS, OUTPUTS[given.outputs])
    cell = Cell(
        Model.from_folder(Path(given.model).resolve()),
        given.max_num_seqs,
        workload,
        weights="dummy",
        engine_args=(
            ("dtype", "bfloat16"),
            ("max_model_len", MAX_MODEL_LEN),
            ("max_num_seqs", given.max_num_seqs),
        ),
    )
    with WholeRunEngine(
        given.python, {**cell.launch_args, "model": cell.model.location}, 600, 120
    ) as engine:
        meter = None if given.without_meter else ZeusMeter(engine.ready.gpu_uuids)
        if meter:
            meter.start()
            time.sleep(BESIDE_S)
        steps, marks_ns = engine.whole_run(
            workload, given.requests, given.max_num_seqs, given.sampling
        )
        if meter:
            time.sleep(BESIDE_S)
            meter.stop()
        found = parts(steps, marks_ns, meter.read() if meter else None)
        gpu = meter.describe() if meter else {"gpu_name": "not metered"}
        environment = fingerprint.fingerprint(
            engine.ready.versions, engine.ready.settings, {}, gpu, engine.ready.synthetic_weights
        )
    energy = "" if given.without_meter else "  J/token      W"
    print(f"{'':18}        s     tokens{energy}  tokens/s")
    print("\n".join(line(name, part) for name, part in found.items()))
    if given.json:
        run = {
            "requests": given.requests,
            "outputs": given.outputs,
            "sampling": given.sampling,
            "parts": {name: asdict(part) for name, part in found.items()},
        }
        text = json.dumps({"environment": environment.plain, **run}, indent=1, ensure_ascii=False)
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
