"""Write all results as one web page, and draw attention maps and label maps of an image.

`content.content_of` compares everything that can be compared, `gallery.collect` draws examples, and
`page.to_page` writes both as a page that needs no other file. Torch is imported only if a model has
to be loaded.

The package has the name of its public function `write.report`, and can be called as this function.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cosmos_core.utils.files import write_atomically
from cosmos_eval.types import UsageError


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises UsageError if it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


class _CallablePackage(ModuleType):
    """A package that can be called: importing any of its modules hides the function of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Path:
        """Write a report, see `cosmos_eval.report.write.report`."""
        from cosmos_eval.report.write import report

        return report(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
