"""Web pages from templates: whatever comes from data is escaped, and nothing may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos_eval.results.escaping import html_value

if TYPE_CHECKING:
    from jinja2 import Environment


def html_templates(package: str, folder: str = ".") -> Environment:
    """The HTML templates in a folder of a package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        finalize=html_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
