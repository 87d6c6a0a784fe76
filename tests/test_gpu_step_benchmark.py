"""benchmarks/gpu_step.py, on a CPU: it runs to its end, and says when it cannot."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from cosmos_core.engine import flops

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_step.py"


@pytest.mark.slow
def test_quick_on_a_cpu(monkeypatch, capsys):
    """With a peak of 1 TFLOP/s for the CPU, so that there is an MFU."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device", "cpu", "--quick", "--json"])
    monkeypatch.setitem(flops.PEAKS, "a CPU", (1, 1, 1))
    benchmark = runpy.run_path(str(SCRIPT))
    benchmark["main"]()
    printed = capsys.readouterr()
    lines = {line["name"]: line["value"] for line in json.loads(printed.out)}
    (model,), batch = benchmark["QUICK_MODELS"], benchmark["QUICK_BATCH"]
    for ours, other in (("COSMOS", "COSMOS, plain"), ("CLIP", "CLIP, OpenCLIP")):
        rates = [lines[f"{model} {name}"] for name in (ours, other)]
        seconds = [lines[f"{model} {name}, a step"] for name in (ours, other)]
        used = [lines[f"{model} {name}, MFU"] for name in (ours, other)]
        assert rates == pytest.approx([batch / s for s in seconds])
        assert used[0] / used[1] == pytest.approx(rates[0] / rates[1])  # equal FLOPs of a sample
        assert lines[f"{model} {other} to {ours}"] == pytest.approx(rates[0] / rates[1])
    assert printed.err == f"a CPU, PyTorch {torch.__version__}, bf16, batch {batch}\n"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    message = "gpu_step.py: there is no GPU; --device cpu --quick shows that it runs\n"
    assert (ended.value.code, *capsys.readouterr()) == (2, "", message)
