"""The losses: CLIP, COSMOS, SLIP, SILC, SigLIP, FLAIR."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cosmos_core.types import Features, Gather, Gathered, LossTerms

SIMCLR_TEMPERATURE = 0.1  # SLIP, arXiv 2112.12750, section 3.2 (github.com/facebookresearch/SLIP)
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04  # github.com/facebookresearch/dino
CENTER_MOMENTUM = 0.9  # github.com/facebookresearch/dino
WHOLE = 2**25  # up to so many logits of all pairs of views are computed at once, and kept
CHUNK = 2**24  # logits of a chunk of columns, if there are more
gather_locally = Gather()  # for a single process


def full_precision(tensor: Tensor) -> Tensor:
    """Widen to float32: logits of scale 100 leave bfloat16 no digit after the point."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, gather: Gather = gather_locally
) -> LossTerms:
    """Return the CLIP loss (arXiv 2103.00020) of normalised `image` (V, B, D), `text` (T, B, D)."""
    images, texts = gather([image, text])
    return LossTerms(clip=contrastive_loss(images, texts, logit_scale))


def contrastive_loss(
    first: Tensor | Gathered, second: Tensor | Gathered, logit_scale: Tensor
) -> Tensor:
    """Return the mean, over all pairs of views, of the symmetric cross-entropy of their samples.

    `first` (V, B, D) and `second` (U, B, D) are L2-normalised, `logit_scale` is 0-d and
    exponentiated. In loops::

        for v in range(V):
            for u in range(U):
                logits = logit_scale * first[v] @ second[u].T
                loss += (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2
        loss / (V * U)

    If features are gathered over processes, each process computes only its own rows and columns of
    the logits, (B, N) each. The mean of the processes' values is then the loss above. More than
    WHOLE logits are computed in chunks of columns, and again in backward, so that memory grows with
    B + N.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        first, second = gather_locally([first, second])
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        raise TypeError("gather both sides of the contrastive loss, or neither")
    if first.local.shape[:2].numel() * second.everywhere.shape[:2].numel() > WHOLE:
        return _chunked_loss(first, second, logit_scale)
    rows = _logits(first.local, second.everywhere, logit_scale)
    if first.local is first.everywhere and second.local is second.everywhere:
        columns = rows.transpose(1, 2)
    else:
        columns = _logits(second.local, first.everywhere, logit_scale)
    return (_cross_entropy(rows, first.offset) + _cross_entropy(columns, second.offset)) / 2


def _logits(first: Tensor, second: Tensor, logit_scale: Tensor) -> Tensor:
    """Return the logits (V*U, B, C) of all pairs of views of (V, B, D) and (U, C, D)."""
    return (logit_scale * _cosines(first, second)).flatten(0, 1)


def _cross_entropy(logits: Tensor, offset: int) -> Tensor:
    """Return the mean cross-entropy of logits (P, B, C); the target of row b is `offset + b`."""
    pairs, samples, _ = logits.shape
    target = torch.arange(offset, offset + samples, device=logits.device).expand(pairs, samples)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def _chunked_loss(first: Gathered, second: Gathered, logit_scale: Tensor) -> Tensor:
    """Compute `contrastive_loss` of many logits with memory for few of them."""
    if first.gather is None:
        raise TypeError("a loss of this size needs features that a Gather returned")
    # Features of other processes get no gradient here: their own processes compute it.
    loss: Tensor = _ChunkedLoss.apply(
        full_precision(first.local),
        full_precision(second.local),
        logit_scale,
        first.everywhere.detach(),
        second.everywhere.detach(),
        first.gather,
    )
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """Computes `contrastive_loss` in chunks of columns.

    The gradient of a logit is the softmax over its row plus the softmax over its column. The
    denominator of the latter is known to the process of the column. So the logarithms of the
    denominators are gathered, and no gradient of features is exchanged.
    """

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        scale: Tensor,
        all_first: Tensor,
        all_second: Tensor,
        gather: Gather,
    ) -> Tensor:
        """Return the loss of `first` (V, B, D) and `second` (U, B, D).

        The features of all processes are `all_first` (V, N, D) and `all_second` (U, N, D).
        """
        rows = _log_denominators(first, all_second, scale)
        columns = _log_denominators(second, all_first, scale)
        gathered_rows, gathered_columns = gather(
            [rows.flatten(0, 1)[..., None], columns.flatten(0, 1)[..., None]]
        )
        all_rows = gathered_rows.everywhere[..., 0].unflatten(0, rows.shape[:2])
        all_columns = gathered_columns.everywhere[..., 0].unflatten(0, columns.shape[:2])
        ctx.save_for_backward(
            first, second, scale, all_first, all_second, rows, columns, all_rows, all_columns
        )
        positives = torch.einsum("vbd,ubd->vub", first, second)
        return (rows + columns.transpose(0, 1)).mean() / 2 - scale * positives.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `first`, `second` and `scale`; None for the other arguments."""
        (loss_gradient,) = gradients
        first, second, scale, all_first, all_second = ctx.saved_tensors[:5]
        rows, columns, all_rows, all_columns = ctx.saved_tensors[5:]
        first_gradient, scale_gradient = _gradients(
            first, second, all_second, scale, rows, all_columns
        )
        second_gradient = None
        if ctx.needs_input_grad[1]:
            second_gradient, _ = _gradients(second, first, all_first, scale, columns, all_rows)
            second_gradient = second_gradient * loss_gradient
        first_gradient = first_gradient * loss_gradient
        scale_gradient = scale_gradient * loss_gradient
        return first_gradient, second_gradient, scale_gradient, None, None, None


def _chunks(first: Tensor, everywhere: Tensor) -> Iterator[slice]:
    """Yield slices of the N samples of `everywhere` whose logits with `first` are at most CHUNK."""
    logits_per_sample = first.shape[:2].numel() * len(everywhere)
    samples_per_chunk = max(1, CHUNK // logits_per_sample)
    for start in range(0, everywhere.shape[1], samples_per_chunk):
        yield slice(start, start + samples_per_chunk)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines (V, U, B, C) of all pairs of views of (V, B, D) and (U, C, D)."""
    return torch.einsum("vbd,ucd->vubc", full_precision(first), full_precision(second))


def _log_denominators(first: Tensor, everywhere: Tensor, scale: Tensor) -> Tensor:
    """Return the logarithms (V, U, B) of the softmax's denominators for (V, B, D), (U, N, D)."""
    chunk_logs = []
    for chunk in _chunks(first, everywhere):
        logits = scale * _cosines(first, everywhere[:, chunk])
        chunk_logs.append(logits.logsumexp(dim=-1))
    return torch.stack(chunk_logs).logsumexp(dim=0)


def _gradients(
    first: Tensor, second: Tensor, everywhere: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the loss in `first` (V, B, D) and in the scale.

    `rows` (V, U, B) and `columns` (U, V, N) are the logarithms of the denominators.
    """
    first_gradient, scale_gradient = torch.zeros_like(first), torch.zeros_like(scale)
    for chunk in _chunks(first, everywhere):
        cosines = _cosines(first, everywhere[:, chunk])
        logits = scale * cosines
        weights = (logits - rows[..., None]).exp_()
        weights += logits.sub_(columns[:, :, chunk].transpose(0, 1)[:, :, None]).exp_()
        scale_gradient += cosines.mul_(weights).sum()
        first_gradient += torch.einsum(
            "vubc,ucd->vbd", weights, full_precision(everywhere[:, chunk])
        )
    positives = second.sum(dim=0)
    scale_gradient -= 2 * (first.sum(dim=0) * positives).sum()
    first_gradient = scale * (first_gradient - 2 * positives) / (2 * rows.numel())
    return first_gradient, scale_gradient / (2 * rows.numel())


def cosmos_loss(student: Features, teacher: Features, gather: Gather = gather_locally) -> LossTerms:
    """Return the COSMOS loss (arXiv 2412.01814): the CLIP and distillation terms of a batch.

    The CLIP term compares the student's two global images with all of its captions. The
    distillation term is the mean over {image, text} cross-modal student features and {image, text}
    teacher features, each compared over all student views and both teacher views::

        for student_views in (student.image_crossmodal, student.text_crossmodal):
            for teacher_views in (teacher.image, teacher.text):
                distill += contrastive_loss(student_views, teacher_views, distill_scale) / 4

    `gather` collects 26 student and 4 teacher tensors (B, D) over the processes, in one collective
    each. Raises ValueError if the student has no cross-modal features.
    """
    if student.image_crossmodal is None or student.text_crossmodal is None:
        raise ValueError("the COSMOS loss needs the student's cross-modal features")
    if student.distill_logit_scale is None:
        raise ValueError("the COSMOS loss needs the student's distill_logit_scale")
    image, text, image_crossmodal, text_crossmodal = gather(
        [student.image[:2], student.text, student.image_crossmodal, student.text_crossmodal]
    )
    # Image and text views of the teacher are equally many, so that the mean over all of them is the
    # mean over both modalities.
    (teacher_views,) = gather([torch.cat([teacher.image[:2], teacher.text[:2]])])
    scale = student.distill_logit_scale
    image_distill = contrastive_loss(image_crossmodal, teacher_views, scale)
    text_distill = contrastive_loss(text_crossmodal, teacher_views, scale)
    clip = contrastive_loss(image, text, student.logit_scale)
    return LossTerms(clip=clip, distill=(image_distill + text_distill) / 2)


def slip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    projections: Tensor,
    gather: Gather = gather_locally,
) -> LossTerms:
    """Return the SLIP loss (arXiv 2112.12750) of L2-normalised features, in one gather.

    Its terms are CLIP's loss of `image` (V, B, D) and `text` (T, B, D), and SimCLR's loss of
    `projections` (2, B, P).
    """
    images, texts, gathered_projections = gather([image, text, projections])
    clip = contrastive_loss(images, texts, logit_scale)
    return LossTerms(clip=clip, simclr=simclr_loss(gathered_projections))


def simclr_loss(projections: Gathered) -> Tensor:
    """Return NT-Xent (arXiv 2002.05709) of L2-normalised projections (2, B, P). In loops::

    for view in (0, 1):
        for b in range(N):
            candidates = [the other view of every sample] + [this view of every sample but b]
            loss += cross_entropy(projections[view][b] @ candidates / 0.1, target=b) / (2 * N)
    """
    local, everywhere = full_precision(projections.local), full_precision(projections.everywhere)
    samples = local.shape[1]
    targets = torch.arange(projections.offset, projections.offset + samples, device=local.device)
    loss = local.new_zeros(())
    for view in (0, 1):
        other_view = local[view] @ everywhere[1 - view].T
        same_view = local[view] @ everywhere[view].T
        same_view = same_view.scatter(1, targets[:, None], float("-inf"))
        logits = torch.cat([other_view, same_view], dim=1) / SIMCLR_TEMPERATURE
        loss = loss + F.cross_entropy(logits, targets) / 2
    return loss


def silc_loss(student_logits: Tensor, teacher_logits: Tensor, center: Tensor) -> Tensor:
    """Return SILC's loss (arXiv 2310.13355), after DINO (arXiv 2104.14294).

    It is the mean cross-entropy of all student views with all teacher views of a sample.
    `student_logits` (L, B, K) belong to local views, `teacher_logits` (G, B, K) to global ones, and
    `center` (K,) is moved by `move_center`. In loops::

        for l in range(L):
            for g in range(G):
                target = softmax((teacher_logits[g] - center) / 0.04)
                loss += -(target * log_softmax(student_logits[l] / 0.1)).sum(-1).mean() / (L * G)

    Samples are not compared with each other: the mean over processes is the loss of the batch.
    """
    targets = F.softmax((full_precision(teacher_logits) - center) / TEACHER_TEMPERATURE, dim=-1)
    predictions = F.log_softmax(full_precision(student_logits) / STUDENT_TEMPERATURE, dim=-1)
    # The mean over pairs of views is a product of two means over views.
    return -(targets.mean(dim=0) * predictions.mean(dim=0)).sum(dim=-1).mean()


@torch.no_grad()
def move_center(
    center: Tensor, teacher_logits: Tensor, loss: Tensor, gather: Gather = gather_locally
) -> None:
    """Move `center` (K,), a running mean of the teacher's logits (G, B, K), in place.

    The mean is over all processes, in one collective. The center stays if the `loss` of a process
    is not finite.
    """
    batch_mean = full_precision(teacher_logits).mean(dim=(0, 1))
    # The loss is gathered with the mean: it makes the result NaN or infinite in all processes.
    mean_and_loss = gather.mean(torch.cat([batch_mean, loss.detach()[None]]))
    moved = center.lerp(mean_and_loss[:-1], 1 - CENTER_MOMENTUM)
    center.copy_(torch.where(mean_and_loss.isfinite().all(), moved, center))


def sigmoid_loss(image: Tensor, texts: Gathered, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Return SigLIP's loss (arXiv 2303.15343), per image and caption view.

    `image` (B, D) and `texts` (T, B, D), T captions of each sample, are L2-normalised. Scale and
    bias are 0-d. In loops::

        for t in range(T):
            for i in range(B):
                for j in range(N):
                    logit = logit_scale * image[i] @ text[t][j] + logit_bias
                    loss += -log_sigmoid(logit if i == j else -logit) / (T * B)

    Only captions are gathered over processes. They are compared with the images of this process in
    blocks, those of one process at a time, with (B, T * B) logits, which are computed again in
    backward. The mean of the processes' values is the loss of the batch, the same sum over N
    images.
    """
    block_size = len(image)
    blocks = texts.everywhere.split(block_size, dim=1)
    losses = []
    for number, block in enumerate(blocks):
        first_sample = number * block_size - texts.offset
        losses.append(
            _call_block(
                len(blocks), _sigmoid_block, image, block, logit_scale, logit_bias, first_sample
            )
        )
    return torch.stack(losses).sum() / (len(image) * len(texts.local))


def _call_block(blocks: int, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a function for one of several blocks; if there are more, again in backward."""
    if blocks == 1:
        return function(*inputs)
    loss: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return loss


def _sigmoid_block(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, first_sample: int
) -> Tensor:
    """Return the sum of the losses of `image` (B, D) with `text` (T, C, D).

    Text column c is a caption of the image in row c + first_sample.
    """
    logits = scale * _cosines(image[None], text)[0] + bias
    rows = torch.arange(logits.shape[1], device=image.device)
    columns = torch.arange(logits.shape[2], device=image.device)
    is_pair = rows[:, None] == columns + first_sample
    return -F.logsigmoid(torch.where(is_pair, logits, -logits)).sum()


def pooled_sigmoid_loss(
    pool: Callable[[Tensor], Tensor],
    queries: Gathered,
    texts: Gathered,
    logit_scale: Tensor,
    logit_bias: Tensor,
) -> Tensor:
    """Return FLAIR's text-conditioned sigmoid loss (arXiv 2412.03561).

    `texts` (K, B, D) are L2-normalised, and their `queries` (K, B, D) pool the images: `pool` maps
    queries for each image (B, M, D) to pooled features (B, M, D). An image is compared with its own
    K captions and with one caption of every other image::

        for i in range(B):
            for k in range(K):
                loss -= log_sigmoid(logit(i, text[k][i])) / (K + N - 1)
            for j in range(N) but i:
                loss -= log_sigmoid(-logit(i, text[(i + j) % K][j])) / (K + N - 1)
        logit(i, text) = scale * cosine(pool(i, query of text), text) + bias

    The mean of the processes' values is the sum over all N images. The published code draws the
    caption of another image at random. All K captions are drawn in the same way, so a fixed choice
    has the same distribution, and needs no generator. Captions come in blocks as in `sigmoid_loss`.
    """
    views, samples, _ = texts.local.shape
    all_samples = texts.everywhere.shape[1]
    blocks = all_samples // samples
    rows = torch.arange(samples, device=texts.local.device)[:, None] + texts.offset

    def pair_losses(captions: Tensor, columns: Tensor, sign: float) -> Tensor:
        """Return the losses (B, M) of images with captions of samples `columns`, both (B, M)."""
        pair_queries = full_precision(queries.everywhere)[captions, columns]
        pair_texts = full_precision(texts.everywhere)[captions, columns]
        cosines = F.cosine_similarity(pool(pair_queries), pair_texts, dim=-1)
        return -F.logsigmoid(sign * (logit_scale * cosines + logit_bias))

    def positive_block(captions: Tensor, columns: Tensor) -> Tensor:
        return pair_losses(captions, columns, 1.0).sum()

    def negative_block(captions: Tensor, columns: Tensor) -> Tensor:
        return (pair_losses(captions, columns, -1.0) * (columns != rows)).sum()

    own_captions = torch.arange(views, device=rows.device).expand(samples, -1)
    losses = [_call_block(blocks, positive_block, own_captions, rows.expand(-1, views))]
    for columns in torch.arange(all_samples, device=rows.device).split(samples):
        captions = (rows + columns) % views
        losses.append(_call_block(blocks, negative_block, captions, columns.expand(samples, -1)))
    return torch.stack(losses).sum() * (all_samples / samples) / (views + all_samples - 1)
