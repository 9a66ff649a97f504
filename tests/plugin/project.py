"""A user's repository for the plugin's tests."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_energy.plugin.marker import Marked
from pytest_energy.recording import recording_file
from pytest_energy.recording.recording import PrefixCache
from tests import simulated

MARKER = {
    "model": "tiny",
    "weights": "dummy",
    "batch_sizes": [2, 8],
    "input_tokens": 64,
    "output_tokens": 250,
}
TESTS = f"""
    import pytest
    pytestmark = pytest.mark.energy(**{MARKER!r})

    def test_energy(energy):
        energy.check()

    def test_throughput(throughput):
        pass
"""

STORED = "baselines/simulated-gpu/tiny.gpu-00000000.json"  # what `store` writes
_WRITTEN: dict[tuple[str, frozenset[tuple[str, bytes]]], dict[str, bytes]] = {}


def summary(result: pytest.RunResult) -> pytest.LineMatcher:
    """The lines below the summary's table, as they were before they were wrapped."""
    lines: list[str] = []
    for line in result.outlines:
        if re.match(r"  (?! |bs=)", line) and lines:
            lines[-1] += line[1:]
        else:
            lines.append(line)
    return pytest.LineMatcher(lines)


class Project:
    """A user's repository with simulated recordings and, where asked for, baselines."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester, self.path = pytester, pytester.path
        (self.path / "tiny").mkdir()
        (self.path / "tiny" / "config.json").write_text('{"vocab_size": 2048}')
        pytester.makeini("[pytest]\nnorecursedirs = tiny baselines cache noise old")
        pytester.makepyfile(test_tiny=TESTS)

    def record(
        self,
        label: str,
        launches: int = 3,
        marker: dict[str, Any] | None = None,
        tokens_per_s: float = 1000.0,
        prefix_cache: PrefixCache | None = None,
        **kwargs: Any,
    ) -> Path:
        marked = Marked.from_arguments((), marker or MARKER)
        for size in marked.batch_sizes:
            for launch in range(launches):
                made = simulated.recording(
                    marked.cell(size, self.path),
                    launch_id=f"{label}-{launch}",
                    cycles=12.5,
                    tokens_per_s=tokens_per_s + launch,
                    **kwargs,
                )
                made = replace(made, prefix_cache=prefix_cache)
                recording_file.write(made, self.path / label / made.launch_id / f"{size}.json.gz")
        return self.path / label

    def store(self) -> None:
        """Store a baseline of three launches of 500 W, kept in `old`."""
        self._once("store", self._store)

    def _store(self) -> None:
        self.record("old")
        assert self.run("--energy-replay", "old", "--energy-update").ret == 0

    def measure_noise(self, marker: dict[str, Any] | None = None) -> None:
        """Store the noise of twelve launches that differ by 0.3 to 0.4 %."""
        self._once(f"noise {marker}", lambda: self._measure_noise(marker))

    def _once(self, name: str, write: Callable[[], None]) -> None:
        """Write what another test with the same files has already written, or let it be written."""
        before = self.files()
        key = name, frozenset(before.items())
        if key not in _WRITTEN:
            write()
            _WRITTEN[key] = dict(self.files().items() - before.items())
        for path, content in _WRITTEN[key].items():
            (self.path / path).parent.mkdir(parents=True, exist_ok=True)
            (self.path / path).write_bytes(content)

    def _measure_noise(self, marker: dict[str, Any] | None) -> None:
        marked = Marked.from_arguments((), marker or MARKER)
        for size in marked.batch_sizes:
            for launch in range(12):
                made = simulated.recording(
                    marked.cell(size, self.path),
                    f"noise-{launch}",
                    500.0 + 2 * (-1) ** launch,
                    1000.0 + launch % 4,
                    cycles=12.5,
                )
                recording_file.write(made, self.path / "noise" / made.launch_id / f"{size}.json.gz")
        assert self.run("--energy-replay", "noise", "--energy-noise").ret == 0

    def run(self, *arguments: str | Path) -> pytest.RunResult:
        return self.pytester.runpytest("-p", "no:cacheprovider", *arguments)

    def files(self) -> dict[str, bytes]:
        paths = [p for p in self.path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return {str(p.relative_to(self.path)): p.read_bytes() for p in paths}
