"""Read declared wordings, choose automatic ones, and apply them to texts. Imports no torch."""

import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field, Strict, StringConstraints

from cosmos_core.utils.text import split_sentences
from cosmos_eval.data import readers
from cosmos_eval.data.class_names import OPENAI, resolve_templates, template_faults
from cosmos_eval.data.readers import CONFIG, FileError, Text
from cosmos_eval.protocols import is_embedded, scene_wordings
from cosmos_eval.types import (
    LabelMapProtocol,
    LetterCase,
    Protocol,
    UsageError,
    Wording,
    nearest,
    worded_protocol_name,
)

WORDED_TASKS = ("retrieval", "cls", "seg", "select")
"""The tasks that measure other wordings."""
_CAPTION_TASKS = ("retrieval", "select")
_OPENAI_TEMPLATES = 80
_SEED = 0  # of the random order of OpenAI's templates
_SHUFFLES = 20  # the number of automatic wordings that shuffle sentences
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_SHUFFLED = "shuffled-"

Declared = int | str | os.PathLike[str] | Mapping[str, Any]
"""The number of automatic wordings, a YAML file that declares wordings, or its content."""
Data = TypeVar("Data", bound=Any)


class _Changes(pydantic.BaseModel):
    """The changes that a file declares for a wording."""

    model_config = CONFIG

    paraphrase: Annotated[int, Field(ge=1)] | None = None
    synonyms: Annotated[dict[Text, Text], Field(min_length=1)] | None = None
    drop_first_sentence: bool | None = None
    sentence_order: (
        Annotated[str, StringConstraints(pattern=r"^(reversed|shuffled-[1-9][0-9]{0,8})$")] | None
    ) = None
    templates: Annotated[tuple[Text, ...], Strict(False), Field(min_length=1)] | Text | None = None
    case: LetterCase | None = None


def with_wordings(protocols: Sequence[Protocol], declared: Declared) -> list[Protocol]:
    """Return all protocols. Each is followed by its copies, one with each declared wording.

    Args:
        protocols: The protocols with their published wordings.
        declared: The number of automatic wordings, a file that declares wordings, or its content.

    Raises:
        UsageError: If a task does not measure other wordings, or if the declaration has a fault.

    Example:
        The protocol `scenes` of scenes-cls, with one wording `lower`, gives `scenes` and
        `scenes-wording-lower`.
    """
    for protocol in protocols:
        if protocol.task not in WORDED_TASKS:
            raise UsageError(
                f"{protocol.dataset} is a data set of task {protocol.task}: other wordings are for "
                f"the tasks {', '.join(WORDED_TASKS)}"
            )
    number = _number_of(declared)
    worded_protocols = []
    for protocol in protocols:
        worded_protocols.append(protocol)
        if number is None:
            wordings = _read_wordings(declared)
        else:
            wordings = automatic_wordings(protocol, number)
        worded_protocols += [worded_protocol(protocol, wording) for wording in wordings]
    return worded_protocols


def _number_of(declared: Declared) -> int | None:
    """Return the number of automatic wordings, or None for a file or its content."""
    if isinstance(declared, int) and not isinstance(declared, bool):
        return declared
    if isinstance(declared, str) and re.fullmatch(r"-?\d+", declared):
        return int(declared)
    return None


def _read_wordings(declared: Declared) -> list[Wording]:
    """Return the wordings that a YAML file, or its content, declares.

    Raises UsageError, with a message of one line, if the declaration has a fault.
    """
    if isinstance(declared, Mapping):
        location, content = "wordings", dict(declared)
    else:
        path = Path(readers.path_of(declared, "wordings"))
        location = str(path)
        with readers.report_faults_at(f"{path}: "):
            content = readers.read_yaml(path, "art: {templates: ['art of a {}']}")
    with readers.report_faults_at(f"{location}: "):
        if not content:
            raise FileError("declares no wording: write one such as `lower: {case: lower}`")
        return parse_wordings(content)


def parse_wordings(content: Mapping[str, Any]) -> list[Wording]:
    """Return the wordings that the content of a file declares.

    Args:
        content: The changes of each wording, by its name.

    Raises:
        FileError: For the first fault.

    Example:
        {"art": {"templates": ["art of a {}"], "case": "upper"}} gives [Wording(name="art",
        templates=("art of a {}",), case="upper")].
    """
    wordings: list[Wording] = []
    names_by_changes: dict[str, str] = {}
    for name, declared_changes in content.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise FileError(f"the name {name!r}: use at most 40 small letters, digits and hyphens")
        if not isinstance(declared_changes, dict) or not declared_changes:
            raise FileError(
                f"{name} declares no change: write one such as `{name}: {{case: lower}}`"
            )
        try:
            changes = readers.parse(_Changes, declared_changes)
        except FileError as error:
            raise FileError(f"{name}: {error}") from error
        fields = {key: value for key, value in changes if value is not None}
        for fault in template_faults(fields.get("templates", OPENAI)):
            raise FileError(f"{name}: {fault}")
        wording = Wording(name=name, **fields)
        # Two names for the same changes are a mistake.
        first_name = names_by_changes.setdefault(repr(sorted(fields.items())), name)
        if first_name != name:
            raise FileError(f"{first_name} and {name} declare the same: leave one of them out")
        wordings.append(wording)
    return wordings


def automatic_wordings(protocol: Protocol, number: int) -> list[Wording]:
    """Return the first `number` automatic wordings of a protocol.

    - Embedded scenes: paraphrases and templates by the grammar of scenes.
    - Captions of other data sets: sentences are reversed, left out, put into another case and
      shuffled.
    - Classes of other data sets: each wording is one of OpenAI's templates for ImageNet.

    Raises:
        UsageError: If there are fewer wordings than `number`, or if `number` is below 1.
    """
    if is_embedded(protocol):
        wordings = _scene_wordings(protocol)
    elif protocol.task in _CAPTION_TASKS:
        wordings = _caption_wordings(protocol)
    else:
        wordings = _template_wordings()
    if not 1 <= number <= len(wordings):
        raise UsageError(
            f"{protocol.dataset} has 1 to {len(wordings)} automatic wordings, not {number}: "
            "declare others in a file, --wordings FILE"
        )
    return wordings[:number]


def _scene_wordings(protocol: Protocol) -> list[Wording]:
    """Return the wordings of a data set of scenes, by their grammar."""
    wordings = []
    if protocol.task in _CAPTION_TASKS:
        for number in range(1, scene_wordings.n_paraphrases() + 1):
            wordings.append(Wording(name=f"paraphrase-{number}", paraphrase=number))
        return wordings
    for number, template in enumerate(scene_wordings.CLASS_TEMPLATES, start=1):
        name = f"template-{number}"
        if isinstance(protocol, LabelMapProtocol):
            wordings.append(Wording(name=name, synonyms=scene_wordings.class_synonyms(number)))
        else:
            wordings.append(Wording(name=name, templates=(template,)))
    return wordings


def _caption_wordings(protocol: Protocol) -> list[Wording]:
    """Return the automatic wordings of captions: by the order of sentences, and by the case.

    In caption selection, no first sentence is left out, since the captions of an item may differ in
    nothing else.
    """
    wordings = [Wording(name="reversed", sentence_order="reversed")]
    if protocol.task != "select":
        wordings.append(Wording(name="drop-first", drop_first_sentence=True))
    wordings += [
        Wording(name="lower", case="lower"),
        Wording(name="upper", case="upper"),
        Wording(name="title", case="title"),
    ]
    for number in range(1, _SHUFFLES + 1):
        name = f"{_SHUFFLED}{number}"
        wordings.append(Wording(name=name, sentence_order=name))
    return wordings


def _template_wordings() -> list[Wording]:
    """Return OpenAI's templates for ImageNet one by one, in a fixed random order.

    The number in a name is the template's place in OpenAI's list, from 1.
    """
    import open_clip  # which imports torch

    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    numbers = list(range(1, len(templates) + 1))
    random.Random(_SEED).shuffle(numbers)
    wordings = []
    for number in numbers:
        wordings.append(Wording(name=f"template-{number}", templates=(templates[number - 1],)))
    return wordings


def worded_protocol(protocol: Protocol, wording: Wording) -> Protocol:
    """Return a protocol with another wording. Its name contains the name of the wording.

    The prompts of label maps are part of the protocol and are changed here. All other texts are
    changed when they are read.

    Raises:
        UsageError: If the wording declares changes that the task does not have.
    """
    _require_fitting_changes(protocol, wording)
    protocol_name = worded_protocol_name(protocol.protocol_name, wording.name)
    worded = replace(protocol, protocol_name=protocol_name, wording=wording)
    if isinstance(worded, LabelMapProtocol):
        # All prompts are replaced at once, since a synonym must be for any of them.
        prompts = [prompt for class_prompts in worded.queries for prompt in class_prompts]
        replaced_prompts = replaced_names(prompts, wording, protocol.dataset)
        queries = []
        start = 0
        for class_prompts in worded.queries:
            end = start + len(class_prompts)
            queries.append(replaced_prompts[start:end])
            start = end
        templates = worded_templates(worded.templates, wording)
        worded = replace(worded, queries=tuple(queries), templates=templates)
    return worded


def _require_fitting_changes(protocol: Protocol, wording: Wording) -> None:
    """Raise UsageError if a wording declares changes that a protocol's texts cannot have."""
    changes = wording.record
    if protocol.task in _CAPTION_TASKS:
        templates = wording.templates
        if templates is not None and (isinstance(templates, str) or len(templates) != 1):
            raise UsageError(
                f"wording {wording.name}: captions of {protocol.dataset} take exactly one "
                "template, such as ['a photo: {}']"
            )
        return
    for name in ("paraphrase", "drop_first_sentence", "sentence_order"):
        if name in changes:
            raise UsageError(
                f"wording {wording.name}: `{name}` is for captions, and {protocol.dataset} has "
                "classes: declare templates, synonyms or case"
            )


def replaced_names(names: Sequence[str], wording: Wording, dataset: str) -> tuple[str, ...]:
    """Return the names of classes with the synonyms and the case of a wording.

    Args:
        names: The names of all classes of the data set, or all prompts.
        wording: The wording.
        dataset: The name of the data set, for messages.

    Raises:
        UsageError: For a synonym of a name that the data set does not have.
    """
    for name in wording.synonyms:
        if name not in names:
            raise UsageError(
                f"wording {wording.name}: {dataset} has no class '{name}'; nearest: "
                f"{nearest(name, names)}"
            )
    return tuple(in_case(wording.synonyms.get(name, name), wording) for name in names)


def worded_templates(templates: tuple[str, ...] | str, wording: Wording) -> tuple[str, ...] | str:
    """Return the prompt templates of a protocol with the changes of a wording.

    If the templates are a known set that stays the same, the name of the set is returned.
    """
    templates = wording.templates or templates
    if wording.case is None:
        return templates
    return tuple(in_case(template, wording) for template in resolve_templates(templates))


def in_case(text: str, wording: Wording) -> str:
    """Return a text in the case of a wording. For `lower`, "a Photo" becomes "a photo"."""
    match wording.case:
        case "lower":
            return text.lower()
        case "upper":
            return text.upper()
        case "title":
            return text.title()
    return text


def reworded_data(protocol: Protocol, data: Data) -> Data:
    """Return the opened data of a protocol with its wording. The images stay the same objects.

    Data without captions are returned unchanged: prompts are changed when they are made.

    Raises:
        UsageError: If the wording changes no caption, or if it makes two captions equal between
            which a model must choose.
    """
    wording = protocol.wording
    if wording is None or protocol.task not in _CAPTION_TASKS:
        return data
    captions = tuple(reworded_caption(caption, wording) for caption in data.captions)
    if captions == data.captions:
        raise UsageError(
            f"wording {wording.name} leaves all captions of {protocol.dataset} as they are: leave "
            "it out, or declare another one in a file (--wordings FILE)"
        )
    if protocol.task == "select":
        for indices in data.captions_of_item:
            if len({captions[index] for index in indices}) < len(indices):
                raise UsageError(
                    f"wording {wording.name} makes captions of {protocol.dataset} equal that are "
                    f"to be told apart, such as '{captions[indices[0]]}'"
                )
    return data._replace(captions=captions)


def reworded_caption(caption: str, wording: Wording) -> str:
    """Return a caption with all changes of a wording.

    Example:
        "A dog. It runs." becomes "It runs. A dog." if sentences are reversed.
    """
    text = caption
    if wording.paraphrase or wording.drop_first_sentence or wording.sentence_order:
        text = _reworded_sentences(text, wording)
    for word, synonym in wording.synonyms.items():
        text = re.sub(rf"\b{re.escape(word)}\b", synonym.replace("\\", r"\\"), text)
    if wording.templates:
        text = wording.templates[0].replace("{}", text)
    return in_case(text, wording)


def _reworded_sentences(caption: str, wording: Wording) -> str:
    """Return a caption whose sentences are paraphrased, left out and put into another order.

    If the caption ends with a full stop, so does the result.
    """
    sentences = split_sentences(caption)
    if wording.paraphrase is not None:
        sentences = [scene_wordings.paraphrase(text, wording.paraphrase) for text in sentences]
    if wording.drop_first_sentence and len(sentences) > 1:
        sentences = sentences[1:]
    if wording.sentence_order == "reversed":
        sentences = sentences[::-1]
    elif wording.sentence_order is not None:
        random.Random(f"{wording.sentence_order} {caption}").shuffle(sentences)
    end = "." if caption.rstrip().endswith(".") else ""
    return ". ".join(sentences) + end
