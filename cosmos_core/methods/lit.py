"""LiT (arXiv 2111.07991): CLIP with a locked image tower; only the text tower learns.

`model.init` names the weights of the image tower. As in OpenCLIP its projection is locked too.
"""

from pydantic.dataclasses import dataclass

from cosmos_core.config import STRICT
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.model.build import Architecture
from cosmos_core.model.clip import MultiViewCLIP


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LitMethod(ClipMethod):
    """LiT: CLIP whose image tower is frozen, so that it stores no activations for backward."""

    name: str = "lit"

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        """Create OpenCLIP's CLIP with random weights, and freeze its image tower."""
        student = super().create_student(architecture)
        student.visual.requires_grad_(False)
        return student
