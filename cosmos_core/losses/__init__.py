"""Losses, one per file."""

from cosmos_core.losses.clip import clip_loss as clip_loss
from cosmos_core.losses.clip import contrastive_loss as contrastive_loss
from cosmos_core.losses.common import gather_locally as gather_locally
from cosmos_core.losses.cosmos import cosmos_loss as cosmos_loss
from cosmos_core.losses.silc import move_center as move_center
from cosmos_core.losses.silc import silc_loss as silc_loss
from cosmos_core.losses.slip import simclr_loss as simclr_loss
from cosmos_core.losses.slip import slip_loss as slip_loss
