"""Each row of the campaign as a test, and docs/generated/fault-campaign.md held to the rows."""

from pathlib import Path

import pytest

from tests.faults import campaign
from tests.faults.campaign import ROWS, Outcome, Row

PAGE = Path(__file__).parents[2] / "docs" / "generated" / "fault-campaign.md"


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> dict[Row, Outcome]:
    """Of the selected rows; they run a few at once."""
    parameters = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    return campaign.run_all(tuple(each["row"] for each in parameters if "row" in each))


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_fault(row: Row, outcomes: dict[Row, Outcome]) -> None:
    outcome = outcomes[row]
    assert campaign.complaints(row, outcome) == [], outcome.output


def test_rows_have_names_of_their_own() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_the_page_shows_these_rows_and_what_is_expected_of_them() -> None:
    shown = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in PAGE.read_text().splitlines()
        if " → " in line
    ]
    rows = {
        (cells[0], cells[1]): cells
        for cells in shown
        if len(cells) == len(campaign.HEADING) and cells != campaign.HEADING
    }
    assert list(rows) == [(row.fault, row.stage) for row in ROWS]
    for row in ROWS:
        _, _, verdict, status, left, hashes, others = rows[row.fault, row.stage]
        assert (verdict, status, left) == (row.verdict, str(row.status), "none")
        before, _, after = hashes.partition(" → ")
        assert (before == after) is (row.baselines == campaign.KEPT)
        assert (others == "none") is not bool(row.written)
