"""The reports and pictures in README and docs are those that the recordings give."""

import re
from pathlib import Path

import pytest

from benchmarks import render_reports
from pytest_energy.report import results_file
from pytest_energy.report.pictures import Picture
from tests.conftest import ROOT

# On J/token, by batch size.
VERDICTS = {
    "upgrade": ["pass", "pass", "inconclusive", "pass"],
    "eager": ["regressed"] * 4,
    "interleaved": ["pass", "inconclusive"],
    "no-async": ["regressed", "regressed"],
}
REPRESENTATIVE = "no-async"


@pytest.fixture(
    scope="module",
    params=[REPRESENTATIVE, pytest.param("all", marks=pytest.mark.nightly)],
)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The history, the README's pictures, and one example or all of them."""
    folder = tmp_path_factory.mktemp("docs")
    examples = [e for e in render_reports.EXAMPLES if request.param in ("all", e.name)]
    assert render_reports.render(folder, examples) == []
    return folder


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Picture, str]]:
    return render_reports.pictures()


def test_the_committed_reports_are_what_the_recordings_give(rendered: Path) -> None:
    names = {path.name for path in (rendered / "examples").iterdir()}
    places = ["images", *(f"examples/{name}" for name in names)]
    assert render_reports.differences(ROOT / "docs", rendered, places) == []


def test_no_example_is_left_over() -> None:
    names = {path.name for path in (ROOT / "docs" / "examples").iterdir()}
    assert names == {"history", *(example.name for example in render_reports.EXAMPLES)}


def test_the_readme_shows_these_pictures(drawn: list[tuple[Picture, str]]) -> None:
    page = (ROOT / "README.md").read_text()
    assert render_reports.readme(page, drawn) == page


@pytest.mark.parametrize("name", VERDICTS)
def test_the_committed_examples_say_what_the_gate_says(name: str) -> None:
    entries = results_file.read(ROOT / "docs" / "examples" / name / "results.json").entries
    verdicts = [e.verdict for e in entries if e.metric == "joules_per_token"]
    assert verdicts == VERDICTS[name]
    if set(verdicts) == {"regressed"}:
        assert {entry.verdict for entry in entries} == {"regressed"}
    gpu = "NVIDIA H200" if name == "upgrade" else "NVIDIA H100 80GB HBM3"
    assert {entry.gpu.name for entry in entries if entry.gpu} == {gpu}


def test_every_picture_in_the_readme_has_both_themes_and_says_its_figures() -> None:
    found = re.findall(r"<picture>(.*?)</picture>", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(found) == 2
    for picture in found:
        dark, light = re.findall(r'src(?:set)?="([^"]+)"', picture)
        assert (ROOT / dark).is_file()
        assert (ROOT / light).is_file()
        assert (dark.replace("dark", "light"), "prefers-color-scheme: dark" in picture) == (
            light,
            True,
        )
        alternative = re.search(r'alt="([^"]+)"', picture)
        assert alternative is not None
        assert len(re.findall(r"\d[\d,.]* (?:J/token|W|%)", alternative[1])) >= 3
        words = " ".join(render_reports.words((ROOT / light).read_text()))
        assert [
            figure for figure in re.findall(r"\d[\d,.]*\d", alternative[1]) if figure not in words
        ] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<img src="//evil.example.com/x">', "address"),
        ("see http://example.com", "address"),
        ("/home/me/venv/bin/python", "path"),
        ("a value of the ENVIRONMENT-1234", "environment"),
        ("x" * render_reports.MAX_BYTES, "bytes"),
    ],
)
def test_the_check_finds_what_it_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str
) -> None:
    monkeypatch.setenv("SECRET", "ENVIRONMENT-1234")
    (tmp_path / "report.html").write_text(f"<p>fine</p>{text}")
    assert fault in " ".join(render_reports.faults(tmp_path))
    (tmp_path / "report.html").write_text("<p>fine</p>")
    assert list(render_reports.faults(tmp_path)) == []


def test_the_comparison_finds_another_figure_and_no_other_drawing(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "images").mkdir(parents=True)
    svg = (ROOT / "docs" / "images" / "launch-light.svg").read_text()
    (tmp_path / "a/images/x.svg").write_text(svg)
    (tmp_path / "b/images/x.svg").write_text(re.sub(r' d="[^"]*"', ' d="M 0 0"', svg))
    assert render_reports.differences(tmp_path / "a", tmp_path / "b") == []
    said = next(text for text in render_reports.words(svg) if text[:1].isdigit())
    assert f">{said}<" in svg
    (tmp_path / "b/images/x.svg").write_text(svg.replace(f">{said}<", ">4711<", 1))
    assert render_reports.differences(tmp_path / "a", tmp_path / "b") == [
        "images/x.svg says something else"
    ]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('{"J": [0.10000000000000003, null]}', True),
        ('{"J": [0.1000001, null]}', False),
        ('{"J": [0.1]}', False),
        ('{"J": [0.1, 0]}', False),
        ('{"W": [0.1, null]}', False),
    ],
)
def test_figures_may_differ_in_their_last_digits(tmp_path: Path, other: str, same: bool) -> None:
    for folder, text in (("a", '{"J": [0.1, null]}'), ("b", other)):
        (tmp_path / folder / "examples").mkdir(parents=True)
        (tmp_path / folder / "examples" / "results.json").write_text(text)
    assert (render_reports.differences(tmp_path / "a", tmp_path / "b") == []) is same


def test_labels_that_overlap_or_leave_the_canvas_are_found(
    drawn: list[tuple[Picture, str]],
) -> None:
    picture, _ = drawn[2]
    assert picture.faults() == []
    axes = picture.figure.axes[0]
    axes.text(1, 100, "one", fontsize=12)
    axes.text(1, 100, "other", fontsize=12)
    assert "'one' overlaps 'other'" in picture.faults()
    axes.text(axes.get_xlim()[1], 300, "far too long for what is left of the canvas").set_in_layout(
        False
    )
    assert any("leaves the canvas" in fault for fault in picture.faults())
