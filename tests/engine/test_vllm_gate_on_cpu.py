"""The workflow's steps with the real vLLM on a CPU: two pins, of which one makes steps slower.

See vllm_cpu; uv makes both environments, so this needs a package index.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.engine import vllm_cpu
from tests.engine.vllm_cpu import PYTHON
from tests.test_workflows import GATE, MEASURE, Runner
from tests.wheels import wheel

pytestmark = [*vllm_cpu.MARKS, pytest.mark.nightly]
SHORT = """
    from pytest_energy.measure import stopping

    stopping.PERIOD_S, stopping.PAIR_S = 2.5, 5.0
"""
TESTS = """
    import pytest

    @pytest.mark.energy(
        model="tiny", weights="dummy", batch_sizes=[8], input_tokens=64, output_tokens=64,
        engine_args={"enforce_eager": True}, tolerance=0.9,  # a CPU's pace varies by tens of %
    )
    def test_tiny(energy):
        pass
"""
# As a release would that does more between steps.
SLOWER = """
    import importlib.abc, importlib.machinery, sys, time

    class Slower(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "vllm.v1.engine.core":
                return None
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                for step in ("step", "step_with_batch_queue"):
                    taken = getattr(module.EngineCore, step)
                    setattr(module.EngineCore, step, slower(taken))

            spec.loader.exec_module = exec_module
            return spec

    def slower(step):
        def late(self, *args, **kwargs):
            time.sleep(0.1)
            return step(self, *args, **kwargs)

        return late

    sys.meta_path.insert(0, Slower())
"""


@pytest.mark.parametrize(
    ("slower", "statuses"),
    # Launches on a busy CPU may differ by more than the gate can tell from a regression.
    [(True, {"regressed": 10}), (False, {"pass": 0, "inconclusive": 14})],
)
def test_a_slower_release_is_red_and_an_unchanged_one_is_not(
    tmp_path: Path, slower: bool, statuses: dict[str, int]
) -> None:
    runner = Runner(tmp_path)
    vllm_cpu.save_config(runner.folder / "tiny")
    (runner.folder / "suites").mkdir()
    (runner.folder / "suites" / "test_tiny.py").write_text(textwrap.dedent(TESTS))
    (runner.folder / "conftest.py").write_text(textwrap.dedent(vllm_cpu.CONFTEST + SHORT))
    (runner.folder / "pytest.ini").write_text("[pytest]\n")
    command = f'exec "{sys.executable}" -m pytest_energy.commands.main "$@"'
    runner.program("pytest-energy", command, runner.temp / "energy" / "bin")
    uv = Path(sys.executable).parent / "uv"
    runner.program("uv", f'exec "{uv}" "$@"')
    files = {"slower.pth": "import slower\n", "slower.py": textwrap.dedent(SLOWER)}
    planted = wheel(tmp_path, "slower", "1.0", files)
    version = subprocess.run(
        [PYTHON, "-c", "import importlib.metadata as m; print(m.version('vllm-cpu'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    base = f"vllm-cpu=={version}\n"
    pins = {
        "requirements": base + (f"slower @ {planted.as_uri()}\n" if slower else ""),
        ".energy-reference/requirements": base,
    }
    for folder, text in pins.items():
        (runner.folder / folder).mkdir(parents=True)
        (runner.folder / folder / "vllm.txt").write_text(text)
    (tmp_path / "without").write_text(
        "".join(
            f'{name}; sys_platform == "never"\n'
            for name in ("torchvision", "torchaudio", "torchcodec")
        )
    )
    cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True)
    given = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_"))}
    given.setdefault("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))
    done = runner.start(
        GATE, "measure", "Measure and judge",
        **{
            **MEASURE, **given, "BASELINES": "", "PYTHONPATH": str(ROOT),
            "PYTHON_VERSION": f"{sys.version_info.major}.{sys.version_info.minor}",
            "UV_CACHE_DIR": cache.stdout.strip(),
            "UV_OVERRIDE": str(tmp_path / "without"), "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
        },
    )  # fmt: skip
    out, err = done.communicate(timeout=1200)
    found = dict(line.split("=", 1) for line in runner.output.read_text().splitlines())
    assert done.returncode == statuses.get(found.get("verdict", "")), out + err
