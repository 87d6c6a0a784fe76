"""A second run of the whole command's path encodes nothing, and gives the same files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cosmos_core.data.scenes import TEST
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.runner.run import run_all
from cosmos_eval.types import RunOptions

SCENES = 37  # with every class among them
PARITY = Path(__file__).parents[2] / "parity"
OWN = {
    "found": "kind: retrieval\nimages: coco/images/test\n"
    "annotations: coco/annotations/captions_test.json\n",
    "named": "kind: cls\nfolder: folder/test\ntemplates: ['a large {}', 'a {}']\n",
    "chosen": "kind: select\nimages: coco/images/test\nannotations: choices.jsonl\nlayout: items\n",
}
CHOICE = '{"image": "%s", "caption": "a boat", "negative": "a house"}\n'


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    folder = write_layouts(tmp_path / "data", split=TEST, count=SCENES, layouts=["coco", "folder"])
    image = min((folder / "coco/images/test").iterdir()).name
    (folder / "choices.jsonl").write_text(CHOICE % image)
    for name, text in OWN.items():
        (folder / f"{name}.yaml").write_text(text)
    return [str(folder / f"{name}.yaml") for name in OWN]


def test_nothing_is_encoded_twice(data, tmp_path, monkeypatch):
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
            models=[f"cosmos:{PARITY / 'checkpoint.pt'}"],
            arch=str(PARITY / "model_config.json"),
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
