"""Text of manuals in HTML: their paragraphs, and those of two languages that carry the same name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

KEPT = frozenset(("p", "li", "dd", "dt", "h1", "h2", "h3", "h4"))
LEFT_OUT = frozenset(
    ("script", "style", "nav", "pre", "head", "header", "footer", "form", "button", "svg", "select")
)
PARTS = frozenset(
    (
        "div",
        "table",
        "tr",
        "td",
        "th",
        "ul",
        "ol",
        "dl",
        "section",
        "blockquote",
        "body",
        "hr",
        "main",
        "details",
    )
)
CLASSES = re.compile(
    r"sphinxsidebar|related|footer|highlight|toctree|mobile-nav|nav(header|footer)|\btoc\b|menu|searchbox|legalnotice|"
    r"tableofcontents|codeblock|programlisting|synopsis|menubar|nosearch|rightsidebar|imgcontainer|yyterm"
)
VOID = frozenset(("br", "img", "hr", "input", "meta", "link", "col", "area", "wbr", "source"))
MARKS = "¶\uf0c1"


class _Reader(HTMLParser):
    """Feeds text to `text`, outside of what is left out by its tag or its class."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._hidden: str | None = None
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden is not None:
            self._depth += tag == self._hidden
            return
        named = " ".join(value or "" for name, value in attrs if name in ("class", "id"))
        by_class = tag in ("div", "table", "ul", "span") and CLASSES.search(named)
        if tag not in VOID and (tag in LEFT_OUT or by_class):
            self._hidden, self._depth = tag, 1
            return
        self.opened(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if self._hidden is None:
            self.closed(tag)
            return
        self._depth -= tag == self._hidden
        if not self._depth:
            self._hidden = None

    def handle_data(self, data: str) -> None:
        if self._hidden is None:
            self.text(data)

    def opened(self, tag: str, attributes: dict[str, str | None]) -> None: ...
    def closed(self, tag: str) -> None: ...
    def text(self, data: str) -> None: ...


class _Paragraphs(_Reader):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._now: list[str] = []
        self._keeps = False

    def opened(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag in KEPT or tag in PARTS:
            self._end()
            self._keeps = tag in KEPT
        elif tag == "br":
            self._now.append(" ")

    def closed(self, tag: str) -> None:
        if tag in KEPT or tag in PARTS:
            self._end()
            self._keeps = False

    def text(self, data: str) -> None:
        if self._keeps:
            self._now.append(data)

    def _end(self) -> None:
        line = squeezed("".join(self._now)).rstrip(MARKS).rstrip()
        if line:
            self.found.append(line)
        self._now = []


class _Named(_Reader):
    """The text of each element that has an id of one of the wanted beginnings."""

    BEGINNINGS = ("par_", "hd_", "bm_", "N")

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._open: list[tuple[str, str, list[str], int]] = []

    def opened(self, tag: str, attributes: dict[str, str | None]) -> None:
        name = attributes.get("id") or ""
        self._open = [(t, n, parts, depth + (t == tag)) for t, n, parts, depth in self._open]
        if name.startswith(self.BEGINNINGS) and tag not in VOID:
            self._open.append((tag, name, [], 1))

    def closed(self, tag: str) -> None:
        left = []
        for t, name, parts, depth in self._open:
            depth -= t == tag
            if depth:
                left.append((t, name, parts, depth))
            elif text := squeezed("".join(parts)):
                self.found.setdefault(name, text)
        self._open = left

    def text(self, data: str) -> None:
        for _, _, parts, _ in self._open:
            parts.append(data)


def squeezed(text: str) -> str:
    """Without white space at the ends, and with one space for each stretch of it."""
    return " ".join(text.split())


def decoded(page: bytes) -> str:
    """A page's characters: UTF-8, else Windows' Latin letters, which older manuals are in."""
    try:
        return page.decode()
    except UnicodeDecodeError:
        return page.decode("cp1252", "replace")


def paragraphs(page: bytes) -> list[str]:
    """Paragraphs, entries of lists and headings in order; not code, tables, menus, nor lists of contents."""
    reader = _Paragraphs()
    reader.feed(decoded(page))
    reader.close()
    reader._end()
    return reader.found


def named(page: bytes) -> dict[str, str]:
    """The text of each paragraph and heading that has a name, by its name (LibreOffice's help)."""
    reader = _Named()
    reader.feed(decoded(page))
    reader.close()
    return reader.found
