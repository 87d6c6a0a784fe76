"""Images inside of text files."""

from __future__ import annotations

import base64
import io

from PIL import Image

_QUALITY = 90


def data_uri(image: Image.Image) -> str:
    """An image as JPEG in a `data:` address."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
