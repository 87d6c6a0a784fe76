"""Names of ImageNet's classes in other languages, with templates, from the package clip_benchmark.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.data.class_names import ClassData
from cosmos_eval.protocols.declared import read_yaml
from cosmos_eval.types import UsageError

_BABEL = "babel/"  # the beginning of the names of Babel-ImageNet's translations


class Translation(NamedTuple):
    """Some or all of ImageNet's 1,000 classes in another language."""

    # Indices (C,) of the classes, in the order of their WordNet ids.
    class_indices: tuple[int, ...]
    # The names of the C classes in prompts.
    names: tuple[str, ...]
    # Prompt templates with one `{}` each.
    templates: tuple[str, ...]


@cache
def read_translation(name: str) -> Translation:
    """Return the names and templates of ImageNet's classes in a language.

    Args:
        name: `it` for the classes of it_classnames.json, which has all of them in order, or
            `babel/de` for the classes of babel_imagenet.json, which has some of them.

    Raises:
        UsageError: If the installed package has other files.
    """
    if name.startswith(_BABEL):
        language = name.removeprefix(_BABEL).upper()
        indices, names = _read_checked("babel_imagenet.json")[language]
        templates = _read_checked("nllb_dist13b_prompts.json")[language]
        return Translation(tuple(indices), tuple(names), tuple(templates))
    names = _read_checked(f"{name}_classnames.json")["imagenet1k"]
    templates = _read_checked(f"{name}_zeroshot_classification_templates.json")["imagenet1k"]
    filled_templates = tuple(template.replace("{c}", "{}") for template in templates)
    return Translation(tuple(range(len(names))), tuple(names), filled_templates)


def translate_classes(data: ClassData, name: str) -> ClassData:
    """Return ImageNet's data with the classes, names and templates of a translation.

    Images of classes that the translation lacks are left out.

    Args:
        data: The images of ImageNet's 1,000 classes, in the order of their WordNet ids.
        name: The name of the translation, such as `babel/de`.
    """
    translation = read_translation(name)
    kept_images = np.flatnonzero(np.isin(data.labels, translation.class_indices)).tolist()
    data = data.select(kept_images)

    # Number the remaining classes again.
    new_label_of_class = np.full(max(translation.class_indices) + 1, -1)
    new_label_of_class[list(translation.class_indices)] = np.arange(len(translation.names))
    return data._replace(
        classes=tuple(data.classes[index] for index in translation.class_indices),
        labels=new_label_of_class[data.labels],
        prompts=translation.names,
        templates=translation.templates,
    )


@cache
def _read_checked(file_name: str) -> dict[str, Any]:
    """Return the content of a JSON file of the package clip_benchmark.

    Raise UsageError unless its SHA-256 is the one that languages.yaml states.
    """
    content = files("clip_benchmark").joinpath("datasets", file_name).read_bytes()
    if hashlib.sha256(content).hexdigest() != read_yaml("languages")[".sha256"][file_name]:
        raise UsageError(
            f"the installed clip_benchmark has another {file_name}: install clip_benchmark==1.6.2"
        )
    return dict(json.loads(content))
