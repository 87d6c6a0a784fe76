"""FLAIR's losses against its formulas in loops, with PyTorch's own attention."""

import pytest
import torch
import torch.nn.functional as F
from support.training import ARCHITECTURE, tiny_views

from cosmos_core.losses import gather_locally
from cosmos_core.methods.flair import FlairMethod
from cosmos_core.model.build import create_model
from cosmos_core.types import Gather, Gathered, Views

SAMPLES, CAPTIONS = 5, 3
METHOD = FlairMethod(captions=CAPTIONS)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = METHOD.create_student(ARCHITECTURE).double()
    model.logit_bias.data.fill_(-1.5)  # so that both signs weigh
    for norm in (model.visual_proj.ln_q, model.visual_proj.ln_k, model.visual_proj.ln_v):
        norm.bias.data.normal_()
    model.visual_proj.attn.in_proj_bias.data.normal_()
    return model


@pytest.fixture(scope="module")
def views():
    views = tiny_views(METHOD, SAMPLES)
    return views._replace(global_images=views.global_images.double())


def pooled(model, image, text):
    """What a text (D,) pools from an image (3, H, W)."""
    patches = model.image_tokens([image[None]], keep=1).tokens @ model.visual.proj
    norms = model.visual_proj.ln_q, model.visual_proj.ln_k, model.visual_proj.ln_v
    inputs = (
        norm(one) for norm, one in zip(norms, (text[None, None], patches, patches), strict=True)
    )
    return model.visual_proj.attn(*inputs)[0][0, 0]


def formulas(model, views):
    """Both sums over all samples, of which each image meets one caption of another."""
    images = views.global_images[0]
    texts = model.encode_text(views.texts.flatten(0, 1)).unflatten(0, (CAPTIONS, SAMPLES))
    scale, bias = model.logit_scale.exp(), model.logit_bias

    def sigmoid(feature, text, sign):
        return -F.logsigmoid(sign * (scale * F.cosine_similarity(feature, text, dim=0) + bias))

    tcs = mps = 0
    for i, image in enumerate(images):
        whole = model.encode_image(image[None])[0]
        met = [(texts[k, i], 1) for k in range(CAPTIONS)]
        met += [(texts[(i + j) % CAPTIONS, j], -1) for j in range(SAMPLES) if j != i]
        tcs += sum(sigmoid(pooled(model, image, text), text, sign) for text, sign in met)
        for k in range(CAPTIONS):
            for j in range(SAMPLES):
                mps += sigmoid(whole, texts[k, j], 1 if i == j else -1)
    return tcs / (CAPTIONS + SAMPLES - 1) / 2, mps / (CAPTIONS * SAMPLES) / 2


def test_the_losses_are_the_formulas_and_so_are_their_gradients(model, views):
    terms = METHOD.loss(METHOD.student_features(model, views), None, gather_locally)
    expected = formulas(model, views)
    assert [*terms] == ["tcs", "mps"]
    for own, other in zip(terms.values(), expected, strict=True):
        assert own.item() == pytest.approx(other.item(), rel=1e-10)
    model.zero_grad()
    terms.total.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    sum(expected).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-7, atol=1e-9, msg=name)


class OneAtATime(Gather):
    """Of as many processes as samples, the one of this number."""

    def __init__(self, number):
        self.number = number

    def __call__(self, tensors):
        own = slice(self.number, self.number + 1)
        return [Gathered(tensor[:, own], tensor, self.number) for tensor in tensors]


def test_the_mean_of_processes_is_the_loss_of_the_batch(model, views):
    features = METHOD.student_features(model, views)
    found = []
    for i in range(SAMPLES):
        own = features._replace(
            **{name: getattr(features, name)[:, i : i + 1] for name in ("image", "keys", "values")}
        )
        found.append(torch.stack([*METHOD.loss(own, None, OneAtATime(i)).values()]))
    expected = torch.stack([*METHOD.loss(features, None, gather_locally).values()])
    torch.testing.assert_close(torch.stack(found).mean(0), expected)


def test_pair_scores_are_the_cosines_of_the_pooled(model, views):
    images, texts = views.global_images[0], views.texts[0]
    scores = model.pair_scores(model.image_parts(images), model.text_parts(texts))
    features = model.encode_text(texts)
    for b, image in enumerate(images):
        for t, text in enumerate(features):
            expected = F.cosine_similarity(pooled(model, image, text), text, dim=0)
            assert scores[b, t].item() == pytest.approx(expected.item(), abs=1e-10)


def test_keys_are_those_of_the_published_checkpoints():
    """github.com/ExplainableML/flair: `visual_proj` of a ViT-B-16-FLAIR."""
    names = {
        key for key in create_model(ARCHITECTURE, "flair").state_dict() if "visual_proj" in key
    }
    norms = {f"visual_proj.ln_{x}.{kind}" for x in "qkv" for kind in ("weight", "bias")}
    attention = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    assert names == norms | {f"visual_proj.attn.{name}" for name in attention}


def published(model, views, processes):
    """The mean over processes of the published loss, `src/flair/loss.py` of ExplainableML/flair at
    0f9ce05, with the captions of other images that this package chooses. Texts are sampled in each
    process before they are exchanged: with those of another process, image i meets all captions of
    its image i and one of each other, B + K - 1 again, by which every process's sum is divided."""
    images = views.global_images[0]
    texts = model.encode_text(views.texts.flatten(0, 1)).unflatten(0, views.texts.shape[:2])
    scale, bias = model.logit_scale.exp(), model.logit_bias
    size = len(images) // processes  # B

    def sigmoid(feature, text, sign):
        return -F.logsigmoid(sign * (scale * F.cosine_similarity(feature, text, dim=0) + bias))

    tcs = mps = 0
    for i, image in enumerate(images):
        own, index = divmod(i, size)
        whole = model.encode_image(image[None])[0]
        for process in range(processes):
            first = process * size
            sign = 1 if process == own else -1
            met = [(texts[k, first + index], sign) for k in range(CAPTIONS)]
            others = (j for j in range(first, first + size) if j != first + index)
            met += [(texts[(i + j) % CAPTIONS, j], -1) for j in others]
            tcs += sum(sigmoid(pooled(model, image, text), text, s) for text, s in met)
            for k in range(CAPTIONS):
                for j in range(first, first + size):
                    mps += sigmoid(whole, texts[k, j], 1 if i == j else -1)
    return tcs / (CAPTIONS + size - 1) / processes / 2, mps / (CAPTIONS * size) / processes / 2


def ours(model, views):
    return METHOD.loss(METHOD.student_features(model, views), None, gather_locally).values()


def test_the_published_loss_is_the_same_in_one_process_and_another_in_two(model, views):
    four = Views(*(tensor[:, :4] for tensor in views))
    in_one, in_two = (published(model, four, processes) for processes in (1, 2))
    for term, expected in zip(ours(model, four), in_one, strict=True):
        assert term.item() == pytest.approx(expected.item(), rel=1e-10)
    (tcs, mps), (published_tcs, published_mps) = ours(model, four), in_two
    assert mps.item() == pytest.approx(published_mps.item(), rel=1e-10)
    # Per image 8 logits over 4 there, as 3 captions of one image of the other process, not 1, are
    # among them; here 6 logits over 3.
    assert abs(tcs.item() - published_tcs.item()) > 0.01 * tcs.item()
