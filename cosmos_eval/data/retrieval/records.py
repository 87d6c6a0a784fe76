"""What every form of captions has in common: images, their captions, and what is wrong with them.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from cosmos_eval.types import RetrievalProtocol, UsageError

# Keys of records and columns of tables: those of BLIP's lists (github.com/salesforce/BLIP), and
# those that open_clip_train/params.py of github.com/mlfoundations/open_clip takes for usual.
IMAGE_KEYS = ("image", "filepath")
CAPTION_KEYS = ("caption", "captions", "title")


class Captioned(NamedTuple):
    """An image, by its path as the file has it, and its captions."""

    name: str
    captions: tuple[str, ...]


class Keys(NamedTuple):
    """Names of an image and of its captions, of which a record has one each."""

    image: tuple[str, ...] = IMAGE_KEYS
    caption: tuple[str, ...] = CAPTION_KEYS

    @classmethod
    def of(cls, protocol: RetrievalProtocol) -> Keys:
        """The usual names, unless the protocol has its own."""
        image, caption = protocol.image_key, protocol.caption_key
        return cls((image,) if image else IMAGE_KEYS, (caption,) if caption else CAPTION_KEYS)


def captioned(record: Any, keys: Keys, where: str) -> Captioned:
    """A record {image: path, caption: text or texts}. Raises UsageError that says where."""
    if not isinstance(record, Mapping):
        raise UsageError(f"{where}: must be a record with an image and its captions")
    name = record[the_one(keys.image, record, where)]
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{where}: the image must be a path, not {name!r}")
    return Captioned(name, texts(record[the_one(keys.caption, record, where)], where))


def the_one(wanted: Iterable[str], present: Collection[str], where: str) -> str:
    """The only one of the wanted names that is present. Raises UsageError for none or several."""
    found = [name for name in wanted if name in present]
    if len(found) == 1:
        return found[0]
    names = " or ".join(f"`{name}`" for name in wanted)
    if found:
        raise UsageError(
            f"{where}: has {' and '.join(found)}; say which with image_key or caption_key"
        )
    raise UsageError(f"{where}: no {names}, only {', '.join(map(str, present)) or 'nothing'}")


def texts(value: Any, where: str) -> tuple[str, ...]:
    """One caption or several. Raises UsageError where there is none, or a blank one."""
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise UsageError(f"{where}: captions must be text or a list of texts, not {value!r}")
    if not found:
        raise UsageError(f"{where}: an image without captions")
    for caption in found:
        if not isinstance(caption, str) or not caption.strip():
            raise UsageError(f"{where}: a caption is blank or no text: {caption!r}")
    return tuple(found)


def merged(records: Iterable[Captioned]) -> list[Captioned]:
    """Records of one image become one, images and captions in the order they come in."""
    captions: dict[str, list[str]] = {}
    for record in records:
        captions.setdefault(record.name, []).extend(record.captions)
    return [Captioned(name, tuple(some)) for name, some in captions.items()]


def require_distinct(names: Iterable[object], what: str) -> None:
    """Raises UsageError that names the first one given twice; `what` says what they are."""
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{what} {name} is listed twice")
        seen.add(name)
