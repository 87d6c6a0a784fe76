"""SLIP (arXiv 2112.12750): CLIP on a weakly augmented view, SimCLR on two strongly augmented views.

If there is no view for captions (`image.caption_scale`), as in the recipes on scenes, CLIP uses the
two strongly augmented views. Unlike the paper's, the head has no batch normalisation, and reads the
joint embedding, not the tower's last layer.
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
    """SLIP, with the widths of the head in github.com/facebookresearch/SLIP."""

    name: str = "slip"
    hidden: Positive = 4096
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
        student = create_model(architecture, "clip")
        width = model_config(architecture)["embed_dim"]
        student.add_module(HEAD, ProjectionHead(width, self.hidden, self.out))
        return student

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        features = clip_features(student, views)
        strong_views = self.counts.global_images
        strong = features.image[-strong_views:]
        has_caption_view = len(features.image) > strong_views
        caption_views = features.image[:-strong_views] if has_caption_view else strong
        projections = student.get_submodule(HEAD)(strong)
        return features._replace(image=caption_views, head=F.normalize(projections, dim=-1))

    def loss(self, student: ClipFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return CLIP plus SimCLR, unweighted as published."""
        assert student.head is not None
        return slip_loss(student.image, student.text, student.logit_scale, student.head, gather)
