"""What every run of the campaign finds: a repository whose engine passes if nothing goes wrong."""

from pathlib import Path

from pytest_energy.measure.measurement import Measurement, measure
from pytest_energy.plugin.marker import Marked
from pytest_energy.store.baselines import Store
from pytest_energy.store.noise import NoiseStore
from tests import simulated
from tests.driver import UUIDS

POWER_W = 100.0
STEP_S = 0.005  # on a grid, so that the throughput does not depend on how busy the host is
BATCH_SIZE = 2
MARKER = {
    "model": "tiny", "weights": "dummy", "batch_sizes": [BATCH_SIZE],
    "input_tokens": 4, "output_tokens": 20,
    "tolerance": 0.5, "throughput_tolerance": 0.3,
}  # fmt: skip
TESTS = """import pytest

pytestmark = pytest.mark.energy(**{marker!r})


def test_energy(energy):
    pass


def test_throughput(throughput):
    pass
"""


def make(folder: Path, marker: dict[str, object] = MARKER) -> None:
    """Make it: model, test, a baseline for each simulated GPU, the noise of twelve launches."""
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "config.json").write_text('{"vocab_size": 2048}')
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_tiny.py").write_text(TESTS.format(marker=marker))
    marked = Marked.from_arguments((), marker)
    engine = marked.engine or "offline"
    store, noise = Store(folder / "baselines"), NoiseStore(folder / "baselines")
    for size in marked.batch_sizes:
        cell = marked.cell(size, folder, engine=engine)

        def launch(
            name: str,
            uuid: str,
            size: int = size,
            power_w: float = POWER_W,
            rate: float = 1.0,
            cell: object = cell,
        ) -> Measurement:
            made = simulated.recording(
                cell,
                name,
                power_w,
                size / STEP_S * rate,
                cycles=40.5,
                environment={"gpu_uuids": (uuid,)},  # type: ignore[arg-type]
            )
            return measure(made)

        for uuid in UUIDS:
            store.update([launch(f"old-{number}", uuid) for number in range(3)], {})
        noise.add(
            [
                launch(
                    f"noise-{n}",
                    UUIDS[0],
                    power_w=POWER_W + 0.4 * (-1) ** n,
                    rate=1 + 0.001 * (n % 4),
                )
                for n in range(12)
            ]
        )
