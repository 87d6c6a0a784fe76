"""Images unlike photographs: very thin and very large ones, other formats under the name of a .png,
and palettes with transparency."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.fuzzed_images import measure, prepare_images
from support.fuzzing import run_command

from cosmos_core.data.pixels import open_image, to_rgb
from cosmos_eval.data.sources import CroppedImage, ImageArray, ImageFile, PixelFile, decode_source
from cosmos_eval.types import UsageError

# As Pillow reads EPS: Ghostscript draws it.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of six images, and the model that measures it."""
    prepare_images(tmp_path)
    return tmp_path


def run_and_doctor(data: Path) -> tuple[str, str]:
    """Return the line by which a run ends, with status 2, and the doctor's report."""
    run = run_command(measure("set.yaml", data), data, seconds=0)
    assert run.status == 2, run
    lines = run.err.splitlines()
    (line,) = (text for text in lines if text.startswith("cosmos-eval: "))
    doctor = run_command(["data", "doctor", str(data / "set.yaml")], data, seconds=0)
    assert doctor.status == 1, doctor
    return line, doctor.out


@pytest.mark.parametrize("size", [(65500, 1), (1, 65500), (200_000, 1), (1_000_000, 2)])
def test_a_very_thin_image_is_refused_by_its_name(size, data):
    path = data / "photos/red/thin.png"
    Image.new("L", size).save(path)
    line, report = run_and_doctor(data)
    width, height = size
    fault = f"cannot decode image {path}: {width}x{height} pixels: its longer side is more than 500"
    assert fault in line
    assert fault in report


def test_an_image_at_the_limit_is_measured(data):
    Image.new("RGB", (500, 1), (200, 30, 40)).save(data / "photos/red/banner.png")
    assert run_command(measure("set.yaml", data), data, seconds=0).results[0]["n_samples"] == 7


def test_thin_boxes_and_arrays_are_refused(tmp_path):
    Image.new("RGB", (600, 400)).save(tmp_path / "whole.png")
    np.save(tmp_path / "frame.npy", np.zeros((1, 600, 3), np.uint8))
    sources = (
        CroppedImage(ImageFile(tmp_path / "whole.png"), (0, 10, 600, 11)),
        ImageArray("digit", np.zeros((1, 600, 3), np.uint8)),
        PixelFile(tmp_path / "frame.npy"),
    )
    for source in sources:
        with pytest.raises(UsageError, match=f"{source.name[:6]}.*600x1 pixels"):
            decode_source(source)


def test_ghostscript_is_not_run(data, tmp_path, monkeypatch):
    """A program of this name leaves a file behind if anything starts it."""
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    path = data / "photos/red/picture.png"
    path.write_bytes(EPS)
    line, report = run_and_doctor(data)
    fault = f"cannot decode image {path}: cannot identify image file (known: BMP, GIF, JPEG"
    assert fault in line
    assert fault in report
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "WEBP"])
def test_formats_of_data_sets_are_read_by_any_name(form, tmp_path):
    Image.new("RGB", (8, 6), (255, 255, 255)).save(tmp_path / "image.png", form)
    assert np.asarray(decode_source(ImageFile(tmp_path / "image.png"))).min() > 250


def save_palette(path: Path) -> None:
    image = Image.new("P", (8, 6))
    image.putdata([index % 7 for index in range(48)])
    image.putpalette([value * 5 % 256 for value in range(768)])
    image.save(path, transparency=bytes([0, 128, 255]))


def test_palettes_with_transparency_keep_their_colours(tmp_path):
    save_palette(tmp_path / "palette.png")
    with open_image(tmp_path / "palette.png") as image:
        assert isinstance(image.info["transparency"], bytes)
        pixels = np.asarray(to_rgb(image))  # pytest makes warnings errors
        assert isinstance(image.info["transparency"], bytes)
    index = np.arange(48).reshape(6, 8) % 7
    expected = (index[:, :, None] * 3 + np.arange(3)) * 5 % 256
    np.testing.assert_array_equal(pixels, expected)


def test_no_warning_of_pillow_is_printed(data):
    save_palette(data / "photos/red/palette.png")
    # Pillow's limit stands in for its usual one, of 89 megapixels: it warns up to twice as many.
    code = (
        "import sys, PIL.Image; PIL.Image.MAX_IMAGE_PIXELS = 40;"
        "from cosmos_eval.cli.app import main; main(sys.argv[1:])"
    )
    # The doctor decodes all images, as a run does, and starts without torch.
    command = [sys.executable, "-c", code, "data", "doctor", str(data / "set.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("7 of 7") == 2  # found and decoded
    assert "Warning" not in done.stderr
