"""Pages and pictures of usual and odd results fit, say their figures, hold nothing foreign."""

import html.parser
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_energy.report import (
    drawing,
    gallery,
    github,
    groups,
    markdown,
    plane,
    publish,
    results,
    results_file,
    summary,
)
from pytest_energy.report.pictures import DARK, LIGHT, SERIES, Picture
from pytest_energy.report.results import Entry, Results
from tests.reports import made

SCRIPT = "</title></svg><script>alert(1)</script><img src=x onerror=alert(2)>"
ODD_NAMES = [
    SCRIPT,
    "$\\frac{1}{0}$ a_b^c",
    "a|b\n\n# c `d` @everyone",
    "模型" * 20,
    "\x00\x1b[31m\ufffe",
    "org/" + "very-long-name-" * 19,
    "{{ 7*7 }}",
]


class Tags(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data


def check(found: Results, folder: Path) -> tuple[str, str]:
    """Publish, check what must hold whatever the results are, return the Markdown and the HTML."""
    publish.publish(found, folder)
    assert results_file.read(folder / "results.json") == found
    page, markdown_text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert len(page.encode()) < 1_000_000
    assert len(markdown_text) < 65_536
    tags = Tags(page)
    assert {"script", "iframe", "object", "embed", "link", "img", "image", "form", "base"} & set(
        tags.tags
    ) == set()
    assert [name for name, _ in tags.attributes if name.startswith("on")] == []
    references = [
        value for name, value in tags.attributes if name in ("href", "xlink:href", "src", "action")
    ]
    assert all(value.startswith("#") for value in references)
    ids = [value for name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "no id twice"
    assert {value[1:] for value in references} <= set(ids)
    assert re.search(r"url\((?!#)", page) is None
    assert "<script" not in re.sub("`[^`]*`", "", markdown_text)
    for file in folder.rglob("*.svg"):
        root = ElementTree.fromstring(file.read_text())
        assert [child.tag.partition("}")[2] for child in root][:2] == ["title", "desc"]
        assert all(root[i].text for i in (0, 1))
        assert file.stat().st_size < 200_000
    return markdown_text, page


def drawn(found: Results) -> list[Picture]:
    return gallery.gallery(found).pictures


def picture(found: Results, name: str) -> Picture:
    (one,) = [picture for picture in drawn(found) if picture.name == name]
    return one


def layout_faults(found: Results) -> list[str]:
    return [f"{picture.name}: {fault}" for picture in drawn(found) for fault in picture.faults()]


def inconclusive(entry: Entry) -> Entry:
    return replace(
        entry, verdict="inconclusive", what=entry.what.replace("REGRESSED", "INCONCLUSIVE")
    )


def without_baseline(entry: Entry) -> Entry:
    return replace(
        entry, verdict="no baseline", reference=None, ratio=None, changed=None, why="", how_sure=""
    )


SIXTY = [1, *range(8, 481, 8)][:60]
RESULTS = {
    "one cell": made.of(made.entry()),
    "two metrics": made.of(made.entry(), made.entry(metric="tokens_per_s", ratio=0.9)),
    "sixty batch sizes": made.of(
        *(
            made.entry(size, 1 + size / 5000, metric=m)
            for size in SIXTY
            for m in ("joules_per_token", "tokens_per_s")
        )
    ),
    "sixty models": made.of(*(made.entry(model=f"model-{i}") for i in range(60))),
    "no baseline": made.of(*(without_baseline(made.entry(size)) for size in (1, 8))),
    "everything inconclusive": made.of(
        *(inconclusive(made.entry(size, 1.01)) for size in (1, 8, 64))
    ),
    "invalid, nothing measured": made.of(
        replace(
            made.entry(verdict="invalid", reasons=("engine hung",)),
            candidate=None,
            reference=None,
            ratio=None,
            gpu=None,
        )
    ),
    "nothing": made.of(),
    "no static power": made.of(made.entry(candidate=made.side(0.5, 900, "2.0", static=None))),
    "nothing moved": made.of(made.entry(ratio=1.0)),
    "tiny and huge": made.of(
        made.entry(candidate=made.side(3e-9, 9e8, "2.0")),
        made.entry(1_000_000, candidate=made.side(4e8, 2e-5, "2.0")),
    ),
    "a thousand states": made.of(
        history=[
            made.state(i, size, 0.5 + 0.1 * (i % 7)) for size in (1, 8, 64) for i in range(1000)
        ]
    ),
    "sixty histories": made.of(
        history=[made.state(i, size, 0.5 + i / 10) for size in SIXTY for i in range(3)]
    ),
    "one state": made.of(history=[made.state(1)]),
}


REPRESENTATIVE = {"two metrics", "no baseline", "invalid, nothing measured"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.nightly)
        for name in RESULTS
    ],
)
def test_odd_results_render_and_fit(name: str, tmp_path: Path) -> None:
    check(RESULTS[name], tmp_path)
    assert layout_faults(RESULTS[name]) == []


@pytest.mark.parametrize(
    "name",
    [*ODD_NAMES[:3], *(pytest.param(name, marks=pytest.mark.nightly) for name in ODD_NAMES[3:])],
)
def test_odd_names_are_shown_and_do_nothing(name: str, tmp_path: Path) -> None:
    candidate = made.side(0.6, 900, "2.0", settings=(name,))
    odd = made.entry(
        model=name,
        candidate=candidate,
        what=f"REGRESSED: {name}",
        reasons=(name,),
        changed=results.ReportedChanges(results.ReportedSlowdown(name, name), {name: name}, 2),
        next=(f"again: pytest {name}",),
        noise=name,
        gpu=results.Gpu(name, (name,), None),
    )
    state = replace(made.state(1), vllm=name, update_reason=name, cell=odd.cell, gpu=odd.gpu)
    found = made.of(odd, history=[state, replace(state, date=name[:90])])
    markdown_text, page = check(found, tmp_path)
    assert layout_faults(found) == []
    visible = re.sub("[^ -~\u4e00-\u9fff]+", "", name)  # without control characters and line ends
    assert visible in re.sub("[^ -~\u4e00-\u9fff]+", "", Tags(page).text)
    assert re.search(r"(?<!`)@\w", re.sub("(`+) .*? \\1", "", markdown_text)) is None, (
        "nobody is mentioned"
    )
    heading = next(line for line in markdown_text.splitlines() if line.startswith("### "))
    assert len(heading) >= len(visible)


@given(st.lists(made.entries, min_size=1, max_size=2))
@settings(
    max_examples=settings.default.max_examples * 2 // 5,  # each is two pages
    suppress_health_check=[HealthCheck.too_slow],
)
def test_whatever_a_file_may_hold_renders(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]
) -> None:
    check(made.of(*entries), tmp_path_factory.mktemp("report"))


def passed(batch_size: int = 1, verdict: str = "pass", **changes: object) -> Entry:
    entry = made.entry(batch_size, 1.0, **{"green": True, **changes})  # type: ignore[arg-type]
    return replace(entry, verdict=verdict)


def test_the_answer_stands_first() -> None:
    text = markdown.page(made.of(passed(), made.entry(8)))
    assert text.splitlines()[0] == "## ❌ Do not merge: 1 of 2 energy tests regressed"
    assert (
        text.index("regressed | tiny bs=8 512/256")
        < text.index("pass | tiny bs=1 512/256")
        < text.index("### REGRESSED: tiny bs=8 512/256")
    )


STORED = made.side(0.5, 900, "2.0")
INVALID = made.entry(verdict="invalid")


@pytest.mark.parametrize(
    ("entries", "status", "text", "tone"),
    [
        ([passed()], 0, "OK to merge: 1 of 1 energy test passed", "good"),
        (
            [passed(), passed(verdict="improved")],
            0,
            "OK to merge: 1 of 2 energy tests passed, 1 improved",
            "good",
        ),
        (
            [passed(), passed(verdict="inconclusive")],
            0,
            "OK to merge: 1 of 2 energy tests passed, 1 inconclusive",
            "open",
        ),
        (
            [passed(), INVALID],
            1,
            "Do not merge yet: 1 of 2 energy tests invalid",
            "bad",
        ),
        (
            [INVALID, made.entry(8)],
            1,
            "Do not merge: 1 of 2 energy tests regressed, 1 invalid",
            "bad",
        ),
        ([passed(green=False)], 1, "Do not merge yet: 1 of 1 energy test failed", "bad"),
        ([passed()], 2, "Do not merge yet, the run failed: 1 of 1 energy test passed", "open"),
        ([passed()], 1, "Do not merge yet, the run failed: 1 of 1 energy test passed", "open"),
        ([passed(verdict="created")], 0, "Baselines: 1 of 1 energy test created", "good"),
        (
            [passed(candidate=STORED, reference=STORED)],
            0,
            "No answer, launches were compared with themselves: 1 of 1 energy test passed",
            "open",
        ),
        ([], 0, "No energy test was judged", "open"),
    ],
)
def test_the_heading_says_whether_to_merge(
    entries: Sequence[Entry], status: int, text: str, tone: str
) -> None:
    found = replace(made.of(*entries), runs=(replace(made.RUN, exit_status=status),))
    assert summary.headline(found) == summary.Headline(text, tone)


def test_a_row_shows_the_figures_of_its_own_metric() -> None:
    entry = made.entry(8, reference=made.side(0.5, 1000.0), candidate=made.side(0.55, 900.0))
    found = made.of(entry, replace(entry, metric="tokens_per_s"))
    energy, rate = summary.lines(found)
    assert summary.figures(found)[:2] == ("candidate", "reference")
    assert (energy.metric, *energy.figures[:2]) == ("J/token", "0.5500", "0.5000")
    assert (rate.metric, *rate.figures[:2]) == ("tokens/s", "900", "1,000")


def test_the_first_screen_decides(tmp_path: Path) -> None:
    """Verdict, worst change, the changes beside their tolerance, what changed, why; the rest."""
    entries = [made.entry(1), made.entry(8), made.entry(8, 0.9, metric="tokens_per_s")]
    _, page = check(made.of(*entries), tmp_path)
    body = page[page.index("<body>") :]
    places = [
        body.index(text)
        for text in (
            "Do not merge: 3 of 3 energy tests regressed</h1>",
            "Worst: J/token +10.0 %",
            'id="change-title"',
            "<h2>What changed</h2>",
            "<h2>Why, and what next</h2>",
            "REGRESSED: tiny 512/256 at batch sizes 1 and 8",
            "<h2>Each test</h2>",
            'id="against-batch-size-title"',
        )
    ]
    assert places == sorted(places)
    assert body.count('<section class="why') == 1


def test_a_history_has_a_verdict_on_each_step_and_a_picture_of_the_pages_width(
    tmp_path: Path,
) -> None:
    states = [made.state(i, size, 0.5 * 1.1**i) for size in (1, 8) for i in range(3)]
    markdown_text, page = check(made.of(history=states), tmp_path)
    assert "Newest steps: 2 regressed" in markdown_text
    assert markdown_text.count("| regressed |") == 4
    assert page.count('<td class="verdict bad">regressed</td>') == 4
    for name, width in (("history", 480), ("history-wide", 1040)):
        shown = picture(made.of(history=states), name)
        assert f'width="{width}"' in shown.svg("light")
        assert shown.words.count("+10.0 %: regressed") == 4
        axes = [one.get_position() for one in shown.figure.axes]
        assert len({round(place.x0, 2) for place in axes}) == (1 if width == 480 else 2)


@pytest.mark.parametrize(
    ("status", "note"),
    [
        (1, "failed for reasons other than these verdicts"),
        (2, "not all tests were judged"),
        (0, None),
    ],
)
def test_a_green_table_of_a_run_that_failed_says_so(
    status: int, note: str | None, tmp_path: Path
) -> None:
    passing = made.of(made.entry(ratio=1.0, verdict="pass", green=True))
    found = replace(passing, runs=(replace(made.RUN, exit_status=status),))
    markdown_text, page = check(found, tmp_path)
    for text in (markdown_text, page):
        assert (note is not None and note in text) or (note is None and "The run" not in text)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    markdown_text, page = check(RESULTS["sixty models"], tmp_path)
    assert "55 more groups of cells are in the table but not drawn" in page
    assert "more are explained in report.html and results.json" in markdown_text
    captions = " ".join(picture.caption for picture in drawn(RESULTS["sixty batch sizes"]))
    assert "8 of 60 batch sizes are drawn" in captions


def test_several_runs_are_distinguished(tmp_path: Path) -> None:
    again = made.entry(candidate=made.side(0.2, 900, "2.0", launches=4))
    both = results_file.together([made.of(made.entry()), made.of(again)])
    markdown_text, _ = check(both, tmp_path)
    assert "| run | verdict | cell | metric |" in markdown_text
    (group,) = groups.groups(both)
    assert [series.label for series in group.series] == [
        "vLLM 1.0 (baseline)",
        "vLLM 2.0",
        "vLLM 2.0, run 2",
    ]


@pytest.mark.nightly
def test_many_runs_of_many_engines_are_drawn_as_far_as_they_can_be_distinguished(
    tmp_path: Path,
) -> None:
    runs = []
    for i in range(12):
        sides = {
            "reference": made.side(0.2, 3000, f"1.{i}"),
            "candidate": made.side(0.21 + i / 1000, 2900, f"2.{i}"),
        }
        runs.append(made.of(made.entry(8, 1.05 + i / 100, **sides), made.entry(64, 1.0, **sides)))
    found = results_file.together(runs)
    check(found, tmp_path)
    assert layout_faults(found) == []
    against, throughput = (picture(found, n) for n in ("against-batch-size", "power-throughput"))
    assert "16 more engines are in results.json but not drawn" in against.caption
    assert "vLLM 1.11 (baseline) to vLLM 2.11" in throughput.words


def test_different_gpus_are_never_in_one_picture() -> None:
    elsewhere = replace(made.GPU, uuids=("GPU-11111111",))
    found = made.of(made.entry(), made.entry(gpu=elsewhere))
    assert len(groups.groups(found)) == 2
    assert "| simulated GPU GPU-11111111 |" in markdown.page(found)
    assert "GPU-" not in markdown.page(made.of(made.entry()))


def test_the_text_alternative_says_every_figure_with_its_interval() -> None:
    entries = [made.entry(1), made.entry(8)]
    for name in ("against-batch-size", "power-throughput"):
        for entry in entries:
            for side in (entry.reference, entry.candidate):
                assert side is not None
                for figure, unit in ((side.power_w, "W"), (side.tokens_per_s, "tokens/s")):
                    words = picture(made.of(*entries), name).words
                    assert drawing.in_words(figure, unit) in words
    assert (
        drawing.in_words(results.interval(1469.24, 1437.1, 1502.0), "tokens/s")
        == "1,469 tokens/s (1,437 to 1,502)"
    )


def bars(found: Picture) -> list[int]:
    """The number of error bars of each series, panel by panel."""
    return [
        len(bar.lines[2][0].get_segments()) for axes in found.figure.axes for bar in axes.containers
    ]


def test_every_point_is_drawn_with_its_interval() -> None:
    """Two panels (power is equal) of two engines at two batch sizes; each change has a row."""
    found = made.of(made.entry(1), made.entry(8))
    assert bars(picture(found, "against-batch-size")) == [2] * 4
    assert bars(picture(RESULTS["two metrics"], "change")) == [1, 1]
    many = picture(made.of(*(made.entry(size) for size in SIXTY)), "against-batch-size")
    title = many.figure.axes[0].get_title(loc="left")
    assert title.startswith("change of energy per token"), "of which some have no row"


def test_axes_against_batch_size_say_their_scale() -> None:
    figure = picture(made.of(made.entry(1), made.entry(8)), "against-batch-size").figure
    for axes in figure.axes:
        assert ("(log scale)" in axes.get_title(loc="left")) == (axes.get_yscale() == "log")
    assert figure.axes[-1].get_xscale() == "log"
    assert figure.axes[-1].get_xlabel().endswith("(log scale)")


def test_panels_in_which_the_lines_coincide_are_left_out_and_named(tmp_path: Path) -> None:
    """Throughput is 1.001 times the reference's; energy differs by the ratio, and so does power."""

    def entry(size: int, ratio: float) -> Entry:
        one = made.entry(size, ratio)
        assert one.reference is not None
        reference = one.reference.joules_per_token.value
        rate = 1.001 * one.reference.tokens_per_s.value
        return replace(one, candidate=made.side(reference * ratio, rate, "2.0"))

    some = made.of(entry(1, 1.4), entry(8, 1.4))
    titles = [a.get_title(loc="left") for a in picture(some, "against-batch-size").figure.axes]
    assert titles == ["energy per token, J (log scale)", "power, W"]
    _, page = check(some, tmp_path / "some")
    assert "as the engines' lines coincide: throughput." in Tags(page).text
    none = made.of(entry(1, 1.002), entry(8, 1.002))
    assert [p.name for p in drawn(none)] == ["change", "power-throughput"]
    _, page = check(none, tmp_path / "none")
    assert "coincide: energy per token, throughput and power." in page
    (alone,) = drawn(made.of(replace(entry(8, 1.0), reference=None, ratio=None)))
    assert alone.name == "against-batch-size", "one line coincides with no other"


def test_the_line_of_pace_goes_through_the_reference_and_the_static_power() -> None:
    move = groups.groups(made.of(made.entry()))[0].moves[0]
    plane_shown = picture(made.of(made.entry()), "power-throughput")
    (dotted,) = [
        line
        for line in plane_shown.figure.axes[0].lines
        if line.get_linestyle() == ":" and len(line.get_xdata())
    ]
    (x0, x1), (y0, y1) = dotted.get_xdata(), dotted.get_ydata()
    slope = (y1 - y0) / (x1 - x0)
    assert y0 - slope * x0 == pytest.approx(120)
    assert y0 + slope * (move.reference.tokens_per_s.value - x0) == pytest.approx(
        move.reference.power_w.value
    )
    assert plane.static_power_w(replace(move, candidate=made.side(0.5, 900, static=None))) is None


def test_the_plane_says_when_pace_and_work_cannot_be_separated() -> None:
    split = results.ReportedSplit(0.0, 0.01, 0.05, "dynamic")
    captions = [
        picture(made.of(entry), "power-throughput").caption
        for entry in (made.entry(), made.entry(split=split), made.entry(ratio=1.001))
    ]
    assert ["the arrow may be either" in caption for caption in captions] == [True, False, False]


def test_the_batch_sizes_that_moved_most_for_sure_are_drawn() -> None:
    unsure = results.interval(1.5, 0.9, 2.0)
    entries = [made.entry(size, 1.01) for size in range(1, 8)] + [
        made.entry(100, 1.2),
        made.entry(101, ratio=1.0),
    ]
    entries[-1] = replace(entries[-1], ratio=unsure)
    (group,) = groups.groups(made.of(*entries))
    assert 100 in plane.chosen(group.moves)
    assert 101 not in plane.chosen(group.moves)


def test_the_same_results_give_the_same_bytes() -> None:
    one, other = (([p.svg("light") for p in drawn(made.of(made.entry()))]) for _ in range(2))
    assert one == other


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_can_be_read_on_their_paper(theme: dict[str, str]) -> None:
    assert all(
        _contrast(theme[name], theme["paper"]) >= 4.5
        for name in ("ink", "muted", "good", "bad", "open")
    )
    assert all(_contrast(theme[f"series-{i}"], theme["paper"]) >= 3 for i in range(len(SERIES)))


# Viénot, Brettel, Mollon 1999: what a protanope and a deuteranope see, in linear RGB.
_DICHROMATS: Sequence[Sequence[Sequence[float]]] = (
    ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("dichromat", _DICHROMATS)
def test_the_first_three_series_differ_for_any_colour_vision(
    theme: dict[str, str], dichromat: Sequence[Sequence[float]]
) -> None:
    """Further ones differ by their markers, too."""

    def seen(colour: str) -> list[float]:
        linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        return [
            max(0.0, sum(w * c for w, c in zip(row, linear, strict=True))) ** (1 / 2.2)
            for row in dichromat
        ]

    for i, j in ((0, 1), (0, 2), (1, 2)):
        one, other = seen(theme[f"series-{i}"]), seen(theme[f"series-{j}"])
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.15


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a,b: 100%\r\nnext", "100%25%0D%0Anext"),
        ("::error::fake", "::error::fake"),
    ],
)
def test_annotations_are_escaped_by_githubs_rules(text: str, wanted: str) -> None:
    (line,) = github.annotations([made.entry(what=text, file="dir, a:b/test_a.py")])
    assert line.startswith(
        "::error file=dir%2C a%3Ab/test_a.py,line=3,title=tiny bs=8 512/256 regressed::"
    )
    assert wanted in line
    assert "\n" not in line


def test_the_tenth_annotation_stands_for_the_rest() -> None:
    """The runner keeps ten errors of a step, and 4,096 characters of each.

    `_maxCountPerIssueType`, `_maxIssueMessageLength`: ExecutionContext.cs of actions/runner.
    """
    entries = [made.entry(size, what=f"REGRESSED: bs={size}") for size in range(1, 12)]
    assert len(github.annotations(entries[:10])) == 10
    assert "more" not in github.annotations(entries[:10])[9]
    assert github.annotations(entries)[8].startswith("::error file=")
    assert github.annotations(entries)[9:] == [
        "::error title=2 more tests regressed::"
        "2 more tests regressed:%0AREGRESSED: bs=10%0AREGRESSED: bs=11"
    ]


def test_an_annotation_has_the_length_that_github_keeps() -> None:
    (line,) = github.annotations([made.entry(what="%" * 5000)])
    message = line.split("::")[2].replace("%25", "%")
    assert len(message) == 4096
    assert message.endswith("%…")


def test_each_of_several_noises_comes_with_its_cells() -> None:
    sizes = (1, 8, 16, 64, 256)
    alike = [made.entry(size, noise="1.00 % assumed") for size in sizes]
    assert summary.noise(made.of(*alike)) == ["J/token: 1.00 % assumed"]
    others = [made.entry(2, model=f"model-{i}", noise="0.50 % measured") for i in range(10)]
    assert summary.noise(made.of(*others, *alike)) == [
        "J/token: 0.50 % measured ("
        + ", ".join(f"model-{i} bs=2 512/256" for i in range(8))
        + " and 2 more)",
        "J/token: 1.00 % assumed (tiny bs=1,8,16,64,256 512/256)",
    ]


def test_the_noise_of_a_history_is_listed_if_the_history_is() -> None:
    entry = made.entry(1, noise="0.50 % measured")
    one = made.of(entry, history=[made.state(1)])
    assert "History" not in markdown.page(one)
    assert summary.noise(one) == ["J/token: 0.50 % measured"]
    two = made.of(entry, history=[made.state(1), made.state(1)])
    assert "History" in markdown.page(two)
    assert summary.noise(two)[1:] == ["J/token, in the history: 1.00 % assumed"]


def test_no_noise_is_left_out_without_a_word() -> None:
    found = made.of(*(made.entry(i, noise=f"0.{i} % measured") for i in range(1, 21)))
    text = markdown.page(found)
    assert text.count("\n- J/token: 0.") == 16
    assert "- 4 more are in report.html and results.json." in text
