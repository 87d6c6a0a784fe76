"""Sequences of several lengths in one pass, against OpenCLIP's blocks on each sequence alone."""

import copy
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from support.varlen import written_out
from torch._dynamo.testing import CompileCounter

from cosmos_core.model import packed as module
from cosmos_core.model.packed import (
    HAS_VARLEN,
    attend,
    attend_by_length,
    pack,
    pack_blocks,
    run_blocks,
    supports_varlen,
)

WIDTH, HEADS = 16, 2
LENGTHS = (7, 7, 4, 4, 4, 2)
# The token of each sequence whose feature is read: any one, or the last one.
ENDS = (6, 1, 3, 0, 2, 1)
LAST = tuple(length - 1 for length in LENGTHS)


class Transformers(NamedTuple):
    """A transformer of OpenCLIP, and a copy with blocks that take packed sequences."""

    openclip: Transformer
    packed: Transformer


@pytest.fixture
def transformers():
    """Transformers in float64, with biases that are not zero."""
    torch.manual_seed(0)
    openclip = Transformer(WIDTH, layers=3, heads=HEADS).double()
    for block in openclip.resblocks:
        torch.nn.init.normal_(block.attn.in_proj_bias)
    packed = copy.deepcopy(openclip)
    pack_blocks(packed)
    return Transformers(openclip, packed)


def random_sequences():
    """Return sequences of LENGTHS, the same ones in each call, that need gradients."""
    generator = torch.Generator().manual_seed(1)
    options = {"dtype": torch.float64, "generator": generator, "requires_grad": True}
    return [torch.randn(length, WIDTH, **options) for length in LENGTHS]


def encode_one_by_one(transformer, sequences, causal):
    """Return the output of each sequence in a batch of its own, with OpenCLIP's mask."""
    outputs = []
    for sequence in sequences:
        mask = torch.full((len(sequence), len(sequence)), -math.inf, dtype=torch.float64).triu(1)
        outputs.append(transformer(sequence[None], attn_mask=mask if causal else None)[0])
    return outputs


@pytest.fixture
def uses_varlen(request, monkeypatch):
    """Whether all sequences attend in one call of PyTorch's varlen_attn.

    As it needs a GPU, its definition takes its place.
    """
    monkeypatch.setattr(module, "varlen_attn", written_out)
    return request.param


@pytest.mark.parametrize(
    ("causal", "n_complete", "checkpointing", "uses_varlen"),
    [
        (True, 0, False, False),
        (True, 2, True, False),
        (True, 2, False, True),
        (True, 6, True, True),
        (False, 0, True, True),
        (False, 2, False, False),
        (False, 2, True, True),
        (False, 6, False, False),
    ],
    indirect=["uses_varlen"],
)
def test_features_and_gradients_are_those_of_single_sequences(
    transformers, causal, n_complete, checkpointing, uses_varlen
):
    """Of the first `n_complete` sequences all tokens are returned, of the others only the end."""
    transformers.packed.grad_checkpointing = checkpointing
    ends = LAST if uses_varlen and causal else ENDS

    single_sequences = random_sequences()
    outputs = encode_one_by_one(transformers.openclip, single_sequences, causal)
    expected_outputs = outputs[:n_complete]
    for output, end in zip(outputs[n_complete:], ends[n_complete:], strict=True):
        expected_outputs.append(output[end : end + 1])
    expected = torch.cat(expected_outputs)
    expected.sin().sum().backward()

    sequences = random_sequences()
    x = torch.cat(sequences)
    packing = pack(torch.tensor(LENGTHS), 7, x, causal=causal, uses_varlen=uses_varlen)
    n_complete_tokens = sum(LENGTHS[:n_complete])
    positions_to_read = torch.tensor(ends[n_complete:], dtype=torch.long)
    outputs = run_blocks(
        transformers.packed, x, packing, n_complete, n_complete_tokens, positions_to_read
    )
    packed_output = torch.cat(outputs)
    packed_output.sin().sum().backward()

    torch.testing.assert_close(packed_output, expected)
    for sequence, single_sequence in zip(sequences, single_sequences, strict=True):
        torch.testing.assert_close(sequence.grad, single_sequence.grad)
    for (name, parameter), expected_parameter in zip(
        transformers.packed.named_parameters(), transformers.openclip.parameters(), strict=True
    ):
        torch.testing.assert_close(parameter.grad, expected_parameter.grad, msg=name)


def test_blocks_called_without_a_packing_are_openclips(transformers):
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    assert torch.equal(transformers.packed(x), transformers.openclip(x))


def test_parameters_keep_their_names(transformers):
    packed = transformers.packed
    assert list(packed.state_dict()) == list(transformers.openclip.state_dict())
    assert all(isinstance(block, ResidualAttentionBlock) for block in packed.resblocks)


def test_blocks_of_another_kind_are_refused():
    transformer = Transformer(WIDTH, layers=1, heads=HEADS, scale_attn=True)
    with pytest.raises(ValueError, match="on blocks of kind CustomResidualAttentionBlock"):
        pack_blocks(transformer)


@pytest.mark.parametrize("masking", ["causal", "mask", "nothing"])
def test_attention_in_bfloat16_is_close_to_the_formula(masking):
    """It takes the plain form on a CPU, and only rounding differs."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, HEADS, 6, 8, dtype=torch.float64, generator=generator)
    may_attend = torch.ones(6, 6, dtype=torch.bool)
    options = {"causal": False, "mask": None}
    if masking == "causal":
        may_attend = may_attend.tril()
        options = {"causal": True, "mask": None}
    elif masking == "mask":
        # Of two sequences, the first 3 and the first 5 tokens.
        may_attend = torch.arange(6) <= torch.tensor([2, 4])[:, None, None, None]
        options = {"causal": False, "mask": may_attend}
    scores = (q @ k.transpose(-2, -1) / math.sqrt(8)).masked_fill(~may_attend, -math.inf)
    expected = scores.softmax(dim=-1) @ v
    in_bfloat16 = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), **options)
    assert in_bfloat16.dtype == torch.bfloat16
    assert (in_bfloat16.double() - expected).abs().max() < 0.03
    torch.testing.assert_close(attend(q, k, v, **options), expected)


def attend_padded(q, k, v, lengths, ends, causal):
    """Return the attention of sequences in one padded batch, with a mask of the keys to attend to.

    Args:
        q: The queries of all sequences, one after the other (sum of lengths, heads, width), or if
            there are ends one query of each sequence (number of sequences, heads, width).
        k: The keys of all sequences (sum of lengths, heads, width).
        v: The values of all sequences (sum of lengths, heads, width).
        lengths: The length of each sequence.
        ends: The position of the query in each sequence, or None if all tokens are queries.
        causal: Whether a query attends only to its own position and the positions before.
    """
    longest = max(lengths)
    positions = torch.arange(longest, device=q.device)

    def pad(x):
        """Return the sequences (number of sequences, heads, longest, width)."""
        padded_sequences = []
        for sequence in x.split(lengths):
            padded_sequences.append(F.pad(sequence, (0, 0, 0, 0, 0, longest - len(sequence))))
        return torch.stack(padded_sequences).transpose(1, 2)

    lengths_of_keys = torch.tensor(lengths, device=q.device)[:, None, None, None]
    n_queries = longest if ends is None else 1
    may_attend = (positions < lengths_of_keys).expand(-1, 1, n_queries, -1)
    if causal:
        query_positions = positions[:, None] if ends is None else ends[:, None, None, None]
        may_attend = may_attend & (positions <= query_positions)
    queries = pad(q) if ends is None else q[:, :, None]
    scores = queries @ pad(k).transpose(-2, -1) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~may_attend, -1e9).softmax(dim=-1)
    outputs = (weights @ pad(v)).transpose(1, 2)
    if ends is not None:
        return torch.cat([*outputs])
    return torch.cat([output[:length] for output, length in zip(outputs, lengths, strict=True)])


def random_projections(ends, device="cpu", dtype=torch.float32):
    """Return queries, keys and values, with one query per sequence if there are ends."""
    generator = torch.Generator().manual_seed(2)
    n_tokens = sum(LENGTHS)
    n_queries = n_tokens if ends is None else len(LENGTHS)
    projections = []
    for count in (n_queries, n_tokens, n_tokens):
        projection = torch.randn(count, HEADS, 8, generator=generator)
        projections.append(projection.to(device, dtype).requires_grad_())
    return projections


def assert_same(output, inputs, expected_output, expected_inputs, tolerance=1e-5):
    """Check that two outputs, and the gradients with respect to their inputs, are close."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(output)
    gradients = torch.autograd.grad((output * weights).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected_output * weights).sum(), expected_inputs)
    assert (output - expected_output).abs().max() < tolerance
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert (gradient - expected_gradient).abs().max() < tolerance


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ends", [None, ENDS])
@pytest.mark.parametrize("attend_function", [module._attend_by_length, attend_by_length])
def test_attention_by_length_is_that_of_a_padded_batch(attend_function, causal, ends):
    """Also in compiled code, where it is an operator with its own gradient."""
    ends = ends and torch.tensor(ends)
    inputs = random_projections(ends)
    output = attend_function(*inputs, torch.tensor(LENGTHS), ends, causal)
    assert_same(output, inputs, attend_padded(*inputs, LENGTHS, ends, causal), inputs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="varlen_attn needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ends", [None, LAST])
def test_attention_in_one_call_is_that_of_a_padded_batch(transformers, causal, ends):
    """Attention in bfloat16 is compared with float32 on the same values: only rounding differs."""
    assert HAS_VARLEN
    ends = ends and torch.tensor(ends, device="cuda")
    inputs = random_projections(ends, "cuda", torch.bfloat16)
    assert supports_varlen(transformers.packed, inputs[0])
    packing = pack(torch.tensor(LENGTHS), 7, inputs[0], causal=causal, uses_varlen=True)
    output = module._attend_packed(*inputs, packing._replace(query_positions=ends))
    float_inputs = [x.detach().float().requires_grad_() for x in inputs]
    expected = attend_padded(*float_inputs, LENGTHS, ends, causal)
    assert_same(output, inputs, expected, float_inputs, tolerance=0.05)


def test_varlen_is_not_supported_on_a_cpu(transformers):
    for dtype in (torch.float32, torch.bfloat16):
        assert not supports_varlen(transformers.packed, torch.zeros(1, dtype=dtype))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own
def test_blocks_are_compiled_at_most_twice_for_any_packings(transformers):
    # The first packing compiles for its sizes, and the second one for all sizes.
    packed = transformers.packed
    torch._dynamo.reset()  # forget what other tests compiled
    counter = CompileCounter()
    for block in packed.resblocks:
        block.compile(backend=counter)
    counts = []
    for lengths in ((7, 7, 4, 4), (7, 7, 3, 2), (7, 7, 6, 6), (7, 7, 5, 2)):
        ends = torch.zeros(2, dtype=torch.long)
        x = torch.randn(sum(lengths), WIDTH, dtype=torch.float64)
        packing = pack(torch.tensor(lengths), 7, x, causal=True, uses_varlen=False)
        run_blocks(packed, x, packing, 2, 14, ends)
        counts.append(counter.frame_count)
    assert 0 < counts[0] < counts[1] == counts[2] == counts[3]
