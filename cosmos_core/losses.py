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
CENTER_MOMENTUM = 0.9  # the same
WHOLE = 2**25  # logits of all pairs of views that are computed at once, and kept for backward
CHUNK = 2**24  # logits of a chunk of columns, where there are more
gather_locally = Gather()  # of a single process


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
    `first` (V, B, D) and `second` (U, B, D), L2-normalised; `logit_scale` 0-d, exponentiated.
    In loops::

        for v in range(V):
            for u in range(U):
                logits = logit_scale * first[v] @ second[u].T
                loss += (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2
        loss / (V * U)

    Gathered over processes, each computes its own rows and columns of the logits alone, (B, N)
    each; the mean of the processes' values is the loss above. More than WHOLE logits are
    computed in chunks of columns, and again in backward, so that memory grows with B + N."""
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
    """Every view of `first` (V, B, D) with every one of `second` (U, C, D) -> (V*U, B, C)."""
    return (logit_scale * _cosines(first, second)).flatten(0, 1)


def _cross_entropy(logits: Tensor, offset: int) -> Tensor:
    """Mean over (P, B, C) logits where the target of row b is column `offset + b`."""
    pairs, samples, _ = logits.shape
    target = torch.arange(offset, offset + samples, device=logits.device).expand(pairs, samples)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def _chunked_loss(first: Gathered, second: Gathered, logit_scale: Tensor) -> Tensor:
    if first.gather is None:
        raise TypeError("a loss of this size needs features that a Gather returned")
    own = full_precision(first.local), full_precision(second.local)
    # Without the gradient of other processes' features: each computes that of its own.
    everywhere = first.everywhere.detach(), second.everywhere.detach()
    loss: Tensor = _ChunkedLoss.apply(*own, logit_scale, *everywhere, first.gather)
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """`contrastive_loss` in chunks of columns. The gradient of a logit is the softmax of its row
    plus that of its column, and the latter's denominator is known to the process of the column: the
    logarithms of denominators are gathered, and no gradient of features is exchanged."""

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
        """`first` (V, B, D), `second` (U, B, D); those of all processes (V, N, D), (U, N, D)."""
        rows = _denominators(first, all_second, scale)
        columns = _denominators(second, all_first, scale)
        gathered = gather([logs.flatten(0, 1)[..., None] for logs in (rows, columns)])
        everywhere = (logs.everywhere[..., 0] for logs in gathered)
        shaped = (
            logs.unflatten(0, s.shape[:2])
            for logs, s in zip(everywhere, (rows, columns), strict=True)
        )
        ctx.save_for_backward(first, second, scale, all_first, all_second, rows, columns, *shaped)
        positives = torch.einsum("vbd,ubd->vub", first, second)
        return (rows + columns.transpose(0, 1)).mean() / 2 - scale * positives.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first, second, scale, all_first, all_second, rows, columns, *rest = ctx.saved_tensors
        all_rows, all_columns = rest
        by_first, by_scale = _gradient(first, second, all_second, scale, rows, all_columns)
        by_second = None
        if ctx.needs_input_grad[1]:
            by_second, _ = _gradient(second, first, all_first, scale, columns, all_rows)
            by_second = by_second * gradients[0]
        return by_first * gradients[0], by_second, by_scale * gradients[0], None, None, None


def _chunks(first: Tensor, everywhere: Tensor) -> Iterator[slice]:
    """Slices of N samples: so few that their logits with `first` are at most CHUNK."""
    size = max(1, CHUNK // (first.shape[:2].numel() * len(everywhere)))
    return (slice(start, start + size) for start in range(0, everywhere.shape[1], size))


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Every view of `first` (V, B, D) with every one of `second` (U, C, D) -> (V, U, B, C)."""
    return torch.einsum("vbd,ucd->vubc", full_precision(first), full_precision(second))


def _denominators(first: Tensor, everywhere: Tensor, scale: Tensor) -> Tensor:
    """Logarithms of the softmax's denominators: (V, B, D), (U, N, D) -> (V, U, B)."""
    logs = [
        (scale * _cosines(first, everywhere[:, part])).logsumexp(dim=-1)
        for part in _chunks(first, everywhere)
    ]
    return torch.stack(logs).logsumexp(dim=0)


def _gradient(
    first: Tensor, second: Tensor, everywhere: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss in `first` (V, B, D) and in the scale, with the logarithms of `rows`
    (V, U, B) and of `columns` (U, V, N)."""
    by_first, by_scale = torch.zeros_like(first), torch.zeros_like(scale)
    for part in _chunks(first, everywhere):
        cosines = _cosines(first, everywhere[:, part])
        logits = scale * cosines
        weights = (logits - rows[..., None]).exp_()
        weights += logits.sub_(columns[:, :, part].transpose(0, 1)[:, :, None]).exp_()
        by_scale += cosines.mul_(weights).sum()
        by_first += torch.einsum("vubc,ucd->vbd", weights, full_precision(everywhere[:, part]))
    own = second.sum(dim=0)
    by_scale -= 2 * (first.sum(dim=0) * own).sum()
    return scale * (by_first - 2 * own) / (2 * rows.numel()), by_scale / (2 * rows.numel())


def cosmos_loss(student: Features, teacher: Features, gather: Gather = gather_locally) -> LossTerms:
    """Return the COSMOS loss (arXiv 2412.01814): the CLIP and distillation terms of a batch.
    CLIP: the student's two global images against all its captions. Distillation: the mean over
    {image, text} cross-modal student features x {image, text} teacher features, each the mean
    over all student views and both teacher views::

        for student_views in (student.image_crossmodal, student.text_crossmodal):
            for teacher_views in (teacher.image, teacher.text):
                distill += contrastive_loss(student_views, teacher_views, distill_scale) / 4

    `gather` collects 26 student and 4 teacher tensors (B, D) over the processes, in one collective
    each. Raises ValueError where the student has no cross-modal features."""
    if student.image_crossmodal is None or student.text_crossmodal is None:
        raise ValueError("the COSMOS loss needs the student's cross-modal features")
    if student.distill_logit_scale is None:
        raise ValueError("the COSMOS loss needs the student's distill_logit_scale")
    image, text, *crossmodal = gather(
        [student.image[:2], student.text, student.image_crossmodal, student.text_crossmodal]
    )
    # Each half is the mean over both teacher modalities: they have equally many views.
    (teacher_views,) = gather([torch.cat([teacher.image[:2], teacher.text[:2]])])
    scale = student.distill_logit_scale
    by_image, by_text = (contrastive_loss(own, teacher_views, scale) for own in crossmodal)
    clip = contrastive_loss(image, text, student.logit_scale)
    return LossTerms(clip=clip, distill=(by_image + by_text) / 2)


def slip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    projections: Tensor,
    gather: Gather = gather_locally,
) -> LossTerms:
    """Return the SLIP loss (arXiv 2112.12750) of L2-normalised features, in one gather: CLIP's of
    `image` (V, B, D) and `text` (T, B, D), and SimCLR's of `projections` (2, B, P)."""
    images, texts, projected = gather([image, text, projections])
    clip = contrastive_loss(images, texts, logit_scale)
    return LossTerms(clip=clip, simclr=simclr_loss(projected))


def simclr_loss(projections: Gathered) -> Tensor:
    """Return NT-Xent (arXiv 2002.05709) of L2-normalised projections (2, B, P). In loops::

    for view in (0, 1):
        for b in range(N):
            others = [the other view of every sample] + [this view of every sample but b]
            loss += cross_entropy(projections[view][b] @ others / 0.1, target=b) / (2 * N)
    """
    local, everywhere = full_precision(projections.local), full_precision(projections.everywhere)
    samples = local.shape[1]
    own = torch.arange(projections.offset, projections.offset + samples, device=local.device)
    loss = local.new_zeros(())
    for view in (0, 1):
        across = local[view] @ everywhere[1 - view].T
        within = local[view] @ everywhere[view].T
        within = within.scatter(1, own[:, None], float("-inf"))
        logits = torch.cat([across, within], dim=1) / SIMCLR_TEMPERATURE
        loss = loss + F.cross_entropy(logits, own) / 2
    return loss


def silc_loss(student_logits: Tensor, teacher_logits: Tensor, center: Tensor) -> Tensor:
    """Return SILC's mean cross-entropy (arXiv 2310.13355, after DINO, arXiv 2104.14294) of all
    student views with all teacher views of a sample.
    `student_logits` (L, B, K) of local views, `teacher_logits` (G, B, K) of global ones, `center`
    (K,) of `move_center`. In loops::

        for l in range(L):
            for g in range(G):
                target = softmax((teacher_logits[g] - center) / 0.04)
                loss += -(target * log_softmax(student_logits[l] / 0.1)).sum(-1).mean() / (L * G)

    Samples of other processes play no part: the mean over processes is the loss of the batch."""
    targets = F.softmax((full_precision(teacher_logits) - center) / TEACHER_TEMPERATURE, dim=-1)
    logs = F.log_softmax(full_precision(student_logits) / STUDENT_TEMPERATURE, dim=-1)
    # The mean over pairs of views is a product of two means over views.
    return -(targets.mean(dim=0) * logs.mean(dim=0)).sum(dim=-1).mean()


@torch.no_grad()
def move_center(
    center: Tensor, teacher_logits: Tensor, loss: Tensor, gather: Gather = gather_locally
) -> None:
    """Move `center` (K,), a running mean of the teacher's logits (G, B, K), in place. The mean is
    over all processes: one collective. Where any `loss` is not finite, it stays."""
    batch_mean = full_precision(teacher_logits).mean(dim=(0, 1))
    means = gather.mean(torch.cat([batch_mean, loss.detach()[None]]))
    moved = center.lerp(means[:-1], 1 - CENTER_MOMENTUM)
    center.copy_(torch.where(means.isfinite().all(), moved, center))


def sigmoid_loss(image: Tensor, texts: Gathered, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Return SigLIP's loss (arXiv 2303.15343) of `image` (B, D) with T captions of each sample,
    `texts` (T, B, D), L2-normalised, with a scale and a bias, 0-d, per image and caption view::

        for t in range(T):
            for i in range(B):
                for j in range(N):
                    logit = logit_scale * image[i] @ text[t][j] + logit_bias
                    loss += -log_sigmoid(logit if i == j else -logit) / (T * B)

    Only captions are gathered over processes, and compared with the images of one process at a
    time, (B, T * B) logits, which are computed again in backward; the mean of the processes' values
    is the loss of the batch, the same sum with N images."""
    blocks = texts.everywhere.split(len(image), dim=1)
    firsts = range(-texts.offset, texts.everywhere.shape[1] - texts.offset, len(image))
    losses = [
        _in_blocks(len(blocks), _sigmoid_block, image, block, logit_scale, logit_bias, first)
        for block, first in zip(blocks, firsts, strict=True)
    ]
    return torch.stack(losses).sum() / (len(image) * len(texts.local))


def _in_blocks(count: int, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a function of one of `count` blocks; where there are more, again in backward."""
    if count == 1:
        return function(*inputs)
    loss: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return loss


def _sigmoid_block(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, first: int) -> Tensor:
    """Sum over (T, B, C) logits of `image` (B, D) and `text` (T, C, D), in which row b is of the
    sample of column b - first."""
    logits = scale * _cosines(image[None], text)[0] + bias
    rows, columns = (torch.arange(n, device=image.device) for n in logits.shape[1:])
    return -F.logsigmoid(torch.where(rows[:, None] == columns + first, logits, -logits)).sum()


def pooled_sigmoid_loss(
    pool: Callable[[Tensor], Tensor],
    queries: Gathered,
    texts: Gathered,
    logit_scale: Tensor,
    logit_bias: Tensor,
) -> Tensor:
    """Return FLAIR's text-conditioned sigmoid loss (arXiv 2412.03561). Of `texts` (K, B, D), L2-
    normalised, `queries` (K, B, D) pool the images: `pool` maps queries for each image (B, M, D) to
    pooled features (B, M, D). An image meets its own K captions and one of every other image::

        for i in range(B):
            for k in range(K):
                loss -= log_sigmoid(logit(i, text[k][i])) / (K + N - 1)
            for j in range(N) but i:
                loss -= log_sigmoid(-logit(i, text[(i + j) % K][j])) / (K + N - 1)
        logit(i, text) = scale * cosine(pool(i, query of text), text) + bias

    The mean of the processes' values is the sum over all N images. The published code draws the
    caption of another image at random; since all K are drawn alike, a fixed choice has the same
    distribution, and depends on no generator. Captions come in blocks as in `sigmoid_loss`."""
    views, samples, _ = texts.local.shape
    total, everywhere = texts.everywhere.shape[1], (queries.everywhere, texts.everywhere)
    rows = torch.arange(samples, device=texts.local.device)[:, None] + texts.offset

    def block(captions: Tensor, columns: Tensor, sign: float) -> Tensor:
        asked, met = (full_precision(one)[captions, columns] for one in everywhere)
        logits = logit_scale * F.cosine_similarity(pool(asked), met, dim=-1) + logit_bias
        losses = -F.logsigmoid(sign * logits)
        return (losses * (columns != rows) if sign < 0 else losses).sum()

    own = torch.arange(views, device=rows.device).expand(samples, -1)
    losses = [_in_blocks(total // samples, block, own, rows.expand(-1, views), 1.0)]
    for columns in torch.arange(total, device=rows.device).split(samples):
        captions, others = (rows + columns) % views, columns.expand(samples, -1)
        losses.append(_in_blocks(total // samples, block, captions, others, -1.0))
    return torch.stack(losses).sum() * (total / samples) / (views + total - 1)
