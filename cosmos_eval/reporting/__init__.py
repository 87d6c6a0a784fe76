"""Write all results as one web page, and draw attention maps and label maps of an image.

`content.content_of` compares everything that can be compared, `gallery.collect` draws examples, and
`page.to_page` writes both as a page that needs no other file. Torch is imported only if a model has
to be loaded.
"""

from pathlib import Path

from cosmos_core.utils.files import write_atomically
from cosmos_eval.types import UsageError


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises UsageError if it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
