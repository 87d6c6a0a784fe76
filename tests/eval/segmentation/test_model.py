"""What a protocol takes from the model: its mean and std, and whether it has patches at all."""

import dataclasses

import open_clip
import pytest
from support.segmenting import measure

from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import known_protocols
from cosmos_eval.tasks.segmentation.inference import fit_to_model
from cosmos_eval.types import RunOptions, SegmentationProtocol, UsageError, no_progress

OPENAI_MEAN = tuple(255 * value for value in open_clip.OPENAI_DATASET_MEAN)
OPENAI_STD = tuple(255 * value for value in open_clip.OPENAI_DATASET_STD)


@pytest.fixture
def options(tmp_path, write_set) -> RunOptions:
    write_set(tmp_path, {"one": (30, 40)})
    return RunOptions(data_root=str(tmp_path), batch_size=8)


def test_constants_that_are_not_stated_are_the_models(encoder, protocol):
    unstated = dataclasses.replace(protocol, mean=None, std=(1.0, 2.0, 3.0))
    fitted = fit_to_model(unstated, encoder)
    assert fitted.mean == pytest.approx(OPENAI_MEAN)
    assert fitted == dataclasses.replace(protocol, mean=fitted.mean, std=(1.0, 2.0, 3.0))
    assert fit_to_model(protocol, encoder) == protocol


def test_the_published_and_the_scenes_protocols_state_their_own():
    protocols = [p for p in known_protocols().values() if isinstance(p, SegmentationProtocol)]
    own = [p for p in protocols if p.family in ("cosmos", "scenes")]
    assert len(own) == 10
    for protocol in own:
        assert (protocol.mean, protocol.std) == (
            (122.771, 116.746, 104.094),
            (68.501, 66.632, 70.323),
        )


def test_hashes_hold_the_values_that_were_used(encoder, protocol, options):
    def constants(mean):
        measured = dataclasses.replace(protocol, mean=mean, std=OPENAI_STD)
        return measure(encoder, measured, options, no_progress).hashes["constants"]

    assert constants(None) == constants(OPENAI_MEAN)
    assert constants(None) != constants((127.5, 127.5, 127.5))


def test_a_tower_without_patches_is_refused_before_the_prompts(tiny_archs, protocol, options):
    resnet = load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny-resnet']}/random"))
    steps = []
    with pytest.raises(UsageError, match="a ModifiedResNet"):
        measure(resnet, protocol, options, steps.append)
    assert steps == []
