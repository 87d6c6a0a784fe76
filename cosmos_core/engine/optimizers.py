"""Create the optimizer of a training by its name in the option `optim.optimizer`."""

import inspect
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from cosmos_core.config import OptimConfig
from cosmos_core.utils.text import nearest

# The prefix of the names of timm's optimizers, such as "timm:lion".
TIMM = "timm:"
# Patterns of timm's optimizers that cannot be used, because they need other packages (bitsandbytes,
# apex) or second derivatives (adahessian), draw random numbers that no snapshot has (kron), or have
# a constant learning rate for weights that are not matrices (Muon in timm 1.0.24).
_UNUSABLE = ("bnb*", "fused*", "adahessian", "kron*", "*muon")


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of transformer blocks, and AdamW for all other parameters.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves a matrix along the orthogonal
    matrix that is nearest to its momentum. As in Moonlight (arXiv 2502.16982), the step has the
    root mean square of a step of AdamW, so that both have the same learning rate and weight decay.
    OpenCLIP's matrix of queries, keys and values is one matrix here.
    """

    def __init__(
        self,
        muon_groups: list[dict[str, Any]],
        adamw_groups: list[dict[str, Any]],
        optim: OptimConfig,
    ) -> None:
        """Create the optimizer.

        Args:
            muon_groups: Parameter groups whose parameters are matrices.
            adamw_groups: Parameter groups of all other parameters.
            optim: The learning rate, and the other constants of AdamW.
        """
        self._muon = torch.optim.Muon(muon_groups, lr=optim.lr, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(
            adamw_groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True
        )
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change all parameters by their gradients.

        Args:
            closure: Not used.
        """
        # The groups and the moments belong to this object, which snapshots store and restore.
        n_muon_groups = len(self._muon.param_groups)
        self._muon.param_groups = self.param_groups[:n_muon_groups]
        self._adamw.param_groups = self.param_groups[n_muon_groups:]
        for optimizer in (self._muon, self._adamw):
            optimizer.state = self.state
            optimizer.step()


def make_optimizer(
    groups: list[dict[str, Any]], model: nn.Module, optim: OptimConfig
) -> torch.optim.Optimizer:
    """Create the optimizer of a training.

    Args:
        groups: The parameter groups, as `param_groups` returns them.
        model: The model, whose transformer blocks decide the parameters of Muon.
        optim: The name of the optimizer, which `check_optimizer` has accepted, and its constants.
            An optimizer of timm gets the betas if it has two, and otherwise timm's constants.

    Raises:
        ValueError: If Muon would have no matrix to train.
    """
    if optim.optimizer == "muon":
        muon_groups, adamw_groups = _split_groups(groups, model)
        if not muon_groups:
            raise ValueError(
                "optim.optimizer=muon: no matrix of a transformer block is trained; take adamw"
            )
        return MuonWithAdamW(muon_groups, adamw_groups, optim)
    if optim.optimizer.startswith(TIMM):
        from timm.optim import create_optimizer_v2

        name = optim.optimizer.removeprefix(TIMM)
        if _has_two_betas(name):
            return create_optimizer_v2(groups, name, lr=optim.lr, betas=optim.betas)
        return create_optimizer_v2(groups, name, lr=optim.lr)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _split_groups(
    groups: list[dict[str, Any]], model: nn.Module
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split parameter groups into groups of Muon and groups of AdamW.

    Args:
        groups: The parameter groups, whose other values, such as "weight_decay", stay.
        model: The model. The matrices of its transformer blocks belong to Muon.
    """
    matrix_ids: set[int] = set()
    for module in model.modules():
        if isinstance(module, ResidualAttentionBlock):
            matrix_ids.update(id(weight) for weight in module.parameters() if weight.ndim == 2)

    muon_groups, adamw_groups = [], []
    for group in groups:
        matrices = [weight for weight in group["params"] if id(weight) in matrix_ids]
        other_weights = [weight for weight in group["params"] if id(weight) not in matrix_ids]
        if matrices:
            muon_groups.append(dict(group, params=matrices))
        adamw_groups.append(dict(group, params=other_weights))
    return muon_groups, adamw_groups


def _has_two_betas(timm_name: str) -> bool:
    """Return whether an optimizer of timm has two betas, as AdamW has.

    The betas of Adafactor do not count: they are None by default, and with betas it keeps a first
    moment, which it exists to avoid.
    """
    from timm.optim import get_optimizer_class, get_optimizer_info

    info = get_optimizer_info(timm_name)
    if not info.has_betas or info.num_betas != 2:
        return False
    optimizer_class = get_optimizer_class(timm_name, bind_defaults=False)
    return inspect.signature(optimizer_class).parameters["betas"].default is not None


def _has_corrected_weight_decay(timm_name: str) -> bool:
    """Return whether an optimizer of timm decays weights by lr**2 / lr_max, such as "adamc".

    `lr_max` is the learning rate of the whole training also for parameters with a factor of it, so
    that the factor would be squared.
    """
    from timm.optim import get_optimizer_info

    defaults = get_optimizer_info(timm_name).defaults or {}
    return bool(defaults.get("corrected_weight_decay"))


def timm_names() -> list[str]:
    """Return the names of the usable optimizers of timm, such as "lion"."""
    from timm.optim import list_optimizers

    return [str(name) for name in list_optimizers(exclude_filters=[*_UNUSABLE])]


def check_optimizer(optim: OptimConfig, parallel: str) -> None:
    """Check that the optimizer exists, and fits the other options.

    Args:
        optim: The options of the optimizer.
        parallel: How the weights are divided over processes: "ddp" means that they are not.

    Raises:
        ValueError: If it cannot be used. The message has one line.
    """
    name = optim.optimizer
    if name == "adamw":
        return
    if name == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ValueError("optim.optimizer=muon needs PyTorch 2.9 or later")
    elif name.startswith(TIMM):
        names = timm_names()
        timm_name = name.removeprefix(TIMM)
        if timm_name not in names:
            raise ValueError(
                f"optim.optimizer={name:.40}: not among the usable optimizers of timm; nearest: "
                f"{nearest(timm_name, names)}"
            )
        if optim.eps != OptimConfig.eps:
            raise ValueError(f"optim.optimizer={name} has an eps of its own; leave out optim.eps")
        if optim.betas != OptimConfig.betas and not _has_two_betas(timm_name):
            raise ValueError(
                f"optim.optimizer={name} does not take two betas; leave out optim.betas"
            )
        lr_factors = {optim.image_lr_factor, optim.text_lr_factor, optim.layer_decay}
        if lr_factors != {1} and _has_corrected_weight_decay(timm_name):
            raise ValueError(
                f"optim.optimizer={name} decays all weights by one learning rate; leave out "
                "optim.layer_decay and the factors of learning rates"
            )
    else:
        raise ValueError(f"optim.optimizer={name:.40}: takes adamw, muon or timm:NAME")
    if parallel != "ddp":
        raise ValueError(
            f"optim.optimizer={name} needs whole weights, and parallel={parallel} shards them; "
            "--set parallel=ddp"
        )
