"""A page in headless Chromium, opened from its file, which must not load anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.report_pages import open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@contextmanager
def watched_pages(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open files; at the end no page may have requested anything else, nor complained."""
    opened: list[tuple[Path, Page, set[str]]] = []
    complaints: list[str] = []

    def open_file(path: Path, **context: Any) -> Page:
        page, requests = browser.new_context(**context).new_page(), set[str]()
        page.on("request", lambda request: requests.add(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        opened.append((path, page, requests))
        page.goto(path.as_uri())
        return page

    yield open_file
    for path, page, requests in opened:
        page.context.close()
        assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}
    assert complaints == []


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    with watched_pages(browser) as open_file:
        yield open_file


@pytest.fixture(scope="module")
def open_shared_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages for tests that change nothing on them."""
    with watched_pages(browser) as open_file:
        yield open_file
