"""Sequences of several lengths in one pass, against OpenCLIP's blocks on each of them alone."""

import copy
import math

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
ENDS = (6, 1, 3, 0, 2, 1)  # of each sequence
LAST = tuple(length - 1 for length in LENGTHS)


@pytest.fixture
def transformers():
    """OpenCLIP's and the same one packed, in float64, with biases that are not zero."""
    torch.manual_seed(0)
    plain = Transformer(WIDTH, layers=3, heads=HEADS).double()
    for block in plain.resblocks:
        torch.nn.init.normal_(block.attn.in_proj_bias)
    packed = copy.deepcopy(plain)
    pack_blocks(packed)
    return plain, packed


def sequences(requires_grad=False):
    generator = torch.Generator().manual_seed(1)
    options = {"dtype": torch.float64, "generator": generator, "requires_grad": requires_grad}
    return [torch.randn(length, WIDTH, **options) for length in LENGTHS]


def one_by_one(transformer, tokens, causal):
    """Each sequence in a batch of its own, with OpenCLIP's mask."""
    outputs = []
    for sequence in tokens:
        mask = torch.full((len(sequence), len(sequence)), -math.inf, dtype=torch.float64).triu(1)
        outputs.append(transformer(sequence[None], attn_mask=mask if causal else None)[0])
    return outputs


@pytest.fixture
def one_call(request, monkeypatch):
    """Whether attention is one call, by the definition of PyTorch's, which needs a GPU."""
    monkeypatch.setattr(module, "varlen_attn", written_out)
    return request.param


@pytest.mark.parametrize(
    ("causal", "kept", "checkpointing", "one_call"),
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
    indirect=["one_call"],
)
def test_features_and_gradients_are_those_of_single_sequences(
    transformers, causal, kept, checkpointing, one_call
):
    plain, packed = transformers
    packed.grad_checkpointing = checkpointing
    ends = LAST if one_call and causal else ENDS
    tokens, alone = sequences(requires_grad=True), sequences(requires_grad=True)
    outputs = one_by_one(plain, alone, causal)
    expected = [
        *outputs[:kept],
        *(x[end : end + 1] for x, end in zip(outputs[kept:], ends[kept:], strict=True)),
    ]
    ends, x = torch.tensor(ends[kept:], dtype=torch.long), torch.cat(tokens)
    packing = pack(torch.tensor(LENGTHS), 7, x, causal=causal, uses_varlen=one_call)
    mixed = run_blocks(packed, x, packing, kept, sum(LENGTHS[:kept]), ends)
    ours, theirs = torch.cat(mixed), torch.cat(expected)
    torch.testing.assert_close(ours, theirs)
    ours.sin().sum().backward()
    theirs.sin().sum().backward()
    for mine, other in zip(tokens, alone, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    for (name, mine), other in zip(packed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, msg=name)


def test_blocks_called_without_a_packing_are_openclips(transformers):
    plain, packed = transformers
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    assert torch.equal(packed(x), plain(x))


def test_names_of_parameters_stay(transformers):
    plain, packed = transformers
    assert list(packed.state_dict()) == list(plain.state_dict())
    assert all(isinstance(block, ResidualAttentionBlock) for block in packed.resblocks)


def test_blocks_of_another_kind_are_refused():
    transformer = Transformer(WIDTH, layers=1, heads=HEADS, scale_attn=True)
    with pytest.raises(ValueError, match="on blocks of kind CustomResidualAttentionBlock"):
        pack_blocks(transformer)


@pytest.mark.parametrize("masked", ["causal", "mask", "nothing"])
def test_attention_in_bfloat16_is_near_the_formula(masked):
    """The plain form, which bfloat16 takes on a CPU; rounding alone differs."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, HEADS, 6, 8, dtype=torch.float64, generator=generator)
    mask = torch.ones(6, 6, dtype=torch.bool)
    if masked == "causal":
        mask = mask.tril()
    elif masked == "mask":
        mask = torch.arange(6) <= torch.tensor([2, 4])[:, None, None, None]
    scores = (q @ k.transpose(-2, -1) / math.sqrt(8)).masked_fill(~mask, -math.inf)
    expected = scores.softmax(dim=-1) @ v
    low = [x.bfloat16() for x in (q, k, v)]
    given = mask if masked == "mask" else None
    ours = attend(*low, causal=masked == "causal", mask=given)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - expected).abs().max() < 0.03
    exact = attend(q, k, v, causal=masked == "causal", mask=given)
    torch.testing.assert_close(exact, expected)


def padded(q, k, v, lengths, ends, causal):
    """Attention in one batch of padded sequences, with a mask of what a query sees."""
    longest, places = max(lengths), torch.arange(max(lengths), device=q.device)

    def pad(x):
        rows = [F.pad(one, (0, 0, 0, 0, 0, longest - len(one))) for one in x.split(lengths)]
        return torch.stack(rows).transpose(1, 2)

    size = torch.tensor(lengths, device=q.device)[:, None, None, None]
    seen = (places < size).expand(-1, 1, longest if ends is None else 1, -1)
    if causal:
        seen = seen & (places <= (places[:, None] if ends is None else ends[:, None, None, None]))
    query = pad(q) if ends is None else q[:, :, None]
    scores = (query @ pad(k).transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(~seen, -1e9)
    mixed = (scores.softmax(dim=-1) @ pad(v)).transpose(1, 2)
    pieces = mixed if ends is not None else [x[:n] for x, n in zip(mixed, lengths, strict=True)]
    return torch.cat([*pieces])


def projections(ends, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    counts = (sum(LENGTHS) if ends is None else len(LENGTHS), *[sum(LENGTHS)] * 2)
    made = (torch.randn(count, HEADS, 8, generator=generator) for count in counts)
    return [x.to(device, dtype).requires_grad_() for x in made]


def assert_same(ours, theirs, given, others, tolerance=1e-5):
    """Outputs, and gradients in what was given."""
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3)).to(ours)
    mine = torch.autograd.grad((ours * weights).sum(), given)
    expected = torch.autograd.grad((theirs * weights).sum(), others)
    for one, other in zip((ours, *mine), (theirs, *expected), strict=True):
        assert (one - other).abs().max() < tolerance


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ends", [None, ENDS])
@pytest.mark.parametrize("form", [module._attend_by_length, attend_by_length])
def test_attention_by_length_is_that_of_a_padded_batch(form, causal, ends):
    """Also as the operator of compiled code, which has a gradient of its own."""
    ends = ends and torch.tensor(ends)
    given = projections(ends)
    ours = form(*given, torch.tensor(LENGTHS), ends, causal)
    assert_same(ours, padded(*given, LENGTHS, ends, causal), given, given)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="varlen_attn needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ends", [None, LAST])
def test_attention_in_one_call_is_that_of_a_padded_batch(transformers, causal, ends):
    """In bfloat16, against float32 on the same values; rounding alone differs."""
    assert HAS_VARLEN
    ends = ends and torch.tensor(ends, device="cuda")
    given = projections(ends, "cuda", torch.bfloat16)
    assert supports_varlen(transformers[1], given[0])
    packing = pack(torch.tensor(LENGTHS), 7, given[0], causal=causal, uses_varlen=True)
    ours = module._attend_packed(*given, packing._replace(query_positions=ends))
    exact = [x.detach().float().requires_grad_() for x in given]
    assert_same(ours, padded(*exact, LENGTHS, ends, causal), given, exact, tolerance=0.05)


def test_what_one_call_needs(transformers):
    """Half precision on a GPU: neither here."""
    for dtype in (torch.float32, torch.bfloat16):
        assert not supports_varlen(transformers[1], torch.zeros(1, dtype=dtype))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own
def test_another_packing_does_not_compile_a_block_again(transformers):
    """The second makes sizes dynamic; then all is compiled."""
    _, packed = transformers
    torch._dynamo.reset()  # what other tests compiled
    counter = CompileCounter()
    for block in packed.resblocks:
        block.compile(backend=counter)
    compiled = []
    for lengths in ((7, 7, 4, 4), (7, 7, 3, 2), (7, 7, 6, 6), (7, 7, 5, 2)):
        ends = torch.zeros(2, dtype=torch.long)
        x = torch.randn(sum(lengths), WIDTH, dtype=torch.float64)
        packing = pack(torch.tensor(lengths), 7, x, causal=True, uses_varlen=False)
        run_blocks(packed, x, packing, 2, 14, ends)
        compiled.append(counter.frame_count)
    assert 0 < compiled[0] < compiled[1] == compiled[2] == compiled[3]
