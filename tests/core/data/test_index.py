"""The index of samples in tars: the scan of a tar, and the cache of its result."""

import io
import json
import os
import shutil
import tarfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import webdataset
from support.shards import jpeg, sample, tar_of, write_shard, write_shards

from cosmos_core.data.index import BESIDE, SampleIndex, cached_rows, index_shards, scan_tar
from cosmos_core.data.samples import BadSampleError, RawSample
from cosmos_core.data.shards import ShardError
from cosmos_core.data.tar import BLOCK


def samples_by_key(index):
    """Return the key of each sample -> its bytes."""
    samples = {}
    for number in range(len(index)):
        _shard, key = index.shard_and_key(number)
        samples[key] = index.read(number)
    return samples


def cached_files(shard, kind="shards"):
    """Return the files of the cache beside a shard, of single shards or of whole data sets."""
    return sorted((Path(shard).parent / BESIDE / kind).iterdir())


def test_every_sample_is_read_as_it_was_written(tmp_path):
    folder = write_shards(tmp_path, [5, 0, 4])
    shards = [str(folder / f"{name}.tar") for name in range(3)]
    index = index_shards(shards)
    assert [index.count_samples(count) for count in range(4)] == [0, 5, 5, 9]
    assert len(index) == 9
    for number in range(9):
        raw = index.read(number)
        assert raw.image == jpeg(number)
        assert json.loads(raw.record) == sample(number)["json"]
        assert index.shard_and_key(number) == (shards[0 if number < 5 else 2], f"{number:06d}")


def test_a_shard_may_be_named_twice(tmp_path):
    shard = str(write_shards(tmp_path, [3]) / "0.tar")
    index = index_shards([shard, shard])
    samples = [index.read(number) for number in range(6)]
    assert samples[:3] == samples[3:]


def group_by_webdataset(shard):
    """Return the samples of a tar that have a record, by key, as webdataset groups its files."""
    source = [{"url": "a.tar", "stream": io.BytesIO(shard.read_bytes())}]
    files = webdataset.tariterators.tar_file_expander(source)
    samples = {}
    for group in webdataset.tariterators.group_by_keys(files):
        if "json" in group:
            suffix = next(suffix for suffix in ("jpg", "jpeg", "webp") if suffix in group)
            samples[group["__key__"]] = RawSample(group[suffix], group["json"])
    return samples


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_files_are_grouped_as_webdataset_does(tmp_path, format):
    # A name of over 100 letters, which the USTAR format cannot have.
    long_key = "a-folder/" + "x" * 120 if format != tarfile.USTAR_FORMAT else "a-folder/x"
    files = [
        ("./s.1/000.JPG", b"image 0"),
        ("./s.1/000.json", b"{}"),
        ("./s.1/000.txt", b"ignored"),
        ("__meta__/info.json", b"{}"),
        ("readme", b"no suffix"),
        ("001.seg.png", b"not its image"),
        ("001.webp", b"image 1"),
        ("001.json", b"[]"),
        (f"{long_key}.jpeg", b"image 2"),
        (f"{long_key}.json", b"7"),
    ]
    shard = tmp_path / "a.tar"
    shard.write_bytes(tar_of(files, format))
    samples = samples_by_key(index_shards([str(shard)]))
    expected = group_by_webdataset(shard)
    assert len(expected) == 3
    assert list(samples.values()) == list(expected.values())
    # Keys, which are for messages, have the first 100 letters, which fit into a tar's header.
    assert list(samples) == [key[:100] for key in expected]


def test_files_of_a_sample_need_not_be_neighbours_and_missing_ones_are_none(tmp_path):
    files = [("0.jpg", b"a"), ("1.jpg", b"b"), ("1.json", b"B"), ("0.json", b"A")]
    files += [("2.jpg", b"a"), ("3.json", b"{}"), ("4.txt", b"neither")]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    assert samples_by_key(index_shards([str(tmp_path / "a.tar")])) == {
        "0": RawSample(b"a", b"A"),
        "1": RawSample(b"b", b"B"),
        "2": RawSample(b"a", None),
        "3": RawSample(None, b"{}"),
    }


def test_a_tar_that_was_cut_after_it_was_indexed_is_reported(tmp_path):
    shard = write_shards(tmp_path, [4]) / "0.tar"
    index = index_shards([str(shard)])
    samples = [index.read(number) for number in range(4)]
    start = int(scan_tar(str(shard))[3, 0]) * BLOCK
    shard.write_bytes(shard.read_bytes()[: start + 100])  # within the last sample's image
    assert [index.read(number) for number in range(3)] == samples[:3]
    with pytest.raises(BadSampleError) as error:
        index.read(3)
    assert error.value.kind == "truncated"
    assert index.shard_and_key(3)[1] == "000003"


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_tars_are_refused_in_every_run(tmp_path, workers):
    folder = write_shards(tmp_path, [1, 2, 3])
    shards = [folder / f"{number}.tar" for number in range(3)]
    for shard in shards[1:]:
        shard.write_bytes(shard.read_bytes()[:2000])
    for _ in range(2):
        with pytest.raises(ShardError, match=r"/1.tar: cut off .* \(1 other shards fail"):
            index_shards([str(shard) for shard in shards], workers=workers)
    assert len(cached_files(shards[0])) == 1  # of the tar that is not damaged


@pytest.mark.parametrize("workers", [0, 1])
def test_tars_that_cannot_be_read_are_named(tmp_path, workers):
    good_shard = str(write_shards(tmp_path, [1]) / "0.tar")
    (tmp_path / "no.tar").write_bytes(b"x" * 2000)
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as tar:
        tar.add(good_shard, "0.jpg")
    for name in ("no", "gz"):
        message = f"{name}.tar: not an uncompressed tar"
        with pytest.raises(ShardError, match=message) as error:
            index_shards([good_shard, str(tmp_path / f"{name}.tar")], workers=workers)
        assert "\n" not in str(error.value)
    empty = write_shard(tmp_path / "empty.tar", [])
    with pytest.raises(ShardError, match=r"no sample in 1 shards, of which the first is .*empty"):
        index_shards([str(empty)], workers=workers)


def test_a_tar_that_vanished_is_a_bad_sample(tmp_path):
    shard = write_shards(tmp_path, [1]) / "0.tar"
    index = index_shards([str(shard)])
    shard.unlink()
    with pytest.raises(BadSampleError, match="No such file") as error:
        index.read(0)
    assert error.value.kind == "unreadable"
    assert index.shard_and_key(0) == (str(shard), "sample 0")


def flip_bit(content, position):
    """Return a file's content with another last bit in the byte at a position."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def is_mapped(file):
    """Tell whether this process has a file in its memory."""
    return str(file) in Path("/proc/self/maps").read_text()


def test_a_tar_is_scanned_once_and_again_after_a_change(tmp_path):
    shard = write_shards(tmp_path, [3]) / "0.tar"
    assert cached_rows(str(shard)) is None
    index_shards([str(shard)])
    assert np.array_equal(cached_rows(str(shard)), scan_tar(str(shard)))
    (cached_file,) = cached_files(shard)
    time_written = cached_file.stat().st_mtime_ns
    index_shards([str(shard)])
    assert cached_files(shard) == [cached_file]
    assert cached_file.stat().st_mtime_ns == time_written
    # A tar with other samples, and a tar with another time of modification.
    write_shards(tmp_path, [5])
    assert len(index_shards([str(shard)])) == 5
    status = shard.stat()
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert cached_rows(str(shard)) is None
    index_shards([str(shard)])
    assert len(cached_files(shard)) == 1


def test_a_damaged_index_is_made_again_and_a_changed_byte_never_changes_rows(tmp_path, monkeypatch):
    shard = str(write_shards(tmp_path, [3]) / "0.tar")
    index_shards([shard])
    (cached_file,) = cached_files(shard)
    content, rows = cached_file.read_bytes(), cached_rows(shard)
    # A file where the folder of whole data sets would be: only single shards are cached.
    folder_of_data_sets = tmp_path / BESIDE / "data-sets"
    shutil.rmtree(folder_of_data_sets)
    folder_of_data_sets.touch()
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: "/dev/null")
    for damaged_content in (content[:-1], content[:-16], b"", b"no end of line"):
        cached_file.write_bytes(damaged_content)
        assert len(index_shards([shard])) == 3
        assert cached_file.read_bytes() == content
        assert cached_files(shard) == [cached_file]
    for position in range(len(content)):
        cached_file.write_bytes(flip_bit(content, position))
        rows_read = cached_rows(shard)
        assert rows_read is None or np.array_equal(rows_read, rows)


def test_an_index_that_cannot_be_stored_beside_tars_is_in_the_cache_of_the_user_or_nowhere(
    tmp_path, cache, caplog
):
    shard = str(write_shards(tmp_path, [3]) / "0.tar")
    (tmp_path / BESIDE).touch()  # a file, so that the folder cannot be made
    index = index_shards([shard])
    assert len(index) == 3
    (_head, rows_file) = sorted((cache / "cosmos-train" / "data-sets").iterdir())
    assert is_mapped(rows_file)
    shutil.rmtree(cache / "cosmos-train")
    (cache / "cosmos-train").write_text("a file in place of the folder")
    assert len(index_shards([shard])) == 3
    assert "an index cannot be stored" in caplog.text


def test_an_index_beside_tars_is_valid_if_their_folder_is_mounted_elsewhere(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "here", [2, 3])
    samples = samples_by_key(index_shards([str(folder / "0.tar"), str(folder / "1.tar")]))
    new_folder = folder.rename(tmp_path / "there")
    monkeypatch.delattr("cosmos_core.data.index.scan_tar")  # nothing may be scanned again
    moved_shards = [str(new_folder / "0.tar"), str(new_folder / "1.tar")]
    assert samples_by_key(index_shards(moved_shards)) == samples


def test_workers_and_several_processes_make_the_same_index(tmp_path):
    folder = write_shards(tmp_path / "tars", [2, 3, 1, 4])
    shards = [str(folder / f"{name}.tar") for name in range(4)]
    expected = samples_by_key(index_shards(shards))
    for rank, world_size, workers in [(0, 1, 1), (1, 2, 0), (2, 3, 1)]:
        shutil.rmtree(folder / BESIDE)
        index = index_shards(shards, workers=workers, rank=rank, world_size=world_size)
        assert samples_by_key(index) == expected


def test_processes_map_one_file_with_the_rows_of_all_shards(tmp_path):
    folder = write_shards(tmp_path, [2, 3])
    shards = [str(folder / f"{name}.tar") for name in range(2)]
    expected = samples_by_key(index_shards(shards))
    (head_file, rows_file) = cached_files(shards[0], "data-sets")
    shutil.rmtree(folder / BESIDE / "shards")  # which are no longer needed
    index = index_shards(shards)
    assert samples_by_key(index) == expected
    assert is_mapped(rows_file)
    assert not (folder / BESIDE / "shards").exists()
    content = rows_file.read_bytes()
    for file, damaged_content in (
        (rows_file, flip_bit(content, 0)),
        (rows_file, content[:-16]),
        (rows_file, b""),
        (head_file, b"no archive"),
    ):
        file.write_bytes(damaged_content)
        assert samples_by_key(index_shards(shards)) == expected
        assert rows_file.read_bytes() == content


def test_an_index_is_small_and_handed_to_other_processes_as_shared_memory():
    rows = np.random.default_rng(0).integers(1, 1000, (200_000, 4), dtype=np.int32)
    shards = [f"{number}.tar" for number in range(200)]
    index = SampleIndex(shards, np.arange(201) * 1000, rows)
    assert len(index) == 200_000
    # What goes through a pipe to a spawned worker: names of shards, not 3.2 MB of rows.
    assert len(ForkingPickler.dumps(index)) < 20_000
