"""A second run of the whole command's path encodes nothing, and gives the same files."""

from __future__ import annotations

from pathlib import Path

import torch
from support.encoders import CHECKPOINT, CONFIG
from support.scene_files import write_scenes

from cosmos_eval.models.clip import ClipEncoder
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
    assert run(tmp_path / "third", None) == first
    assert encoded.count("encode_image") == 2 * SCENES + 1
