"""Segment one image, and draw image, label map and legend as one picture."""

import io
from dataclasses import replace
from pathlib import Path

from cosmos_core.utils.distributed import own_device
from cosmos_eval.models import load_encoder
from cosmos_eval.reporting import write_file
from cosmos_eval.tasks.segmentation import require_segmentation
from cosmos_eval.tasks.segmentation.inference import draw_image
from cosmos_eval.types import ModelSpec, Protocol, RunOptions, UsageError


def segment(
    image: Path,
    out: Path,
    *,
    spec: ModelSpec,
    protocol: Protocol,
    classes: tuple[str, ...] = (),
    options: RunOptions,
) -> dict[str, float]:
    """Segment an image by text, and draw image, label map and legend to a PNG file.

    Args:
        image: The file of the image.
        out: The file to write, whose name ends with ".png".
        spec: The model.
        protocol: The constants of the segmentation, such as prompts and the size of windows.
        classes: Names of classes that replace the protocol's. Its other constants stay,
            except for thresholds, which need a background class.
        options: How the model is run.

    Returns:
        The share of the image's pixels for each predicted class, such as {"cat": 0.3, "sofa": 0.7}.

    Raises:
        UsageError: The input is bad, or the file cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--output {out}: pictures are PNG files, so name it NAME.png")
    protocol = require_segmentation(protocol)
    if classes:
        # The thresholds, ignored labels and groups of classes belong to the protocol's own classes.
        protocol = replace(
            protocol,
            class_names=classes,
            queries=tuple((name,) for name in classes),
            groups={},
            prob_thd=0.0,
            area_thd=None,
            reduce_zero_label=False,
            ignore_index=255,
        )
    encoder = load_encoder(
        spec,
        device=own_device(options.device),
        precision=options.precision,
        auxiliary=options.auxiliary,
    )
    picture, shares = draw_image(encoder, protocol, image, options)
    content = io.BytesIO()
    picture.save(content, format="PNG")
    write_file(out, content.getvalue())
    return shares
