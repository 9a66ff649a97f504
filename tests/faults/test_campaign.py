"""Each row of the fault campaign as a test; what every change runs represents the rest."""

import pytest

from tests.faults import campaign
from tests.faults.campaign import Outcome
from tests.faults.rows import REPRESENTATIVE, ROWS, Row


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> dict[Row, Outcome]:
    """Of the selected rows; they run a few at once."""
    parameters = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    return campaign.run_all(tuple(each["row"] for each in parameters if "row" in each))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.id, marks=() if row.id in REPRESENTATIVE else pytest.mark.nightly)
        for row in ROWS
    ],
)
def test_fault(row: Row, outcomes: dict[Row, Outcome]) -> None:
    outcome = outcomes[row]
    assert campaign.complaints(row, outcome) == [], outcome.output


def test_every_part_and_every_stage_of_the_engine_is_represented() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert {row.id for row in ROWS} >= REPRESENTATIVE
    represented = [row for row in ROWS if row.id in REPRESENTATIVE]
    assert {row.part for row in represented} == {row.part for row in ROWS}
    assert {(row.verdict, row.status) for row in represented} == {
        (row.verdict, row.status) for row in ROWS if row.status != 5
    }
