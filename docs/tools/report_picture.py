"""`python docs/tools/report_picture.py [FOLDER]`: the README's pictures of a report.

Writes the report of `results/` and takes pictures of parts of it in headless Chromium (Debian's
package `chromium`; extra `test`) into docs/pictures, unless FOLDER says otherwise.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from picture_source import source_note
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from support.report_pages import open_browser  # noqa: E402

WIDTH, MARGIN = 1240, 24
BOARD = "section.board:has(h3:text-is('Protocol scenes'))"
# The leaderboard stands at the left of its scrolled table; what lies beyond it is cut.
PARTS = {
    "report.png": ("header", "#overview", f"{BOARD} .wide", f"{BOARD} .chart"),
    "report-pair.png": ("#pair",),
    "report-examples.png": ("figure.segmentation", "figure.attention"),
}
_IN_A_ROW = ("figure.segmentation", "figure.attention")


def main() -> None:
    """Write all pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, open_browser() as browser:
        page = _opened(browser, Path(work) / "report.html")
        for name, selectors in PARTS.items():
            pictures = [picture for some in selectors for picture in _pictures(page, some)]
            _stacked(pictures).save(folder / name, optimize=True, pnginfo=source_note())
            print(folder / name)


def _opened(browser: Browser, path: Path) -> Page:
    command = (sys.executable, "-m", "cosmos_eval", "report", "results", "--output", str(path))
    subprocess.run(command, cwd=ROOT, check=True)
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
    page.goto(path.as_uri())
    for section in ("compare", "leaderboards", "examples"):
        page.locator(f"#{section} > details").evaluate("details => { details.open = true; }")
    page.locator(f"{BOARD} .chart").first.scroll_into_view_if_needed()
    page.locator(f"{BOARD} .plot svg").first.wait_for()
    # The second model is wiped over the first one, up to the middle.
    for slider in page.get_by_role("slider").all():
        slider.evaluate("one => { one.value = 1.5; one.dispatchEvent(new Event('input')); }")
    # In the way of what is scrolled below it, and too long.
    for selector in ("nav", "#pair details", ".tools", ".enlarge:not(:has(img))"):
        page.locator(selector).evaluate_all(
            "elements => elements.forEach(element => { element.hidden = true; })"
        )
    return page


def _pictures(page: Page, selector: str) -> Iterator[Image.Image]:
    """Of the first such part; of those that stand in a row, of the row."""
    part = page.locator(selector).first
    yield _picture(part.locator("xpath=..") if selector in _IN_A_ROW else part)


def _picture(part: Locator) -> Image.Image:
    part.scroll_into_view_if_needed()
    part.page.wait_for_timeout(500)  # for pictures that are decoded when they come into view
    return Image.open(io.BytesIO(part.screenshot())).convert("RGB")


def _stacked(pictures: list[Image.Image]) -> Image.Image:
    """One below the other on white."""
    height = sum(picture.height + MARGIN for picture in pictures) + MARGIN
    width = max(picture.width for picture in pictures) + 2 * MARGIN
    stacked, top = Image.new("RGB", (width, height), "white"), MARGIN
    for picture in pictures:
        stacked.paste(picture, (MARGIN, top))
        top += picture.height + MARGIN
    return stacked


if __name__ == "__main__":
    main()
