"""`prepare` on a small img2dataset folder in both formats and a caption file like DreamLIP's."""

import csv
import json
import shutil

import pytest
import webdataset
from support.shards import jpeg, tokenize, train_config
from support.writing import file_size_limit

from cosmos_core.data.index import index_shards
from cosmos_core.data.loading import make_loader
from cosmos_core.data.prepare import CaptionFile, PreparedReport, prepare, read_cell, read_source
from cosmos_core.data.samples import DREAMLIP_KEYS, caption_sentences

# Names as downloaders and editors give them; no call may touch such files.
FOREIGN = ("download.part", "00001.part", ".notes.tmp")
HEADER = ["Image Path", *DREAMLIP_KEYS]


def url(number):
    return f"https://host/{number}.jpg?a=1,2"


def captions_of(number):
    """As in DreamLIP's files: one sentence each, except for the long ones."""
    long = f'The image shows {number}. It has\ncommas, "quotes" and lines.\n\nThe end.'
    return [long if key.startswith("long") else f"{key} of {number}" for key in DREAMLIP_KEYS]


def write_captions(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


@pytest.fixture
def captions(tmp_path):
    """Rows of 0 to 11 in another order; 3 is empty, 5 comes twice, 11 has no image."""
    rows = [[url(number), *captions_of(number)] for number in reversed(range(12))]
    rows[11 - 3][1:] = [""] * 7
    rows.append([url(5), *captions_of(500)])
    return write_captions(tmp_path / "cc3m_3long_3short_1raw_captions_url.csv", rows)


def record(number):
    return {"url": url(number), "key": f"{number:09d}", "caption": "alt", "status": "success"}


def downloads():
    """What img2dataset writes for images 0 to 10, and 12 of which nobody wrote captions."""
    for number in [*range(11), 12]:
        content = record(number)
        if number == 7:
            del content["url"]
        yield f"{number:09d}", jpeg(number), json.dumps(content, indent=4)


def as_tars(folder):
    folder.mkdir()
    entries = list(downloads())
    for shard, part in enumerate((entries[:5], entries[5:])):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as writer:
            for key, image, content in part:
                writer.write({"__key__": key, "jpg": image, "txt": "alt", "json": content.encode()})
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return folder


def as_files(folder):
    for place, (key, image, content) in enumerate(downloads()):
        inner = folder / f"{place // 5:05d}"
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"{key}.jpg").write_bytes(image)
        (inner / f"{key}.txt").write_text("alt")
        (inner / f"{key}.json").write_text(content)
    (folder / "00000_stats.json").write_text("{}")
    return folder


FORMATS = pytest.mark.parametrize("write", [as_tars, as_files])
# 12 images: 3 has no captions, 7 no URL, 12 no row. Of 13 rows that of 11 has no image, and that of
# 7 is not found.
REPORT = PreparedReport(9, 3, 3, 2, 2, unreadable_images=1)


def shards_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


@FORMATS
def test_images_are_joined_with_their_captions(tmp_path, captions, write):
    images, output = write(tmp_path / "images"), tmp_path / "out" / "shards"
    assert prepare(images, captions, output, shard_size=4) == REPORT
    index = index_shards([str(path) for path in sorted(output.glob("*.tar"))])
    assert [index.count_samples(count) for count in range(4)] == [0, 4, 8, 9]
    for number, image in enumerate([0, 1, 2, 4, 5, 6, 8, 9, 10]):
        raw = index.read(number)
        assert raw.image == jpeg(image)
        content = json.loads(raw.record)
        assert (content.pop("url"), content.pop("key")) == (url(image), f"{image:09d}")
        long = [f"The image shows {image}", "It has", 'commas, "quotes" and lines', "The end"]
        assert content == {
            key: long if key.startswith("long") else [f"{key} of {image}"] for key in DREAMLIP_KEYS
        }
        assert len(caption_sentences(content)) == 16
    assert not list(output.glob(".*.tmp"))


def test_the_same_inputs_give_the_same_bytes_in_both_formats_to_train_on(tmp_path, captions):
    folders = [as_tars(tmp_path / "tars"), as_files(tmp_path / "files")]
    for name, images in enumerate((*folders, *folders)):
        prepare(images, captions, tmp_path / f"{name}", shard_size=4)
    first, *other_shards = (shards_of(tmp_path / f"{name}") for name in range(4))
    assert first.keys() == {"00000.tar", "00001.tar", "00002.tar"}
    assert all(other == first for other in other_shards)
    config = train_config(f"{tmp_path}/0/*.tar", steps=3, batch_size=3)
    batches = list(make_loader(config, tokenize))
    assert [batch.problems for batch in batches] == [(), (), ()]


def test_a_call_that_broke_off_is_gone_on_with(tmp_path, captions, monkeypatch):
    images, output = as_tars(tmp_path / "images"), tmp_path / "out"
    prepare(images, captions, tmp_path / "whole", shard_size=3)

    def fail_at_second(source):
        if source.name == "00001.tar":
            raise OSError("no more")
        return read_source(source)

    with monkeypatch.context() as patch:
        patch.setattr("cosmos_core.data.prepare.read_source", fail_at_second)
        with pytest.raises(OSError, match="no more"):
            prepare(images, captions, output, shard_size=3)
    assert shards_of(output) == {"00000.tar": (tmp_path / "whole" / "00000.tar").read_bytes()}
    for name in FOREIGN:
        (output / name).write_bytes(b"another program's")
    before = (output / "00000.tar").stat().st_mtime_ns
    assert prepare(images, captions, output, shard_size=3) == REPORT._replace(written=2)
    assert shards_of(output) == shards_of(tmp_path / "whole")
    assert (output / "00000.tar").stat().st_mtime_ns == before
    assert prepare(images, captions, output, shard_size=3) == REPORT._replace(written=0)
    assert [(output / name).read_bytes() for name in FOREIGN] == [b"another program's"] * 3


def test_a_full_disk_ends_a_call_in_a_line_and_the_next_one_goes_on(tmp_path, captions):
    images, output = as_tars(tmp_path / "images"), tmp_path / "out"
    prepare(images, captions, tmp_path / "whole", shard_size=4)
    size = max(path.stat().st_size for path in (tmp_path / "whole").glob("*.tar"))
    with file_size_limit(size // 2), pytest.raises(OSError, match="File too large") as caught:
        prepare(images, captions, output, shard_size=4)
    assert caught.value.filename == str(output / "00000.tar")
    assert [path.name for path in output.iterdir()] == ["prepared.json"]
    prepare(images, captions, output, shard_size=4)
    assert shards_of(output) == shards_of(tmp_path / "whole")


def test_images_of_one_name_in_several_folders_are_several(tmp_path, captions):
    (tmp_path / "images").mkdir()
    with webdataset.TarWriter(str(tmp_path / "images" / "a.tar")) as writer:
        for number in range(3):
            content = json.dumps(record(number)).encode()
            writer.write({"__key__": f"{number}/0", "jpg": jpeg(number), "json": content})
    assert prepare(tmp_path / "images", captions, tmp_path / "out").samples == 3


def test_the_output_must_be_empty_or_of_the_same_inputs(tmp_path, captions):
    images, output = as_tars(tmp_path / "images"), tmp_path / "out"
    prepare(images, captions, output, shard_size=4)
    before = shards_of(output)
    with pytest.raises(ValueError, match="holds shards of other inputs or of another size"):
        prepare(images, captions, output, shard_size=5)
    shutil.copy(images / "00000.tar", images / "00002.tar")
    with pytest.raises(ValueError, match="holds shards of other inputs or of another size"):
        prepare(images, captions, output, shard_size=4)
    assert shards_of(output) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="other: holds other shards; choose another folder"):
        prepare(images, captions, other)
    for inside in (images, images / "out"):
        with pytest.raises(ValueError, match="lies in the folder of the images"):
            prepare(images, captions, inside)
    assert [path.name for path in other.iterdir()] == ["mine.tar"]


def test_inputs_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, captions):
    images = as_tars(tmp_path / "images")
    (tmp_path / "empty").mkdir()
    paths = write_captions(tmp_path / "paths.csv", [["0000000/0000008.jpg", *captions_of(8)]])
    other = tmp_path / "other.csv"
    other.write_text("url,text\na,b\n")
    for folder, file, message in (
        (tmp_path / "none", captions, "none: no such folder; give the one that img2dataset wrote"),
        (tmp_path / "empty", captions, "empty: neither tars nor folders"),
        (images, other, "not DreamLIP's captions: its columns are url, text; needed: 'Image Path'"),
        (images, paths, "'Image Path' holds '0000000/0000008.jpg', not a URL"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            prepare(folder, file, tmp_path / "out")
        assert "\n" not in str(error.value)
    for file in (tmp_path / "no.csv", tmp_path / "empty"):
        with pytest.raises(ValueError, match=f"{file}: no such file; give one of DreamLIP's CSV"):
            prepare(images, file, tmp_path / "out")
    with pytest.raises(ValueError, match="at least 1 sample"):
        prepare(images, captions, tmp_path / "out", shard_size=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write to .*/file/out: Not a directory"):
        prepare(images, captions, tmp_path / "file" / "out")
    path = images / "00001.tar"
    path.write_bytes(path.read_bytes()[:-10240])
    with pytest.raises(ValueError, match=r"00001\.tar: cut off at byte \d+; fetch it again$"):
        prepare(images, captions, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_without_any_captions_are_an_error(tmp_path, captions):
    images, output = as_tars(tmp_path / "images"), tmp_path / "out"
    other_list = write_captions(tmp_path / "cc12m.csv", [[url(99), *captions_of(99)]])
    message = (
        f"no image of {images} has captions in {other_list}: URLs without captions: 11, images wi"
    )
    with pytest.raises(ValueError, match=message) as error:
        prepare(images, other_list, output)
    assert "images without a URL: 1; give the CSV file that" in str(error.value)
    assert list(output.iterdir()) == []
    assert prepare(images, captions, output).samples > 0


def test_a_caption_is_a_text_or_a_lists_literal():
    assert read_cell("One. Two\nthree") == ["One", "Two", "three"]
    assert read_cell("['One. Two', ' ', \"it's\"]") == ["One. Two", "it's"]
    assert read_cell('["a", "b"]') == ["a", "b"]
    # Not lists of texts, and no code to run.
    for text in ("[music]", "[1, 2]", "[__import__('os')]", "[" * 50 + "]" * 50, "[a", ""):
        assert read_cell(text) == ([text] if text else [])


def test_rows_are_found_among_many(tmp_path):
    rows = [[url(number), *captions_of(number)] for number in range(300)]
    path = write_captions(tmp_path / "a.csv", rows)
    last = f'\r\n"{url(300)}",short\n'.encode()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + last)
    with path.open("rb") as file:
        table = CaptionFile(file)
        assert table.n_unused_rows == 301
        for number in (299, 0, 150):
            assert table.find(url(number))["raw_caption"] == [f"raw_caption of {number}"]
        assert table.find(url(300)) == {"raw_caption": ["short"]}
        assert table.find("https://host/none.jpg") is None
        assert table.n_unused_rows == 297


def test_odd_first_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("raw_caption,Image Path\nshort\nA dog,https://host/1.jpg\n")
    with path.open("rb") as file:
        table = CaptionFile(file)
        assert table.find("https://host/1.jpg") == {"raw_caption": ["A dog"]}
        assert table.find("https://host/\ud800.jpg") is None
    path.write_text(f"raw_caption,Image Path\n{'a' * 200_000},https://host/1.jpg\n")
    with path.open("rb") as file, pytest.raises(ValueError, match=r"a\.csv, line 2: field larger"):
        CaptionFile(file)
