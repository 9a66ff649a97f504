"""Do load and meter cost anything? tokens/s of the measured worker against a bare LLMEngine loop.

Three arms alternate in one engine launch, on the same requests in flight, one cycle each: the
measured worker with the meter, the same worker with the meter off, and a bare loop. Each block of
three has another order, so that drift falls on all alike; the block is the unit.

    python benchmarks/overhead.py --python /venv/bin/python --blocks 8:18 64:28 --json out.json
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.engines.offline import OfflineEngine
from pytest_energy.measure import spread
from pytest_energy.meters.zeus_meter import ZeusMeter
from pytest_energy.recording import fingerprint
from pytest_energy.verdict import comparison

ROOT = Path(__file__).parents[1]
ARMS = ("metered", "unmetered", "bare")
RATIOS = (("metered", "bare"), ("unmetered", "bare"), ("metered", "unmetered"))


class OverheadEngine(OfflineEngine):
    """The offline engine with the worker that knows the comparison."""

    program = Path(__file__).with_name("overhead_worker.py")
    events: ClassVar[Mapping[str, set[str]]] = {
        **OfflineEngine.events,
        "segment": {"arm"},
        "result": {"arm", "tokens_per_s"},
    }

    def compare(
        self, workload: Workload, batch_size: int, blocks: int, meter: ZeusMeter | None
    ) -> dict[str, list[float]]:
        """tokens/s of each arm, one value per block."""
        orders = list(itertools.permutations(ARMS))
        arms = [arm for block in range(blocks) for arm in orders[block % len(orders)]]
        rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
        plan = workload.plan(batch_size)
        self.worker.send(
            "run",
            command="run",
            run=0,
            arms=arms,
            first_wave=plan.first_wave,
            lengths=plan.lengths,
            prompts=workload.prompts(max(64, 2 * batch_size), self.ready.vocabulary_size),
        )
        while True:
            event = self.worker.receive("run", 120, "no event for 120 s")
            if event["event"] == "segment":
                if event["arm"] == "metered" and meter:
                    meter.start()
                self.worker.send("run", command="go")
            elif event["event"] == "result":
                if event["arm"] == "metered" and meter:
                    meter.stop()
                rates[event["arm"]].append(event["tokens_per_s"])
            elif event["event"] == "stopped":
                return rates


def batch_size_and_blocks(text: str) -> tuple[int, int]:
    batch_size, _, blocks = text.partition(":")
    return int(batch_size), int(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--model", default=str(ROOT / "suites/models/llama-3.1-8b"))
    parser.add_argument(
        "--blocks",
        type=batch_size_and_blocks,
        nargs="+",
        default=[(8, 18), (64, 28)],
        metavar="BATCH_SIZE:BLOCKS",
    )
    parser.add_argument(
        "--without-meter", action="store_true", help="for a trial on a machine without a GPU"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    largest = max(batch_size for batch_size, _ in arguments.blocks)
    cell = Cell(
        Model.from_folder(Path(arguments.model).resolve()),
        largest,
        weights="dummy",
        engine_args=(("max_num_seqs", largest),),
    )
    results = {}
    with OverheadEngine(
        arguments.python, {**cell.launch_args, "model": cell.model.location}, 600, 120
    ) as engine:
        meter = None if arguments.without_meter else ZeusMeter(engine.ready.gpu_uuids)
        gpu = meter.describe() if meter else {"gpu_name": "not metered"}
        for batch_size, blocks in arguments.blocks:
            rates = engine.compare(cell.workload, batch_size, blocks, meter)
            results[batch_size] = {"tokens_per_s": rates, "ratios": {}}
            for over, under in RATIOS:
                ratios = [a / b for a, b in zip(rates[over], rates[under], strict=True)]
                ratio = comparison.estimate(ratios, spread.NoiseFloor(0.0, 0.0))
                results[batch_size]["ratios"][f"{over} ÷ {under}"] = [
                    ratio.value,
                    ratio.low,
                    ratio.high,
                ]
                print(
                    f"batch size {batch_size}: {over} ÷ {under} = {ratio.value:.4f} "
                    f"(95 % interval {ratio.low:.4f} to {ratio.high:.4f}, {blocks} blocks)",
                    flush=True,
                )
        environment = fingerprint.fingerprint(
            engine.ready.versions, engine.ready.settings, {}, gpu, engine.ready.synthetic_weights
        )
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {"environment": environment.plain, "results": results}, indent=1, ensure_ascii=False
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
