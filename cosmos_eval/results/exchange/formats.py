"""All file formats of other tools."""

from collections.abc import Mapping

from cosmos_eval.results.exchange import (
    clip_benchmark,
    datacomp,
    every_eval_ever,
    huggingface,
    openclip,
)
from cosmos_eval.results.exchange.record import Format

FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        clip_benchmark.FORMAT,
        datacomp.FORMAT,
        openclip.FORMAT,
        huggingface.FORMAT,
        every_eval_ever.FORMAT,
    )
}
"""The formats by their names. The first format that recognises a file reads it."""
