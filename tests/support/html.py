"""HTML as its elements, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser

_VOID = ("meta", "img", "input", "wbr", "br", "link", "rect")


@dataclass
class Element:
    """A tag with its attributes, and the text in it but not in elements of it."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""


class Page(HTMLParser):
    """The elements of a page, whose tags must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text += data

    def all(self, *tags: str) -> list[Element]:
        """Return the elements with one of some tags."""
        return [element for element in self.elements if element.tag in tags]

    @property
    def names(self) -> set[str]:
        """The names of all attributes."""
        return {name for element in self.elements for name in element.attributes}

    def values(self, *names: str) -> list[str | None]:
        """Return the values of some attributes."""
        return [
            value
            for element in self.elements
            for name, value in element.attributes.items()
            if name in names
        ]
