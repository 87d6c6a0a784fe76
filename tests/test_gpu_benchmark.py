"""benchmarks/gpu.py, on a CPU: it runs to its end, and says when it cannot or has no target."""

import json
import runpy
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from cosmos_eval.types import RunOptions

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the script, and return its status, its output and its errors."""

    def run_script(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.syspath_prepend(SCRIPT.parent)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--quick", "--batch-size", "2", *arguments])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            return (ended.code or 0, *capsys.readouterr())
        return (0, *capsys.readouterr())

    return run_script


@pytest.mark.slow
def test_quick_on_a_cpu(run):
    status, output, errors = run("--device", "cpu", "--precision", "fp32", "--json")
    assert (status, errors.splitlines()[0].split(",")[0]) == (0, "a CPU")
    lines = {line["name"]: line for line in json.loads(output)}
    ratios = {name: line for name, line in lines.items() if line["unit"] == "x"}
    assert len(ratios) == 3
    for name, line in ratios.items():
        assert line["target"] is line["met"] is None
        ours, bare = name.split(", ")[1].split(" to bare")[0], "bare forward"
        model = name.split(", ")[0]
        rate = lines[f"{model}, {ours}"]["value"] / lines[f"{model}, {bare}"]["value"]
        assert line["value"] == pytest.approx(rate)  # of one round


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(run):
    status, output, errors = run()
    assert (status, output) == (2, "")
    assert errors.startswith("gpu.py: device 'cuda' cannot be used (")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(("decoding", "applies"), [(0.02, False), (0.001, True)])
def test_the_target_is_for_runs_that_decoding_does_not_limit(
    decoding, applies, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    benchmark = runpy.run_path(str(SCRIPT))
    seconds = {"bare forward": 0.01, "decoding alone": decoding, "files to metrics": 0.02}
    seconds["embedding without decoding"] = 0.01
    functions = {name: partial(time.sleep, value) for name, value in seconds.items()}
    options = RunOptions(device="cuda", workers=7)
    lines = {line.name: line for line in benchmark["compare"]("B", functions, 5, 3, options)}
    of_files = lines["B, files to metrics to bare forward"]
    assert (of_files.target, of_files.met) == ((0.9, False) if applies else (None, None))
    assert of_files.value == pytest.approx(0.5, rel=0.5)
    assert lines["B, embedding without decoding to bare forward"].target == 0.9
    said = capsys.readouterr().err
    assert said.startswith("B: decoding is the limit: ") is not applies
    assert ("images/s decoded by 7 threads against " in said) is not applies
