"""A drawn figure as SVG, reproducible to the byte and with a text alternative.

Its colours are a theme's, or follow the page that it stands in.
"""

import functools
import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
WIDTH_PX = 480.0  # readable on a phone, and two of them fit beside each other
WIDE_PX = 1040.0  # fills a page on a desk

# Figures are drawn in these stand-in colours; a theme or the page's style sheet replaces them.
INK, MUTED, GRID, PAPER = "#000001", "#000002", "#000003", "#000004"
GOOD, BAD, OPEN = "#000005", "#000006", "#000007"
SERIES = tuple(f"#0001{number:02x}" for number in range(5))
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    GOOD: "good",
    BAD: "bad",
    OPEN: "open",
    **{stand_in: f"series-{i}" for i, stand_in in enumerate(SERIES)},
}

# Series after Okabe and Ito's palette, which suits any colour vision; some colours are darkened or
# lightened to give a contrast of at least 3 to 1 with the paper, text 4.5 to 1.
LIGHT: Mapping[str, str] = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d1d9e0",
    "paper": "#ffffff",
    "good": "#1a7f37",
    "bad": "#c41c26",
    "open": "#8a5a00",
    "series-0": "#0072b2",
    "series-1": "#d55e00",
    "series-2": "#008f68",
    "series-3": "#b45c8f",
    "series-4": "#8a6d00",
}
DARK: Mapping[str, str] = {
    "ink": "#e6edf3",
    "muted": "#9198a1",
    "grid": "#3d444d",
    "paper": "#0d1117",
    "good": "#3fb950",
    "bad": "#ff7b72",
    "open": "#d29922",
    "series-0": "#56b4e9",
    "series-1": "#e69f00",
    "series-2": "#2fbf93",
    "series-3": "#d58fb5",
    "series-4": "#f0e442",
}
THEMES: Mapping[str, Mapping[str, str]] = {"light": LIGHT, "dark": DARK}

_STYLE: Mapping[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib; wider than what browsers use instead
    "font.size": 12.5,
    "text.parse_math": False,  # names are data
    "axes.titlesize": 12.5,
    "axes.labelsize": 12.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 12.5,
    "figure.dpi": 72,  # a point is a pixel
    "savefig.dpi": 72,
    "svg.fonttype": "none",
    "svg.hashsalt": "pytest-energy",
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house style, whatever the user's own is."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # the reader's browser has them
        yield


@dataclass(frozen=True)
class Picture:
    """A drawn chart.

    Attributes:
        name: for files and element ids.
        title: what it shows, in one line.
        caption: how to read it.
        words: its figures in words, the text alternative.
        figure: as drawn; in stand-in colours.
    """

    name: str
    title: str
    caption: str
    words: str
    figure: Figure

    @functools.cached_property
    def _drawn(self) -> str:
        """The figure as matplotlib writes it, in stand-in colours."""
        buffer = io.StringIO()
        with style():
            self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return buffer.getvalue()

    def svg(self, theme: str) -> str:
        """A file of its own, "light" or "dark"."""
        colours = THEMES[theme]
        root = self._tree(colours)
        size = {
            "x": "0",
            "y": "0",
            "width": "100%",
            "height": "100%",
            "style": f"fill: {colours['paper']}",
        }
        root.insert(2, ElementTree.Element(f"{{{_SVG}}}rect", size))
        return ElementTree.tostring(root, encoding="unicode") + "\n"

    def inline(self) -> str:
        """An element for an HTML page that defines --ink, --muted, --grid, --paper, --series-N."""
        text = ElementTree.tostring(
            self._tree({name: f"var(--{name})" for name in _NAMES.values()}), encoding="unicode"
        )
        return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)

    def _tree(self, colours: Mapping[str, str]) -> ElementTree.Element:
        drawn = re.sub("|".join(_NAMES), lambda match: colours[_NAMES[match[0]]], self._drawn)
        drawn = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 Helvetica, Arial, sans-serif", drawn)
        # Hundredths of a pixel are enough; most of the file is coordinates.
        drawn = re.sub(
            r' (?:d|x|y|transform)="[^"]*"',
            lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]),
            drawn,
        )
        # A page holds several pictures, and ids must be unique.
        drawn = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{self.name}-", drawn)
        ElementTree.register_namespace("", _SVG)
        ElementTree.register_namespace("xlink", _XLINK)
        root = ElementTree.fromstring(drawn)
        for element in root.iter():  # only line ends stand between elements
            element.tail = None
            element.text = element.text if (element.text or "").strip() else None
        for metadata in root.findall(f"{{{_SVG}}}metadata"):
            root.remove(metadata)
        width, height = self.figure.get_size_inches() * 72
        root.set("width", f"{width:.0f}")
        root.set("height", f"{height:.0f}")
        root.set("role", "img")
        root.set("aria-labelledby", f"{self.name}-title {self.name}-words")
        for place, (tag, name, text) in enumerate(
            (("title", "title", self.title), ("desc", "words", self.words))
        ):
            element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{self.name}-{name}"})
            element.text = printable(text)
            root.insert(place, element)
        return root

    def faults(self) -> list[str]:
        """Texts that leave the canvas or overlap, laid out in the widest likely font."""
        with style():
            self.figure.draw_without_rendering()
        width, height = self.figure.get_size_inches() * self.figure.dpi
        boxes = [
            (text.get_text(), text.get_window_extent().padded(-0.5)) for text in _texts(self.figure)
        ]
        outside = [
            text
            for text, box in boxes
            if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
        ]
        overlapping = [
            (one, other)
            for (one, a), (other, b) in itertools.combinations(boxes, 2)
            if a.overlaps(b)
        ]
        return [f"{text!r} leaves the canvas" for text in outside] + [
            f"{one!r} overlaps {other!r}" for one, other in overlapping
        ]


def _texts(figure: Figure) -> list[Text]:
    """All that are drawn; ticks outside the view are not."""
    hidden: set[int] = set()
    for axes in figure.axes:
        for axis, place, view in (
            (axes.xaxis, 0, axes.get_xlim()),
            (axes.yaxis, 1, axes.get_ylim()),
        ):
            for label in axis.get_ticklabels(which="both"):
                if not min(view) <= label.get_position()[place] <= max(view):
                    hidden.add(id(label))
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [
        text
        for text in texts
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden
    ]


def printable(text: str) -> str:
    """Without characters that XML forbids."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)
