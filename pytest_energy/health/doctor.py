"""`pytest-energy doctor`: every check once, as text or JSON. Reads only."""

import datetime
import json
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_energy import __version__
from pytest_energy.errors import UsageError
from pytest_energy.health import engine, judging, reading
from pytest_energy.health.facts import Lock
from pytest_energy.health.judging import Finding, Level
from pytest_energy.meters import nvml
from pytest_energy.meters.nvml import Listed
from pytest_energy.meters.zeus_meter import rapl_unavailable

SCHEMA_VERSION = 1
WIDTH = 100
_WATCH_S = 2.2
_LEVEL_WIDTH, _CHECK_WIDTH = 7, 14


@dataclass(frozen=True)
class Examination:
    """All findings, and the GPUs (listed by the driver) that were looked at."""

    findings: tuple[Finding, ...]
    gpus: tuple[Listed, ...]
    interpreter: str

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
    interpreter: str,
    named_gpus: Sequence[str],
    say: Callable[[str], None],
    lock_of: Callable[[str], Lock],
) -> Examination:
    """Check driver, GPUs, host and engine.

    Args:
        interpreter: whose vLLM is imported.
        named_gpus: UUIDs, beginnings of them, or indices as nvidia-smi shows them; empty for those that CUDA_VISIBLE_DEVICES shows.
        say: told what takes a while.
        lock_of: tells the lock of a GPU, by its UUID.

    Raises:
        UsageError: one of `named_gpus` is no GPU that the driver lists.
    """
    findings: list[Finding] = []
    gpus: tuple[Listed, ...] = ()
    driver = reading.read_driver()
    if not driver.error:
        listed, problem = _listed()
        if problem is not None:
            findings.append(problem)
        else:
            gpus, chosen = _chosen(listed, named_gpus)
            findings.append(chosen)
    findings.insert(0, judging.driver(driver))
    if gpus:
        say(
            f"watching the energy counter of {len(gpus)} GPU{'s' * (len(gpus) > 1)} for two seconds"
        )
    for gpu, watch in zip(gpus, reading.watch_counters(gpus, _WATCH_S), strict=True):
        findings += judging.gpu(reading.read_gpu(gpu), watch, lock_of(gpu.uuid))
    findings += judging.host(reading.read_host(_rapl_unavailable()))
    findings.append(judging.clock(reading.read_clocks()))
    say(f"importing vLLM with {interpreter} (up to {engine.TIMEOUT_S:.0f} s)")
    findings.append(judging.engine(engine.read_engine(interpreter)))
    return Examination(tuple(findings), gpus, interpreter)


def _listed() -> tuple[tuple[Listed, ...], Finding | None]:
    try:
        return nvml.list_gpus(), None
    except Exception as error:  # whatever the driver's trouble is, it is a finding
        what = f"the driver does not list its GPUs: {error}"
        remedy = "look for Xid in dmesg; one GPU that is lost may hide all: reboot, or reset it"
        return (), Finding("driver", "GPUs", Level.FAULT, what, "gpus_unlisted", remedy)


def _chosen(listed: Sequence[Listed], named: Sequence[str]) -> tuple[tuple[Listed, ...], Finding]:
    """The GPUs to look at, and what the choice is worth telling."""
    if named:
        found = {word: nvml.find(listed, word) for word in named}
        unknown = [word for word, gpu in found.items() if gpu is None]
        if unknown:
            there = "".join(f"\n  {gpu.index}  {gpu.uuid}  {gpu.name}" for gpu in listed) or " none"
            raise UsageError(
                f"--gpu {unknown[0]}: the driver lists no such GPU, or several.\nIt lists:{there}"
            )
        gpus = tuple(dict.fromkeys(gpu for gpu in found.values() if gpu is not None))
        return gpus, judging.selection(len(listed), len(gpus), ())
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = nvml.visible(listed, variable, os.environ.get("CUDA_DEVICE_ORDER"))
    words = [word.strip() for word in (variable or "").split(",") if word.strip()]
    unknown = [
        word for word in words if not word.startswith("MIG-") and nvml.find(listed, word) is None
    ]
    return gpus, judging.selection(len(listed), len(gpus), unknown)


def _rapl_unavailable() -> str:
    try:
        return rapl_unavailable()
    except Exception as error:
        return str(error) or type(error).__name__


def to_json(examination: Examination) -> str:
    """The examination as JSON; docs/doctor.md has the schema."""
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
        "next": conclusion(examination),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def to_text(examination: Examination) -> str:
    """The examination for people: a heading for each subject, a line or more for each check, and what to do last."""
    headings: Mapping[str, str] = {
        "driver": "NVIDIA driver",
        "host": "host",
        "engine": f"engine under {examination.interpreter}",
        **{
            gpu.uuid: f"GPU {gpu.index}: {gpu.name or 'of unknown model'}, {gpu.uuid}"
            for gpu in examination.gpus
        },
    }
    lines: list[str] = []
    subject = None
    for finding in examination.findings:
        if finding.subject != subject:
            subject = finding.subject
            lines += ([""] if lines else []) + _wrapped(headings.get(subject, subject), "", "  ")
        lines += _lines_of(finding)
    return "\n".join([*lines, "", conclusion(examination)]) + "\n"


def _lines_of(finding: Finding) -> list[str]:
    level = "ok" if finding.level is Level.OK else finding.level.value.upper()
    start = f"  {level:<{_LEVEL_WIDTH}} {finding.check:<{_CHECK_WIDTH}} "
    lines = _wrapped(finding.what, start, " " * len(start))
    if finding.remedy:
        lines += _wrapped(finding.remedy, " " * len(start) + "→ ", " " * len(start) + "  ")
    return lines


def _wrapped(text: str, first: str, others: str) -> list[str]:
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return textwrap.wrap(
        plain, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    ) or [first.rstrip()]


def conclusion(examination: Examination) -> str:
    """What it comes to and what to do, in one line."""
    count = Counter(finding.level for finding in examination.findings)
    warnings = f"{count[Level.WARNING]} warning{'s' * (count[Level.WARNING] != 1)}"
    if count[Level.FAULT]:
        first = next(finding for finding in examination.findings if finding.level is Level.FAULT)
        faults = f"{count[Level.FAULT]} fault{'s' * (count[Level.FAULT] != 1)}"
        return f"{faults}, {warnings}: do what → says, {first.check} first, then run pytest-energy doctor again."
    if count[Level.WARNING]:
        return f"no fault, {warnings}: this machine can measure; do what → says where a warning is not meant."
    return "no fault, no warning: this machine can measure."
