"""A picture as SVG: its text stays text, its images are in the file."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from cosmos_eval.report.attention.embedded import data_uri
from cosmos_eval.report.attention.fonts import FAMILY, width_of
from cosmos_eval.report.attention.marks import Block, Box, Mark, Raster, Text

_FONTS = f"{FAMILY}, Verdana, Geneva, sans-serif"

_FINENESS = 2  # pixels of an embedded image for one of the picture


def to_svg(page: Block, name: str) -> bytes:
    """`name` is what the whole picture is called, for those who do not see it."""
    size = {"width": _number(page.width), "height": _number(page.height)}
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            **size,
            "viewBox": f"0 0 {size['width']} {size['height']}",
            "font-family": _FONTS,
        },
    )
    ET.SubElement(root, "title").text = name
    ET.SubElement(root, "rect", {**size, "fill": "#ffffff"})
    for mark in page.marks:
        _draw(root, mark)
    return ET.tostring(root, "utf-8", xml_declaration=True)


def _draw(root: ET.Element, mark: Mark) -> None:
    place = {"x": _number(mark.x), "y": _number(mark.y)}
    if isinstance(mark, Text):
        _text(root, mark, place)
        return
    place |= {"width": _number(mark.width), "height": _number(mark.height)}
    if isinstance(mark, Box):
        ET.SubElement(root, "rect", {**place, "rx": "4", "fill": mark.colour})
        return
    _image(root, mark, place)


def _text(root: ET.Element, mark: Text, place: dict[str, str]) -> None:
    style = {"font-size": _number(mark.size), "fill": mark.colour}
    if mark.bold:
        style["font-weight"] = "bold"
    # Other fonts are fitted to the ground that was measured for this one.
    length = {"textLength": _number(width_of(mark.text, mark.size, mark.bold))}
    drawn = ET.SubElement(
        root, "text", {**place, **style, **length, "lengthAdjust": "spacingAndGlyphs"}
    )
    drawn.text = mark.text
    if mark.title:
        ET.SubElement(drawn, "title").text = mark.title


def _image(root: ET.Element, mark: Raster, place: dict[str, str]) -> None:
    image = mark.image.copy()
    image.thumbnail((round(_FINENESS * mark.width), round(_FINENESS * mark.height)))
    address = {"preserveAspectRatio": "none", "href": data_uri(image)}
    drawn = ET.SubElement(root, "image", {**place, **address})
    ET.SubElement(drawn, "title").text = mark.title


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
