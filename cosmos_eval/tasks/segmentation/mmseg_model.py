"""Models and data sets of this package for MMSegmentation and MMEngine's Runner.

A config lists this module in `custom_imports`; configs are in benchmarks/mmseg. Windows, merging,
thresholds and refinement call the same functions as `cosmos-eval run`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from cosmos_eval.data.label_map_checks import check_constants
from cosmos_eval.data.label_maps import Sample, mmseg_module, open_data
from cosmos_eval.models import load_encoder
from cosmos_eval.models.maps import require_patches
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import prepare
from cosmos_eval.tasks import find_protocol
from cosmos_eval.tasks.segmentation import inference, require_segmentation
from cosmos_eval.types import Attention, Precision, RunOptions, SegmentationProtocol, UsageError
from cosmos_eval.types import Weights as WhichWeights

# The label that IoUMetric leaves out unless a config says otherwise.
_MMSEG_IGNORE = 255


@MODELS.register_module()
class CosmosSegmentor(mmseg_module("models").BaseSegmentor):  # type: ignore[misc]
    """A zero-shot model that segments images by the protocol of a data set.

    The pipeline must leave images as LoadImageFromFile reads them: BGR, 0 to 255, at their own
    size. `cosmos_eval.evaluate` has the same arguments, and raises the same errors.
    """

    def __init__(
        self,
        model: str,
        dataset: str,
        protocol: str | None = None,
        arch: str | None = None,
        weights: WhichWeights = "teacher",
        attention: Attention | None = None,
        auxiliary: str | None = None,
        precision: Precision = "fp32",
        batch_size: int = 32,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        """Load the model, and encode the prompts of the data set's protocol.

        Args:
            model: The name of a model, a checkpoint, or a model of another library.
            dataset: The name of a data set or a YAML file, which decides the classes, the prompts
                and every constant.
            protocol: The name of one of the protocols of the data set; None for the usual one.
            arch: The architecture of a checkpoint that does not state it.
            weights: The weights of a checkpoint to load, "teacher" or "student".
            attention: The form of attention of the last block; None for the protocol's.
            auxiliary: The name of an auxiliary encoder; None for none.
            precision: The precision of the model, such as "fp32".
            batch_size: The number of windows that are encoded together.
            data_preprocessor: The configuration of MMEngine's preprocessor.
        """
        super().__init__(data_preprocessor=data_preprocessor)
        # Names are checked first: a model takes long to load.
        dataset_protocol = _segmentation_protocol(dataset, protocol)
        spec = parse_model_spec(model, arch, weights)
        options = RunOptions(attention=attention, auxiliary=auxiliary, batch_size=batch_size)
        encoder = load_encoder(spec, device=get_device(), precision=precision, auxiliary=auxiliary)
        dense = require_patches(encoder, attention or dataset_protocol.attention)
        self.segmenter = inference.make_segmenter(dense, dataset_protocol, options)

    def predict(
        self, inputs: Sequence[Tensor], data_samples: Sequence[Any] | None = None
    ) -> list[Any]:
        """Segment images, and store the classes in their data samples.

        Args:
            inputs: The images (3, H, W), BGR.
            data_samples: The data sample of each image; None to create them.

        Returns:
            The data samples, whose `pred_sem_seg` is (1, H, W) int64.
        """
        if data_samples is None:
            data_samples = [SegDataSample() for _ in inputs]
        samples = list(data_samples)
        loaded_images = (
            self._load_image(image, sample) for image, sample in zip(inputs, samples, strict=True)
        )
        predictions = inference.predict(self.segmenter, loaded_images)
        for sample, classes in zip(samples, predictions, strict=True):
            prediction = torch.from_numpy(classes.astype(np.int64))[None]
            sample.set_data({"pred_sem_seg": PixelData(data=prediction)})
        return samples

    def _load_image(self, image: Tensor, sample: Any) -> inference.LoadedImage:
        """Convert an image of the pipeline to an image for the segmenter.

        Args:
            image: The pixels (3, H, W), BGR, from 0 to 255.
            sample: The data sample of the image, which holds its path.
        """
        # (3, H, W) BGR -> (H, W, 3) RGB
        rgb = image.flip(0).permute(1, 2, 0).to("cpu", torch.uint8).contiguous().numpy()
        path = Path(sample.metainfo.get("img_path", "an image of the batch"))
        unlabelled = np.full(rgb.shape[:2], _MMSEG_IGNORE, np.uint8)
        pixels = inference.normalised(rgb, self.segmenter.protocol)
        return inference.LoadedImage(Sample(path.stem, path, path, {}), pixels, unlabelled)

    def loss(self, *_: Any, **__: Any) -> NoReturn:
        """Raise NotImplementedError: the model is not trained here."""
        raise NotImplementedError("CosmosSegmentor is zero-shot: it can be tested, not trained")

    extract_feat = encode_decode = _forward = loss


@DATASETS.register_module()
class CosmosEvalDataset(mmseg_module("datasets").BaseSegDataset):  # type: ignore[misc]
    """The images and label maps of a data set that `cosmos-eval` knows, or of a YAML file.

    The classes are the protocol's. Pixels that do not count have the label 255. The same errors are
    raised as by `cosmos_eval.evaluate`.
    """

    def __init__(
        self,
        dataset: str,
        data_root: str | None = None,
        limit: int | None = None,
        pipeline: Sequence[Any] = (),
        allow_partial: bool = False,
    ) -> None:
        """Find the protocol of the data set, and list its images and label maps.

        Args:
            dataset: The name of a data set or a YAML file.
            data_root: The folder of the data set; None for the usual one.
            limit: The largest number of images; None for all.
            pipeline: The transforms of MMSegmentation that images go through.
            allow_partial: True to allow a data set that lacks images.
        """
        protocol = _segmentation_protocol(dataset)
        if protocol.label_bits > 8:
            raise UsageError(f"{dataset}: MMSegmentation casts its label maps to 8 bits")
        prepare(protocol)
        options = RunOptions(data_root=data_root, limit=limit, allow_partial=allow_partial)
        data = open_data(protocol, options)
        # The label that does not count becomes 255.
        label_map = {protocol.ignore_index: _MMSEG_IGNORE}
        self._records = [{**sample.record, "label_map": label_map} for sample in data.samples]
        super().__init__(
            metainfo={"classes": protocol.class_names, "palette": list(data.palette)},
            reduce_zero_label=protocol.reduce_zero_label,
            pipeline=list(pipeline),
            test_mode=True,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the records that MMSegmentation's loading transforms read."""
        return self._records


def _segmentation_protocol(dataset: str, protocol_name: str | None = None) -> SegmentationProtocol:
    """Return the protocol of a segmentation data set, after checking its constants.

    Raises UsageError for an unknown data set, and for a data set of another task.
    """
    protocol = require_segmentation(find_protocol(dataset, protocol_name))
    check_constants(protocol)
    return protocol
