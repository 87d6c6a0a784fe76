"""Pages of made-up results, and the browser that they are opened in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from support.models import cls_samples, make_result
from support.ten_by_twelve import encoded

from cosmos_eval.reporting.attention.compute import WordShare
from cosmos_eval.reporting.content import Content, content_of
from cosmos_eval.reporting.gallery.records import (
    AttentionExample,
    Gallery,
    Outcome,
    Picture,
    RetrievalExample,
    SampleExample,
    SegmentationExample,
)
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import Samples, Suite

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TASKS = ("cls", "retrieval", "seg", "select")
PUBLISHED = Entry(
    "b", "cls", "scenes-cls", "scenes", {"acc1": 0.9}, {}, "published", url="https://x"
)

ODD = (
    "<script>window.__pwned = 1</script>",
    '"><img src=x onerror="window.__pwned = 2">',
    "</script></style></title><!--",
    "{{7*7}}{% raw %}${7*7}",
    "a\u2028b\u2029c",
    "it's & <b>bold</b>",
)
"""Texts that would do harm if they were taken for more than texts."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""The names of the programs, of which one is enough."""

OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
"""The script that opens every part of a page."""

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class MadeUpResults:
    """Results and samples in memory, as if they had been read from files."""

    def __init__(self) -> None:
        self.results: list[StoredResult] = []
        self._samples: dict[Path, Samples] = {}

    def add(self, row: ResultRow, samples: Samples) -> None:
        """Add a result."""
        path = Path(f"result-{len(self.results)}.json")
        self.results.append(StoredResult(path, row))
        self._samples[path] = samples

    def rows_by_model(self, task: str) -> dict[str, ResultRow]:
        """Return the results of a task by the models' names."""
        rows = [stored.row for stored in self.results if stored.row.task == task]
        return {row.model["spec"]: row for row in rows}

    def read(self, path: Path) -> Samples:
        """Return the samples of a result."""
        return self._samples[path]

    def content(self, others: Sequence[Entry] = (), suite: Suite | None = None) -> Content:
        """Return the content of a report on the results and on other entries."""
        return content_of(self.results, self.read, others, suite=suite)


def made_up_results(
    models: Sequence[str], tasks: Sequence[str] = TASKS, **changes: Any
) -> MadeUpResults:
    """Results of models whose skill grows in the order of their names."""
    made_up = MadeUpResults()
    for place, model in enumerate(models):
        for task in tasks:
            skill = 0.35 + 0.5 * place / max(1, len(models) - 1)
            made_up.add(*make_result(task, skill, place, model={"spec": model}, **changes))
    return made_up


def odd_results(odd: str) -> MadeUpResults:
    """Two models whose every text is odd, measured on a data set of that name."""
    made_up = MadeUpResults()
    for place, model in enumerate((odd, f"{odd} too")):
        samples = cls_samples(0.5, np.random.default_rng(place))
        names = {"classes": np.array([odd, "b", f"{odd} again", "d"])}
        reported = {"notes": [odd], "command": odd, "commit": odd}
        made_up.add(
            *make_result("cls", samples={**samples, **names}, model={"spec": model}, dataset=odd,
                         protocol=odd, provenance=reported)
        )  # fmt: skip
    return made_up


def plain_picture(colour: tuple[int, ...], size: tuple[int, int] = (40, 30)) -> Picture:
    """One colour, with an opacity where four numbers are given."""
    mode = "RGBA" if len(colour) == 4 else "RGB"
    return encoded(Image.new(mode, size, colour), lossless=True)


RED, GREEN, BLUE = ((255, 0, 0), (0, 160, 0), (0, 0, 255))


def gallery_of(models: Sequence[str], text: str = "a red square", dataset: str = "set") -> Gallery:
    """Return an example of every kind, with `text` in every place for text."""
    image = plain_picture(RED)._replace(file=f"{text}.png")
    measured_on: dict[str, Any] = {"dataset": dataset, "protocol": "scenes"}
    maps = {
        model: plain_picture((*colour, 255))
        for model, colour in zip(models, (GREEN, BLUE, RED), strict=False)
    }
    return Gallery(
        retrieval=[
            RetrievalExample(
                model=models[0], **measured_on, direction="image_to_text", rank=2, query=image,
                expected=text, retrieved=["a blue disc", text], right=[False, True],
            ),
            RetrievalExample(
                model=models[0], **measured_on, direction="text_to_image", rank=1, query=text,
                expected=image, retrieved=[image, plain_picture(BLUE)], right=[True, False],
            ),
        ],
        samples=[
            SampleExample(
                **measured_on, image=image, text=text, group=text, size=0.05,
                outcomes={m: Outcome(text if n else "disc", bool(n)) for n, m in enumerate(models)},
            ),
            SampleExample(
                **measured_on, image=plain_picture(GREEN), text=f"{text} on grass", words=9,
                outcomes={m: Outcome(f"rank {n}", n == 1) for n, m in enumerate(models)},
            ),
        ],
        segmentation=[
            SegmentationExample(
                **measured_on, name=text, image=image, truth=plain_picture((*BLUE, 128)),
                predictions=maps, legend={text: "#0000ff"},
            )
        ],
        attention=[
            AttentionExample(
                dataset=dataset, name=text, caption=text, image=image, maps=maps,
                kinds=dict.fromkeys(models, "cross-attention"),
                words={models[0]: [WordShare(word, 0.1, 0.5, True) for word in text.split()]},
            )
        ],
        notes=[f"{text}: no pictures"],
    )  # fmt: skip


def find_browser() -> str | None:
    """Where Chromium is, if it is there."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def describe_violations(violations: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the rule that each violation found by axe breaks, and the HTML that breaks it."""
    return [
        (violation["id"], [node["html"] for node in violation["nodes"]]) for violation in violations
    ]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Open headless Chromium. Raise FileNotFoundError if it is not installed."""
    program = find_browser()
    if program is None:
        raise FileNotFoundError("Chromium is not installed: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield browser
        browser.close()


def noise(seed: int, size: int = 100) -> Picture:
    """A picture that cannot be compressed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return encoded(Image.fromarray(pixels), lossless=True)
