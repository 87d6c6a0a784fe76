"""A page in headless Chromium, opened from its file, which must not load anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.report_pages import BROWSERS, open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that open a page."""
    mark = pytest.mark.program(*BROWSERS, install="apt install chromium")
    for item in items:
        if isinstance(item, pytest.Function) and "browser" in item.fixturenames:
            item.add_marker(mark)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@contextmanager
def watched_pages(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Yield a function that opens a file, and check all pages at the end: none may have requested
    anything else, or written to the console."""
    opened: list[tuple[Path, Page, set[str]]] = []
    complaints: list[str] = []

    def open_file(path: Path, **context: Any) -> Page:
        page, requests = browser.new_context(**context).new_page(), set[str]()

        def note_request(request: Request) -> None:
            requests.add(request.url)

        def note_message(message: ConsoleMessage) -> None:
            complaints.append(message.text)

        def note_error(error: Error) -> None:
            complaints.append(str(error))

        page.on("request", note_request)
        page.on("console", note_message)
        page.on("pageerror", note_error)
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
    """Return a function that opens a page for several tests, which change nothing on it."""
    with watched_pages(browser) as open_file:
        yield open_file
