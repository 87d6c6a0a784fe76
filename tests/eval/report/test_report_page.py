"""The page as text: the same bytes, nothing from elsewhere, everything from data escaped."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import random
import re
from html.parser import HTMLParser

import pytest
from support.galleries import bytes_of, examples_of
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

from cosmos_eval.report import page as page_module
from cosmos_eval.report.content import content_of
from cosmos_eval.report.gallery.records import ClassificationExample, Gallery
from cosmos_eval.report.page import LIMIT, program, room_for_pictures, to_page

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


class Parsed(HTMLParser):
    """Addresses, attributes and scripts of a page, and that its tags are balanced."""

    EMPTY = ("meta", "img", "input", "wbr", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: set[str] = set()
        self.names: set[str] = set()
        self.identities: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        self.policy = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names.update(given)
        self.addresses.update(v for n, v in attrs if n in ("href", "src", "action", "data"))
        self.identities += [given["id"]] if "id" in given else []
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag in ("script", "style"):
            self.scripts.append((tag if tag == "style" else given.get("type", ""), ""))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            kind, so_far = self.scripts[-1]
            self.scripts[-1] = (kind, so_far + data)


def test_nothing_is_loaded_and_only_known_texts_run(text):
    page = Parsed(text)
    elsewhere = {a for a in page.addresses if not a.startswith(("#", "data:image/webp;base64,"))}
    assert elsewhere == {PUBLISHED.url}
    assert not [name for name in page.names if name.startswith("on") or name == "style"]
    assert "url(" not in text.replace("#x27;", "")
    assert "@import" not in text
    assert page.policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in page.policy
    kinds = [kind for kind, _ in page.scripts]
    assert kinds == ["style", "application/json", "application/gzip", ""]
    unpacked = gzip.decompress(base64.b64decode(page.scripts[2][1])).decode()
    assert unpacked == program().text
    for used in (page.scripts[0][1], page.scripts[3][1], unpacked):
        digest = base64.b64encode(hashlib.sha256(used.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page.policy


def test_names_on_the_page_are_its_own_and_links_lead_somewhere(text):
    page = Parsed(text)
    assert len(set(page.identities)) == len(page.identities)
    inner = {address[1:] for address in page.addresses if address.startswith("#")}
    assert inner <= set(page.identities)


@pytest.mark.parametrize("odd", ODD)
def test_texts_from_data_stay_texts(odd):
    made_up = odd_results(odd)
    published = PUBLISHED._replace(dataset=odd, model=odd, url=f"https://x/{odd}")
    page = to_page(made_up.content([published]), gallery_of([odd], odd, odd))
    text = page.content.decode()
    Parsed(text)
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    body = body.replace("<wbr>", "")
    assert not [part for part in ("<script>window", "<img src=x", "<b>bold") if part in body]
    shown = html.unescape(re.sub(r"<[^>]*>", "", body))
    assert shown.count(odd) > 10


def test_an_address_that_is_no_web_address_is_no_link():
    published = PUBLISHED._replace(url="javascript:alert(1)")
    page = to_page(made_up_results(["a"], ["cls"]).content([published]))
    assert "javascript:alert(1)" in page.content.decode()
    assert "javascript:alert(1)" not in Parsed(page.content.decode()).addresses


def test_a_page_of_one_result():
    text = to_page(made_up_results(["a"], ["retrieval"]).content()).content.decode()
    Parsed(text)
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
    of = {"model": model, "dataset": "d", "protocol": "p", "label": "x", "predicted": ["y"]}
    shown = [ClassificationExample(image=noise(number), **of) for number in range(count)]
    return Gallery(classification=shown)


def test_examples_that_do_not_fit_are_told(monkeypatch):
    content = made_up_results(["a"], ["cls"]).content()
    plain = len(to_page(content).content)
    monkeypatch.setattr(page_module, "LIMIT", plain + 100_000)
    room = room_for_pictures(content)
    assert 60_000 < room < 75_000
    page = to_page(content, examples(6))  # about 40 kB each as text
    assert plain + 60_000 < len(page.content) <= plain + 100_000
    note = "4 of 6 examples of classification are left out: the page would be too large with them"
    assert page.notes == (note,)
    assert note in page.content.decode()


def test_examples_are_kept_from_every_section_in_turn():
    gallery = Gallery(
        classification=[*examples(3, "a").classification, *examples(3, "b").classification]
    )
    limited = gallery.limited(2)
    assert limited.classification == [*gallery.classification[:2], *gallery.classification[3:5]]
    (note,) = limited.notes
    assert note.startswith("2 of 6 examples of classification are left out: ")
    assert (gallery.rounds, limited.rounds, Gallery().rounds) == (3, 2, 0)


def test_tables_that_are_too_large_alone_are_told(monkeypatch):
    monkeypatch.setattr(page_module, "LIMIT", 1000)
    page = to_page(made_up_results(["a"], ["cls"]).content(), examples(1))
    assert page.notes[-1].startswith("no pictures: the tables alone take 0.")
    assert len(page.content) > 1000
    assert LIMIT == 5_000_000
