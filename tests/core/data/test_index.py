"""Where samples lie in tars: the scan against the bytes, and the cache of it."""

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


def contents(index):
    return {index.shard_and_key(number)[1]: index.read(number) for number in range(len(index))}


def entries(shard, kind="shards"):
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
    assert [index.read(number) for number in range(3)] == [index.read(n) for n in range(3, 6)]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_files_are_grouped_as_webdataset_does(tmp_path, format):
    long = "a-folder/" + "x" * 120 if format != tarfile.USTAR_FORMAT else "a-folder/x"
    files = [
        ("./s.1/000.JPG", b"image 0"),
        ("./s.1/000.json", b"{}"),
        ("./s.1/000.txt", b"ignored"),
        ("__meta__/info.json", b"{}"),
        ("readme", b"no suffix"),
        ("001.seg.png", b"not its image"),
        ("001.webp", b"image 1"),
        ("001.json", b"[]"),
        (f"{long}.jpeg", b"image 2"),
        (f"{long}.json", b"7"),
    ]
    shard = tmp_path / "a.tar"
    shard.write_bytes(tar_of(files, format))
    ours = contents(index_shards([str(shard)]))
    source = [{"url": "a.tar", "stream": io.BytesIO(shard.read_bytes())}]
    expanded = webdataset.tariterators.tar_file_expander(source)
    theirs = {
        found["__key__"]: RawSample(
            next(found[s] for s in ("jpg", "jpeg", "webp") if s in found), found["json"]
        )
        for found in webdataset.tariterators.group_by_keys(expanded)
        if "json" in found
    }
    assert len(theirs) == 3
    assert list(ours.values()) == list(theirs.values())
    # A name that is too long for its header is cut in messages.
    assert list(ours) == [key[:100] for key in theirs]


def test_files_of_a_sample_need_not_be_neighbours_and_those_it_lacks_are_none(tmp_path):
    files = [("0.jpg", b"a"), ("1.jpg", b"b"), ("1.json", b"B"), ("0.json", b"A")]
    files += [("2.jpg", b"a"), ("3.json", b"{}"), ("4.txt", b"neither")]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    ours = contents(index_shards([str(tmp_path / "a.tar")]))
    assert ours == {
        **{"0": RawSample(b"a", b"A"), "1": RawSample(b"b", b"B")},
        **{"2": RawSample(b"a", None), "3": RawSample(None, b"{}")},
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
    assert len(entries(shards[0])) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_tars_that_cannot_be_read_are_named(tmp_path, workers):
    good = str(write_shards(tmp_path, [1]) / "0.tar")
    (tmp_path / "no.tar").write_bytes(b"x" * 2000)
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as tar:
        tar.add(good, "0.jpg")
    for name in ("no", "gz"):
        with pytest.raises(ShardError, match=f"{name}.tar: not an uncompressed tar") as e:
            index_shards([good, str(tmp_path / f"{name}.tar")], workers=workers)
        assert "\n" not in str(e.value)
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


def test_an_index_is_scanned_once_and_again_after_a_change(tmp_path):
    shard = write_shards(tmp_path, [3]) / "0.tar"
    assert cached_rows(str(shard)) is None
    index_shards([str(shard)])
    assert np.array_equal(cached_rows(str(shard)), scan_tar(str(shard)))
    (entry,) = entries(shard)
    written = entry.stat().st_mtime_ns
    index_shards([str(shard)])
    assert entries(shard) == [entry]
    assert entry.stat().st_mtime_ns == written
    write_shards(tmp_path, [5])
    assert len(index_shards([str(shard)])) == 5
    before = shard.stat()
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert cached_rows(str(shard)) is None
    index_shards([str(shard)])
    assert len(entries(shard)) == 1


def test_a_damaged_index_is_made_again_and_a_changed_byte_never_changes_rows(tmp_path, monkeypatch):
    shard = str(write_shards(tmp_path, [3]) / "0.tar")
    index_shards([shard])
    (entry,) = entries(shard)
    whole, rows = entry.read_bytes(), cached_rows(shard)
    whole_set = tmp_path / BESIDE / "data-sets"
    shutil.rmtree(whole_set)
    whole_set.touch()  # nothing is written there
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: "/dev/null")
    for damaged in (whole[:-1], whole[:-16], b"", b"no end of line"):
        entry.write_bytes(damaged)
        assert len(index_shards([shard])) == 3
        assert entry.read_bytes() == whole
        assert entries(shard) == [entry]
    for place in range(len(whole)):
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = cached_rows(shard)
        assert found is None or np.array_equal(found, rows)


def test_without_a_place_for_the_cache_tars_are_scanned_each_time(tmp_path, cache, caplog):
    shard = str(write_shards(tmp_path, [3]) / "0.tar")
    (tmp_path / BESIDE).touch()  # as where the folder cannot be written
    index = index_shards([shard])
    assert len(index) == 3
    (_, rows) = sorted((cache / "cosmos-train" / "data-sets").iterdir())
    assert str(rows) in Path("/proc/self/maps").read_text()
    shutil.rmtree(cache / "cosmos-train")
    (cache / "cosmos-train").write_text("in the way")
    assert len(index_shards([shard])) == 3
    assert "an index cannot be stored" in caplog.text


def test_an_index_beside_tars_holds_where_their_folder_is_mounted_elsewhere(tmp_path, monkeypatch):
    shards = [str(write_shards(tmp_path / "here", [2, 3]) / f"{name}.tar") for name in range(2)]
    alone = contents(index_shards(shards))
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.delattr("cosmos_core.data.index.scan_tar")
    moved = [shard.replace("/here/", "/there/") for shard in shards]
    assert contents(index_shards(moved)) == alone


def test_workers_and_several_processes_find_the_same(tmp_path):
    folder = write_shards(tmp_path / "tars", [2, 3, 1, 4])
    shards = [str(folder / f"{name}.tar") for name in range(4)]
    alone = index_shards(shards)
    for rank, world_size, workers in [(0, 1, 1), (1, 2, 0), (2, 3, 1)]:
        shutil.rmtree(folder / BESIDE)
        index = index_shards(shards, workers=workers, rank=rank, world_size=world_size)
        assert contents(index) == contents(alone)


def test_processes_map_one_file_with_the_rows_of_all_shards(tmp_path):
    folder = write_shards(tmp_path, [2, 3])
    shards = [str(folder / f"{name}.tar") for name in range(2)]
    alone = contents(index_shards(shards))
    (head, rows) = entries(shards[0], "data-sets")
    shutil.rmtree(folder / BESIDE / "shards")  # which are no longer needed
    index = index_shards(shards)
    assert contents(index) == alone
    assert str(rows) in Path("/proc/self/maps").read_text()
    assert not (folder / BESIDE / "shards").exists()
    whole = rows.read_bytes()
    for file, damaged in (
        (rows, bytes([whole[0] ^ 1]) + whole[1:]),
        (rows, whole[:-16]),
        (rows, b""),
        (head, b"no archive"),
    ):
        file.write_bytes(damaged)
        assert contents(index_shards(shards)) == alone
        assert rows.read_bytes() == whole


def test_an_index_is_small_and_handed_to_other_processes_as_shared_memory():
    rows = np.random.default_rng(0).integers(1, 1000, (200_000, 4), dtype=np.int32)
    shards = [f"{number}.tar" for number in range(200)]
    index = SampleIndex(shards, np.arange(201) * 1000, rows)
    assert len(index) == 200_000
    # What goes through a pipe to a spawned worker: names of shards, not 3.2 MB of rows.
    assert len(ForkingPickler.dumps(index)) < 20_000
