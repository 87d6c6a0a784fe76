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
# Up to this number of logits, those of all pairs of views are computed at once, and kept for
# backward.
WHOLE = 2**25
# If there are more logits, they are computed in chunks of columns of at most this number.
CHUNK = 2**24
gather_locally = Gather()  # for a single process


def full_precision(tensor: Tensor) -> Tensor:
    """Convert a half-precision tensor to float32.

    CLIP's logits reach 100. At this size bfloat16 cannot represent digits after the point.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, gather: Gather = gather_locally
) -> LossTerms:
    """Return the CLIP loss (arXiv 2103.00020) of L2-normalised features.

    Args:
        image: The features (V, B, D) of V views of each of B images.
        text: The features (T, B, D) of T captions of each image.
        logit_scale: The exponentiated scale of the logits, 0-d.
        gather: Collects the features of all processes.

    Returns:
        A single term, "clip".
    """
    images, texts = gather([image, text])
    return LossTerms(clip=contrastive_loss(images, texts, logit_scale))


def contrastive_loss(
    first: Tensor | Gathered, second: Tensor | Gathered, logit_scale: Tensor
) -> Tensor:
    """Return the mean, over all pairs of views, of the symmetric cross-entropy of their samples.

    In loops, with the targets `diagonal` = [0, 1, ..., B - 1]::

        for v in range(V):
            for u in range(U):
                logits = logit_scale * first[v] @ second[u].T
                loss += (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2
        loss / (V * U)

    If features are gathered over processes, each process computes only the rows and the columns of
    its own samples, (B, N) logits each. The mean of the processes' values is then the loss above.
    More than WHOLE logits are computed in chunks of columns, and again in backward. Memory then
    grows with B + N instead of B * N.

    Args:
        first: L2-normalised features (V, B, D) of V views of each of B samples, for example of
            images, or the same features gathered from N samples of all processes.
        second: L2-normalised features (U, B, D) of U views, for example of captions, gathered or
            not like `first`.
        logit_scale: The exponentiated scale of the logits, 0-d.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        first, second = gather_locally([first, second])
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        raise TypeError("gather both sides of the contrastive loss, or neither")
    n_logits = first.local.shape[:2].numel() * second.everywhere.shape[:2].numel()
    if n_logits > WHOLE:
        return _chunked_loss(first, second, logit_scale)

    # The rows of the first features' samples, and the rows of the second features' samples.
    first_logits = _logits(first.local, second.everywhere, logit_scale)
    is_single_process = first.local is first.everywhere and second.local is second.everywhere
    if is_single_process:
        second_logits = first_logits.transpose(1, 2)
    else:
        second_logits = _logits(second.local, first.everywhere, logit_scale)
    first_loss = _cross_entropy(first_logits, first.offset)
    second_loss = _cross_entropy(second_logits, second.offset)
    return (first_loss + second_loss) / 2


def _logits(first: Tensor, second: Tensor, logit_scale: Tensor) -> Tensor:
    """Return the logits (V * U, B, C) of all pairs of views of two kinds of features.

    Args:
        first: L2-normalised features (V, B, D).
        second: L2-normalised features (U, C, D).
        logit_scale: The exponentiated scale of the logits, 0-d.
    """
    return (logit_scale * _cosines(first, second)).flatten(0, 1)


def _cross_entropy(logits: Tensor, offset: int) -> Tensor:
    """Return the mean cross-entropy of logits.

    Args:
        logits: The logits (P, B, C) of P pairs of views: a row for each of B samples, and a column
            for each of C candidates.
        offset: The column of the first sample. The target of row b is column `offset + b`.
    """
    n_pairs, n_samples, _ = logits.shape
    targets = torch.arange(offset, offset + n_samples, device=logits.device)
    targets = targets.expand(n_pairs, n_samples)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _chunked_loss(first: Gathered, second: Gathered, logit_scale: Tensor) -> Tensor:
    """Return the value of `contrastive_loss`, computed in chunks of columns to save memory.

    Args:
        first: Features (V, B, D) of this process, and (V, N, D) of all processes.
        second: Features (U, B, D) of this process, and (U, N, D) of all processes.
        logit_scale: The exponentiated scale of the logits, 0-d.
    """
    if first.gather is None:
        raise TypeError("a loss of this size needs features that a Gather returned")
    # The gathered features are detached: each process computes the gradient of its own features.
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

    The gradient of a logit is, up to a constant and apart from positives, the softmax over its row
    plus the softmax over its column. Only the process of a column knows the denominator of the
    column's softmax. So the logarithms of all denominators are gathered in forward, and processes
    exchange no gradients of features.
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
        """Return the value of `contrastive_loss`, 0-d.

        Args:
            ctx: PyTorch's context, which saves tensors for `backward`.
            first: Features (V, B, D) of this process.
            second: The other features (U, B, D) of this process.
            scale: The exponentiated scale of the logits, 0-d.
            all_first: The features (V, N, D) of all processes.
            all_second: The other features (U, N, D) of all processes.
            gather: Collects the denominators of all processes.
        """
        # The logarithms of the denominators of the softmax over each row.
        first_logs = _log_denominators(first, all_second, scale)  # (V, U, B)
        second_logs = _log_denominators(second, all_first, scale)  # (U, V, B)

        # Gather them for `backward`. Tensors are gathered in the shape of features: (pairs of
        # views, B, 1).
        gathered_first_logs, gathered_second_logs = gather(
            [first_logs.flatten(0, 1)[..., None], second_logs.flatten(0, 1)[..., None]]
        )
        all_first_logs = gathered_first_logs.everywhere[..., 0]
        all_second_logs = gathered_second_logs.everywhere[..., 0]
        ctx.save_for_backward(
            first,
            second,
            scale,
            all_first,
            all_second,
            first_logs,
            second_logs,
            all_first_logs.unflatten(0, first_logs.shape[:2]),
            all_second_logs.unflatten(0, second_logs.shape[:2]),
        )

        # A cross-entropy is the logarithm of the denominator minus the logit of the positive.
        positive_cosines = torch.einsum("vbd,ubd->vub", first, second)
        mean_log_denominator = (first_logs + second_logs.transpose(0, 1)).mean() / 2
        return mean_log_denominator - scale * positive_cosines.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return a gradient for each argument of `forward`.

        Args:
            ctx: PyTorch's context, with the tensors that `forward` has saved.
            *gradients: The gradient of the loss, 0-d.

        Returns:
            The gradients of `first`, `second` and `scale`, and None for the other arguments.
        """
        (loss_gradient,) = gradients
        first, second, scale, all_first, all_second = ctx.saved_tensors[:5]
        first_logs, second_logs, all_first_logs, all_second_logs = ctx.saved_tensors[5:]

        # The second features of the same samples are the positives of the first ones. A row is a
        # sample of `first`, and a column a sample of `all_second`.
        first_gradient, scale_gradient = _features_and_scale_gradients(
            first,
            positives=second,
            candidates=all_second,
            scale=scale,
            row_logs=first_logs,
            column_logs=all_second_logs,
        )

        # For the second features both sides change places. The teacher's need no gradient.
        second_gradient = None
        if ctx.needs_input_grad[1]:
            second_gradient, _ = _features_and_scale_gradients(
                second,
                positives=first,
                candidates=all_first,
                scale=scale,
                row_logs=second_logs,
                column_logs=all_first_logs,
            )
            second_gradient = second_gradient * loss_gradient

        first_gradient = first_gradient * loss_gradient
        scale_gradient = scale_gradient * loss_gradient
        return first_gradient, second_gradient, scale_gradient, None, None, None


def _sample_chunks(features: Tensor, candidates: Tensor) -> Iterator[slice]:
    """Yield slices of the samples of candidates, in order, which are small enough for memory.

    The samples of a slice have at most CHUNK logits with the features, unless the slice has only
    one sample.

    Args:
        features: Features (V, B, D).
        candidates: Features (U, N, D). They are slices of the N samples.
    """
    logits_per_sample = features.shape[:2].numel() * len(candidates)
    samples_per_chunk = max(1, CHUNK // logits_per_sample)
    for start in range(0, candidates.shape[1], samples_per_chunk):
        yield slice(start, start + samples_per_chunk)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines (V, U, B, C) of all pairs of views of (V, B, D) and (U, C, D)."""
    return torch.einsum("vbd,ucd->vubc", full_precision(first), full_precision(second))


def _log_denominators(features: Tensor, candidates: Tensor, scale: Tensor) -> Tensor:
    """Return the logarithms (V, U, B) of the denominators of the softmax over candidates.

    In one expression::

        logsumexp(scale * cosines(features, candidates), dim=-1)

    Args:
        features: L2-normalised features (V, B, D).
        candidates: L2-normalised features (U, N, D), with which they are compared.
        scale: The exponentiated scale of the logits, 0-d.
    """
    chunk_logs = []
    for chunk in _sample_chunks(features, candidates):
        logits = scale * _cosines(features, candidates[:, chunk])
        chunk_logs.append(logits.logsumexp(dim=-1))
    return torch.stack(chunk_logs).logsumexp(dim=0)


def _features_and_scale_gradients(
    features: Tensor,
    *,
    positives: Tensor,
    candidates: Tensor,
    scale: Tensor,
    row_logs: Tensor,
    column_logs: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `contrastive_loss` with respect to features and to the scale.

    For one view of each, without chunks and before the division by twice the number of rows::

        logits = scale * features @ candidates.T
        weights = exp(logits - row_logs[:, None]) + exp(logits - column_logs[None, :])
        features_gradient = scale * (weights @ candidates - 2 * positives)
        scale_gradient = sum(weights * features @ candidates.T) - 2 * sum(features * positives)

    Args:
        features: The features (V, B, D) of this process, of which the gradient is returned.
        positives: The features (U, B, D) of the same samples in the other modality.
        candidates: The features (U, N, D) of the samples of all processes in the other modality.
        scale: The exponentiated scale of the logits, 0-d.
        row_logs: The logarithms (V, U, B) of the denominators of the softmax over candidates.
        column_logs: The logarithms (U, V, N) of the denominators of the softmax over the features
            of all processes.

    Returns:
        The gradient (V, B, D) with respect to `features`, and the gradient, 0-d, with respect to
        `scale`.
    """
    features_gradient, scale_gradient = torch.zeros_like(features), torch.zeros_like(scale)
    for chunk in _sample_chunks(features, candidates):
        chunk_candidates = candidates[:, chunk]
        cosines = _cosines(features, chunk_candidates)  # (V, U, B, C)
        logits = scale * cosines

        # The softmax over rows plus the softmax over columns. Operations in place save memory for
        # two more tensors of this size.
        weights = (logits - row_logs[..., None]).exp_()
        chunk_logs = column_logs[:, :, chunk].transpose(0, 1)  # (V, U, C)
        weights += logits.sub_(chunk_logs[:, :, None]).exp_()

        scale_gradient += cosines.mul_(weights).sum()
        features_gradient += torch.einsum(
            "vubc,ucd->vbd", weights, full_precision(chunk_candidates)
        )
    # Each row has a positive in both softmaxes.
    summed_positives = positives.sum(dim=0)
    scale_gradient -= 2 * (features.sum(dim=0) * summed_positives).sum()
    divisor = 2 * row_logs.numel()
    features_gradient = scale * (features_gradient - 2 * summed_positives) / divisor
    return features_gradient, scale_gradient / divisor


def cosmos_loss(student: Features, teacher: Features, gather: Gather = gather_locally) -> LossTerms:
    """Return the COSMOS loss (arXiv 2412.01814): the CLIP and distillation terms of a batch.

    The CLIP term compares the student's two global image views with all of its captions. The
    distillation term compares the student's cross-modal features, of images and of captions, with
    the teacher's features, of both modalities too. All student views are compared with all views
    of the teacher::

        for student_views in (student.image_crossmodal, student.text_crossmodal):
            for teacher_views in (teacher.image, teacher.text):
                distill += contrastive_loss(student_views, teacher_views, distill_scale) / 4

    Args:
        student: The student's features of all views, global views first.
        teacher: The teacher's features of the global views.
        gather: Collects the student's features over the processes in one collective, and the
            teacher's features in another.

    Returns:
        Two terms, "clip" and "distill".

    Raises:
        ValueError: If the student has no cross-modal features.
    """
    if student.image_crossmodal is None or student.text_crossmodal is None:
        raise ValueError("the COSMOS loss needs the student's cross-modal features")
    if student.distill_logit_scale is None:
        raise ValueError("the COSMOS loss needs the student's distill_logit_scale")
    image, text, image_crossmodal, text_crossmodal = gather(
        [student.image[:2], student.text, student.image_crossmodal, student.text_crossmodal]
    )
    # The teacher has as many image views as text views. So the mean over all four views equals the
    # mean of the two modalities' means.
    (teacher_views,) = gather([torch.cat([teacher.image[:2], teacher.text[:2]])])
    scale = student.distill_logit_scale
    image_distill = contrastive_loss(image_crossmodal, teacher_views, scale)
    text_distill = contrastive_loss(text_crossmodal, teacher_views, scale)
    clip = contrastive_loss(image, text, student.logit_scale)
    return LossTerms(clip=clip, distill=(image_distill + text_distill) / 2)


def image_distillation_loss(
    student: Features, teacher: Features, gather: Gather = gather_locally
) -> LossTerms:
    """Return the COSMOS loss without captions in its distillation term.

    The CLIP term is the one of `cosmos_loss`. The distillation term compares all of the student's
    cross-modal image views with both image views of the teacher::

        distill = contrastive_loss(student.image_crossmodal, teacher.image, distill_scale)

    Args:
        student: The student's features of all views, global views first.
        teacher: The teacher's features of the global views.
        gather: Collects the student's features over the processes in one collective, and the
            teacher's features in another.

    Returns:
        Two terms, "clip" and "distill".

    Raises:
        ValueError: If the student has no cross-modal features.
    """
    if student.image_crossmodal is None:
        raise ValueError("image distillation needs the student's cross-modal features")
    if student.distill_logit_scale is None:
        raise ValueError("image distillation needs the student's distill_logit_scale")
    image, text, image_crossmodal = gather(
        [student.image[:2], student.text, student.image_crossmodal]
    )
    (teacher_image,) = gather([teacher.image[:2]])
    distill = contrastive_loss(image_crossmodal, teacher_image, student.distill_logit_scale)
    return LossTerms(clip=contrastive_loss(image, text, student.logit_scale), distill=distill)


def slip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    projections: Tensor,
    gather: Gather = gather_locally,
) -> LossTerms:
    """Return the SLIP loss (arXiv 2112.12750): CLIP's loss, and SimCLR's loss of images.

    Args:
        image: L2-normalised features (V, B, D) of V views of each image, for CLIP's loss.
        text: L2-normalised features (T, B, D) of T captions of each image.
        logit_scale: The exponentiated scale of CLIP's logits, 0-d.
        projections: L2-normalised projections (2, B, P) of two strongly augmented views, for
            SimCLR's loss.
        gather: Collects all features over the processes, in one collective.

    Returns:
        Two terms, "clip" and "simclr".
    """
    images, texts, gathered_projections = gather([image, text, projections])
    clip = contrastive_loss(images, texts, logit_scale)
    return LossTerms(clip=clip, simclr=simclr_loss(gathered_projections))


def simclr_loss(projections: Gathered) -> Tensor:
    """Return the loss NT-Xent (arXiv 2002.05709) of two views of images.

    In loops::

        for view in (0, 1):
            for b in range(N):
                candidates = [the other view of every sample] + [this view of every sample but b]
                loss += cross_entropy(projections[view][b] @ candidates / 0.1, target=b) / (2 * N)

    Args:
        projections: L2-normalised projections: (2, B, P) of this process, and (2, N, P) of all
            processes.
    """
    local, everywhere = full_precision(projections.local), full_precision(projections.everywhere)
    n_samples = local.shape[1]
    # The column of each local sample among the samples of all processes.
    targets = torch.arange(projections.offset, projections.offset + n_samples, device=local.device)
    loss = local.new_zeros(())
    for view in (0, 1):
        other_view_cosines = local[view] @ everywhere[1 - view].T
        same_view_cosines = local[view] @ everywhere[view].T
        # A projection is not compared with itself.
        same_view_cosines = same_view_cosines.scatter(1, targets[:, None], float("-inf"))
        logits = torch.cat([other_view_cosines, same_view_cosines], dim=1) / SIMCLR_TEMPERATURE
        loss = loss + F.cross_entropy(logits, targets) / 2
    return loss


def silc_loss(student_logits: Tensor, teacher_logits: Tensor, center: Tensor) -> Tensor:
    """Return SILC's loss (arXiv 2310.13355), after DINO (arXiv 2104.14294).

    It is the mean cross-entropy of all student views with all teacher views of a sample. In
    loops::

        for l in range(L):
            for g in range(G):
                target = softmax((teacher_logits[g] - center) / 0.04)
                loss += -(target * log_softmax(student_logits[l] / 0.1)).sum(-1).mean() / (L * G)

    Samples are not compared with each other: the mean over processes is the loss of the batch.

    Args:
        student_logits: The student's logits (L, B, K) of K prototypes for L local views.
        teacher_logits: The teacher's logits (G, B, K) for G global views.
        center: The running mean of the teacher's logits (K,), which `move_center` updates.
    """
    targets = F.softmax((full_precision(teacher_logits) - center) / TEACHER_TEMPERATURE, dim=-1)
    predictions = F.log_softmax(full_precision(student_logits) / STUDENT_TEMPERATURE, dim=-1)
    # The mean over pairs of views is a product of two means over views.
    return -(targets.mean(dim=0) * predictions.mean(dim=0)).sum(dim=-1).mean()


@torch.no_grad()
def move_center(
    center: Tensor, teacher_logits: Tensor, loss: Tensor, gather: Gather = gather_locally
) -> None:
    """Update the running mean of the teacher's logits, in place.

    Args:
        center: The running mean (K,).
        teacher_logits: The teacher's logits (G, B, K) for a batch. They are averaged over all
            processes, in one collective.
        loss: The loss of this process, 0-d. If it is not finite in any process, the running mean
            stays as it is.
        gather: Averages over processes.
    """
    batch_mean = full_precision(teacher_logits).mean(dim=(0, 1))
    # The loss is averaged with the logits: if it is not finite in one process, its mean is not
    # finite in any process.
    mean_and_loss = gather.mean(torch.cat([batch_mean, loss.detach()[None]]))
    moved_center = center.lerp(mean_and_loss[:-1], 1 - CENTER_MOMENTUM)
    center.copy_(torch.where(mean_and_loss.isfinite().all(), moved_center, center))


def sigmoid_loss(image: Tensor, texts: Gathered, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Return SigLIP's loss (arXiv 2303.15343), as a mean over images and caption views.

    In loops::

        for t in range(T):
            for i in range(B):
                for j in range(N):
                    logit = logit_scale * image[i] @ text[t][j] + logit_bias
                    loss += -log_sigmoid(logit if i == j else -logit) / (T * B)

    Only captions are gathered over processes. The images of this process are compared with the
    captions of one process after another, in blocks of (B, T * B) logits. With several processes,
    the logits of a block are computed again in backward, to save memory. The mean of the processes'
    values is the loss of the whole batch: the formula above with N images.

    Args:
        image: L2-normalised features (B, D) of the images of this process.
        texts: L2-normalised features of T captions of each image: (T, B, D) of this process, and
            (T, N, D) of all processes.
        logit_scale: The exponentiated scale of the logits, 0-d.
        logit_bias: The bias that is added to the logits, 0-d.
    """
    block_size = len(image)
    text_blocks = texts.everywhere.split(block_size, dim=1)
    losses = []
    for block_number, text_block in enumerate(text_blocks):
        # The row of the image to which the block's first caption belongs, counted from the first
        # image of this process. It is negative for the blocks of earlier processes.
        first_row = block_number * block_size - texts.offset
        losses.append(
            _call_block(
                len(text_blocks),
                _summed_sigmoid_losses,
                image,
                text_block,
                logit_scale,
                logit_bias,
                first_row,
            )
        )
    return torch.stack(losses).sum() / (len(image) * len(texts.local))


def _call_block(n_blocks: int, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Return the loss that a function computes for a block of logits.

    If there are several blocks, backward calls the function again, so that the logits of only one
    block are in memory at a time.

    Args:
        n_blocks: The number of blocks of the whole loss.
        function: Computes the loss of a block, 0-d.
        *inputs: The arguments of the function.
    """
    if n_blocks == 1:
        return function(*inputs)
    loss: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return loss


def _summed_sigmoid_losses(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, first_row: int
) -> Tensor:
    """Return the sum of the sigmoid losses of all pairs of an image and a caption.

    Args:
        image: L2-normalised features (B, D) of images, which are the rows of logits.
        text: L2-normalised features (T, C, D) of T captions for each of C columns.
        scale: The exponentiated scale of the logits, 0-d.
        bias: The bias that is added to the logits, 0-d.
        first_row: The row of the image to which the captions of the first column belong. The
            captions of column c belong to the image in row `first_row + c`, if there is such a row.
    """
    logits = scale * _cosines(image[None], text)[0] + bias
    rows = torch.arange(logits.shape[1], device=image.device)
    columns = torch.arange(logits.shape[2], device=image.device)
    is_pair = rows[:, None] == first_row + columns
    return -F.logsigmoid(torch.where(is_pair, logits, -logits)).sum()


def pooled_sigmoid_loss(
    pool: Callable[[Tensor], Tensor],
    queries: Gathered,
    texts: Gathered,
    logit_scale: Tensor,
    logit_bias: Tensor,
) -> Tensor:
    """Return FLAIR's text-conditioned sigmoid loss (arXiv 2412.03561).

    An image is compared with its own K captions and with one caption of every other image::

        for i in range(B):
            for k in range(K):
                loss -= log_sigmoid(logit(i, text[k][i])) / (K + N - 1)
            for j in range(N) but i:
                loss -= log_sigmoid(-logit(i, text[(i + j) % K][j])) / (K + N - 1)
        logit(i, text) = scale * cosine(pool(i, query of text), text) + bias

    The mean of the processes' values is the sum over all N images. The published code draws the
    caption of another image at random. Here the choice is fixed, `(i + j) % K`, which needs no
    random generator. The distribution is the same, since the K captions of an image are themselves
    drawn in the same way. Captions are compared in blocks as in `sigmoid_loss`.

    Args:
        pool: Pools the images of this process: it maps M queries for each image (B, M, D) to
            pooled features (B, M, D).
        queries: The queries of K captions of each image: (K, B, D) of this process, and (K, N, D)
            of all processes.
        texts: The L2-normalised features of these captions, of the same shapes.
        logit_scale: The exponentiated scale of the logits, 0-d.
        logit_bias: The bias that is added to the logits, 0-d.
    """
    n_captions, n_samples, _ = texts.local.shape
    n_all_samples = texts.everywhere.shape[1]
    n_blocks = n_all_samples // n_samples
    # The numbers (B, 1) of this process's samples among the samples of all processes.
    image_numbers = torch.arange(n_samples, device=texts.local.device)[:, None] + texts.offset

    def pair_losses(captions: Tensor, text_numbers: Tensor, sign: float) -> Tensor:
        """Return the losses (B, M) of each image with M captions.

        Args:
            captions: The index of the chosen caption of each sample (B, M), from 0 to K - 1.
            text_numbers: The number of the sample to which the caption belongs (B, M).
            sign: 1 if the captions belong to the image, and -1 if not.
        """
        pair_queries = full_precision(queries.everywhere)[captions, text_numbers]
        pair_texts = full_precision(texts.everywhere)[captions, text_numbers]
        cosines = F.cosine_similarity(pool(pair_queries), pair_texts, dim=-1)
        return -F.logsigmoid(sign * (logit_scale * cosines + logit_bias))

    def summed_positive_losses(captions: Tensor, text_numbers: Tensor) -> Tensor:
        """Return the sum of the losses of images with their own captions."""
        return pair_losses(captions, text_numbers, 1.0).sum()

    def summed_negative_losses(captions: Tensor, text_numbers: Tensor) -> Tensor:
        """Return the sum of the losses of images with captions of other images."""
        is_other_sample = text_numbers != image_numbers
        return (pair_losses(captions, text_numbers, -1.0) * is_other_sample).sum()

    # Compare every image with all K captions of the same sample.
    captions = torch.arange(n_captions, device=image_numbers.device).expand(n_samples, -1)
    text_numbers = image_numbers.expand(-1, n_captions)
    losses = [_call_block(n_blocks, summed_positive_losses, captions, text_numbers)]

    # Compare every image with one caption of every other sample, those of one process at a time.
    all_numbers = torch.arange(n_all_samples, device=image_numbers.device)
    for block_numbers in all_numbers.split(n_samples):
        captions = (image_numbers + block_numbers) % n_captions
        text_numbers = block_numbers.expand(n_samples, -1)
        losses.append(_call_block(n_blocks, summed_negative_losses, captions, text_numbers))
    n_terms = n_captions + n_all_samples - 1
    return torch.stack(losses).sum() * (n_all_samples / n_samples) / n_terms
