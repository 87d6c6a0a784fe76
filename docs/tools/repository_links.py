"""A hook of MkDocs: links to files of the repository outside docs/ work in the site as well.

On a code host `[schema.json](../cosmos_eval/results/schema.json)` shows the file. The site has a
copy of it; a folder, which no browser lists, is named instead.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)\)")
_COPIES = "files"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to."""
    root = Path(config.docs_dir).parent
    linked = {
        path
        for page in files.documentation_pages()
        for _, path in _LINK.findall(page.content_string)
        if (root / path).is_file()
    }
    for path in sorted(linked):
        files.append(
            File.generated(config, f"{_COPIES}/{path}", abs_src_path=str((root / path).resolve()))
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links at the copies. What is neither file nor folder is left for MkDocs to tell."""
    root = Path(config.docs_dir).parent

    def pointed(link: re.Match[str]) -> str:
        text, path = link.groups()
        if (root / path).is_dir():
            return f"`{path}`" if path in text else f"{text} (`{path}`)"
        return f"[{text}]({_COPIES}/{path})" if (root / path).is_file() else link.group()

    return _LINK.sub(pointed, markdown)
