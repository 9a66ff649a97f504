"""What facts mean: each finding by its code, level and words; whatever the facts."""

from dataclasses import fields, replace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_energy.health import check_gpu, check_host, check_software, guard, read_gpu
from pytest_energy.health.facts import (
    ClockFacts,
    CounterWatch,
    DriverFacts,
    EngineFacts,
    GpuFacts,
    HostFacts,
    Lock,
    Process,
)
from pytest_energy.health.findings import FINDINGS, Finding, Level
from pytest_energy.recording.faults import FAULTS

GPU = GpuFacts(
    index=0,
    uuid="GPU-aaaa",
    name="NVIDIA H100 80GB HBM3",
    persistence=True,
    power_limit_w=700.0,
    default_power_limit_w=700.0,
    enforced_power_limit_w=700.0,
    sm_clock_mhz=345,
    max_sm_clock_mhz=1980,
    clock_reasons=1,
    temperature_c=34,
    utilization_percent=0,
    memory_used_mib=4,
    mig=False,
    mig_pending=False,
    ecc=True,
    ecc_pending=True,
    ecc_uncorrected=0,
    rows_pending=False,
    rows_failed=False,
    compute_mode=0,
    processes=(),
)
WATCH = CounterWatch(updates=21, seconds=2.0, energy_j=142.0, period_s=0.1, power_w=71.0)
HOST = HostFacts(
    cpu_model="Intel(R) Xeon(R) Processor",
    cores=16,
    usable_cores=16.0,
    load_1min=0.4,
    memory_available_mib=120_000,
    temporary_folder="/tmp",
    disk_free_mib=60_000,
)
CLOCKS = ClockFacts(monotonic_s=0.25, wall_s=0.25, step_ns=30, year=2026, source="tsc")
ENGINE = EngineFacts(
    "/venv/bin/python", vllm="0.25.1", torch="2.11.0+cu130", python="3.12.3", import_s=9.0
)
FREE = Lock()


def of_gpu(gpu: GpuFacts = GPU, watch: CounterWatch = WATCH, lock: Lock = FREE) -> list[Finding]:
    return check_gpu.gpu(gpu, watch, lock)


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.code, f.level.value) for f in findings if f.level is not Level.OK]


def test_a_healthy_machine_has_no_finding() -> None:
    assert bad(of_gpu()) == []
    assert bad(check_host.host(HOST)) == []
    assert bad([check_host.clock(CLOCKS), check_software.engine(ENGINE)]) == []
    assert bad([check_software.driver(DriverFacts("580.159.04", "13.0"))]) == []


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot: the driver was updated, and "),
        (pynvml.NVML_ERROR_NO_PERMISSION, "give this user or container access to /dev/nvidia*"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "reboot, or reset the GPU "),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "install NVIDIA's driver, or give the container "),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "install NVIDIA's driver, or give the container "),
    ],
)
def test_a_driver_that_does_not_respond_has_a_remedy_of_its_own(
    monkeypatch: pytest.MonkeyPatch, error: int, remedy: str
) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    said = check_software.driver(read_gpu.read_driver())
    assert said.code == "no_driver"
    assert said.remedy.startswith(remedy)


def test_a_gpu_under_load_of_the_power_cap_has_no_fault() -> None:
    hot = replace(GPU, clock_reasons=0x4, sm_clock_mhz=1500)
    assert bad(of_gpu(hot)) == []


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"lost": "GPU is lost"}, "gpu_lost", "fault"),
        ({"persistence": False}, "persistence_off", "warning"),
        (
            {"power_limit_w": 500.0, "enforced_power_limit_w": 500.0},
            "power_limit_not_default",
            "warning",
        ),
        ({"enforced_power_limit_w": 450.0}, "power_capped", "warning"),
        ({"clock_reasons": 0x8}, "throttled", "fault"),
        ({"clock_reasons": 0x20}, "throttled", "fault"),
        ({"clock_reasons": 0x40}, "throttled", "fault"),
        ({"clock_reasons": 0x84}, "throttled", "fault"),
        ({"clock_reasons": 0x2}, "clocks_set", "warning"),
        ({"temperature_c": 78}, "hot", "warning"),
        ({"mig": True, "mig_pending": True}, "mig_enabled", "fault"),
        ({"mig_pending": True}, "mig_pending", "warning"),
        ({"ecc": False, "ecc_pending": False}, "ecc_off", "warning"),
        ({"ecc_pending": False}, "ecc_pending", "warning"),
        ({"ecc_uncorrected": 2}, "ecc_errors", "warning"),
        ({"rows_pending": True}, "rows_pending", "warning"),
        ({"rows_failed": True}, "rows_failed", "warning"),
        ({"compute_mode": 2}, "compute_prohibited", "fault"),
        ({"compute_mode": 3}, "compute_exclusive", "warning"),
        ({"processes": (Process(4711, "python"),)}, "foreign_process", "fault"),
        (
            {"processes": None, "unreadable": {"processes": "Insufficient Permissions"}},
            "processes_unreadable",
            "fault",
        ),
        ({"memory_used_mib": 30_000}, "hidden_process", "fault"),
        ({"utilization_percent": 90}, "hidden_process", "fault"),
        (
            {"temperature_c": None, "unreadable": {"temperature_c": "Unknown Error"}},
            "unreadable",
            "warning",
        ),
    ],
)
def test_findings_on_a_gpu(changes: dict[str, Any], code: str, level: str) -> None:
    found = of_gpu(replace(GPU, **changes))
    assert bad(found) == [(code, level)]
    (finding,) = (f for f in found if f.code)
    assert finding.subject == GPU.uuid
    assert finding.remedy


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"supported": False}, "no_counter", "fault"),
        ({"error": "Unknown Error"}, "counter_unreadable", "fault"),
        ({"backwards": True}, "counter_backwards", "fault"),
        (
            {"updates": 1, "seconds": 0.0, "period_s": None, "power_w": None},
            "counter_stuck",
            "fault",
        ),
        (
            {"updates": 0, "seconds": 0.0, "period_s": None, "power_w": None},
            "counter_stuck",
            "fault",
        ),
        ({"power_w": None}, "power_unreadable", "fault"),
        ({"power_w": 300.0}, "counter_disagrees", "fault"),
        ({"power_w": 85.0}, "", ""),  # idle power jumps
        ({"updates": 4, "period_s": 0.5}, "counter_slow", "warning"),
    ],
)
def test_findings_on_the_counter(changes: dict[str, Any], code: str, level: str) -> None:
    assert bad(of_gpu(watch=replace(WATCH, **changes))) == ([(code, level)] if code else [])


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"usable_cores": 2.0}, "few_cores", "warning"),
        ({"governors": ("powersave",)}, "cpu_governor", "warning"),
        ({"governors": ("performance",)}, "", ""),
        ({"load_1min": 12.0}, "cpu_busy", "warning"),
        ({"memory_available_mib": 4000}, "low_memory", "warning"),
        ({"disk_free_mib": 500}, "disk_low", "warning"),
        ({"disk_free_mib": 3}, "disk_full", "fault"),
    ],
)
def test_findings_on_the_host(changes: dict[str, Any], code: str, level: str) -> None:
    assert bad(check_host.host(replace(HOST, **changes))) == ([(code, level)] if code else [])


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"monotonic_s": 0.0}, "clock_stands", "fault"),
        ({"step_ns": 4_000_000}, "clock_coarse", "fault"),
        ({"source": "hpet"}, "clock_slow", "warning"),
        ({"year": 1970}, "clock_wrong", "warning"),
        ({"wall_s": 3600.25}, "clock_stepped", "warning"),
        ({"wall_s": -5.0}, "clock_stepped", "warning"),
        ({"wall_s": 0.2501}, "", ""),
    ],
)
def test_findings_on_the_clocks(changes: dict[str, Any], code: str, level: str) -> None:
    assert bad([check_host.clock(replace(CLOCKS, **changes))]) == ([(code, level)] if code else [])


@pytest.mark.parametrize(
    ("facts", "code", "level", "remedy"),
    [
        (
            EngineFacts("py", stage="start", error="No such file or directory"),
            "python_unusable",
            "fault",
            "--python PATH",
        ),
        (
            EngineFacts("py", stage="timeout", error="took more than 300 s"),
            "vllm_timeout",
            "fault",
            "-X importtime",
        ),
        (
            EngineFacts("py", stage="import", error="ModuleNotFoundError: No module named 'vllm'"),
            "no_vllm",
            "fault",
            "py -m pip install",
        ),
        (
            EngineFacts("py", stage="import", error="ImportError: libcudart.so.12"),
            "vllm_broken",
            "fault",
            "py -c 'import vllm'",
        ),
        (replace(ENGINE, vllm="0.5.3.post1"), "vllm_old", "warning", "0.5.4"),
        (replace(ENGINE, vllm="0.5"), "vllm_old", "warning", "0.5.4"),
        (replace(ENGINE, vllm="0.5.4.dev5+gabc"), "", "", ""),
        (replace(ENGINE, vllm="0.11.1"), "", "", ""),
        (replace(ENGINE, vllm="1.0"), "", "", ""),
        (replace(ENGINE, vllm="dev"), "", "", ""),
    ],
)
def test_findings_on_the_engine(facts: EngineFacts, code: str, level: str, remedy: str) -> None:
    finding = check_software.engine(facts)
    assert bad([finding]) == ([(code, level)] if code else [])
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    "version", ["0.1.dev7", "0.1.dev1+g1234567.d20260101", "0.0.0", "0.0.0.dev0", "0+unknown"]
)
def test_a_build_without_tags_is_not_called_old(version: str) -> None:
    """setuptools-scm counts commits from 0.0 if a clone has no tags: 0.1.dev and their number."""
    finding = check_software.engine(replace(ENGINE, vllm=version))
    assert bad([finding]) == []
    assert "built without tags, so its release is unknown" in finding.what


@pytest.mark.parametrize(
    ("listed", "chosen", "unknown", "code"),
    [(0, 0, (), "no_gpu"), (8, 0, (), "no_gpu"), (8, 1, ("9",), "gpu_unknown"), (8, 8, (), "")],
)
def test_findings_on_the_selection(
    listed: int, chosen: int, unknown: tuple[str, ...], code: str
) -> None:
    assert check_software.selection(listed, chosen, unknown).code == code


def test_a_process_of_a_run_that_holds_the_lock_is_no_fault() -> None:
    found = of_gpu(
        replace(GPU, processes=(Process(7),)), lock=Lock(True, "pid 7 (llama-3.1-8b since 14:03)")
    )
    assert bad(found) == [("gpu_in_use", "warning"), ("gpu_locked", "warning")]
    assert "pid 7 (llama-3.1-8b since 14:03)" in found[-1].what


def faults_of(before: GpuFacts, after: GpuFacts) -> list[str]:
    return guard.changes(before, after)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (
            {},
            {"power_limit_w": 500.0},
            "power_limit_changed: GPU-aaaa: the power limit was 700 W before the load and 500 W",
        ),
        (
            {},
            {"enforced_power_limit_w": 500.0},
            "power_limit_changed: GPU-aaaa: the enforced power limit was 700 W before",
        ),
        (
            {},
            {"ecc_uncorrected": 3},
            "ecc_errors: GPU-aaaa: uncorrectable memory errors under load: 3",
        ),
        ({}, {"mig": True}, "mig_enabled: GPU-aaaa: "),
        ({"mig": True}, {"mig": True}, "mig_enabled: GPU-aaaa: "),
        (
            {},
            {"lost": "GPU is lost", "power_limit_w": None},
            "gpu_lost: GPU-aaaa: the GPU no longer responds (GPU is lost)",
        ),
        ({"lost": "GPU is lost"}, {}, "gpu_lost: GPU-aaaa: "),
        (
            {},
            {"power_limit_w": None, "unreadable": {"power_limit_w": "Unknown Error"}},
            "gpu_unreadable: GPU-aaaa: power_limit_w could be read before the load, but not after",
        ),
    ],
)
def test_what_invalidates_a_measurement(
    before: dict[str, Any], after: dict[str, Any], fault: str
) -> None:
    (found,) = faults_of(replace(GPU, **before), replace(GPU, **after))
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "after",
    [
        {},
        {"power_limit_w": 700.4},
        {
            "persistence": False,
            "temperature_c": 88,
            "clock_reasons": 0x4,
            "sm_clock_mhz": 1300,
            "utilization_percent": 99,
        },
        {"ecc_uncorrected": None},
        {"memory_used_mib": 70_000, "processes": (Process(9),)},
    ],
)
def test_what_does_not(after: dict[str, Any]) -> None:
    assert faults_of(GPU, replace(GPU, **after)) == []


def test_warnings_never_invalidate() -> None:
    """A lowered limit, ECC off, errors of last week: as before, so after."""
    poor = replace(
        GPU,
        persistence=False,
        power_limit_w=300.0,
        enforced_power_limit_w=250.0,
        ecc=False,
        ecc_uncorrected=9,
        rows_failed=True,
    )
    assert faults_of(poor, poor) == []
    unreported = GpuFacts(uuid="GPU-aaaa", unreadable={"mig": "Unknown Error"})
    assert faults_of(unreported, unreported) == []


@pytest.mark.parametrize(
    ("slept_s", "fault"), [(0.0, False), (0.05, False), (-0.05, False), (0.2, True), (3600.0, True)]
)
def test_a_machine_that_slept(slept_s: float, fault: bool) -> None:
    found = guard.suspension(100.0, 100.0 + slept_s)
    assert [f.split(":")[0] for f in found] == ["suspended"] * fault


numbers = st.none() | st.integers(-(2**40), 2**40)
floats = st.none() | st.floats(allow_nan=False, min_value=-1e12, max_value=1e12)
flags = st.none() | st.booleans()
words = st.text(max_size=40)
gpus = st.builds(
    GpuFacts,
    index=st.integers(0, 16),
    uuid=st.just("GPU-aaaa"),
    name=words,
    lost=st.just("") | words,
    unreadable=st.dictionaries(st.sampled_from([f.name for f in fields(GpuFacts)]), words),
    persistence=flags,
    power_limit_w=floats,
    default_power_limit_w=floats,
    enforced_power_limit_w=floats,
    sm_clock_mhz=numbers,
    max_sm_clock_mhz=numbers,
    clock_reasons=st.none() | st.integers(0, 2**64),
    temperature_c=numbers,
    utilization_percent=numbers,
    memory_used_mib=numbers,
    mig=flags,
    mig_pending=flags,
    ecc=flags,
    ecc_pending=flags,
    ecc_uncorrected=numbers,
    rows_pending=flags,
    rows_failed=flags,
    compute_mode=numbers,
    processes=st.none()
    | st.lists(st.builds(Process, pid=st.integers(0, 2**31), name=st.none() | words)).map(tuple),
)
watches = st.builds(
    CounterWatch,
    updates=st.integers(0, 100),
    seconds=st.floats(0, 10),
    energy_j=st.floats(-1e9, 1e9),
    period_s=st.none() | st.floats(0, 10),
    power_w=floats,
    backwards=st.booleans(),
    error=st.just("") | words,
    supported=st.booleans(),
)
hosts = st.builds(
    HostFacts,
    cpu_model=words,
    cores=st.none() | st.integers(0, 1024),
    usable_cores=st.none() | st.floats(0, 1024),
    governors=st.lists(words).map(tuple),
    load_1min=st.none() | st.floats(0, 1e6),
    memory_available_mib=st.none() | st.integers(0, 2**40),
    temporary_folder=words,
    disk_free_mib=st.none() | st.integers(0, 2**40),
)


@given(gpus, watches, st.builds(Lock, held=st.booleans(), holder=words), hosts)
def test_every_check_says_one_thing(
    gpu: GpuFacts, watch: CounterWatch, lock: Lock, host: HostFacts
) -> None:
    """One finding per check; what is not ok has a code, its declared level and a remedy."""
    findings = [*check_gpu.gpu(gpu, watch, lock), *check_host.host(host)]
    assert len({(f.subject, f.check) for f in findings}) == len(findings)
    for finding in findings:
        assert finding.what
        assert bool(finding.code) == bool(finding.remedy) == (finding.level is not Level.OK)
        if finding.code:
            assert finding.level is FINDINGS[finding.code].level


@given(gpus, gpus)
def test_two_looks_name_declared_faults_of_the_gpu(before: GpuFacts, after: GpuFacts) -> None:
    for fault in faults_of(before, after):
        code, uuid, what = fault.split(": ", 2)
        assert code in FAULTS
        assert (uuid, bool(what)) == ("GPU-aaaa", True)


@given(gpus)
def test_what_stays_as_it_is_invalidates_nothing_but_a_gpu_that_is_lost_or_split(
    gpu: GpuFacts,
) -> None:
    found = {fault.split(":")[0] for fault in faults_of(gpu, replace(gpu, unreadable={}))}
    assert found <= {"gpu_lost", "mig_enabled"}
