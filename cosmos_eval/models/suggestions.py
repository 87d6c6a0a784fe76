"""Suggestions for names of models that users mistype: an architecture alone, or a path alone."""

import importlib.util
import os
import re
from pathlib import Path

from cosmos_core.utils.text import nearest_names
from cosmos_eval.models.specs import BUNDLED, DESCRIPTION, RELEASED

_MOST_TAGS = 5  # of OpenCLIP's weights for one architecture that a message lists
_WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def suggest_model(text: str) -> str | None:
    """Return the specification that a user may have meant by another text; None if none is likely.

    Several specifications of one architecture are shortened: "openclip:ViT-B-32/openai (or
    laion400m_e31, ...)" for "ViT-B-32", "python:my_clip.py" for "my_clip.py".
    """
    path_without_arguments = text.partition("?")[0]
    if path_without_arguments.endswith(".py"):
        return f"python:{text}"
    folder_suggestion = _suggest_for_folder(text)
    if folder_suggestion is not None:
        return folder_suggestion
    if text.endswith(_WEIGHTS_SUFFIXES):
        return f"cosmos:{text}, or openclip:ARCH/{text} for an architecture ARCH of OpenCLIP"
    if text in RELEASED:
        return f"cosmos:{text}"
    architecture_suggestion = suggest_architecture(text)
    if architecture_suggestion is not None:
        return architecture_suggestion
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return f"hf:{text}"
    return None


def nearest_models(text: str) -> list[str]:
    """Return the specifications of up to three models whose names are most similar to a text.

    TAG stands for the name of the weights in specifications of OpenCLIP: "openclip:ViT-B-32/TAG"
    for "ViTB32".
    """
    spec_by_name = {name: name for name in BUNDLED}
    spec_by_name.update({name: f"cosmos:{name}" for name in RELEASED})
    spec_by_name.update({name: f"openclip:{name}/TAG" for name in _list_architectures()})
    _, _, name_without_kind = text.rpartition(":")
    return [spec_by_name[name] for name in nearest_names(name_without_kind, spec_by_name)]


def nearest_guides(text: str) -> list[str]:
    """Return the names of up to three ViTs of timm, as `--auxiliary` takes them, nearest to a text.

    They have pretrained weights: "timm:vit_base_patch8_224.dino" and two others for "dino".
    """
    import timm  # which imports torch

    _, _, name_without_kind = text.rpartition(":")
    names = nearest_names(name_without_kind, timm.list_models("vit_*", pretrained=True))
    return [f"timm:{name}" for name in names]


def suggest_architecture(text: str) -> str | None:
    """Return the specifications of an architecture of OpenCLIP with its published weights.

    "RN50/yfcc15m" gives "openclip:RN50/yfcc15m", and "RN50" gives "openclip:RN50/openai (or
    yfcc15m, cc12m)". "ViT-B/32" is read as "ViT-B-32", as OpenAI writes it. Capital letters do not
    matter. None if the architecture does not exist.
    """
    architecture_by_lower_case = {name.lower(): name for name in _list_architectures()}
    name = text.strip("/")
    arch_part, _, tag = name.partition("/")
    arch = architecture_by_lower_case.get(arch_part.lower())
    if arch is None:
        arch = architecture_by_lower_case.get(name.replace("/", "-").lower())
        tag = ""
    if arch is None:
        return None

    import open_clip  # which imports torch

    tags = open_clip.list_pretrained_tags_by_model(arch)
    if not tags:
        return f"openclip:{arch}/PATH, with a file of weights"
    if tag in tags:
        return f"openclip:{arch}/{tag}"
    first_tag, *other_tags = tags
    if not other_tags:
        return f"openclip:{arch}/{first_tag}"
    listed_tags = ", ".join(other_tags[: _MOST_TAGS - 1])
    dots = ", ..." if len(tags) > _MOST_TAGS else ""
    return f"openclip:{arch}/{first_tag} (or {listed_tags}{dots})"


def _suggest_for_folder(text: str) -> str | None:
    """Return the specification of the model in a folder; None without a model or a folder."""
    # Unlike Path.is_file, os.path.isfile raises no error for a text too long for a file's name.
    folder = Path(text)
    if os.path.isfile(folder / DESCRIPTION):
        return f"openclip:{text}"
    if os.path.isfile(folder / "config.json"):
        return f"hf:{text}"
    checkpoint = folder / "checkpoint.safetensors"  # as `cosmos-train` writes it
    if os.path.isfile(checkpoint):
        return f"cosmos:{checkpoint}"
    return None


def _list_architectures() -> list[str]:
    """Return the names of OpenCLIP's architectures, which its configuration files have.

    OpenCLIP is not imported, since that takes seconds.
    """
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package else None
    names = []
    for folder in folders or ():
        names += [path.stem for path in Path(folder, "model_configs").glob("*.json")]
    return sorted(names)
