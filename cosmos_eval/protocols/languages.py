"""Data sets in many languages, which languages.yaml declares. Imports no torch.

A language set such as `xm3600` has one data set for each of its languages, such as `xm3600-de`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from cosmos_eval.protocols.classification import CLASSIFICATION
from cosmos_eval.protocols.declared import fields_of, read_yaml
from cosmos_eval.types import Protocol, RetrievalProtocol

_PLACEHOLDER = "LANGUAGE"  # stands for a language in languages.yaml
_PROTOCOL_NAME = "clip-benchmark"
_IMAGES_PER_CLASS = 50  # of ImageNet's validation images


class Language(NamedTuple):
    """A language of a language set: the language `de` of the set `xm3600`."""

    language_set: str
    language: str


@cache
def language_sets() -> Mapping[str, Mapping[str, Protocol]]:
    """Return the protocols of all language sets, by the set and then by the data set.

    Example:
        `language_sets()["xm3600"]["xm3600-de"]` is the protocol of the German captions.
    """
    sets: dict[str, dict[str, Protocol]] = {}
    for name, entry in read_yaml("languages").items():
        if not name.startswith("."):
            protocols = _protocols_of_set(name, entry)
            sets[name] = {protocol.dataset: protocol for protocol in protocols}
    return sets


@cache
def language_protocols() -> Mapping[str, Protocol]:
    """Return the protocols of all languages of all language sets, by the name of the data set."""
    protocols: dict[str, Protocol] = {}
    for protocols_of_set in language_sets().values():
        protocols.update(protocols_of_set)
    return protocols


def language_of(dataset: str) -> Language | None:
    """Return the set and the language of a data set; None if it is not in a language set."""
    protocol = language_protocols().get(dataset)
    if protocol is None:
        return None
    return Language(str(protocol.language_set), str(protocol.language))


def languages_overlap(language_set: str) -> bool:
    """Return whether the languages of a set have different images, some of them in common.

    Example:
        True for `babel-imagenet`: a language has the images of the classes that it names. False for
        `xtd10`, whose languages have the same images.
    """
    protocols = language_sets()[language_set].values()
    return len({getattr(protocol, "n_images", None) for protocol in protocols}) > 1


def with_all_languages(names: Iterable[Any]) -> list[Any]:
    """Return names of data sets, with the name of a language set replaced by its data sets.

    Example:
        `["xtd10", "voc20"]` gives `["xtd10-de", "xtd10-en", ..., "xtd10-zh", "voc20"]`.
    """
    all_names: list[Any] = []
    for name in names:
        is_language_set = isinstance(name, str) and name in language_sets()
        all_names += language_sets()[name] if is_language_set else [name]
    return all_names


def _protocols_of_set(name: str, entry: Mapping[str, Any]) -> Iterator[Protocol]:
    """Yield the protocol of each language of a set.

    Args:
        name: The name of the set, such as `xm3600`.
        entry: The entry of languages.yaml about it: `task`, `languages` as words or with their
            codes in files, `fields` of the protocols, `names` of the data sets, and for subsets of
            ImageNet `n_classes` by language.
    """
    languages = entry["languages"]
    if isinstance(languages, str):
        languages = {language: language for language in languages.split()}
    field_templates = fields_of(entry["fields"])
    name_template = entry.get("names", f"{name}-{_PLACEHOLDER}")
    for language, code in languages.items():
        fields = {key: _fill_in(value, code) for key, value in field_templates.items()}
        fields["dataset"] = name_template.replace(_PLACEHOLDER, language)
        fields["protocol_name"] = _PROTOCOL_NAME
        fields["language_set"] = name
        fields["language"] = language
        if entry["task"] == "retrieval":
            yield RetrievalProtocol(bare_names=True, **fields)
            continue
        like = CLASSIFICATION[fields.pop("like")]
        if "n_classes" in entry:
            fields["n_classes"] = entry["n_classes"][language]
        n_images = _IMAGES_PER_CLASS * fields["n_classes"]
        yield replace(like, templates=None, n_images=n_images, **fields)


def _fill_in(value: Any, code: str) -> Any:
    """Return the value of a field, with the placeholder replaced in a text or a tuple of texts.

    Example:
        `("a/LANGUAGE.txt", "LANGUAGE.txt")` and the code `de` give `("a/de.txt", "de.txt")`.
    """
    if isinstance(value, tuple):
        return tuple(text.replace(_PLACEHOLDER, code) for text in value)
    return value.replace(_PLACEHOLDER, code) if isinstance(value, str) else value
