"""The pages of docs/generated are what the code says now, and the tests that they name exist."""

import subprocess
import sys

import pytest

from tests import generated
from tests.conftest import ROOT
from tests.faults.promises import PROMISES


@pytest.mark.parametrize("name", generated.PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    written = (generated.FOLDER / name).read_text()
    assert written == generated.page(name), "run: python -m tests.generated"


def test_the_tests_that_hold_promises_and_situations_exist() -> None:
    held = [test for _, tests in PROMISES for test in tests]
    held += [row.test for rows in generated.SITUATIONS.values() for row in rows]
    named = list(dict.fromkeys(held))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *named], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
