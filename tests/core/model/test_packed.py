"""Sequences of several lengths in one pass, against OpenCLIP's blocks on each of them alone."""

import copy
import math

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch._dynamo.testing import CompileCounter

from cosmos_core.model.packed import Packing, Run, attend, pack_blocks, through_blocks

WIDTH, HEADS = 16, 2
RUNS = (Run(2, 7), Run(3, 4), Run(1, 2))
ENDS = (6, 1, 3, 0, 2, 1)  # of each sequence


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
    lengths = [run.length for run in RUNS for _ in range(run.sequences)]
    return [torch.randn(length, WIDTH, **options) for length in lengths]


def one_by_one(transformer, tokens, causal):
    """Each sequence in a batch of its own, with OpenCLIP's mask."""
    outputs = []
    for sequence in tokens:
        mask = torch.full((len(sequence), len(sequence)), -math.inf, dtype=torch.float64).triu(1)
        outputs.append(transformer(sequence[None], attn_mask=mask if causal else None)[0])
    return outputs


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("whole", [0, 1, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_features_and_gradients_are_those_of_single_sequences(
    transformers, causal, whole, checkpointing
):
    plain, packed = transformers
    packed.grad_checkpointing = checkpointing
    kept = sum(run.sequences for run in RUNS[:whole])
    tokens, alone = sequences(requires_grad=True), sequences(requires_grad=True)
    outputs = one_by_one(plain, alone, causal)
    expected = [
        *outputs[:kept],
        *(x[end : end + 1] for x, end in zip(outputs[kept:], ENDS[kept:], strict=True)),
    ]
    ends = torch.tensor(ENDS[kept:], dtype=torch.long)
    mixed = through_blocks(packed, torch.cat(tokens), Packing(RUNS, causal), whole, ends)
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
    for runs in (
        (Run(2, 7), Run(3, 4), Run(4, 2)),
        (Run(3, 5), Run(2, 3)),
        (Run(2, 6), Run(4, 3), Run(2, 2), Run(3, 9)),
        (Run(5, 2), Run(6, 7)),
    ):
        ends = torch.zeros(sum(run.sequences for run in runs[1:]), dtype=torch.long)
        x = torch.randn(sum(run.tokens for run in runs), WIDTH, dtype=torch.float64)
        through_blocks(packed, x, Packing(runs, True), 1, ends)
        compiled.append(counter.frame_count)
    assert 0 < compiled[0] < compiled[1] == compiled[2] == compiled[3]
