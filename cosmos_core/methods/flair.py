"""FLAIR (arXiv 2412.03561; loss and constants: github.com/ExplainableML/flair)."""

from typing import NamedTuple

from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize

from cosmos_core.config import STRICT, Positive
from cosmos_core.losses import full_precision, pooled_sigmoid_loss, sigmoid_loss
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.methods.siglip import INITIAL_BIAS, add_bias
from cosmos_core.model.build import Architecture, create_model
from cosmos_core.model.flair import Flair, Pooling
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views


class FlairFeatures(NamedTuple):
    """The features of a batch for FLAIR's losses."""

    image: Tensor  # (1, B, D), L2-normalised
    text: Tensor  # K captions of each image, (K, B, D), L2-normalised
    queries: Tensor  # of the captions, (K, B, D)
    keys: Tensor  # of the N patches, (N, B, D)
    values: Tensor  # of the N patches, (N, B, D)
    weight: Tensor  # of the pooling's output layer, (D, D)
    bias: Tensor  # of the pooling's output layer, (D,)
    logit_scale: Tensor  # 0-d, exponentiated
    logit_bias: Tensor  # 0-d


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FlairMethod:
    """One view against several captions, each of 1 to `text.max_sentences` (3) sentences."""

    name: str = "flair"
    bias: float = INITIAL_BIAS  # of the logits at the start, as in SigLIP
    captions: Positive = 8  # of each image
    terms = ("tcs", "mps")  # the paper's names: text-conditioned and multi-positive sigmoid loss
    image = ClipMethod.image

    @property
    def counts(self) -> ViewCounts:
        return ViewCounts(1, local_images=False, global_texts=self.captions, local_texts=False)

    def create_student(self, architecture: Architecture) -> Flair:
        student = add_bias(create_model(architecture, "flair"), self.bias)
        assert isinstance(student, Flair)
        return student

    def student_features(self, student: Flair, views: Views) -> FlairFeatures:
        image, keys, values = student.image_tokens_projected(views.global_images[0])
        text = student.encode_text(views.texts.flatten(0, 1)).unflatten(0, views.texts.shape[:2])
        queries = student.visual_proj.queries(text)
        return FlairFeatures(
            normalize(image, dim=-1)[None],
            normalize(text, dim=-1),
            queries,
            keys.transpose(0, 1),
            values.transpose(0, 1),
            student.visual_proj.attn.out_proj.weight,
            student.visual_proj.attn.out_proj.bias,
            logit_scale=student.logit_scale.exp(),
            logit_bias=student.logit_bias,
        )

    def teacher_features(self, teacher: Flair, views: Views) -> None:
        """Return nothing: the moving average serves evaluation only."""

    def loss(self, student: FlairFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return both losses, each with the published weight of 1/2."""
        texts, queries = gather([student.text, student.queries])
        keys = full_precision(student.keys.transpose(0, 1))
        values = full_precision(student.values.transpose(0, 1))
        pooling = Pooling(keys, values, student.weight, student.bias)
        scale, bias = student.logit_scale, student.logit_bias
        tcs = pooled_sigmoid_loss(pooling.pool, queries, texts, scale, bias)
        mps = sigmoid_loss(student.image[0], texts, scale, bias)
        return LossTerms(tcs=tcs / 2, mps=mps / 2)
