"""Losses, one a file."""

from cosmos_core.losses.clip import clip_loss, contrastive_loss
from cosmos_core.losses.common import gather_locally
from cosmos_core.losses.cosmos import cosmos_loss
from cosmos_core.losses.silc import move_center, silc_loss
from cosmos_core.losses.slip import simclr_loss, slip_loss

__all__ = [
    "clip_loss",
    "contrastive_loss",
    "cosmos_loss",
    "gather_locally",
    "move_center",
    "silc_loss",
    "simclr_loss",
    "slip_loss",
]
