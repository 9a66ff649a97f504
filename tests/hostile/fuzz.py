"""Coverage-guided fuzzing of every reader with atheris (libFuzzer), for an hour unless told.

    pip install atheris
    python -m tests.hostile.fuzz --seconds 3600 --out FOLDER

Inputs are of the kinds in tests/hostile/made.py, and their first byte says which; three in four
mutations change their structure, the others their bytes. An exception that a reader must not raise
is a finding: FOLDER/findings keeps its input and traceback, once per place, and the run goes on. An
input that takes more than a minute or 2 GB ends it. FOLDER/corpus keeps what reached new code.
"""

import argparse
import gzip
import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["pytest_energy"]):
    from tests.hostile.readers import Readers

from tests.hostile import made
from tests.hostile.mutate import mutated

_TIMEOUT_S = (
    60  # by the clock on the wall; on a busy machine an input of 14 ms of CPU once took 16 s
)
_MEMORY_MB = 2048


class Target:
    """Runs one input, keeps what goes wrong."""

    def __init__(self, folder: Path, findings: Path) -> None:
        self._readers, self._findings = Readers(folder), findings
        self.executions, self.found = 0, 0

    def __call__(self, data: bytes) -> None:
        """Called by libFuzzer."""
        if not data:
            return
        self.executions += 1
        name, content = made.NAMES[data[0] % len(made.NAMES)], data[1:]
        if name == "recording" and data[0] < 128:
            content = gzip.compress(content, 1, mtime=0)
        try:
            self._readers.by_name[name](content)
        except Exception as error:
            self._keep(name, content, error)

    def _keep(self, name: str, content: bytes, error: Exception) -> None:
        ours = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "pytest_energy" in frame.filename
        ]
        place = f"{Path(ours[-1].filename).stem}-{ours[-1].lineno}" if ours else "harness"
        path = self._findings / f"{name}-{type(error).__name__}-{place}"
        if not path.exists():
            self.found += 1
            path.write_bytes(content)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))
            print(f"FINDING {path.name}: {str(error)[:200]}", flush=True)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """A neighbour of an input, by structure where it has one."""
    generator = random.Random(seed)
    kind, content = data[:1] or b"\x00", data[1:]
    if generator.random() < 0.25:
        return bytes(kind + atheris.Mutate(content, max(1, max_size - 1)))[:max_size]
    if generator.random() < 0.05:
        number = generator.randrange(len(made.NAMES))
        packed = 128 if made.NAMES[number] == "recording" else 0
        return bytes([number + packed]) + made.hostile(made.NAMES[number], generator)
    lines = content.split(b"\n")
    place = generator.randrange(len(lines))
    head, brace, rest = lines[place].partition(b"{")
    try:
        lines[place] = head + mutated(
            json.loads(brace + rest), generator, generator.choice((1, 1, 2))
        )
    except (ValueError, RecursionError):
        return bytes(kind + atheris.Mutate(content, max(1, max_size - 1)))[:max_size]
    return (kind + b"\n".join(lines))[:max_size]


def main() -> None:
    """Fuzz for the time asked for; the last lines of output are libFuzzer's and our summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    corpus, findings = options.out / "corpus", options.out / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(made.NAMES):
        (corpus / f"seed-{name}").write_bytes(bytes([number]) + made.seed(name))
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    ) as folder:
        target = Target(Path(folder), findings)
        limits = [
            f"-max_total_time={options.seconds}",
            f"-timeout={_TIMEOUT_S}",
            f"-rss_limit_mb={_MEMORY_MB}",
            "-max_len=200000",
        ]
        fixed: list[Any] = [
            *limits,
            "-print_final_stats=1",
            "-verbosity=1",
            f"-artifact_prefix={findings}/",
            str(corpus),
        ]

        started = time.monotonic()

        def run_one(data: bytes) -> None:
            target(data)
            if target.executions % 20_000 == 0:
                used = resource.getrusage(resource.RUSAGE_SELF)
                told = (
                    f"{target.executions} executions, {time.monotonic() - started:.0f} s, "
                    f"{used.ru_utime + used.ru_stime:.0f} CPU s"
                )
                print(
                    f"{told}, at most {used.ru_maxrss / 1e3:.0f} MB, {target.found} findings",
                    flush=True,
                )

        atheris.Setup([sys.argv[0], *fixed], run_one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
