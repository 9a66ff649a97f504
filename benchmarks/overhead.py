"""Do load and meter cost anything? tokens/s of the measured worker with the meter against a bare LLMEngine loop.

Both run in one engine launch, on the same requests in flight, one cycle each in turns (metered bare, bare
metered, …); the unit is the pair.

    python benchmarks/overhead.py --python /venv/bin/python --batch-sizes 8 64 --pairs 8 --json out.json
"""

import argparse
import json
import sys
from pathlib import Path

from pytest_energy import environment, statistics
from pytest_energy.cell import Cell, Model
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.meters.zeus_meter import ZeusMeter
from pytest_energy.workload import Workload

ROOT = Path(__file__).parents[1]


class OverheadEngine(OfflineEngine):
    """The offline engine with the worker that knows the comparison."""

    worker = Path(__file__).with_name("overhead_worker.py")

    def compare(self, workload: Workload, batch_size: int, pairs: int, meter: ZeusMeter | None) -> dict[str, list[float]]:
        rates: dict[str, list[float]] = {"metered": [], "bare": []}
        self._send(
            "run",
            command="run",
            run=0,
            pairs=pairs,
            first_wave=workload.first_wave(batch_size),
            output_tokens=workload.output_tokens,
            prompts=workload.prompts(max(64, 2 * batch_size), self.ready.vocabulary_size),
        )
        while True:
            event = self._receive("run", 120, "event")
            if event["event"] == "segment":
                if event["metered"] and meter:
                    meter.start()
                self._send("run", command="go")
            elif event["event"] == "result":
                if event["metered"] and meter:
                    meter.stop()
                rates["metered" if event["metered"] else "bare"].append(event["tokens_per_s"])
            elif event["event"] == "stopped":
                return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--model", default=str(ROOT / "suites/models/llama-3.1-8b"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--without-meter", action="store_true", help="for a trial on a machine without a GPU")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cell = Cell(
        Model.from_folder(Path(arguments.model).resolve()),
        max(arguments.batch_sizes),
        weights="dummy",
        engine_args=(("max_num_seqs", max(arguments.batch_sizes)),),
    )
    results = {}
    with OverheadEngine(arguments.python, {**cell.launch_args, "model": cell.model.location}, 600, 120) as engine:
        meter = None if arguments.without_meter else ZeusMeter(engine.ready.gpu_uuids)
        gpu = meter.describe() if meter else {}
        for batch_size in arguments.batch_sizes:
            rates = engine.compare(cell.workload, batch_size, arguments.pairs, meter)
            pairs = [m / b for m, b in zip(rates["metered"], rates["bare"], strict=True)]
            ratio = statistics.estimate(pairs, statistics.NoiseFloor(0.0, 0.0))
            results[batch_size] = {**rates, "ratio": [ratio.value, ratio.low, ratio.high]}
            print(
                f"batch size {batch_size}: metered ÷ bare = {ratio.value:.4f} (95 % interval {ratio.low:.4f} to {ratio.high:.4f}, "
                f"{len(pairs)} pairs)",
                flush=True,
            )
        fingerprint = environment.fingerprint(engine.ready.versions, engine.ready.settings, {}, gpu)
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": fingerprint, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
