"""`cosmos-eval attend`: files of every form, what is printed, and bad input."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image
from support.html import Page

from cosmos_eval.cli.app import app

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
INJECTION = 'a </text></svg><script>alert("x")</script> & <b>dog</b>'


def size_of(path: str) -> tuple[int, int]:
    """The size of a picture that can be read."""
    with Image.open(path) as drawn:
        drawn.load()
        return drawn.size


def test_options(command) -> None:
    """What scripts may rely on."""
    click = typer.main.get_command(app)
    attend = click.commands["attend"]
    names = {option for parameter in attend.params for option in parameter.opts}
    assert names == {
        *("image", "--text", "--csv", "--output", "--model", "--arch", "--weights"),
        *("--kind", "--heads", "--attention", "--precision", "--device", "--format"),
    }


def test_a_png_and_what_is_printed(command, photo: Path) -> None:
    ended = command("attend", photo, "--text", "a large red ball [bold] on grass")
    assert (ended.status, ended.err) == (0, "wrote attention.png\n")
    assert size_of("attention.png")[0] == 1.5 * (340 * 2 + 12 + 2 * 20)
    shown = r"photo.png .*\[bold\].* scenes-cosmos .* values of cross-attention +"
    assert re.search(rf"{shown}0\.\d{{3}} +\d+, \d+ +\d+\.\d%", ended.out)
    words = re.findall(r"^(\S+) +(\d+\.\d)%$", ended.out, re.M)
    assert " ".join(word for word, _ in words) == "a large red ball [ bold ] on grass"


def test_json_holds_every_number(command, photo: Path) -> None:
    texts = ("a red ball", "grass")
    named = [argument for text in texts for argument in ("--text", text)]
    models = ("--model", "scenes-cosmos", "--model", "scenes-clip")
    ended = command("attend", photo, *named, *models, "--json", "--output", "a.svg")
    document = json.loads(ended.out)
    assert [row["text"] for row in document] == list(texts)
    cosmos, clip = document[0]["looks"]
    (head,) = cosmos["heads"]
    values = [value for line in head["map"] for value in line]
    assert (len(head["map"]), len(head["map"][0])) == (8, 12)
    assert head["peak"]["value"] == max(values)
    caption = head["caption"]
    total = sum(word["share"] for word in caption["words"])
    assert total + caption["start"] + caption["end"] + caption["padding"] == pytest.approx(1)
    assert [word["text"] for word in caption["words"]] == ["a", "red", "ball"]
    assert {word["level"] for word in caption["words"]} <= {"low", "middle", "high"}
    assert cosmos["shown_as"] == "values of cross-attention"
    assert clip["shown_as"] == "text-to-patch similarity (this model has no cross-attention)"
    assert clip["heads"][0]["caption"] is None
    assert len(clip["weights_sha256"]) == 64


@pytest.mark.parametrize(
    ("kind", "title", "value"),
    [
        ("cross-attention", "cross-attention", r"\d\.\d% to \d+\.\d% a patch, even: 1\.0%"),
        ("texts-ratio", "log ratio to the mean over texts", r"log ratio -\d\.\d{3} to \d\.\d{3}"),
        ("similarity", "text-to-patch similarity", r"cosine -?\d\.\d{3} to \d\.\d{3}"),
    ],
)
def test_every_kind_is_named_where_it_is_drawn(
    kind: str, title: str, value: str, command, photo: Path
) -> None:
    texts = ("--text", "a red ball", "--text", "grass")
    ended = command("attend", photo, *texts, "--kind", kind, "--output", "a.svg", "--json")
    assert ended.status == 0, ended.err
    assert {row["looks"][0]["kind"] for row in json.loads(ended.out)} == {title}
    shown = [text.text or "" for text in ET.parse("a.svg").getroot().iter(f"{SVG}text")]
    assert title in shown
    assert re.search(value, " ".join(shown))
    assert any(re.search(rf"fp32: {title}(,| with|$)", text) for text in shown)


def test_svg_is_xml_with_text_and_images(command, photo: Path) -> None:
    ended = command("attend", photo, "--text", INJECTION, "--output", "a.svg")
    assert ended.status == 0
    root = ET.parse("a.svg").getroot()
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert re.search(r"dot product -\d\.\d{3} to -?\d\.\d{3}", " ".join(texts))
    assert texts[texts.index("a") :][:4] == ["a", "</", "text", "></"]
    assert not list(root.iter(f"{SVG}script"))
    images = [element.get(f"{XLINK}href", "") for element in root.iter(f"{SVG}image")]
    assert len(images) == 3  # the image, the map, the scale
    for address in images:
        kind, _, content = address.partition(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).load()
    content = Path("a.svg").read_text("utf-8")
    assert {f"{{{address}}}" for address in re.findall(r"https?://[^\"]+", content)} == {SVG, XLINK}
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert any(re.fullmatch(r"dog: \d+\.\d% of the weight", title) for title in titles)


def test_html_stays_text(command, photo: Path) -> None:
    models = ("--model", "scenes-cosmos", "--model", "scenes-clip")
    ended = command("attend", photo, "--text", INJECTION, *models, "--output", "a.html")
    assert ended.status == 0
    page = Page(Path("a.html").read_text("utf-8"))
    assert len(page.all("script")) == 1
    assert not page.all("b", "link", "select")  # the mean of all heads alone
    assert [heading.text for heading in page.all("h2")] == [INJECTION]
    for image in page.all("img"):
        assert image.attributes["alt"]
        assert image.attributes["src"].startswith("data:image/jpeg;base64,")
    words = [mark.attributes for mark in page.all("mark") if "title" in mark.attributes]
    assert all(re.fullmatch(r"\d+\.\d% of the weight", word["title"]) for word in words)
    assert {word["class"] for word in words} <= {"low", "middle", "high"}
    text = " ".join(element.text for element in page.elements)
    assert "text-to-patch similarity (this model has no cross-attention)" in text
    assert re.search(r"padding got \d+\.\d% of the weight", text)


def test_html_lets_one_choose_the_head(command, photo: Path) -> None:
    heads = ("--kind", "cross-attention", "--heads", "each")
    command("attend", photo, "--text", "a dog", *heads, "--output", "a.html")
    page = Page(Path("a.html").read_text("utf-8"))
    heads = [f"head {number}" for number in range(1, 9)]
    assert page.values("data-head") == heads * 2  # maps, then captions
    assert len(page.all("option")) == 8


def test_a_contact_sheet(command, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    photo.rename(folder / "photo.png")
    lines = ("text,image,remark", '"a dog, running",photo.png,', "grass,photo.png,x")
    (folder / "rows.csv").write_text("\n".join(lines), "utf-8-sig")
    ended = command("attend", "--csv", "set/rows.csv", "--json", "--output", "sheets/sheet.png")
    assert [row["text"] for row in json.loads(ended.out)] == ["a dog, running", "grass"]
    command("attend", "set/photo.png", "--text", "grass", "--output", "one.png")
    assert size_of("sheets/sheet.png")[1] > 1.5 * size_of("one.png")[1]


def test_what_a_picture_does_not_show_is_told(command, photo: Path) -> None:
    ended = command("attend", photo, "--text", "red " * 70 + "日本")
    cut, lacking, wrote = ended.err.splitlines()
    assert cut.startswith("note: photo.png, scenes-cosmos: The text has 78 tokens and is cut to 64")
    assert lacking.startswith("note: DejaVu Sans of the PNG has no 日本; .svg and .html")
    assert wrote == "wrote attention.png"


BAD = [
    (("none.png", "--text", "x"), "image not found: none.png"),
    (("rows.csv", "--text", "x"), "cannot decode image rows.csv: cannot identify"),
    (("photo.png",), "give the text to look for with --text TEXT, or --csv FILE"),
    (("--text", "x"), "give an IMAGE, or --csv FILE"),
    (("photo.png", "--text", ""), "--text is empty: say what to look for"),
    (("photo.png", "--text", " \t"), "--text is empty: say what to look for"),
    (("photo.png", "--text", "\x01"), r"'\\x01' has no word that scenes-cosmos can read"),
    (("photo.png", "--text", "x", "--csv", "rows.csv"), "leave IMAGE and --text out"),
    (("--csv", "none.csv"), r"cosmos-eval: no such file: none.csv\n$"),
    (
        ("photo.png", "--text", "x", "--output", "o.gif"),
        "name a file that ends with .png, .svg, .html",
    ),
    (("photo.png", "--text", "x", "--output", "photo.png"), "is the image itself"),
    (("photo.png", "--text", "x", "--output", "folder.png"), "is a folder"),
    (("photo.png", "--text", "x", "--output", "rows.csv/o.png"), "cannot write rows.csv/o.png"),
    (("photo.png", "--text", "x", "--model", "scenes-clip", "--heads", "each"), "have no heads"),
    (("photo.png", "--text", "x", *("--model", "scenes-clip") * 2), "scenes-clip is given twice"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], message: str, command, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("image,text\n")
    (tmp_path / "folder.png").mkdir()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    ended = command("attend", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert re.search(message, ended.err)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column image and no column text: its first line must name image and text"),
        (b"image;text\nphoto.png;x\n", "has no column image and no column text"),
        (b"image\nphoto.png\n", "has no column text"),
        (b"image,text\n", "has no rows"),
        (b"image,text\nphoto.png,x\nnone.png,y\n", "line 3: image not found: none.png"),
        (b"image,text\nrows.csv,y\n", "line 2: cannot decode image rows.csv"),
        (b"image,text\n,y\n", "line 2, column image: no file is named"),
        (b"image,text\nphoto.png,\n", "line 2, column text is empty"),
        (b"image,text\nphoto.png\n", "line 2, column text is empty"),
        (b'image,text\nphoto.png,"x\n', "as CSV in UTF-8: unexpected end"),
        (b"image,text\nphoto.png,\xff\n", "as CSV in UTF-8: .*codec"),
    ],
)
def test_bad_lists_are_told_by_the_row(
    content: bytes, message: str, command, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    ended = command("attend", "--csv", "rows.csv")
    assert (ended.status, ended.out) == (2, "")
    assert re.search(f"^cosmos-eval: .*rows.csv.*{message}", ended.err)
    assert not (tmp_path / "attention.png").exists()


def test_a_model_without_patches(
    command: Callable, photo: Path, tiny_archs: dict[str, str]
) -> None:
    ended = command(
        "attend", photo, "--text", "x", "--model", f"openclip:{tiny_archs['tiny-resnet']}/random"
    )
    assert ended.status == 2
    assert "has no patches to compare a text with: choose a COSMOS model" in ended.err


def test_random_weights_are_said(command, photo: Path, tiny_archs: dict[str, str]) -> None:
    model = f"openclip:{tiny_archs['tiny']}/random"
    command("attend", photo, "--text", "x", "--model", model, "--output", "a.html")
    assert f"{model}, random weights, fp32" in Path("a.html").read_text("utf-8")
