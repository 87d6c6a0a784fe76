"""SLIP (arXiv 2112.12750): CLIP on a weakly augmented view, SimCLR on two strongly augmented views.

The option `image.caption_scale` configures the weakly augmented view. Without it, as in the recipes
on scenes, CLIP uses the two strongly augmented views. In the paper the head has batch normalisation
and reads the last layer of the image tower. Here it has none and reads the joint embedding.
"""

import torch.nn.functional as F
from pydantic.dataclasses import dataclass

from cosmos_core.config import STRICT, ImageViewConfig, Positive
from cosmos_core.losses import slip_loss
from cosmos_core.methods.clip import ClipFeatures, ClipMethod, clip_features
from cosmos_core.model.build import Architecture, create_model, model_config
from cosmos_core.model.clip import HEAD, MultiViewCLIP, ProjectionHead
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SlipMethod(ClipMethod):
    """SLIP: CLIP, and SimCLR's self-supervised loss of images.

    The head has the sizes of github.com/facebookresearch/SLIP.
    """

    name: str = "slip"
    # The width of the head's hidden layers.
    hidden: Positive = 4096
    # The width of the head's output.
    out: Positive = 256
    counts = ViewCounts(global_images=2, local_images=False, global_texts=1, local_texts=False)
    terms = ("clip", "simclr")
    # github.com/facebookresearch/SLIP: train_transform of main.py, augment of datasets.py.
    image = ImageViewConfig(
        caption_scale=(0.5, 1.0),
        global_scale=(0.08, 1.0),
        jitter=(0.4, 0.4, 0.4, 0.1),
        blur_p=(0.5, 0.5, 0.5),
        solarize_p=0.0,
    )

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        """Create OpenCLIP's CLIP with random weights, and add a projection head to it."""
        student = create_model(architecture, "clip")
        embed_dim = model_config(architecture)["embed_dim"]
        student.add_module(HEAD, ProjectionHead(embed_dim, self.hidden, self.out))
        return student

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        """Return the features for CLIP's loss, and the strong views' projections for SimCLR's loss.

        The last two global images are the strongly augmented views. The image before them, if there
        is one, is the weakly augmented view for CLIP.
        """
        features = clip_features(student, views)
        n_strong_views = self.counts.global_images
        strong_features = features.image[-n_strong_views:]
        weak_features = features.image[:-n_strong_views]
        has_weak_view = len(weak_features) > 0
        clip_image_features = weak_features if has_weak_view else strong_features
        projections = F.normalize(student.get_submodule(HEAD)(strong_features), dim=-1)
        return features._replace(image=clip_image_features, head=projections)

    def loss(self, student: ClipFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return CLIP's loss and SimCLR's loss, which have the same weight as published."""
        assert student.head is not None
        return slip_loss(student.image, student.text, student.logit_scale, student.head, gather)
