"""Hostile names, and what must hold of anything that shows them."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

from hypothesis import strategies as st
from markdown_it import MarkdownIt

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></tr></table><a href=//evil>",
    "<!--",
    "&lt;b&gt;&#60;b&#62;",
    "=HYPERLINK('http://x','y')",
    "+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\uff1d1+1",
    '"a",b;"c',
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b31m\x90q\x9c",
    "a|b`c`\n# head\n[x](javascript:alert(1))",
    "![i](http://x/i.png) <http://x> https://evil.example www.evil.example",
    "\\|\\`\\",
    "**bold** __bold__ ~~gone~~ $x$",
    "\u202efdp.exe",
    "\u2066a\u2069\u200f\u061c\u2028\u2029\x85",
    "\ufeff\u200b\u00ad",
    "{{ 7 * 7 }}{% raw %}",
    "[bold]markup[/bold] :smile:",
    "$(touch x) `touch x` ; touch x #(touch x) #{pane_id}",
    "'; DROP TABLE events; --",
    "../../../etc/passwd",
    'a"b\\c\nd{e="f"} # é 🦀',
    "\x00\ud800\ufffe",
    "很长的名字" * 12,
    "x" * 10_000,
)

#: Any text, and texts made of pieces of those above.
texts: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(EVIL),
    st.text(st.characters(codec=None), max_size=40),
    st.lists(st.sampled_from(EVIL[:-2]) | st.text(max_size=5), max_size=4).map("".join),
)

_SGR = re.compile(r"\x1b\[[0-9;]*m")
_FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


def check_terminal(text: str, *, color: bool = False) -> None:
    """Nothing that a terminal obeys, but line feeds and, where due, colours."""
    rest = _SGR.sub("", text) if color else text
    for character in rest:
        assert character.isprintable() or character == "\n", repr(character)


def check_json(text: str) -> None:
    """It is JSON, and what it says can be printed."""
    found = json.loads(text)

    def walk(value: object) -> None:
        if isinstance(value, str):
            assert value.isprintable(), repr(value)
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(name)
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(found)
    check_terminal(text)


def check_csv(text: str) -> list[list[str]]:
    """Every line has the same cells, none of which is a formula; the lines."""
    lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    for line in lines:
        assert len(line) == len(lines[0]), line
        for cell in line:
            assert cell.isprintable(), repr(cell)
            assert _NUMBER.fullmatch(cell) or not _FORMULA.match(cell), cell
    check_terminal(text)
    return lines


class Page(HTMLParser):
    """A page's tags with their attributes in order, its text, its style and its titles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        self.text: list[str] = []
        self.style = ""
        self.titles: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.close()
        assert self._inside == [], "every tag is closed"

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self._inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple((name, value or "") for name, value in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["style"]:
            self.style += data
        elif self._inside[-1:] == ["title"]:
            self.titles.append(data)
        else:
            self.text.append(data)


def check_html(text: str) -> Page:
    """A page that stands alone: nothing is loaded, linked or run."""
    page = Page(text)
    forbidden = {"script", "link", "iframe", "img", "object", "embed", "base", "form", "a"}
    assert not forbidden & set(page.names)
    for _, attributes in page.tags:
        for name, value in attributes:
            assert not name.startswith("on"), name
            assert name not in ("src", "href", "xlink:href", "action", "style"), name
            assert "//" not in value or value == "http://www.w3.org/2000/svg", value
    assert "url(" not in page.style
    assert "@import" not in page.style
    check_terminal(text)
    return page


_PLAIN = {"softbreak", "text", "text_special"}


def check_markdown(text: str) -> list[str]:
    """Text in paragraphs, headings, lists and tables, nothing else; the kinds of its blocks."""
    check_terminal(text)
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    for block in blocks:
        assert block.type not in ("html_block", "fence", "code_block"), block.content
        for inline in block.children or ():
            assert inline.type in _PLAIN, (inline.type, block.content)
    # GitHub makes links of what only looks like one.
    assert not re.search(r"[a-z]://|\bwww\.", text, re.IGNORECASE)
    return [block.type for block in blocks]
