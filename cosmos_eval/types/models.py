"""Models: how they are specified, what identifies them, and the forms in which they are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

Weights = Literal["teacher", "student"]
Attention = Literal["vanilla", "csa", "maskclip", "clearclip", "naclip", "proxy", "crossmodal"]
Precision = Literal["fp32", "amp", "bf16", "fp16"]
"""The precision of models with float32 weights.

`amp` is autocast: to float16 on CUDA, to bfloat16 on a CPU.
"""
MapKind = Literal[
    "cross-attention",
    "log ratio to the empty text",
    "log ratio to the mean over texts",
    "values of cross-attention",
    "text-to-patch similarity",
]
"""The quantity that an attention map over an image shows.

`cosmos_eval.models.maps` has the formulas. Every model has the last kind. Only models with a
cross-attention module have the others.
"""
MapName = Literal["cross-attention", "empty-ratio", "texts-ratio", "values", "similarity"]
MAPS: Mapping[MapName, MapKind] = dict(zip(get_args(MapName), get_args(MapKind), strict=True))
"""The kinds of attention maps by their short names, which options and protocols use."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model that a user names on the command line or in Python, before it is loaded."""

    # The specification as it was typed, such as `openclip:ViT-B-32/openai`.
    text: str
    kind: Literal["bundled", "cosmos", "openclip", "hf", "python", "timm"]
    # The specification without its kind.
    name: str
    # An OpenCLIP architecture, a JSON file, or JSON itself.
    arch: str | None = None
    weights: Weights = "teacher"
    # The facts about its training that a checkpoint states, such as the seed.
    training: Mapping[str, Any] | None = field(default=None, hash=False)
    # The name of the model in results, if the user or the user's Python file gives it another one.
    label: str | None = None
    # The arguments of the function in a Python file.
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def called(self) -> str:
        """The name of the model in results: the user's label, or else the specification."""
        return self.label or self.text

    def named_by(self, info: EncoderInfo) -> ModelSpec:
        """Return the specification with the name that the loaded model has, if it has one.

        A name that the user chose with `--name` stays.
        """
        if self.label is not None or info.name is None:
            return self
        return replace(self, label=info.name)


class EncoderInfo(NamedTuple):
    """The identity of a loaded model, which is stored with every result."""

    # The specification as the user typed it.
    spec: str
    # The name of the architecture, such as `ViT-B-16`.
    architecture: str
    # None if the model has only one set of weights.
    weights: Weights | None
    # The SHA-256 of the weights; None for random weights.
    weights_sha256: str | None
    # Whether the weights are random.
    random: bool
    precision: Precision
    device: str
    # The SHA-256 of the user's Python file that made the model; None for other models.
    code_sha256: str | None = None
    # The commit of the repository on the Hugging Face hub, if `hf:` names one.
    revision: str | None = None
    # The record of the encoder that guides the attention of the last block, if there is one.
    auxiliary: Mapping[str, Any] | None = None
    # The name of the model in results that a user's Python file states; None: the specification.
    name: str | None = None
    # The SHA-256 of the tensors and the configuration that were loaded, whatever files hold them.
    # None if it is unknown.
    loaded_sha256: str | None = None
    # The SHA-256 of the preprocessing of images, if a file beside the weights may state it and it
    # is not the usual one; None for the usual one.
    preprocessing_sha256: str | None = None


class CaptionWord(NamedTuple):
    """A word of a text, and the positions of its tokens in the context."""

    text: str
    # The tokens are at the positions start, ..., stop - 1. Position 0 is the start-of-text token.
    # If the text was cut to fit the context, words may lie beyond it.
    start: int
    stop: int
    # Whether white space precedes the word in the text.
    spaced: bool
