"""The pages of docs/generated are what the code says now, and the tests that they name exist."""

import importlib

import pytest

from tests import generated
from tests.faults.promises import PROMISES
from tests.faults.rows import ROWS

FAULTS = {row.id for row in ROWS}


@pytest.mark.parametrize("name", generated.PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    written = (generated.FOLDER / name).read_text()
    assert written == generated.page(name), "run: python -m tests.generated"


def test_the_tests_that_hold_promises_and_situations_exist() -> None:
    held = [test for _, tests in PROMISES for test in tests]
    held += [row.test for rows in generated.SITUATIONS.values() for row in rows]
    for test in held:
        node, _, row = test.partition("[")
        file, *names = node.split("::")
        found = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for name in names:
            found = getattr(found, name, None)
        assert callable(found), test
        assert not row or row.removesuffix("]") in FAULTS, test
