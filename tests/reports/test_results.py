"""results.json: what is written is read back, anything else is refused; runs are put together."""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_energy.cell.key import CellKey
from pytest_energy.errors import ResultsError
from pytest_energy.report import results, results_file
from tests.conftest import ROOT
from tests.damage import UNREADABLE
from tests.reports import made


@given(st.lists(made.entries, max_size=3))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, entries: list[results.Entry]
) -> None:
    path = tmp_path_factory.mktemp("results") / "results.json"
    written = made.of(*entries, history=[made.state(1)])
    path.write_text(results_file.to_json(written))
    assert results_file.read(path) == written
    assert [
        results.from_plain(json.loads(json.dumps(results.to_plain(entry)))) for entry in entries
    ] == entries


@pytest.mark.parametrize("damage", UNREADABLE)
def test_a_damaged_file_is_refused_and_named(tmp_path: Path, damage: Callable[[str], str]) -> None:
    path = tmp_path / "results.json"
    path.write_text(damage(results_file.to_json(made.of(made.entry()))))
    with pytest.raises(
        ResultsError,
        match=r"results\.json is damaged or not a results\.json: .*\n.*from the recordings",
    ):
        results_file.read(path)


def _set(content: Any, where: str, value: Any) -> None:
    *way, last = where.split(".")
    for name in way:
        content = content[int(name) if name.isdigit() else name]
    content[last] = value


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("entries.0.candidate.joules_per_token.value", "0.5"),
        ("entries.0.candidate.joules_per_token.value", -0.5),
        ("entries.0.candidate.joules_per_token.low", 99.0),
        ("entries.0.candidate.power_w.value", 1e300),
        ("entries.0.candidate.power_w.value", 0),
        ("entries.0.cell.batch_size", 0),
        ("entries.0.cell.batch_size", 8.5),
        ("entries.0.cell.name", "x" * 20_000),
        ("entries.0.verdict", "fine"),
        ("entries.0.candidate.launches", []),
        ("entries.0.more", 1),
        ("entries.0.run", 7),
        ("runs", []),
    ],
)
def test_values_that_no_run_writes_are_refused(tmp_path: Path, where: str, value: Any) -> None:
    content = json.loads(results_file.to_json(made.of(made.entry())))
    _set(content, where, value)
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=r"is damaged or not a results\.json: "):
        results_file.read(tmp_path / "results.json")


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    text = results_file.to_json(made.of(made.entry()))
    (tmp_path / "results.json").write_text(text.replace('"tolerance": 0.03', '"tolerance": NaN'))
    with pytest.raises(ResultsError, match=r"entries\.0\.tolerance"):
        results_file.read(tmp_path / "results.json")


def test_another_schema_version_and_no_file_are_distinguished(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(ResultsError, match="cannot be read: No such file"):
        results_file.read(path)
    path.write_text(
        results_file.to_json(made.of()).replace('"schema_version": 4', '"schema_version": 5')
    )
    with pytest.raises(
        ResultsError, match="has schema version 5, but this pytest-energy reads only 1, 2, 3 and 4"
    ):
        results_file.read(path)


def _as_version_1(content: Any) -> Any:
    """A file under the names that version 1 had."""
    names = {
        "candidate": "new",
        "reference": "old",
        "periods": "turns",
        "co_resident": "beside",
        "detects": "smallest_change_caught",
    }
    entries = [
        {names.get(name, name): value for name, value in entry.items()}
        for entry in content["entries"]
    ]
    return {**content, "schema_version": 1, "entries": entries}


def test_version_1_is_read_under_the_names_of_version_2(tmp_path: Path) -> None:
    written = made.of(
        made.entry(detects=0.04, periods="varies by 1 %", co_resident=True),
        history=[made.state(1)],
    )
    (tmp_path / "results.json").write_text(
        json.dumps(_as_version_1(json.loads(results_file.to_json(written))))
    )
    assert results_file.read(tmp_path / "results.json") == written


def test_version_2_is_read_without_energy_per_request(tmp_path: Path) -> None:
    written = made.of(made.entry(), history=[made.state(1)])
    content = json.loads(results_file.to_json(written))
    for entry in content["entries"]:
        for name in ("joules_per_total_token", "wh_per_1000_requests"):
            del entry["candidate"][name], entry["reference"][name]
    (tmp_path / "results.json").write_text(json.dumps({**content, "schema_version": 2}))
    assert results_file.read(tmp_path / "results.json") == written


SLOWER = results.ReportedSlowdown("slower host", "2 ms a step instead of 1")


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (None, None),
        ("no recorded version or setting", results.ReportedChanges()),
        (
            "slower host (2 ms a step instead of 1); vllm: 1.0 → 2.0; cudagraphs: [] → [1; 2]; "
            "and 3 more",
            results.ReportedChanges(SLOWER, {"vllm": "1.0 → 2.0", "cudagraphs": "[] → [1; 2]"}, 3),
        ),
        (
            "slower host (2 ms a step instead of 1); no recorded version or setting",
            results.ReportedChanges(SLOWER),
        ),
        ("something else", results.ReportedChanges(None, {"something else": ""})),
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_changed_is_a_text_until_version_3(
    tmp_path: Path, version: int, text: str | None, changes: results.ReportedChanges | None
) -> None:
    written = made.of(made.entry(changed=changes))
    content = json.loads(results_file.to_json(written))
    content["entries"][0]["changed"] = text
    older = _as_version_1(content) if version == 1 else {**content, "schema_version": version}
    (tmp_path / "results.json").write_text(json.dumps(older))
    read = results_file.read(tmp_path / "results.json")
    assert read == written
    assert changes is None or changes.in_words == text


def test_a_text_in_version_4_is_refused(tmp_path: Path) -> None:
    content = json.loads(results_file.to_json(made.of(made.entry())))
    content["entries"][0]["changed"] = "vllm: 1.0 → 2.0"
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=r"entries\.0\.changed .*must be an object"):
        results_file.read(tmp_path / "results.json")


@pytest.mark.parametrize("name", ["candidate", "detects", "more"])
def test_a_field_that_version_1_does_not_have_is_refused_in_it(tmp_path: Path, name: str) -> None:
    content = _as_version_1(json.loads(results_file.to_json(made.of(made.entry()))))
    content["entries"][0][name] = None
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=rf"entries\.0\.{name}.* is an unknown field"):
        results_file.read(tmp_path / "results.json")


def test_a_figure_lies_in_its_interval() -> None:
    with pytest.raises(ValidationError):
        results.Interval(1.0, 2.0, 3.0)


@given(st.floats(1e-9, 1e9), st.floats(0, 0.9))
def test_rounding_leaves_the_figure_in_its_interval(value: float, half: float) -> None:
    assert results.interval(value, value * (1 - half), value * (1 + half)).value == pytest.approx(
        value, rel=1e-8
    )


def test_runs_are_put_together_in_order_and_share_their_history() -> None:
    history = [made.state(1), made.state(2)]
    one, other = (
        made.of(made.entry(1), history=history),
        made.of(made.entry(8), made.entry(64), history=history),
    )
    both = results_file.together([one, other])
    assert [entry.run for entry in both.entries] == [0, 1, 1]
    assert len(both.runs) == 2
    assert list(both.history) == history


def test_every_field_is_documented() -> None:
    page = (ROOT / "docs" / "reports.md").read_text()
    seen: set[type] = set()

    def visit(kind: Any) -> None:
        if is_dataclass(kind) and isinstance(kind, type) and kind not in seen:
            seen.add(kind)
            if kind is CellKey:  # docs/files.md
                return
            for field in fields(kind):
                assert f"`{field.name}`" in page or f"`{field.name}[]`" in page, (
                    f"{kind.__name__}.{field.name}"
                )
                visit(get_type_hints(kind)[field.name])
        for argument in get_args(kind):
            visit(argument)

    visit(results.Results)
    assert len(seen) == 19
