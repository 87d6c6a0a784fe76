"""The hash of a protocol's settings, by which a result is measured again or kept."""

from dataclasses import replace
from hashlib import sha256

from cosmos_eval.protocols import known_protocols
from cosmos_eval.runner.provenance import protocol_sha256
from cosmos_eval.types import SelectionProtocol, Wording

PROTOCOL = SelectionProtocol(
    dataset="a", protocol_name="user", images="i", annotations="a.csv", layout="pairs"
)


def test_settings_that_are_not_defaults_are_hashed():
    """The text is written by hand."""
    text = (
        '{"annotations": "a.csv", "dataset": "a", "images": "i", "layout": "pairs", '
        '"protocol_name": "user"}'
    )
    assert protocol_sha256(PROTOCOL) == sha256(text.encode()).hexdigest()
    moved = replace(PROTOCOL, root="/elsewhere", revision="1", source="b", template="{}")
    assert protocol_sha256(moved) == protocol_sha256(PROTOCOL)


def test_other_settings_have_another_hash():
    variants = [
        PROTOCOL,
        replace(PROTOCOL, template="a {}"),
        replace(PROTOCOL, pair_accuracy="image"),
        replace(PROTOCOL, annotations="b.csv"),
        replace(PROTOCOL, wording=Wording(name="w", case="upper")),
        replace(PROTOCOL, wording=Wording(name="w", synonyms={"red": "crimson"})),
    ]
    assert len({protocol_sha256(protocol) for protocol in variants}) == len(variants)


def test_all_known_protocols_have_distinct_hashes():
    protocols = known_protocols().values()
    assert len({protocol_sha256(protocol) for protocol in protocols}) == len(protocols)
