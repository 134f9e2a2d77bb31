"""What a report's page is made of: sections of tables, charts, facts and texts, without a word of HTML.

Promises: values are texts as they are; nothing in here is markup but a chart's, which `report_charts` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        user: whether the text is the user's: of any language and direction.
        tone: a name for how it looks: "good", "warn", "bad", "quiet", or "h0" to "h9" for shares; "" is plain.
        chart: a small picture beside the text.
    """

    text: str
    user: bool = False
    tone: str = ""
    chart: Markup | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns; the first `left` columns are texts, the others numbers.

    Attributes:
        caption: what it shows.
        columns: names, as texts or as the user's.
        rows: as many cells each as there are columns.
        left: text columns.
        note: what to know about it, below.
        square: whether rows and columns are the same things, as in a confusion matrix.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    note: str = ""
    square: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its caption; `series` name the lines in their order, with the user's names among them."""

    kind: ClassVar[str] = "chart"
    caption: str
    picture: Markup
    series: Sequence[Cell] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Charts that stand side by side where there is room."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number to see first."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and what they stand for; `code` marks values to copy, such as digests."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]
    code: bool = False
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A sentence or two of ours."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a user's text; tones "p1" to "p4" speak for something, "n1" to "n4" against, "unread" was not seen."""

    text: str
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text of the user's, or two lines of it.

    Attributes:
        name: where it is from, or which of two it is.
        spans: the text in pieces.
        badges: what to know of it, such as its label.
    """

    name: str
    spans: Sequence[Span]
    badges: Sequence[Cell] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """Some passages that belong together.

    Attributes:
        badges: what to know of them all.
        passages: side by side where there is room.
        said: a sentence of ours, above them.
        lines: further facts, below.
    """

    kind: ClassVar[str] = "card"
    badges: Sequence[Cell]
    passages: Sequence[Passage]
    said: str = ""
    lines: Sequence[Cell] = ()


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Blocks that are shown when asked for."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: Sequence[Block]
    open: bool = False


Block = Table | Chart | Charts | Facts | Text | Card | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, named in its list of contents.

    Attributes:
        anchor: its name in addresses, letters and hyphens.
        title: its heading.
        lead: one sentence on what it answers.
        blocks: what it shows.
    """

    anchor: str
    title: str
    lead: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report.

    Attributes:
        title: its heading.
        subtitle: which model and which data, the user's words.
        tiles: numbers to see first.
        sections: in reading order.
        note: at the foot of the page.
    """

    title: str
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    note: str
