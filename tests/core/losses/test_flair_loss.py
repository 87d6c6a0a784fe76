"""FLAIR's losses against loops over its formulas, and its pooling against PyTorch's attention."""

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
    # With a bias of -1.5, pairs that match and pairs that do not both contribute to the losses.
    model.logit_bias.data.fill_(-1.5)
    for norm in (model.visual_proj.ln_q, model.visual_proj.ln_k, model.visual_proj.ln_v):
        norm.bias.data.normal_()
    model.visual_proj.attn.in_proj_bias.data.normal_()
    return model


@pytest.fixture(scope="module")
def views():
    views = tiny_views(METHOD, SAMPLES)
    return views._replace(global_images=views.global_images.double())


def pool_image(model, image, text_feature):
    """Return what a text feature (D,) pools from the patches of an image (3, H, W)."""
    attention_pool = model.visual_proj
    patches = model.image_tokens([image[None]], keep=1).tokens @ model.visual.proj
    query = attention_pool.ln_q(text_feature[None, None])
    keys, values = attention_pool.ln_k(patches), attention_pool.ln_v(patches)
    pooled, _weights = attention_pool.attn(query, keys, values)
    return pooled[0, 0]


def encode_texts(model, views):
    """Return the features of all captions: (captions of an image, images, D)."""
    return model.encode_text(views.texts.flatten(0, 1)).unflatten(0, views.texts.shape[:2])


def pair_loss(model, image_feature, text_feature, sign):
    """Return the sigmoid loss of one pair, whose sign is 1 if it matches and -1 if not."""
    cosine = F.cosine_similarity(image_feature, text_feature, dim=0)
    logit = model.logit_scale.exp() * cosine + model.logit_bias
    return -F.logsigmoid(sign * logit)


def losses_by_loops(model, views):
    """Return the losses TCS and MPS of the batch.

    TCS compares what a text pools from an image with that text, for the image's own captions and
    for one caption of each other image. MPS compares each whole image with every caption.
    """
    texts = encode_texts(model, views)
    tcs = mps = 0
    for i, image in enumerate(views.global_images[0]):
        signed_texts = [(texts[k, i], 1) for k in range(CAPTIONS)]
        for j in range(SAMPLES):
            if j != i:
                signed_texts.append((texts[(i + j) % CAPTIONS, j], -1))
        for text, sign in signed_texts:
            tcs += pair_loss(model, pool_image(model, image, text), text, sign)
        image_feature = model.encode_image(image[None])[0]
        for k in range(CAPTIONS):
            for j in range(SAMPLES):
                mps += pair_loss(model, image_feature, texts[k, j], 1 if i == j else -1)
    return tcs / (CAPTIONS + SAMPLES - 1) / 2, mps / (CAPTIONS * SAMPLES) / 2


def test_losses_and_gradients_equal_loops_over_the_formulas(model, views):
    terms = METHOD.loss(METHOD.student_features(model, views), None, gather_locally)
    expected_terms = losses_by_loops(model, views)
    assert [*terms] == ["tcs", "mps"]
    for term, expected_term in zip(terms.values(), expected_terms, strict=True):
        assert term.item() == pytest.approx(expected_term.item(), rel=1e-10)
    model.zero_grad()
    terms.total.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    sum(expected_terms).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-7, atol=1e-9, msg=name)


class GatherOfOneSample(Gather):
    """The exchange of one process of a group in which each process has one sample.

    The tensors that it is called with are already those of all processes.
    """

    def __init__(self, rank):
        self.rank = rank

    def __call__(self, tensors):
        return [
            Gathered(tensor[:, self.rank : self.rank + 1], tensor, self.rank) for tensor in tensors
        ]


def test_the_mean_of_processes_is_the_loss_of_the_batch(model, views):
    features = METHOD.student_features(model, views)
    terms_by_process = []
    for rank in range(SAMPLES):
        # Images are those of the process; texts, which it gathers, are those of all processes.
        local_features = features._replace(
            image=features.image[:, rank : rank + 1],
            keys=features.keys[:, rank : rank + 1],
            values=features.values[:, rank : rank + 1],
        )
        terms = METHOD.loss(local_features, None, GatherOfOneSample(rank))
        terms_by_process.append(torch.stack([*terms.values()]))
    expected = torch.stack([*METHOD.loss(features, None, gather_locally).values()])
    torch.testing.assert_close(torch.stack(terms_by_process).mean(0), expected)


def test_pair_scores_are_the_cosines_of_texts_and_what_they_pool(model, views):
    images, texts = views.global_images[0], views.texts[0]
    scores = model.pair_scores(model.image_parts(images), model.text_parts(texts))
    text_features = model.encode_text(texts)
    for i, image in enumerate(images):
        for j, text_feature in enumerate(text_features):
            pooled = pool_image(model, image, text_feature)
            expected = F.cosine_similarity(pooled, text_feature, dim=0)
            assert scores[i, j].item() == pytest.approx(expected.item(), abs=1e-10)


def test_keys_of_the_pooling_are_those_of_published_checkpoints():
    """github.com/ExplainableML/flair: `visual_proj` of a ViT-B-16-FLAIR."""
    model_keys = create_model(ARCHITECTURE, "flair").state_dict()
    pooling_keys = {key for key in model_keys if "visual_proj" in key}
    assert pooling_keys == {
        "visual_proj.ln_q.weight",
        "visual_proj.ln_q.bias",
        "visual_proj.ln_k.weight",
        "visual_proj.ln_k.bias",
        "visual_proj.ln_v.weight",
        "visual_proj.ln_v.bias",
        "visual_proj.attn.in_proj_weight",
        "visual_proj.attn.in_proj_bias",
        "visual_proj.attn.out_proj.weight",
        "visual_proj.attn.out_proj.bias",
    }


def published_losses(model, views, processes):
    """Return the mean over processes of the published losses TCS and MPS.

    They are transcribed from `src/flair/loss.py` of ExplainableML/flair at 0f9ce05, with the
    captions of other images that this package chooses.

    The published code samples texts in each process before it exchanges them. From each other
    process, an image therefore gets all captions of the image at its own position there, and one
    caption of each of the others. These are B + K - 1 texts again, for B images and K captions, and
    the published code divides the sum of every process by this number.
    """
    images = views.global_images[0]
    texts = encode_texts(model, views)
    local_batch = len(images) // processes  # B
    tcs = mps = 0
    for i, image in enumerate(images):
        image_process, position = divmod(i, local_batch)
        image_feature = model.encode_image(image[None])[0]
        for text_process in range(processes):
            first = text_process * local_batch
            sign = 1 if text_process == image_process else -1
            signed_texts = [(texts[k, first + position], sign) for k in range(CAPTIONS)]
            for j in range(first, first + local_batch):
                if j != first + position:
                    signed_texts.append((texts[(i + j) % CAPTIONS, j], -1))
            for text, sign in signed_texts:
                tcs += pair_loss(model, pool_image(model, image, text), text, sign)
            for k in range(CAPTIONS):
                for j in range(first, first + local_batch):
                    mps += pair_loss(model, image_feature, texts[k, j], 1 if i == j else -1)
    tcs = tcs / (CAPTIONS + local_batch - 1) / processes / 2
    mps = mps / (CAPTIONS * local_batch) / processes / 2
    return tcs, mps


def test_the_published_loss_is_the_same_in_one_process_and_another_in_two(model, views):
    views_of_four = Views(*(tensor[:, :4] for tensor in views))
    features = METHOD.student_features(model, views_of_four)
    tcs, mps = METHOD.loss(features, None, gather_locally).values()

    published_tcs, published_mps = published_losses(model, views_of_four, processes=1)
    assert tcs.item() == pytest.approx(published_tcs.item(), rel=1e-10)
    assert mps.item() == pytest.approx(published_mps.item(), rel=1e-10)

    published_tcs, published_mps = published_losses(model, views_of_four, processes=2)
    assert mps.item() == pytest.approx(published_mps.item(), rel=1e-10)
    # The published loss of an image is a mean over 8 logits then: 3 captions of one image of the
    # other process are among them. Here it is a mean over 6 logits, with 1 caption of that image.
    assert abs(tcs.item() - published_tcs.item()) > 0.01 * tcs.item()
