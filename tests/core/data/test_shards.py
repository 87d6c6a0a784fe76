"""What `data.shards` and `data.weights` may say."""

import pytest

from cosmos_core.config import DataConfig
from cosmos_core.data.shards import ShardError, ShardSets, parse_shards


@pytest.fixture
def folder(tmp_path):
    for name in ("a-0.tar", "a-1.tar", "a-2.tar", "b.tar", "odd[1].tar"):
        (tmp_path / name).touch()
    return tmp_path


def sets(spec, weights=""):
    return parse_shards(DataConfig(shards=spec, weights=weights))


def test_paths_braces_patterns_and_several_sets(folder):
    def names(*wanted):
        return tuple(str(folder / name) for name in wanted)

    assert sets(f"{folder}/b.tar") == ShardSets((names("b.tar"),), None, False)
    assert sets(f"{folder}/a-{{0..2}}.tar").sets == (names("a-0.tar", "a-1.tar", "a-2.tar"),)
    assert sets(f"{folder}/{{b,a-1}}.tar").sets == (names("b.tar", "a-1.tar"),)
    assert sets(f"{folder}/a-*.tar").sets == (names("a-0.tar", "a-1.tar", "a-2.tar"),)
    assert sets(f"{folder}/odd[1].tar").sets == (names("odd[1].tar"),)
    both = sets(f"{folder}/a-{{0,1}}.tar::{folder}/b.tar", "1::0.5")
    assert both == ShardSets((names("a-0.tar", "a-1.tar"), names("b.tar")), (1.0, 0.5), False)
    assert both.shards == list(names("a-0.tar", "a-1.tar", "b.tar"))


def test_the_home_folder_is_known(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert sets("~/b.tar").sets == ((str(folder / "b.tar"),),)


def test_commands_and_urls_are_streams():
    spec = "pipe:cat /x/{00..01}.tar::https://host/{a,b}.tar"
    assert sets(spec) == ShardSets(
        (
            ("pipe:cat /x/00.tar", "pipe:cat /x/01.tar"),
            ("https://host/a.tar", "https://host/b.tar"),
        ),
        None,
        True,
    )


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        ("", "", "data.shards is empty"),
        ("{folder}/b.tar::", "", "has an empty set"),
        ("{folder}/no.tar", "", "^no such shard: .*no.tar$"),
        ("{folder}/a-{{1..3}}.tar", "", "^no such shard: .*a-3.tar$"),
        ("{folder}/c*.tar", "", r"^no such shard: nothing matches .*c\*.tar$"),
        ("{folder}", "", r"^no such shard: .*; name its tars, as in .*/\*.tar$"),
        ("{folder}/{{b.tar", "", "cannot be expanded"),
        ("${{NOWHERE}}/b.tar", "", "cannot be expanded"),
        ("{folder}/b.tar::pipe:cat x", "", "mixes local tars with streams"),
        ("{folder}/b.tar::{folder}/a-1.tar", "1", "has 1 weights for 2 sets"),
        ("{folder}/b.tar", "1::2", "has 2 weights for 1 sets"),
        ("{folder}/b.tar", "many", "'many': a weight is no number"),
        ("{folder}/b.tar", "0", "must be greater than 0"),
        ("{folder}/b.tar", "inf", "must be greater than 0"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(folder, spec, weights, message):
    with pytest.raises(ShardError, match=message) as error:
        sets(spec.format(folder=folder), weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        "/x/{0..999999999}.tar",
        "/x/{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar",
        "/x/{a..z}{a..z}{a..z}{a..z}{a..z}.tar",
        "/x/{{0..9999},{0..9999}}{0..99}.tar",
        "/x/" + "{a,b}" * 64,
        "/x/{0.." + "9" * 6000 + "}.tar",
        "pipe:cat /x/{00000000..99999999}.tar",
    ],
    ids=lambda spec: spec[:30],
)
def test_more_shards_than_there_can_be_are_not_expanded(spec):
    with pytest.raises(ShardError, match="names more than 1000000 shards"):
        sets(spec)


def test_shards_of_a_folder_that_cannot_be_read_are_not_left_out(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").touch()
    locked = str(tmp_path / "b")
    # Permissions do not hinder root, who runs tests in containers.
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != locked)
    with pytest.raises(ShardError, match=f"^cannot read folder {locked}: permission denied$"):
        sets(f"{tmp_path}/*/*.tar")


def test_a_name_that_is_too_long():
    with pytest.raises(ShardError, match="File name too long"):
        sets("x" * 5000)


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("pipe:x{000000..231349}", 231350),
        ("pipe:{a,b{0..999},c{0..999..2}}", 1501),
        ("pipe:{train-{000..999},val-{000..999}}", 2000),
        ("pipe:awk '{print}' {1,2}", 2),
    ],
)
def test_braces_are_counted_as_they_are_expanded(spec, count):
    assert len(sets(spec).shards) == count
