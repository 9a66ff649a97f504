"""The list of guards is sound: each edit applies to the code as it is, and its test is there. The script shows that the tests fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import guards, promises
from tests.faults.guards import GUARDS, ROOT, Guard

PAGE = ROOT / "docs" / "reliability.md"


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.what)
def test_taking_a_guard_away_changes_its_file_and_nothing_else(guard: Guard) -> None:
    text = guards.edited(guard, ROOT)
    assert text != (ROOT / "pytest_energy" / guard.file).read_text()
    compile(text, guard.file, "exec")


def test_a_guard_that_moved_is_told(tmp_path: Path) -> None:
    (tmp_path / "pytest_energy").mkdir()
    (tmp_path / "pytest_energy" / GUARDS[0].file).parent.mkdir(exist_ok=True)
    (tmp_path / "pytest_energy" / GUARDS[0].file).write_text("")
    with pytest.raises(ValueError, match="stands 0 times"):
        guards.edited(GUARDS[0], tmp_path)


def test_the_tests_that_guards_and_promises_name_are_there() -> None:
    named = list(
        dict.fromkeys(
            [guard.test for guard in GUARDS]
            + [test for _, tests in promises.PROMISES for test in tests]
        )
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *named,
    ]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


def test_the_page_shows_these_guards_and_promises() -> None:
    page = PAGE.read_text()
    assert guards.table() in page
    assert promises.table() in page
