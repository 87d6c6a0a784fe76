"""Cues with candidate images, as WinoGAViL lists them. Imports no torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.readers import FileError, faults_of, parse_list, read_records, shortened
from cosmos_eval.data.sources import ImageFile, ImageSource, image_finder
from cosmos_eval.types import AssociationProtocol, Part, RunOptions, UsageError


class AssociationData(NamedTuple):
    """Every distinct image and prompt once, and items that refer to them: the index of a prompt,
    those of its candidates (n,), and which of these are associated with it (n,)."""

    names: tuple[str, ...]  # (I) of images, as the file has them
    images: tuple[ImageSource, ...]
    captions: tuple[str, ...]  # the prompts of cues
    items: tuple[tuple[int, NDArray[np.int64], NDArray[np.bool_]], ...]
    part: Part | None = None  # how many items there are of an incomplete known set


def open_data(protocol: AssociationProtocol, options: RunOptions) -> AssociationData:
    """Read the items, all or the partial set allowed. Raises UsageError for any fault."""
    return list_data(protocol, options).require(protocol, options)


def list_data(
    protocol: AssociationProtocol, options: RunOptions
) -> folders.Listing[AssociationData]:
    """List items and images, with all faults. Raises UsageError where items are unreadable."""
    path = folders.data_path(protocol, options, protocol.annotations, "items")
    place = folders.data_path(protocol, options, protocol.images, "images")
    with faults_of(f"{path}: "):
        items = [_item(record, where) for where, record in read_records(path)]
    if not items:
        raise UsageError(f"{path} holds no items")
    parts = folders.parts_of(items=(len(items), protocol.n_items))
    kept = items[: options.limit]
    names = folders.index(name for _, candidates, _ in kept for name in candidates)
    prompts = folders.index(prompt for prompt, _, _ in kept)
    files = [name + protocol.image_suffix for name in names]
    found = [*map(image_finder(place), files)]
    missing = [file for file, image in zip(files, found, strict=True) if image is None]
    what = f"{len(missing)} of the {len(files)} images of {path} are not there, first: "
    return folders.Listing(
        data=AssociationData(
            names=tuple(names),
            images=tuple(one or ImageFile(place / f) for f, one in zip(files, found, strict=True)),
            captions=tuple(prompts),
            items=tuple(
                (prompts[prompt], np.array([names[name] for name in candidates]), right)
                for prompt, candidates, right in kept
            ),
            part=folders.shortfall(parts),
        ),
        where=path,
        parts=parts,
        survey=folders.Survey(
            faults=tuple(
                f"{what}{place / file}{folders.beside(place / file)}" for file in missing[:1]
            ),
            folder=str(place),
            expected=len(files),
            images=len(files) - len(missing),
            expected_items=protocol.n_items or len(items),
            items=len(items),
        ),
    )


def _item(record: Any, where: str) -> tuple[str, list[str], NDArray[np.bool_]]:
    """Return prompt, candidates and which are right. The prompt is that of DataComp's
    eval_utils/wino_eval.py (get_clip_prompt)."""
    fields = record if isinstance(record, Mapping) else {}
    cue = fields.get("cue")
    if not isinstance(cue, str) or not cue.strip():
        raise FileError(f"{where}: `cue` must be text, not {shortened(cue)}")
    candidates, right = (_names(fields, key, where) for key in ("candidates", "associations"))
    chosen = np.isin(candidates, right)
    if not chosen.any():
        raise FileError(f"{where}: none of `associations` is among the candidates")
    return f"{'An' if cue[0].lower() in 'aeiou' else 'A'} {cue.lower()}", candidates, chosen


def _names(fields: Mapping[str, Any], key: str, where: str) -> list[str]:
    names = parse_list(fields.get(key))
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise FileError(f"{where}: `{key}` must be a list of names, not {shortened(names)}")
    return names
