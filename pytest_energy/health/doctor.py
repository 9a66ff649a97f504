"""`pytest-energy doctor`: every check once, as text or JSON. Reads only."""

import datetime
import json
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_energy import __version__
from pytest_energy.errors import UsageError
from pytest_energy.health import (
    check_gpu,
    check_host,
    check_software,
    neighbours,
    read_engine,
    read_gpu,
    read_host,
)
from pytest_energy.health.facts import Lock
from pytest_energy.health.findings import Finding, Level, found
from pytest_energy.meters import nvml
from pytest_energy.meters.nvml import Listed

SCHEMA_VERSION = 1
WIDTH = 100
_WATCH_S = 2.2
_LEVEL_WIDTH, _CHECK_WIDTH = 7, 14


@dataclass(frozen=True)
class Examination:
    """All findings, and the GPUs (of those that the driver lists) that were checked."""

    findings: tuple[Finding, ...]
    gpus: tuple[Listed, ...]
    interpreter: str | None

    @property
    def level(self) -> Level:
        """The worst of all findings."""
        found = {finding.level for finding in self.findings}
        return next((level for level in (Level.FAULT, Level.WARNING) if level in found), Level.OK)

    @property
    def exit_status(self) -> int:
        """1 with a fault, else 0."""
        return int(self.level is Level.FAULT)


def examine(
    interpreter: str | None,
    named_gpus: Sequence[str],
    say: Callable[[str], None],
    lock_of: Callable[[str], Lock],
    chart_of: Callable[[str], Sequence[Finding]] = lambda gpu_uuid: (),
) -> Examination:
    """Check driver, GPUs, host and engine.

    Args:
        interpreter: whose vLLM is imported; None for the machine alone.
        named_gpus: UUIDs, their beginnings, or indices as in nvidia-smi; empty for all that
            CUDA_VISIBLE_DEVICES leaves visible.
        say: announces what takes a while.
        lock_of: the lock of a GPU, by its UUID.
        chart_of: what is found of the reference's launches on it.

    Raises:
        UsageError: one of `named_gpus` is not a GPU that the driver lists.
    """
    findings: list[Finding] = []
    gpus: tuple[Listed, ...] = ()
    driver = read_gpu.read_driver()
    findings.append(check_software.driver(driver))
    if not driver.error:
        listed, problem = _listed()
        if problem is not None:
            findings.append(problem)
        else:
            gpus, chosen = _chosen(listed, named_gpus)
            findings.append(chosen)
    reached = [gpu for gpu in gpus if not gpu.error]
    if reached:
        number = len(reached)
        counters = "counter of one GPU" if number == 1 else f"counters of {number} GPUs"
        say(f"watching the energy {counters} for two seconds")
    for gpu, watch in zip(reached, read_gpu.watch_counters(reached, _WATCH_S), strict=True):
        facts = read_gpu.read_gpu(gpu)
        idle = neighbours.when_idle({gpu.uuid: facts})[gpu.uuid]
        facts = replace(facts, utilization_percent=idle.utilization_percent)
        findings += [*check_gpu.gpu(facts, watch, lock_of(gpu.uuid)), *chart_of(gpu.uuid)]
    others = bool(reached) and not named_gpus
    findings += [
        check_gpu.unreachable(_subject(gpu), gpu.error, gpu.forbidden and others)
        for gpu in gpus
        if gpu.error
    ]
    findings += check_host.host(read_host.read_host())
    findings.append(check_host.clock(read_host.read_clocks()))
    if interpreter is not None:
        say(f"importing vLLM with {interpreter} (up to {read_engine.TIMEOUT_S:.0f} s)")
        findings.append(check_software.engine(read_engine.read_engine(interpreter)))
    return Examination(tuple(findings), gpus, interpreter)


def _subject(gpu: Listed) -> str:
    """A GPU that cannot be reached has no UUID."""
    return gpu.uuid or f"GPU {gpu.index}"


def _listed() -> tuple[tuple[Listed, ...], Finding | None]:
    try:
        return nvml.list_gpus(), None
    except Exception as error:  # whatever the driver's trouble is, it is a finding
        what = f"the driver cannot list its GPUs: {error}"
        remedy = "check dmesg for Xid errors; reboot, or reset the GPU that it names"
        return (), found("driver", "gpus_unlisted", what, remedy)


def _chosen(listed: Sequence[Listed], named: Sequence[str]) -> tuple[tuple[Listed, ...], Finding]:
    """The GPUs to check, and the finding about this choice."""
    if named:
        by_word = {word: nvml.find(listed, word) for word in named}
        unknown = [word for word, gpu in by_word.items() if gpu is None]
        if unknown:
            there = "".join(f"\n  {gpu.index}  {gpu.uuid}  {gpu.name}{gpu.error}" for gpu in listed)
            raise UsageError(
                f"--gpu {unknown[0]}: the driver lists no such GPU, or several.\n"
                f"Choose one of these:{there or ' none'}"
            )
        gpus = tuple(dict.fromkeys(gpu for gpu in by_word.values() if gpu is not None))
        return gpus, check_software.selection(len(listed), len(gpus), ())
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = nvml.visible(listed, variable, os.environ.get("CUDA_DEVICE_ORDER"))
    words = [word.strip() for word in (variable or "").split(",") if word.strip()]
    unknown = [
        word for word in words if not word.startswith("MIG-") and nvml.find(listed, word) is None
    ]
    return gpus, check_software.selection(len(listed), len(gpus), unknown)


def to_json(examination: Examination) -> str:
    """The examination as JSON; docs/runner.md has the schema."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "pytest_energy": __version__,
        "level": examination.level.value,
        "exit_status": examination.exit_status,
        "gpus": [
            {"index": gpu.index, "uuid": gpu.uuid, "name": gpu.name} for gpu in examination.gpus
        ],
        "interpreter": examination.interpreter,
        "findings": [
            {
                "subject": finding.subject,
                "check": finding.check,
                "level": finding.level.value,
                "code": finding.code or None,
                "what": finding.what,
                "remedy": finding.remedy or None,
            }
            for finding in examination.findings
        ],
        "next": conclusion(examination, "remedies", "remedies"),
    }
    return json.dumps(content, indent=1) + "\n"


def to_text(examination: Examination, width: int = WIDTH) -> str:
    """The examination as text: a heading per subject, its checks, and at the end what to do."""
    headings: Mapping[str, str] = {
        "driver": "NVIDIA driver",
        "host": "host",
        "engine": f"engine under {examination.interpreter}",
        **{
            _subject(gpu): f"GPU {gpu.index}: {gpu.name or 'unknown model'}, "
            f"{gpu.uuid or 'no answer'}"
            for gpu in examination.gpus
        },
    }
    lines: list[str] = []
    subject = None
    for finding in examination.findings:
        if finding.subject != subject:
            subject = finding.subject
            lines += ([""] if lines else []) + _wrapped(
                headings.get(subject, subject), "", "  ", width
            )
        lines += _lines_of(finding, width)
    last = conclusion(examination, "lines marked →", "→ lines")
    return "\n".join([*lines, "", *_wrapped(last, "", "", width)]) + "\n"


def _lines_of(finding: Finding, width: int) -> list[str]:
    level = "ok" if finding.level is Level.OK else finding.level.value.upper()
    start = f"  {level:<{_LEVEL_WIDTH}} {finding.check:<{_CHECK_WIDTH}} "
    lines = _wrapped(finding.what, start, " " * len(start), width)
    if finding.remedy:
        lines += _wrapped(finding.remedy, " " * len(start) + "→ ", " " * len(start) + "  ", width)
    return lines


def _wrapped(text: str, first: str, others: str, width: int) -> list[str]:
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return textwrap.wrap(
        plain, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    ) or [first.rstrip()]


def conclusion(examination: Examination, of_faults: str, of_warnings: str) -> str:
    """The result and what to do next, in one line.

    Args:
        examination: what was found.
        of_faults, of_warnings: how the reader is shown what to do about each.
    """
    count = Counter(finding.level for finding in examination.findings)
    warnings = _number(count[Level.WARNING], "warning")
    if count[Level.FAULT]:
        first = next(finding for finding in examination.findings if finding.level is Level.FAULT)
        return (
            f"{_number(count[Level.FAULT], 'fault')}, {warnings}: follow the {of_faults}, "
            f'"{first.check}" first, then check again.'
        )
    result = f"no faults, {warnings}: this machine can measure"
    if count[Level.WARNING]:
        return f"{result}; follow the {of_warnings} unless the setting is intended."
    return f"{result}."


def _number(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'s' * (count != 1)}"
