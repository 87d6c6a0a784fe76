"""A second run of the whole command's path encodes nothing, and gives the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from support.encoders import CHECKPOINT, CONFIG
from support.scene_files import write_scenes

from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.results.store import read_samples
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.types import RunOptions

SCENES = 37  # with every class among them
CHOICE = '{"image": "%s", "caption": "a boat", "negative": "a house"}\n'
CHOSEN = "kind: select\nimages: coco/images/test\nannotations: choices.jsonl\nlayout: items\n"


def test_nothing_is_encoded_twice(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    data = [*write_scenes(folder, SCENES, "found", "named"), str(folder / "chosen.yaml")]
    (folder / "chosen.yaml").write_text(CHOSEN)
    image = min((folder / "coco/images/test").iterdir()).name
    (folder / "choices.jsonl").write_text(CHOICE % image)
    encoded: list[str] = []
    for name in ("encode_image", "encode_text"):
        encode = getattr(ClipEncoder, name)

        def counting(encoder, inputs: torch.Tensor, name=name, encode=encode) -> torch.Tensor:
            encoded.extend([name] * len(inputs))
            return encode(encoder, inputs)

        monkeypatch.setattr(ClipEncoder, name, counting)

    def run(output: Path, cache: str | None) -> list[str]:
        plan = make_plan(
            datasets=data,
            models=[f"cosmos:{CHECKPOINT}"],
            arch=str(CONFIG),
            options=RunOptions(device="cpu", cache=cache),
        )
        list(run_all(plan, output=output))
        # The name of a per-sample file holds the hash of its content.
        return sorted(path.name for path in output.iterdir())

    first = run(tmp_path / "first", str(tmp_path / "cache"))
    # The three data sets have the same images, which are encoded once.
    assert encoded.count("encode_image") == SCENES
    encoded.clear()
    assert run(tmp_path / "second", str(tmp_path / "cache")) == first
    assert encoded == []
    # Without a cache each data set has batches of its own, which some processors round otherwise.
    third = run(tmp_path / "third", None)
    results = [name for name in first if name.endswith(".json")]
    assert [name for name in third if name.endswith(".json")] == results
    for name in results:
        expected = read_samples(tmp_path / "first" / name)
        for array, values in read_samples(tmp_path / "third" / name).items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, expected[array], atol=1e-5)
            else:
                np.testing.assert_array_equal(values, expected[array])
    assert encoded.count("encode_image") == 2 * SCENES + 1
