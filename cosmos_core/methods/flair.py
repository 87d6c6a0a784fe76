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

    # The features of the B images (1, B, D), L2-normalised.
    image: Tensor
    # The features of the K captions of each image (K, B, D), L2-normalised.
    text: Tensor
    # The queries of the captions (K, B, D), with which the patches of images are pooled.
    queries: Tensor
    # The keys of the N patches of each image (N, B, D).
    keys: Tensor
    # The values of the N patches of each image (N, B, D).
    values: Tensor
    # The weight of the output layer of the pooling (D, D).
    weight: Tensor
    # The bias of the output layer of the pooling (D,).
    bias: Tensor
    # The exponentiated scale of the logits, 0-d.
    logit_scale: Tensor
    # The bias that is added to the logits, 0-d.
    logit_bias: Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FlairMethod:
    """FLAIR: sigmoid losses of one view of an image and several captions, without a teacher.

    A caption has 1 to `text.max_sentences` sentences. The first loss compares it with a feature
    that it pools from the patches of the image, and the second one with the image's feature.
    """

    name: str = "flair"
    # The bias of the logits at the start, as in SigLIP.
    bias: float = INITIAL_BIAS
    # The number of captions of each image.
    captions: Positive = 8
    # The paper's names of the text-conditioned and of the multi-positive sigmoid loss.
    terms = ("tcs", "mps")
    image = ClipMethod.image

    @property
    def counts(self) -> ViewCounts:
        """The views of a sample: one global image and several captions."""
        return ViewCounts(
            global_images=1, local_images=False, global_texts=self.captions, local_texts=False
        )

    def create_student(self, architecture: Architecture) -> Flair:
        """Create FLAIR's model with random weights and SigLIP's initial scale."""
        student = add_bias(create_model(architecture, "flair"), self.bias)
        assert isinstance(student, Flair)
        return student

    def student_features(self, student: Flair, views: Views) -> FlairFeatures:
        """Return the features of images and captions, and the projections for the pooling.

        `views` has one global image (1, B, 3, H, W) and K captions (K, B, S) of each sample.
        """
        # Encode the only view of each image, and project its patches to keys and values.
        image, keys, values = student.image_tokens_projected(views.global_images[0])
        # Encode the K captions of all images as one batch: (K, B, S) -> (K * B, S).
        captions = views.texts.flatten(0, 1)
        text = student.encode_text(captions).unflatten(0, views.texts.shape[:2])
        output_layer = student.visual_proj.attn.out_proj
        # The first dimension of features is the view, or the patch for keys and values.
        return FlairFeatures(
            image=normalize(image, dim=-1)[None],
            text=normalize(text, dim=-1),
            queries=student.visual_proj.queries(text),
            keys=keys.transpose(0, 1),
            values=values.transpose(0, 1),
            weight=output_layer.weight,
            bias=output_layer.bias,
            logit_scale=student.logit_scale.exp(),
            logit_bias=student.logit_bias,
        )

    def teacher_features(self, teacher: Flair, views: Views) -> None:
        """Return None, because the loss does not use the teacher. It is only evaluated."""

    def loss(self, student: FlairFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return FLAIR's two losses, each with the published weight of 1/2.

        The images of this process are compared with the captions of all processes, which `gather`
        collects. `student` is the result of `student_features`.
        """
        texts, queries = gather([student.text, student.queries])
        pooling = Pooling(
            full_precision(student.keys.transpose(0, 1)),
            full_precision(student.values.transpose(0, 1)),
            student.weight,
            student.bias,
        )
        text_conditioned_loss = pooled_sigmoid_loss(
            pooling.pool, queries, texts, student.logit_scale, student.logit_bias
        )
        multi_positive_loss = sigmoid_loss(
            student.image[0], texts, student.logit_scale, student.logit_bias
        )
        return LossTerms(tcs=text_conditioned_loss / 2, mps=multi_positive_loss / 2)
