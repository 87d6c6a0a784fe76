"""Short forms of the words in tables that would be too wide for a column of a paper."""

from collections.abc import Mapping
from types import MappingProxyType

from cosmos_eval.results.table import Table

_SOURCES: Mapping[str, str] = MappingProxyType(
    {"measured": "m", "published": "p", "second-hand": "s", "unverified": "u"}
)
_DIRECTIONS: Mapping[str, str] = MappingProxyType({"image to text": "I2T", "text to image": "T2I"})


def abbreviate(table: Table) -> Table:
    """Return a table with short forms of sources and of titles of columns, and a note on them.

    Example:
        The source "published" becomes "p", the title "image to text R@1" becomes "I2T R@1", and the
        note is "p: published, I2T: image to text."
    """
    words_by_short_form: dict[str, str] = {}
    rows = []
    for row in table.rows:
        cells = list(row)
        for column, cell in enumerate(row[: table.n_text_columns]):
            is_source = table.heads[column].title == "source"
            if is_source and cell.text in _SOURCES:
                short_form = _SOURCES[cell.text]
                words_by_short_form[short_form] = cell.text
                cells[column] = cell._replace(text=short_form)
        rows.append(tuple(cells))

    heads = []
    for head in table.heads:
        title = head.title
        for words, short_form in _DIRECTIONS.items():
            if words in title:
                words_by_short_form[short_form] = words
                title = title.replace(words, short_form)
        heads.append(head._replace(title=title))

    notes = list(table.notes)
    if words_by_short_form:
        meanings = [f"{short_form}: {words}" for short_form, words in words_by_short_form.items()]
        notes.append(f"{', '.join(meanings)}.")
    return table._replace(heads=tuple(heads), rows=tuple(rows), notes=tuple(notes))
