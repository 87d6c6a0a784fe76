"""FLAIR (arXiv 2412.03561): one view of the image against several captions made of few sentences,
as a whole and as each caption pools it. Loss and constants: github.com/ExplainableML/flair."""

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
    """`image` (1, B, D) and `text` (K, B, D), L2-normalised, `queries` (K, B, D) of the captions,
    `keys` and `values` (N, B, D) of the patches; the pooling's output layer, the exponentiated
    scale, and the bias."""

    image: Tensor
    text: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    weight: Tensor
    bias: Tensor
    logit_scale: Tensor
    logit_bias: Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FlairMethod:
    """`captions` K are drawn per image, each of 1 to `text.max_sentences` sentences (published: 8
    and 3). `bias` is as SigLIP's."""

    name: str = "flair"
    bias: float = INITIAL_BIAS
    captions: Positive = 8
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
        feature, *patches = student.image_tokens_projected(views.global_images[0])
        text = student.encode_text(views.texts.flatten(0, 1)).unflatten(0, views.texts.shape[:2])
        queries = student.visual_proj.queries(text)
        keys, values = (tokens.transpose(0, 1) for tokens in patches)
        output, scalars = (
            student.visual_proj.attn.out_proj,
            (student.logit_scale.exp(), student.logit_bias),
        )
        pair = normalize(feature, dim=-1)[None], normalize(text, dim=-1)
        return FlairFeatures(*pair, queries, keys, values, output.weight, output.bias, *scalars)

    def teacher_features(self, teacher: Flair, views: Views) -> None:
        """Return nothing: the moving average serves evaluation only."""

    def loss(self, student: FlairFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return both losses, each with the published weight of 1/2."""
        texts, queries = gather([student.text, student.queries])
        scalars = student.logit_scale, student.logit_bias
        keys, values = (full_precision(t.transpose(0, 1)) for t in (student.keys, student.values))
        pool = Pooling(keys, values, student.weight, student.bias).pool
        tcs = pooled_sigmoid_loss(pool, queries, texts, *scalars)
        mps = sigmoid_loss(student.image[0], texts, *scalars)
        return LossTerms(tcs=tcs / 2, mps=mps / 2)
