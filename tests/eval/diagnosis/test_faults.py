"""Faults against the same mistakes made in OpenCLIP itself, or by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from support.encoders import load, noise
from torch.testing import assert_close

from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.runner.diagnosis.faults import NotApplicableError
from cosmos_eval.runner.diagnosis.images import IMAGE_FAULTS, study_transform
from cosmos_eval.runner.diagnosis.labels import LABEL_FAULTS, Truth
from cosmos_eval.runner.diagnosis.modules import MODULE_FAULTS
from cosmos_eval.runner.diagnosis.texts import TEXT_FAULTS, TokenLayout, Wording, study_tokenizer

CATALOGUE = {
    fault.name: fault for fault in (*IMAGE_FAULTS, *TEXT_FAULTS, *MODULE_FAULTS, *LABEL_FAULTS)
}

# Numbers of a made-up tokenizer.
LAYOUT = TokenLayout(padding=0, start=8, end=9)
# Four images of three classes, whose names are not in alphabetical order.
TRUTH = Truth(np.array([0, 1, 2, 2]), 3, ("b", "c", "a"))
# Two images of two captions each.
CAPTIONS = Truth(np.array([0, 0, 1, 1]), 2, None, np.ones(4, bool))


def fault(name: str) -> Any:
    return CATALOGUE[name]


def faulty_pixels(encoder: Any, name: str, picture: Image.Image) -> Any:
    """Return the tensor of an image that is made with a fault."""
    transform = study_transform(encoder)
    fault(name).require_applicable(transform)
    return fault(name).apply(encoder, picture, transform)


def test_names_are_unique() -> None:
    n_faults = len(IMAGE_FAULTS) + len(TEXT_FAULTS) + len(MODULE_FAULTS) + len(LABEL_FAULTS)
    assert len(CATALOGUE) == n_faults


@pytest.mark.parametrize("name", CATALOGUE)
def test_descriptions_fit_a_line(name: str) -> None:
    wrong, check = fault(name).wrong, fault(name).check
    assert len(f"{name}: {wrong}") <= 80
    assert len(f"- to check: {check}") <= 80
    assert not f"{wrong}{check}".endswith(".")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("squash", {"resize_mode": "squash"}),
        ("longest side", {"resize_mode": "longest"}),
        ("bilinear", {"interpolation": "bilinear"}),
        ("0.5 mean/std", {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ("not normalised", {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    ],
)
@pytest.mark.parametrize("size", [(90, 60), (33, 70)])
def test_images_equal_those_of_openclips_transform_with_other_settings(
    tiny_encoder: ClipEncoder, name: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    picture = noise(*size)
    other_transform: Any = image_transform_v2(
        PreprocessCfg(**{"size": 32, "interpolation": "bicubic", **settings}), is_train=False
    )
    assert_close(
        faulty_pixels(tiny_encoder, name, picture), other_transform(picture), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_transform_is_recognised(mode: str, interpolation: str) -> None:
    config = PreprocessCfg(
        32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resize_mode=mode, interpolation=interpolation
    )
    studied = study_transform(SimpleNamespace(transform=image_transform_v2(config, False)))
    assert (studied.mode, studied.interpolation) == (mode, interpolation)
    assert studied.mean == pytest.approx(config.mean, abs=1e-5)
    assert studied.std == pytest.approx(config.std, abs=1e-5)


def test_a_resize_beyond_the_crop_is_not_taken_for_another() -> None:
    """A transform that resizes to 40 pixels and crops 32 resizes even images of 32 pixels."""
    import torchvision.transforms as t

    steps = [t.Resize(40), t.CenterCrop(32), t.ToTensor()]
    studied = study_transform(SimpleNamespace(transform=t.Compose(steps)))
    assert not studied.keeps_size
    with pytest.raises(NotApplicableError, match="in a way that is not known"):
        fault("squash").require_applicable(studied)


def test_the_transform_of_the_model_is_not_a_fault(tiny_encoder: ClipEncoder) -> None:
    studied = study_transform(tiny_encoder)
    for name in ("centre crop", "bicubic", "OpenAI mean/std"):
        with pytest.raises(NotApplicableError, match="is evaluated so"):
            fault(name).require_applicable(studied)


def test_channels_are_exchanged(tiny_encoder: ClipEncoder) -> None:
    picture = noise(50, 40)
    reversed_picture = Image.fromarray(np.asarray(picture)[..., ::-1])
    pixels = faulty_pixels(tiny_encoder, "BGR", picture)
    assert_close(pixels, tiny_encoder.transform(reversed_picture))


def test_colours_are_not_divided(tiny_encoder: ClipEncoder) -> None:
    picture = noise(32, 32)
    colours = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float()  # 0-255
    mean = torch.tensor(tiny_encoder.image_mean)[:, None, None]
    std = torch.tensor(tiny_encoder.image_std)[:, None, None]
    pixels = faulty_pixels(tiny_encoder, "scale 0-255", picture)
    assert_close(pixels, (colours - mean) / std, atol=0.01, rtol=1e-4)


def test_exif_turns_an_image(tiny_encoder: ClipEncoder) -> None:
    upright = noise(40, 60)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.getexif()[0x0112] = 6  # the tag of the orientation: viewers turn it clockwise
    pixels = faulty_pixels(tiny_encoder, "EXIF", stored)
    assert_close(pixels, tiny_encoder.transform(upright))


def test_pixels_are_picked_without_antialiasing(tiny_encoder: ClipEncoder) -> None:
    """Every fourth row of a black image is white; the middle of the filter sees two rows."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[::4] = 255
    studied = study_transform(tiny_encoder)
    picture = fault("no antialiasing").change_picture(Image.fromarray(stripes), studied)
    assert picture.size == (32, 32)
    antialiased = Image.fromarray(stripes).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.asarray(antialiased)[4:-4].mean() == pytest.approx(64, abs=2)
    assert abs(np.asarray(picture)[4:-4].mean() - 64) > 20


def test_activations_are_exchanged(tiny_archs: dict[str, str]) -> None:
    encoder = load(f"openclip:{tiny_archs['tiny']}/random")
    quick_model = open_clip.create_model(tiny_archs["tiny"], force_quick_gelu=True).eval()
    quick_model.load_state_dict(encoder.model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    right_features = encoder.encode_image(images)
    with fault("GELU / QuickGELU").apply([encoder.model]):
        image_features = encoder.encode_image(images)
        tokens = encoder.tokenize(["a dog"])
        text_features = encoder.encode_text(tokens)
    with torch.no_grad():
        expected_image_features = quick_model.encode_image(images, normalize=True)
        expected_text_features = quick_model.encode_text(tokens, normalize=True)
    assert_close(image_features, expected_image_features, atol=1e-5, rtol=0)
    assert_close(text_features, expected_text_features, atol=1e-5, rtol=0)
    assert not torch.allclose(image_features, right_features, atol=1e-5)
    assert_close(encoder.encode_image(images), right_features)


def test_the_logit_scale_is_not_applicable_since_it_changes_no_metric() -> None:
    with pytest.raises(NotApplicableError, match="no metric"), fault("logit scale").apply([]):
        pass


def test_training_mode_is_undone(tiny_archs: dict[str, str]) -> None:
    encoder = load(f"openclip:{tiny_archs['tiny-resnet']}/random")
    images = torch.randn(4, 3, 32, 32)
    right_features = encoder.encode_image(images)
    random_state = torch.get_rng_state()
    with fault("training mode").apply([encoder.model]):
        assert encoder.model.training
        assert not torch.allclose(encoder.encode_image(images), right_features, atol=1e-3)
    assert not encoder.model.training
    # The running means of batch normalisation are as before, too.
    assert_close(encoder.encode_image(images), right_features)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("padding on the left", [[0, 0, 0, 8, 5, 9], [8, 5, 6, 7, 5, 9]]),
        ("no special tokens", [[5, 0, 0, 0, 0, 0], [5, 6, 7, 5, 0, 0]]),
        ("truncation to half", [[8, 5, 9, 0, 0, 0], [8, 5, 9, 0, 0, 0]]),
        ("padding to longest", [[8, 5, 9, 0, 0, 0], [8, 5, 6, 7, 5, 9]]),
    ],
)
def test_tokens_by_hand(name: str, expected: list[list[int]]) -> None:
    tokens = torch.tensor([[8, 5, 9, 0, 0, 0], [8, 5, 6, 7, 5, 9]])
    assert fault(name).change_tokens(tokens, LAYOUT).tolist() == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("padding on the left", [[9, 9, 8, 5, 9], [8, 5, 6, 7, 9]]),
        ("no special tokens", [[5, 9, 9, 9, 9], [5, 6, 7, 9, 9]]),
        ("padding to longest", [[8, 5, 9, 9, 9], [8, 5, 6, 7, 9]]),
        ("truncation to half", [[8, 9, 9, 9, 9], [8, 9, 9, 9, 9]]),
    ],
)
def test_an_end_token_that_is_also_padding_stays(name: str, expected: list[list[int]]) -> None:
    """CLIP of transformers pads with the end-of-text token."""
    tokens = torch.tensor([[8, 5, 9, 9, 9], [8, 5, 6, 7, 9]])
    layout = TokenLayout(padding=9, start=8, end=9)
    assert fault(name).change_tokens(tokens, layout).tolist() == expected


def test_padding_that_all_texts_have_is_cut() -> None:
    tokens = torch.tensor([[8, 5, 9, 0, 0], [8, 9, 0, 0, 0]])
    cut_tokens = fault("padding to longest").change_tokens(tokens, LAYOUT)
    assert cut_tokens.tolist() == [[8, 5, 9], [8, 9, 0]]


def test_texts_without_padding_have_no_padding_faults() -> None:
    tokens = torch.tensor([[8, 5, 9]])
    with pytest.raises(NotApplicableError, match="does not pad"):
        fault("padding on the left").change_tokens(tokens, TokenLayout(None, 8, 9))


def test_the_tokenizer_is_recognised(tiny_encoder: ClipEncoder) -> None:
    assert study_tokenizer(tiny_encoder) == (0, 49406, 49407)


def test_processors_of_transformers_are_recognised() -> None:
    processors = {
        "squash": transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
        "shortest": transformers.CLIPImageProcessor(),  # of 224 pixels
    }
    for mode, processor in processors.items():

        def transform(image: Image.Image, processor: Any = processor) -> Any:
            return processor(images=image, return_tensors="pt")["pixel_values"][0].float()

        studied = study_transform(SimpleNamespace(transform=transform))
        assert (studied.mode, studied.interpolation) == (mode, "bicubic")
        assert studied.mean == pytest.approx(processor.image_mean, abs=1e-5)


def test_case_of_texts(tiny_encoder: ClipEncoder) -> None:
    wording = Wording(("A Dog",), ("{}",))
    case_kept = fault("case kept").apply(tiny_encoder, wording, LAYOUT)
    case_sensitive_tokenizer = open_clip.SimpleTokenizer(context_length=20, clean="whitespace")
    assert case_kept.equal(case_sensitive_tokenizer(["A Dog"]))
    lower_case = fault("lower case").apply(tiny_encoder, wording, LAYOUT)
    assert lower_case.equal(tiny_encoder.tokenize(["a dog"]))
    assert fault("capitalised words").change_text("a small dog") == "A Small Dog"
    assert fault("no punctuation").change_text("a dog's ball. On grass!") == "a dogs ball On grass"


def test_prompts_by_hand() -> None:
    wording = Wording(("cat", "dog"), ("a {}.", "the {}."), ("n01", "n02"))
    for name, texts in {
        "names without template": ["cat", "dog"],
        "'a photo of a {}.'": ["a photo of a cat.", "a photo of a dog."],
        "first template only": ["a cat.", "a dog."],
        "names of folders": ["a n01.", "the n01.", "a n02.", "the n02."],
    }.items():
        assert fault(name).change_wording(wording).texts == texts
        with pytest.raises(NotApplicableError):
            fault(name).change_wording(Wording(("a caption",), ("{}",)))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("labels + 1", [1, 2, 0, 0]),
        ("labels - 1", [2, 0, 1, 1]),
        # Prompts in the order a, b, c: class 0 (b) is in place 1, but label 0 asks for place 0, a.
        ("class order by name", [2, 0, 1, 1]),
    ],
)
def test_labels_by_hand(name: str, labels: list[int]) -> None:
    (faulty_truth,) = fault(name).apply(TRUTH)
    assert faulty_truth.labels.tolist() == labels


def test_numbers_of_classes_are_sorted_as_texts() -> None:
    truth = Truth(np.arange(12), 12, tuple("abcdefghijkl"))
    (faulty_truth,) = fault("class order as text").apply(truth)
    assert faulty_truth.labels.tolist() == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]


def test_scrambled_labels_keep_the_size_of_each_class() -> None:
    """A tenth of the labels stay right by chance, also among a scrambled half: 0.5 + 0.5 / 10."""
    truth = Truth(np.arange(100) % 10, 10, tuple("abcdefghij"))
    for name, share in (("labels scrambled", 0.1), ("half of labels scrambled", 0.55)):
        drawn_labels = [faulty_truth.labels for faulty_truth in fault(name).apply(truth)]
        for labels in drawn_labels:
            np.testing.assert_array_equal(np.sort(labels), np.sort(truth.labels))
        share_right = np.mean([(labels == truth.labels).mean() for labels in drawn_labels])
        assert share_right == pytest.approx(share, abs=0.06)


def test_captions_by_hand() -> None:
    (faulty_truth,) = fault("first caption only").apply(CAPTIONS)
    assert faulty_truth.kept_captions is not None
    assert faulty_truth.kept_captions.tolist() == [True, False, True, False]
    with pytest.raises(NotApplicableError):
        fault("first caption only").apply(TRUTH)
    with pytest.raises(NotApplicableError):
        fault("class order by name").apply(CAPTIONS)
