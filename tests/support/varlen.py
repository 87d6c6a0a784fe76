"""PyTorch's `varlen_attn`, which needs a GPU, as its documentation defines it."""

import torch
from torch import Tensor


def written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
) -> Tensor:
    """Queries (T_q, h, d) of sequences between the bounds `cu_seq_q` (N + 1,), keys and values
    (T_k, h, d) between `cu_seq_k`. With a window of (-1, 0) the last query sees all keys, the one
    before all but the last, and so on."""
    outputs = []
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    queries, keys = cu_seq_q.tolist(), cu_seq_k.tolist()
    for first, last, start, end in zip(queries, queries[1:], keys, keys[1:], strict=False):
        assert 0 < last - first <= max_q
        assert 0 < end - start <= max_k
        q, k, v = query[first:last], key[start:end], value[start:end]
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        if window_size == (-1, 0):
            behind = torch.arange(len(k)) > torch.arange(len(q))[:, None] + len(k) - len(q)
            scores = scores.masked_fill(behind, float("-inf"))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
    assert (queries[-1], keys[-1]) == (len(query), len(key))
    return torch.cat(outputs)
