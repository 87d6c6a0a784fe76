"""Models in training as encoders: they are measured as they are, and left as they were.

`make_encoder` takes a module of OpenCLIP, of transformers or of a user, also inside
DistributedDataParallel and FSDP. `LiveEncoder` remembers tokens from one measurement to the next.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from torch import Tensor, nn
from torch.distributed import fsdp

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed
from cosmos_eval.models.encoder import (
    CollatingEncoder,
    CrossAttentionEncoder,
    Encoder,
    PairScorer,
    batch_images,
    public_members,
    require_encoder,
    tensors_sha256,
)
from cosmos_eval.models.user import TwoTower, referred_weights, state_dicts
from cosmos_eval.types import EncoderInfo, Precision, UsageError

_PRECISION_BY_DTYPE: dict[torch.dtype, Precision] = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
# The calls of sharded models, and what a process that waits for the others announces.
_CALLS = ("nothing", "encode_image", "encode_text")
_EXAMPLE_TEXT = "a"
# What describes an encoder besides its `info`.
_DESCRIPTION = ("preprocessing", "tokenizer", "notes", "has_image_size", "added_texts")


@contextmanager
def evaluation_mode(encoder: Any) -> Iterator[None]:
    """Put a model that is being trained into evaluation mode, within the context.

    The encoder records the model's weights and device as they are now. Afterwards, also after an
    error, everything that `unchanged` names has its former state.
    """
    modules = find_modules(encoder)
    with unchanged(modules):
        for module in modules:
            module.eval()
        if isinstance(encoder, TwoTower):
            encoder.refresh_info()
        yield


def find_modules(model: Any) -> list[nn.Module]:
    """Return the modules that a model consists of.

    These are itself, and those that it has in containers. For an encoder, they are the modules that
    it refers to.
    """
    if is_sharded(model):
        return [model]
    values = [model] if isinstance(model, nn.Module) else [getattr(model, "__dict__", {})]
    weights = referred_weights(values)
    return [module for module in weights if isinstance(module, nn.Module)]


@contextmanager
def unchanged(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore states at the end of the context, also after an error.

    These are the mode of every submodule, the random generators, the recording of gradients, the
    number of threads of PyTorch, and whether Pillow loads truncated images.
    """
    # Keep the former states. A model may use the random generators of the GPUs that it is on.
    former_modes = []
    gpu_indices = set()
    for module in modules:
        for submodule in module.modules():
            former_modes.append((submodule, submodule.training))
        for parameter in module.parameters():
            if parameter.device.type == "cuda":
                gpu_indices.add(parameter.device.index)
    was_grad_enabled = torch.is_grad_enabled()
    n_threads = torch.get_num_threads()
    loads_truncated_images = PIL.ImageFile.LOAD_TRUNCATED_IMAGES
    python_state, numpy_state = random.getstate(), np.random.get_state()

    try:
        with torch.random.fork_rng(devices=sorted(gpu_indices)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_grad_enabled(was_grad_enabled)
        if torch.get_num_threads() != n_threads:
            torch.set_num_threads(n_threads)
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = loads_truncated_images
        for submodule, was_training in former_modes:
            submodule.training = was_training  # `train()` would change its submodules as well


def unwrap(model: Any) -> Any:
    """Return the module inside wrappers of PyTorch, such as DistributedDataParallel."""
    wrappers = (
        torch.optim.swa_utils.AveragedModel,
        nn.parallel.DistributedDataParallel,
        nn.DataParallel,
        fsdp.FullyShardedDataParallel,
    )
    while True:
        if isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


def is_sharded(model: Any) -> bool:
    """Return whether FSDP, in either version, shards the weights of a model among processes."""
    # FSDPModule is what `fully_shard` makes of a module. It is public since PyTorch 2.6.
    sharded_classes = [fsdp.FullyShardedDataParallel, getattr(fsdp, "FSDPModule", None)]
    classes = tuple(filter(None, sharded_classes))
    return isinstance(model, nn.Module) and any(
        isinstance(module, classes) for module in model.modules()
    )


def hash_weights(model: nn.Module, distributed: Distributed) -> str:
    """Return the SHA-256 of the weights of a model, as the first process has them.

    All processes that share a sharded model call this together.
    """
    if is_sharded(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        # The first process gets all weights, and the others none.
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=options)
        states = [{name: value for name, value in state.items() if isinstance(value, Tensor)}]
    else:
        states = state_dicts(referred_weights([unwrap(model)]))
    weights_sha256 = tensors_sha256(*states) if distributed.rank == 0 else ""
    return distributed.gather(weights_sha256)[0]


def placement(model: Any) -> tuple[str, Precision, bool]:
    """Return the device and the precision of a model's weights, and whether FSDP shards them.

    An encoder is made for these, so that a model that was moved needs another encoder.
    """
    if isinstance(model, Encoder):
        return model.info.device, model.info.precision, False
    parameters = [*unwrap(model).parameters()]
    device = str(parameters[0].device) if parameters else ""
    return device, _find_precision(parameters), is_sharded(model)


def make_encoder(
    model: Any,
    tokenizer: Any,
    transform: Any,
    name: str,
    precision: Precision | None,
    weights_sha256: str | None,
) -> Encoder:
    """Return a model in training as an encoder, checked on an example.

    All processes that share a sharded model call this together, in evaluation mode.

    Args:
        model: One of
            - an Encoder, such as a `TwoTower`, which is returned as it is,
            - a model of transformers with `get_image_features` and `get_text_features`,
            - any module with `encode_image` and `encode_text`, such as OpenCLIP's,
            - a module of DistributedDataParallel, FSDP or torch.compile around one of these.
        tokenizer: Maps a list of texts to tokens (B, L). For a model of transformers, its
            tokenizer. None for an Encoder.
        transform: Maps an RGB image to pixels (3, H, W). For a model of transformers, its image
            processor. None for an Encoder, and for a model of OpenCLIP, which states its own.
        name: The name of the model in tables and messages.
        precision: The precision it is run in; None: float32, unless some of its weights are
            bfloat16 or float16.
        weights_sha256: The hash of the weights. It is not used for an Encoder, which has its own.

    Raises:
        UsageError: If the model is none of these or has no parameters, if the tokenizer or the
            transform is missing or does not fit, and if the encoder cannot encode an example.
    """
    if isinstance(model, Encoder):
        _refuse_arguments_of_modules(model, name, tokenizer, transform, precision)
        require_encoder(model, name)
        return model

    module = unwrap(model)
    parameters = [*module.parameters()]
    if not parameters:
        raise UsageError(
            f"{name}: {type(module).__name__} has no parameters: give the model that is trained"
        )
    info = EncoderInfo(
        spec=name,
        architecture=type(module).__name__,
        weights=None,
        weights_sha256=weights_sha256,
        random=False,
        precision=precision or _find_precision(parameters),
        device=str(parameters[0].device),
        name=name,
    )
    towers = _ShardedTowers(model) if is_sharded(model) else module
    encoder: Encoder
    if hasattr(module, "get_image_features") and hasattr(module, "get_text_features"):
        encoder = _make_transformers_encoder(towers, tokenizer, transform, info)
    elif hasattr(module, "encode_image") and hasattr(module, "encode_text"):
        encoder = _make_two_tower_encoder(towers, module, tokenizer, transform, info)
    else:
        raise UsageError(
            f"{name}: {type(module).__name__} has neither `encode_image` and `encode_text` nor "
            "`get_image_features` and `get_text_features`: wrap it in a cosmos_eval.TwoTower"
        )
    try:
        require_encoder(encoder, name)
    except UsageError as error:
        weights_precision = _find_precision(parameters)
        if weights_precision == "fp32" or info.precision != "fp32":
            raise
        advice = f'some weights are {weights_precision}: give precision="{weights_precision}"'
        raise UsageError(f"{error}; {advice}") from error
    return encoder


def _refuse_arguments_of_modules(
    encoder: Encoder, name: str, tokenizer: Any, transform: Any, precision: Precision | None
) -> None:
    """Raise UsageError for arguments of `make_encoder` that an Encoder already has itself."""
    if tokenizer is not None or transform is not None:
        raise UsageError(f"{name} is an Encoder: leave tokenizer= and transform= out")
    if precision not in (None, encoder.info.precision):
        fault = f"{name} is an Encoder of precision {encoder.info.precision}"
        raise UsageError(f"{fault}: leave precision= out")


def _find_precision(parameters: Sequence[Tensor]) -> Precision:
    """Return the precision of the first weights that are bfloat16 or float16, or else fp32.

    OpenCLIP's training with `--precision bf16` keeps some parameters in float32.
    """
    for parameter in parameters:
        if parameter.dtype in _PRECISION_BY_DTYPE:
            return _PRECISION_BY_DTYPE[parameter.dtype]
    return "fp32"


def _make_two_tower_encoder(
    towers: Any, module: nn.Module, tokenizer: Any, transform: Any, info: EncoderInfo
) -> Encoder:
    """Return the encoder of a module with `encode_image` and `encode_text`.

    Args:
        towers: Has the methods `encode_image` and `encode_text`: the module itself, or a stand-in
            for a sharded one.
        module: The module.
        tokenizer: Maps a list of texts to tokens.
        transform: Maps an RGB image to pixels. It may be None for a model of OpenCLIP.
        info: The description of the model.
    """
    config = getattr(getattr(module, "visual", None), "preprocess_cfg", None)
    if config is not None:
        return _make_openclip_encoder(towers, module, tokenizer, transform, info)
    for argument, function in (("tokenizer", tokenizer), ("transform", transform)):
        if not callable(function):
            raise UsageError(f"{info.spec}: give the {argument} of the evaluation as {argument}=")
    encoder = TwoTower(
        name=info.spec,
        weights={},  # they are hashed once for each measurement, not here
        encode_image=towers.encode_image,
        encode_text=towers.encode_text,
        transform=_hashable(transform),
        tokenize=tokenizer,
    )
    encoder.info = info
    return encoder


def _make_openclip_encoder(
    towers: Any, module: Any, tokenizer: Any, transform: Any, info: EncoderInfo
) -> Encoder:
    """Return the encoder of a model of OpenCLIP, which states its preprocessing.

    A sharded model has no features of patches: a part of its last block is run by itself.

    `_make_two_tower_encoder` explains the arguments.
    """
    from open_clip.transform import image_transform_v2

    from cosmos_eval.models import clip, dense, openclip

    if not callable(tokenizer):
        raise UsageError(f"{info.spec}: give open_clip.get_tokenizer(...) as tokenizer=")
    preprocessing = openclip.make_preprocessing(module.visual.preprocess_cfg)
    if transform is None:
        info = info._replace(preprocessing_sha256=openclip.preprocessing_sha256(preprocessing))
    is_sharded_model = towers is not module
    if isinstance(tokenizer, clip.Tokenizer) and not is_sharded_model:
        # It runs in float32 until `info` says otherwise: for other precisions, the constructor
        # would change the model.
        float_info = info._replace(precision="fp32")
        encoder_class = clip.ClipEncoder
        if clip.has_naflex_tower(module):
            encoder_class = clip.NaflexClipEncoder
        encoder = encoder_class(module, preprocessing, tokenizer, float_info)
        encoder.info = info
        if transform is not None:
            encoder.transform = _hashable(transform)
            encoder.preprocessing = {"transform": repr(transform)}
        return encoder

    description: dict[str, Any] = {"transform": repr(transform)}
    if transform is None:
        transform = image_transform_v2(preprocessing, is_train=False)
        description = json.loads(json.dumps(asdict(preprocessing)))
    patch_size = 0 if is_sharded_model else dense.find_patch_size(module.visual)
    two_tower = TwoTower(
        name=info.spec,
        weights={},
        encode_image=towers.encode_image,
        encode_text=towers.encode_text,
        transform=_hashable(transform),
        tokenize=tokenizer,
        encode_patches=partial(dense.encode_patches, module.visual) if patch_size else None,
        patch_size=patch_size,
        image_mean=preprocessing.mean,
        image_std=preprocessing.std,
    )
    two_tower.info = info
    two_tower.preprocessing = description
    return two_tower


def input_key(encoder: Encoder, transform: Any) -> Hashable | None:
    """Return what decides the pixels of an encoder, or None if only its own transform does.

    Args:
        encoder: The encoder that `make_encoder` made of a module.
        transform: The transform that it was given; None: the one that a model of OpenCLIP states.
    """
    if transform is not None:
        key = transform if isinstance(transform, Hashable) else id(transform)
        return type(encoder).__name__, key
    if isinstance(encoder, CollatingEncoder):
        return None  # its preprocessing does not describe the size of patches
    return json.dumps(encoder.preprocessing, sort_keys=True)


def _hashable(transform: Any) -> Any:
    """Return a transform, or a wrapper that can be a key: pixels in memory are found by it."""
    return transform if isinstance(transform, Hashable) else partial(transform)


def _make_transformers_encoder(
    towers: Any, tokenizer: Any, processor: Any, info: EncoderInfo
) -> Encoder:
    """Return the encoder of a model of transformers.

    Args:
        towers: The model, or a stand-in for a sharded one.
        tokenizer: Its tokenizer, or a processor with one. None: the one of `processor`.
        processor: Its image processor, or a processor that has one.
        info: The description of the model.

    Raises:
        UsageError: If the tokenizer or the image processor is missing or does not fit the model.
    """
    from cosmos_eval.models.hf import HfEncoder, NaflexEncoder, preprocessing_sha256

    if tokenizer is None:
        tokenizer = processor
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    image_processor = getattr(processor, "image_processor", processor)
    if not hasattr(tokenizer, "get_vocab"):
        raise UsageError(f"{info.spec}: give the tokenizer of transformers as tokenizer=")
    if not hasattr(image_processor, "preprocess"):
        raise UsageError(f"{info.spec}: give the image processor of transformers as transform=")
    info = info._replace(preprocessing_sha256=preprocessing_sha256(image_processor))
    encoder_class = NaflexEncoder if towers.config.model_type == "siglip2" else HfEncoder
    try:
        encoder = encoder_class((towers, image_processor, tokenizer), {}, info)
        encoder.require_independent_texts()
    except UsageError as error:
        raise UsageError(f"{info.spec}: {error}") from error
    return encoder


class _ShardedTowers:
    """Stands in for a module whose weights FSDP shards, and runs its methods.

    FSDP gathers weights when a module is called, which calls `forward`, but not when another
    method of the module is called. So the method takes the place of `forward` for one call.
    """

    def __init__(self, model: nn.Module) -> None:
        """Keep the model: the module itself, or FSDP around it."""
        self._model = model
        self._module: Any = unwrap(model)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module, such as its `config`."""
        return getattr(self._module, name)

    def encode_image(self, images: Tensor) -> Any:
        """Return the features of images, by the module's `encode_image`."""
        return self._call("encode_image", images)

    def encode_text(self, tokens: Tensor) -> Any:
        """Return the features of tokens, by the module's `encode_text`."""
        return self._call("encode_text", tokens)

    def get_image_features(self, **inputs: Tensor) -> Any:
        """Return the features of images, by the method of a model of transformers."""
        return self._call("get_image_features", **inputs)

    def get_text_features(self, **inputs: Tensor) -> Any:
        """Return the features of texts, by the method of a model of transformers."""
        return self._call("get_text_features", **inputs)

    def _call(self, method_name: str, *arguments: Any, **named_arguments: Any) -> Any:
        """Call a method of the module in place of its `forward`."""
        module = self._module
        method = getattr(module, method_name)

        def forward(*arguments: Any, **named_arguments: Any) -> Any:
            del module.forward  # the method may call `forward` itself
            return method(*arguments, **named_arguments)

        module.forward = forward
        try:
            return self._model(*arguments, **named_arguments)
        finally:
            module.__dict__.pop("forward", None)


class LiveEncoder:
    """An encoder of a model in training, which is measured again and again.

    It remembers the tokens of all texts, and the features of texts within one measurement. It has
    the further methods of the encoder, such as `encode_patches`.

    The layers of a model that is sharded by FSDP gather their weights from all processes in every
    call. So all processes have to make the same calls, though one of them may have more images than
    another one. Each process announces its call first. A process that waits for the others, in
    `gather`, encodes an example together with them. Its features are not used.
    """

    # Those of the encoder, see the interface `Encoder`.
    preprocessing: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    transform: Callable[[PIL.Image.Image], Tensor]
    trims_text: bool

    def __init__(self, encoder: Encoder, *, sharded: bool) -> None:
        """Keep an encoder.

        Args:
            encoder: The encoder.
            sharded: True if the processes share the weights.
        """
        # Interfaces are recognised by the attributes of the object itself.
        names = set(_DESCRIPTION)
        for interface in (CrossAttentionEncoder, PairScorer, CollatingEncoder):
            names.update(public_members(interface))
        for name in names.difference(dir(type(self))):
            if hasattr(encoder, name):
                setattr(self, name, getattr(encoder, name))
        self.built = encoder  # whose parameters are counted
        self.info = encoder.info
        # The size and the cost of the model, once they are counted.
        self.facts: Mapping[str, Any] | None = None
        self._distributed = SINGLE_PROCESS
        self._sharded = sharded
        self._tokens: dict[tuple[str, ...], Tensor] = {}
        self._overlong: dict[tuple[str, ...], Tensor] = {}
        self._text_features: dict[bytes, Tensor] = {}

    def join(self, distributed: Distributed) -> None:
        """Share the work with these processes from now on."""
        self._distributed = distributed

    def begin(self, weights_sha256: str | None) -> None:
        """Begin a measurement: record the hash of the weights, and forget all features of texts.

        They may have changed though the weights have not, such as by adapters that are turned off.
        """
        self._text_features.clear()
        self.info = self.info._replace(weights_sha256=weights_sha256)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens (B, L) of texts, int64, which are computed once."""
        key = tuple(texts)
        if key not in self._tokens:
            self._tokens[key] = self.built.tokenize(texts)
        return self._tokens[key]

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """Return whether `tokenize` cuts each text to the context, (B,) bool, computed once."""
        key = tuple(texts)
        if key not in self._overlong:
            self._overlong[key] = self.built.overlong(texts)
        return self._overlong[key]

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the L2-normalised features (B, D) of images (B, 3, H, W)."""
        self._meet("encode_image")
        return self.built.encode_image(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the L2-normalised features (B, D) of tokens (B, L).

        Only texts whose features are not known are encoded.
        """
        # Without their padding, which may be cut off, the tokens are those of the text.
        keys = [np.trim_zeros(row, "b").tobytes() for row in tokens.cpu().numpy()]
        missing_rows = [row for row, key in enumerate(keys) if key not in self._text_features]
        if missing_rows:
            self._meet("encode_text")
            features = self.built.encode_text(tokens[missing_rows])
            for row, feature in zip(missing_rows, features, strict=True):
                self._text_features[keys[row]] = feature
        return torch.stack([self._text_features[key] for key in keys])

    def gather(self, item: Any) -> list[Any]:
        """Return the items of all processes by rank, as `Distributed.gather` does.

        Until all processes are here, this process encodes examples together with the others.
        """
        self._meet("nothing")
        return self._distributed.gather(item)

    def _meet(self, call: str) -> None:
        """Wait until all processes that share the weights can make a call.

        If another process makes another call, this process makes it as well, with an example.

        Args:
            call: The call that this process is about to make, one of `_CALLS`.
        """
        if not self._sharded:
            return
        while True:
            calls = self._distributed.gather(call)
            next_call = max(calls, key=_CALLS.index)
            if next_call == call:
                return
            if next_call == "encode_image":
                picture = PIL.Image.new("RGB", (64, 64))
                self.built.encode_image(batch_images(self.built, [self.built.transform(picture)]))
            else:
                self.built.encode_text(self.built.tokenize([_EXAMPLE_TEXT]))
