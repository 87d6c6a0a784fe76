"""The page as text: the same bytes, nothing from elsewhere, everything from data escaped."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import random
import re

import pytest
from support.galleries import bytes_of, examples_of
from support.html import Page
from support.models import make_result
from support.report_pages import (
    ODD,
    PUBLISHED,
    MadeUpResults,
    gallery_of,
    made_up_results,
    noise,
    odd_results,
)

from cosmos_eval.reporting import page as page_module
from cosmos_eval.reporting.content import content_of
from cosmos_eval.reporting.gallery.records import Gallery, SampleExample, SegmentationExample
from cosmos_eval.reporting.page import LIMIT, program, room_for_pictures, to_page

MODELS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def made_up():
    return made_up_results(MODELS)


@pytest.fixture(scope="module")
def text(made_up):
    return to_page(made_up.content([PUBLISHED]), gallery_of(MODELS)).content.decode()


def test_the_same_input_gives_the_same_bytes(made_up, text):
    shuffled = list(made_up.results)
    random.Random(1).shuffle(shuffled)
    again = to_page(content_of(shuffled, made_up.read, [PUBLISHED]), gallery_of(MODELS))
    assert again.content == text.encode()


def addresses(page: Page) -> set[str]:
    return {*page.values("href", "src", "action", "data")}


def test_nothing_is_loaded_and_only_known_texts_run(text):
    page = Page(text)
    embedded = ("#", "data:image/webp;base64,")
    assert {a for a in addresses(page) if not a.startswith(embedded)} == {PUBLISHED.url}
    assert not [name for name in page.names if name.startswith("on") or name == "style"]
    assert "url(" not in text.replace("#x27;", "")
    assert "@import" not in text
    (policy,) = [
        meta.attributes["content"] for meta in page.all("meta") if meta.attributes.get("http-equiv")
    ]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    style, _, packed, script = page.all("style", "script")
    types = [element.attributes.get("type") for element in page.all("style", "script")]
    assert types == [None, "application/json", "application/gzip", None]
    unpacked = gzip.decompress(base64.b64decode(packed.text)).decode()
    assert unpacked == program().text
    for used in (style.text, script.text, unpacked):
        digest = base64.b64encode(hashlib.sha256(used.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_names_on_the_page_are_its_own_and_links_lead_somewhere(text):
    page = Page(text)
    identities = page.values("id")
    assert len(set(identities)) == len(identities)
    assert {address[1:] for address in addresses(page) if address[0] == "#"} <= set(identities)


@pytest.mark.parametrize("odd", ODD)
def test_texts_from_data_stay_texts(odd):
    made_up = odd_results(odd)
    published = PUBLISHED._replace(dataset=odd, model=odd, url=f"https://x/{odd}")
    page = to_page(made_up.content([published]), gallery_of([odd], odd, odd))
    text = page.content.decode()
    Page(text)
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    body = body.replace("<wbr>", "")
    for markup in ("<script>window", "<img src=x", "<b>bold"):
        assert markup not in body
    shown = html.unescape(re.sub(r"<[^>]*>", "", body))
    assert shown.count(odd) > 10


def test_an_address_that_is_not_a_web_address_is_not_a_link():
    published = PUBLISHED._replace(url="javascript:alert(1)")
    page = to_page(made_up_results(["a"], ["cls"]).content([published]))
    assert "javascript:alert(1)" in page.content.decode()
    assert "javascript:alert(1)" not in addresses(Page(page.content.decode()))


def test_a_page_of_one_result():
    text = to_page(made_up_results(["a"], ["retrieval"]).content()).content.decode()
    Page(text)
    assert "<h1>Zero-shot evaluation</h1>" in text
    assert 'id="compare"' not in text
    assert 'id="examples"' not in text


def test_a_lone_surrogate_does_not_stop_the_page():
    made_up = MadeUpResults()
    made_up.add(*make_result("cls", model={"spec": "a\ud800"}))
    assert rb"a\ud800" in to_page(made_up.content()).content


def test_pictures_are_carried_once(text):
    addresses = re.findall(r'src="(data:image/webp;base64,[^"]*)"', text)
    assert len(set(addresses)) == len(addresses)
    carried = sum(len(base64.b64decode(address.split(",")[1])) for address in addresses)
    assert carried == bytes_of(examples_of(gallery_of(MODELS)))


def examples(count: int, model: str = "a") -> Gallery:
    of = {"model": model, "dataset": "d", "protocol": "p", "name": "x", "legend": {}}
    shown = [
        SegmentationExample(image=noise(number), truth=noise(number), predictions={}, **of)
        for number in range(count)
    ]
    return Gallery(segmentation=shown)


def test_examples_that_do_not_fit_are_noted(monkeypatch):
    content = made_up_results(["a"], ["cls"]).content()
    plain = len(to_page(content).content)
    monkeypatch.setattr(page_module, "LIMIT", plain + 100_000)
    room = room_for_pictures(content)
    assert 55_000 < room < 65_000
    page = to_page(content, examples(6))  # about 40 kB each as text
    assert plain + 60_000 < len(page.content) <= plain + 100_000
    note = "4 of 6 examples of segmentation are left out: the page would be too large with them"
    assert page.notes == (note,)
    assert note in page.content.decode()


def test_examples_are_kept_from_every_section_in_turn():
    gallery = Gallery(segmentation=[*examples(3, "a").segmentation, *examples(3, "b").segmentation])
    limited = gallery.limited(2)
    assert limited.segmentation == [*gallery.segmentation[:2], *gallery.segmentation[3:5]]
    (note,) = limited.notes
    assert note.startswith("2 of 6 examples of segmentation are left out: ")
    assert (gallery.rounds, limited.rounds, Gallery().rounds) == (3, 2, 0)
    sample = SampleExample(dataset="d", image=noise(0), text="x", outcomes={})
    many = Gallery(samples=[sample] * 13)  # six in a round
    assert (many.rounds, len(many.limited(2).samples)) == (3, 12)


def test_tables_larger_than_the_limit_leave_no_room_for_pictures(monkeypatch):
    monkeypatch.setattr(page_module, "LIMIT", 1000)
    page = to_page(made_up_results(["a"], ["cls"]).content(), examples(1))
    assert page.notes[-1].startswith("no pictures: the tables alone take 0.")
    assert len(page.content) > 1000
    assert LIMIT == 5_000_000
