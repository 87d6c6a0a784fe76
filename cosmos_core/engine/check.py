"""Check that a configuration can be trained, before the training starts."""

import os
import shutil

import open_clip
import torch

from cosmos_core.config import DataConfig, ImageViewConfig, OptimConfig, TrainConfig
from cosmos_core.data.scenes import VERSIONS
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.data.shards import parse_shards
from cosmos_core.data.tar import TarError, TarReader
from cosmos_core.engine.loggers import missing_packages
from cosmos_core.engine.optimizers import check_optimizer
from cosmos_core.model.build import model_config
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.model.cosmos import CROSS_ATTENTION_HEADS
from cosmos_core.model.pretrained import layers_above, tower_of
from cosmos_core.utils.recipe import asks_for_scenes

WEIGHT_BYTES = 4  # float32
TOKEN_BYTES = 8  # int64
# The methods whose losses gather all features of the student from all processes.
GATHERING_METHODS = ("clip", "cosmos", "lit", "slip")


def check_config(config: TrainConfig, *, world_size: int) -> None:
    """Check that the options of a training fit each other, the data and the machine.

    Other functions check each value (`cosmos_core.config`), devices (`join_world`) and the data
    sets of evaluations. A warm-up that is longer than the training is allowed: the learning rate
    then rises until the end.

    Args:
        config: The configuration of the training.
        world_size: The number of processes.

    Raises:
        ValueError: If the configuration cannot be trained. The message has one line.
    """
    _check_data(config.data)
    # This raises ValueError if a logger that is not a default one lacks its package.
    missing_packages(config.watch)
    batch_size, accumulate = config.optim.batch_size, config.compute.accumulate
    n_chunks = world_size * accumulate
    if batch_size % n_chunks != 0:
        raise ValueError(
            f"optim.batch_size={batch_size} cannot be dealt to {world_size} processes in "
            f"{accumulate} parts each; give a multiple of {n_chunks}"
        )
    _check_schedule(config.optim)
    _check_gradient(config)
    check_optimizer(config.optim, config.parallel)
    _check_pretrained(config)
    _check_model(config, world_size)
    if config.parallel != "ddp" and config.compute.precision == "fp16":
        raise ValueError(
            f"parallel={config.parallel} has no gradient scaler; --set compute.precision=bf16"
        )
    if config.compute.compile and not shutil.which(os.environ.get("CXX") or "g++"):
        raise ValueError("compute.compile needs a C++ compiler: install g++, or name one in CXX")
    if config.save.best and not config.watch.evaluate_every:
        raise ValueError("save.best needs evaluations: set watch.evaluate_every, watch.datasets")


def _check_schedule(optim: OptimConfig) -> None:
    """Check that the phases of the learning rate fit the schedule and the number of steps.

    Raises:
        ValueError: If a schedule lacks its cooldown, has one that it does not use, or has one that
            begins before the end of the warm-up.
    """
    if optim.schedule != "wsd":
        if optim.cooldown_steps:
            raise ValueError("optim.cooldown_steps needs the schedule wsd: set optim.schedule=wsd")
        return
    if not optim.cooldown_steps:
        raise ValueError(
            "optim.schedule=wsd needs the length of its decay: set optim.cooldown_steps, such as a "
            "fifth of the steps"
        )
    if optim.warmup_steps + optim.cooldown_steps > optim.steps:
        raise ValueError(
            f"optim.steps={optim.steps} are fewer than the {optim.warmup_steps} steps of warm-up "
            f"and the {optim.cooldown_steps} of cooldown"
        )


def _check_gradient(config: TrainConfig) -> None:
    """Check that the gradient of all features can be divided as in the published training.

    Only gathered features have the divided gradient. With other features, such as the images of
    SigLIP, some weights would have the true gradient and others the divided one.

    Raises:
        ValueError: If the loss of the method may use features that it does not gather.
    """
    if config.optim.gradient == "published" and config.method.name not in GATHERING_METHODS:
        raise ValueError(
            "optim.gradient=published needs a method that gathers all features "
            f"({', '.join(GATHERING_METHODS)}), not {config.method.name}; leave it out"
        )


def _check_pretrained(config: TrainConfig) -> None:
    """Check that `model.init` names pretrained weights if an option needs them.

    Raises:
        ValueError: If it does not name any. The message says which option needs them.
    """
    if config.model.init:
        if config.model.partial and config.optim.momentum == 1:
            raise ValueError(
                "optim.momentum=1 keeps the teacher's weights that model.init does not have at "
                "random: give less"
            )
        return
    if config.method.name == "lit" or config.model.freeze:
        raise ValueError("a frozen tower needs pretrained weights: name some by model.init")
    if config.model.partial:
        raise ValueError("model.partial=true needs pretrained weights: name some by model.init")
    if config.optim.momentum == 1:
        raise ValueError(
            "optim.momentum=1 keeps the teacher at its random weights: give less, or name "
            "pretrained weights by model.init"
        )


def _check_data(data: DataConfig) -> None:
    """Check that the training data exist.

    Args:
        data: The options of the data. `data.shards` names tar files, or a number of rendered
            scenes, such as "scenes:1000" of version 1, or "scenes2:1000" of version 2.

    Raises:
        ValueError: If no data are named, if they do not exist, if the number of scenes is not a
            number from 1 to 999,999,999, or if two options decide the order.
    """
    if not data.shards:
        raise ValueError("no training data: name its shards, --set data.shards='FOLDER/*.tar'")
    if data.keyed_order and data.weights:
        raise ValueError(
            "data.keyed_order permutes an epoch, and data.weights draws with replacement; leave "
            "one of them out"
        )
    if not asks_for_scenes(data.shards):
        # This raises ValueError if a shard does not exist.
        shards = parse_shards(data)
        if not shards.streams:
            for first_shard, *_ in shards.sets:
                _require_tar(first_shard)
        return
    name, _, n_scenes = data.shards.partition(":")
    is_number = n_scenes.isdecimal() and len(n_scenes) < 10
    if not is_number or int(n_scenes) == 0:
        raise ValueError(f"data.shards={data.shards:.40}: {name}:N takes a number of scenes")
    if data.weights:
        raise ValueError("data.weights weighs several sets, and the scenes are one; leave it empty")


def _require_tar(path: str) -> None:
    """Check that a file begins as a tar does, before the training asks for its devices.

    Raises:
        ValueError: If it does not, such as a CSV file.
    """
    try:
        with open(path, "rb") as file:
            next(iter(TarReader(file)), None)
    except TarError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_model(config: TrainConfig, world_size: int) -> None:
    """Check that the model can be built, and fits the memory and the data.

    Args:
        config: The configuration of the training.
        world_size: The number of processes.

    Raises:
        ValueError: If this is not so.
    """
    width = model_config(config.architecture)["embed_dim"]
    has_cross_attention = config.method.name in ("cosmos", "flair")
    if has_cross_attention and width % CROSS_ATTENTION_HEADS != 0:
        raise ValueError(
            f"architecture: embed_dim {width} does not divide by the {CROSS_ATTENTION_HEADS} heads "
            "of the cross-attention"
        )
    try:
        # The meta device allocates no memory for the weights.
        with torch.device("meta"):
            model = config.method.create_student(config.architecture)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"a model of this size cannot be built: {reason}") from error
    assert isinstance(model, MultiViewCLIP)
    _check_memory(config, model, world_size)
    _check_freezing(config, model)
    _check_images(config, model)
    _check_texts(config.data, model)


def _check_memory(config: TrainConfig, model: MultiViewCLIP, world_size: int) -> None:
    """Check that the weights of the model, and the views of a batch, fit the machine's memory.

    Args:
        config: The configuration of the training.
        model: The model, which may be on the meta device.
        world_size: The number of processes, which share the batch.

    Raises:
        ValueError: If one of them is larger than the memory.
    """
    weight_bytes = WEIGHT_BYTES * sum(parameter.numel() for parameter in model.parameters())
    batch_size = config.optim.batch_size
    view_bytes = _bytes_of_sample(config, model.context_length) * batch_size // world_size
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for description, n_bytes in (
        ("the model has weights of", weight_bytes),
        (f"the views of a batch (optim.batch_size={batch_size}) take", view_bytes),
    ):
        if n_bytes > memory_bytes:
            raise ValueError(
                f"{description} {n_bytes / 1e9:.3g} GB, and this machine has "
                f"{memory_bytes / 1e9:.3g} GB"
            )


def _bytes_of_sample(config: TrainConfig, context_length: int) -> int:
    """Return how many bytes all views of a sample take in memory.

    Images have 3 bytes per pixel, and captions have an integer of 8 bytes per token.

    Args:
        config: The configuration, which states the numbers and the sizes of views.
        context_length: The number of tokens of a caption, with padding.
    """
    image, counts = config.image, config.method.counts
    n_global_images = counts.global_images
    if image.caption_scale:
        # SLIP has one more view of this size, which is only cropped.
        n_global_images += 1
    n_pixels = n_global_images * image.global_size**2
    if counts.local_images:
        n_pixels += image.locals * image.local_size**2
    n_texts = counts.global_texts
    if counts.local_texts:
        n_texts += config.text.locals
    return 3 * n_pixels + n_texts * TOKEN_BYTES * context_length


def _check_freezing(config: TrainConfig, model: MultiViewCLIP) -> None:
    """Check that `model.unlocked_groups` and `model.freeze_steps` fit `model.freeze`.

    Args:
        config: The configuration of the training.
        model: The model, which may be on the meta device.

    Raises:
        ValueError: If one of the two is given without a frozen tower; if the tower would be frozen
            for all steps, or no part of it would be; if LiT's text tower would be frozen for good,
            or its image tower not; if a tower that is never trained has a learning rate or weight
            decay of its own.
    """
    options, n_steps = config.model, config.optim.steps
    is_lit = config.method.name == "lit"
    if is_lit and options.freeze == "text" and not options.unlocked_groups:
        raise ValueError(
            "LiT trains only the text tower, and model.freeze=text freezes it; leave model.freeze "
            "out"
        )
    if is_lit:
        _refuse_factors_of_frozen_tower(config.optim, "image")
    if not options.unlocked_groups and not options.freeze_steps:
        if options.freeze:
            _refuse_factors_of_frozen_tower(config.optim, options.freeze)
        return
    if not options.freeze:
        raise ValueError(
            "model.unlocked_groups and model.freeze_steps need a frozen tower: name it by "
            "model.freeze"
        )
    if is_lit and options.freeze == "image":
        raise ValueError(
            "LiT never trains its image tower; take --set method=clip to freeze it in part or at "
            "first"
        )
    if options.freeze_steps >= n_steps:
        raise ValueError(
            f"model.freeze_steps={options.freeze_steps} is not below optim.steps={n_steps}; leave "
            "it out to freeze the tower to the end"
        )
    names = [name for name, _ in model.named_parameters() if tower_of(name) == options.freeze]
    n_groups = max(layers_above(names).values()) + 1
    if options.unlocked_groups >= n_groups:
        raise ValueError(
            f"model.unlocked_groups={options.unlocked_groups} trains all {n_groups} groups of the "
            f"{options.freeze} tower; leave model.freeze out"
        )


def _refuse_factors_of_frozen_tower(optim: OptimConfig, tower: str) -> None:
    """Raise ValueError for a learning rate or weight decay of a tower that is never trained."""
    for name in (f"{tower}_lr_factor", f"{tower}_weight_decay_factor"):
        if getattr(optim, name) != 1:
            raise ValueError(f"optim.{name}: the {tower} tower is frozen to the end; leave it out")


def _check_images(config: TrainConfig, model: MultiViewCLIP) -> None:
    """Check that the views of images fit the architecture and the training method.

    Args:
        config: The configuration of the training.
        model: The model, which may be on the meta device.

    Raises:
        ValueError: If the sizes or the number of views do not fit.
    """
    image, counts = config.image, config.method.counts
    height, width = model.visual.image_size
    if not height == width == image.global_size:
        raise ValueError(
            f"image.global_size is {image.global_size}, but the architecture takes images of "
            f"{height}x{width}"
        )
    _check_first_size(image, config.optim.steps)
    patch_height, patch_width = model.visual.patch_size
    local_size = image.local_size if counts.local_images else 0
    for name, size in (("local_size", local_size), ("first_size", image.first_size)):
        if size % patch_height != 0 or size % patch_width != 0:
            raise ValueError(
                f"image.{name}={size} is not a multiple of the architecture's patches of "
                f"{patch_height}x{patch_width}"
            )
    if config.method.name in ("cosmos", "flair", "siglip", "silc") and image.caption_scale:
        raise ValueError("image.caption_scale adds a view, for SLIP; leave it empty")
    if config.method.name == "silc" and not image.locals:
        raise ValueError("image.locals is 0, and SILC needs local views; set it to 1 or more")


def _check_first_size(image: ImageViewConfig, n_steps: int) -> None:
    """Check that the first steps of a training, if they have other views, are fewer and smaller.

    Args:
        image: The options of image views.
        n_steps: The number of steps of the training.

    Raises:
        ValueError: If this is not so.
    """
    if not image.first_size and not image.first_steps:
        return
    if not image.first_size or not image.first_steps:
        raise ValueError("image.first_size and image.first_steps need each other: set both")
    if image.first_size >= image.global_size:
        raise ValueError(
            f"image.first_size={image.first_size} is not below image.global_size="
            f"{image.global_size}, the size of later steps and of evaluations"
        )
    if image.first_steps >= n_steps:
        raise ValueError(
            f"image.first_steps={image.first_steps} is not below optim.steps={n_steps}; the last "
            "steps must have the size of evaluations"
        )


def _check_texts(data: DataConfig, model: MultiViewCLIP) -> None:
    """Check that the model and the tokenizer of the training data have vocabularies of one size.

    Args:
        data: The options of the data, which decide the tokenizer.
        model: The model, which may be on the meta device.

    Raises:
        ValueError: If the sizes differ.
    """
    vocab_size = make_tokenizer(data.shards, model.context_length).vocab_size
    if model.vocab_size != vocab_size:
        kind = "scenes" if asks_for_scenes(data.shards) else "shards"
        raise ValueError(
            f"the architecture has a vocabulary of {model.vocab_size} tokens, the tokenizer of "
            f"{kind} one of {vocab_size}"
        )


def make_tokenizer(shards: str, context_length: int) -> open_clip.SimpleTokenizer:
    """Return the tokenizer for the captions of the training data.

    Args:
        shards: The option `data.shards`. If it is "scenes:N" or "scenes2:N", the data are
            rendered scenes, whose versions have tokenizers of their own. Otherwise the tokenizer is
            CLIP's.
        context_length: The number of tokens to which captions are padded.
    """
    if asks_for_scenes(shards):
        version = VERSIONS[shards.partition(":")[0]]
        return scenes_tokenizer(context_length, version)
    return open_clip.SimpleTokenizer(context_length=context_length)
