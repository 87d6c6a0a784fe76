"""A model is one row whichever files hold it: a folder, a repository, a tag, another format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
import transformers as t
from open_clip.pretrained import _pcfg
from support.encoders import TINY, load
from support.hub import COMMIT, Hub

RUN = ("run", "--dataset", "scenes-cls", "--limit", "12", "--no-cache", "--output", "r")


def save_siglip(folder: Path, tokenizer: Path, **changes: Any) -> Path:
    """Save a tiny SigLIP of transformers with random weights of a fixed seed."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2}
    text = {**size, "vocab_size": 14, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**size, "image_size": 16, "patch_size": 8}
    torch.manual_seed(changes.pop("seed", 0))
    model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config={**vision, **changes}))
    model.save_pretrained(folder)
    t.SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    t.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def put(hub: Hub, repository: str, folder: Path) -> None:
    hub.files |= {f"{repository}/{path.name}": path.read_bytes() for path in folder.iterdir()}


def model_options(specs: Iterable[str]) -> list[str]:
    """Return the options of a command that name models."""
    options = []
    for spec in specs:
        options += ["--model", spec]
    return options


def labels(command: Any, folder: str = "r") -> list[str]:
    """Return the names of models in the leaderboard of a folder."""
    records = json.loads(command("leaderboard", folder, "--format", "json").out)
    return [record["model"].removesuffix(" (first 12 only)") for record in records]


@pytest.fixture
def hf_specs(hub: Hub, siglip_tokenizer: Path, tmp_path: Path) -> Mapping[str, str]:
    """Save one model in five ways; return its specs by the ways."""
    folder = save_siglip(tmp_path / "plain", siglip_tokenizer)
    shutil.copytree(folder, tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    model = t.SiglipModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    assert len([*(tmp_path / "sharded").glob("model-*.safetensors")]) > 1
    put(hub, "made/two", folder)
    hub.tags.append("v1")
    return {
        "folder": f"hf:{folder}",
        "sharded": f"hf:{tmp_path / 'sharded'}",
        "hub": "hf:made/two",
        "tag": "hf:made/two@v1",
        "commit": f"hf:made/two@{COMMIT}",
    }


def test_folders_and_revisions_are_one_row(hf_specs: Any, command: Any) -> None:
    """They are so in the leaderboard, the comparison and the gate.

    One of the five models has its weights in other files than the others.
    """
    completed = command(*RUN, *model_options(hf_specs.values()))
    assert completed.status == 0, completed.err
    paths = sorted(Path("r").glob("*.json"))
    rows = [json.loads(path.read_text("utf-8"))["model"] for path in paths]
    assert len(rows) == len({row["spec"] for row in rows}) == 5
    assert len({row["weights_sha256"] for row in rows}) == 2
    assert len({row["loaded_sha256"] for row in rows}) == 1
    assert labels(command) == ["hf:made/two"]

    path_of = {row["spec"]: path for row, path in zip(rows, paths, strict=True)}
    folder_path, sharded_path = path_of[hf_specs["folder"]], path_of[hf_specs["sharded"]]
    comparison = command("compare", folder_path, sharded_path)
    assert comparison.status == 0, comparison.err
    assert "A and B are one model" in comparison.out + comparison.err

    gate = ("--baseline", "baseline.json")
    assert command("check", folder_path, *gate, "--update", "--reason", "first").status == 0
    for kind, spec in hf_specs.items():
        checked = command("check", path_of[spec], *gate)
        assert checked.status == 0, (kind, checked.err)
        assert "no regression shown" in checked.out


def test_other_weights_or_another_configuration_are_another_row(
    siglip_tokenizer: Path, tmp_path: Path, command: Any
) -> None:
    folders = [save_siglip(tmp_path / "a", siglip_tokenizer)]
    folders.append(save_siglip(tmp_path / "b", siglip_tokenizer, seed=1))
    folders.append(save_siglip(tmp_path / "c", siglip_tokenizer, hidden_act="relu"))
    hashes = {load(f"hf:{folder}").info.loaded_sha256 for folder in folders}
    assert len(hashes) == 3
    models = model_options(f"hf:{folder}" for folder in folders)
    assert command(*RUN, *models).status == 0
    assert len(labels(command)) == 3


@pytest.fixture
def openclip_specs(
    hub: Hub, tiny_archs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """Save the same tensors as a file, a folder, a repository and a tag; return their specs.

    The folder and the repository describe themselves.
    """
    arch = tiny_archs["tiny"]
    torch.manual_seed(0)
    state = open_clip.create_model(arch).state_dict()
    folder = tmp_path / "described"
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    # Defaults may be stated or not.
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "mlp_ratio": 4.0}, "quick_gelu": False}
    preprocessing = {key: _pcfg()[key] for key in ("mean", "std")}
    description = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(description), "utf-8")
    put(hub, "made/whole", folder)
    torch.save(state, tmp_path / "state.pt")
    put(hub, "made/tagged", folder)
    tags = {"made": _pcfg(hf_hub="made/tagged/")}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, arch, tags)
    # QuickGELU, which an architecture of another name states, makes another model.
    quick_config = tmp_path / "archs" / "cosmos-eval-quick.json"
    quick_config.parent.mkdir()
    quick_config.write_text(json.dumps({**TINY, "quick_gelu": True}), "utf-8")
    open_clip.add_model_config(quick_config.parent)
    return {
        "folder": f"openclip:{folder}",
        "hub": "openclip:hf-hub:made/whole",
        "file": f"openclip:{arch}/{tmp_path / 'state.pt'}",
        "tag": f"openclip:{arch}/made",
    }


def test_files_folders_and_tags_openclip_specs_are_one_row(
    openclip_specs: Any, command: Any, tmp_path: Path
) -> None:
    quick_spec = f"openclip:cosmos-eval-quick/{tmp_path / 'state.pt'}"
    completed = command(*RUN, *model_options([*openclip_specs.values(), quick_spec]))
    assert completed.status == 0, completed.err
    assert sorted(labels(command)) == [quick_spec, openclip_specs["hub"]]
    leaderboard = " ".join(command("leaderboard", "r").out.split())
    assert leaderboard.count("ne model has the names ") == 1
    assert "and is called openclip:hf-hub:made/whole" in leaderboard
    assert "weights" not in leaderboard

    # The same name for all of them is the name of one model.
    run = ["named" if word == "r" else word for word in RUN]
    for spec in openclip_specs.values():
        assert command(*run, "--model", spec, "--name", "mine").status == 0
    assert labels(command, "named") == ["mine"]

    # A baseline of one of them gates another one.
    file_of = {}
    for path in Path("r").glob("*.json"):
        file_of[json.loads(path.read_text("utf-8"))["model"]["spec"]] = path
    gate = ("--baseline", "baseline.json")
    tag, folder = file_of[openclip_specs["tag"]], file_of[openclip_specs["folder"]]
    assert command("check", tag, *gate, "--update", "--reason", "first").status == 0
    checked = command("check", folder, *gate)
    assert checked.status == 0, checked.err
    assert command("check", file_of[quick_spec], *gate).status == 2
    assert "A and B are one model" in command("compare", tag, folder).err


def change_mean(folder: Path, kind: str) -> None:
    """Write another mean of images into the file that describes a model, beside its weights."""
    is_openclip = kind == "openclip"
    path = folder / ("open_clip_config.json" if is_openclip else "preprocessor_config.json")
    content = json.loads(path.read_text("utf-8"))
    if is_openclip:
        content["preprocess_cfg"]["mean"] = [0.9, 0.1, 0.5]
    else:
        content["image_mean"] = [0.9, 0.1, 0.5]
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("kind", ["openclip", "hf"])
def test_other_preprocessing_is_another_model_and_measured_again(
    kind: str, openclip_specs: Any, hf_specs: Any, command: Any, tmp_path: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("datasets: {scenes: [scenes-cls]}\n")
    spec = {"openclip": openclip_specs, "hf": hf_specs}[kind]["folder"]
    run = ["run", "--suite", suite, "--limit", "12", "--no-cache", "--output", "r"]
    run += ["--model", spec, "--name", "mine"]
    assert "measured 1, there already 0" in command(*run).err
    (first,) = Path("r").glob("*.json")
    before = first.read_bytes()
    assert "measured 0, there already 1" in command(*run).err

    change_mean(Path(spec.partition(":")[2]), kind)
    completed = command(*run)
    assert "was measured with other configuration files than" in completed.err
    assert "measured 1, there already 0" in completed.err
    (former,) = Path("r").glob("*__*__*__*__????????.json")  # also with the words of --limit
    assert former.read_bytes() == before
    first_label, second_label = labels(command)
    assert first_label != second_label
    assert "(first 12 only, preprocessing " in first_label
    compared = command("compare", former, first)
    assert compared.status == 0, compared.err
    assert "one model" not in compared.err
    assert command("verify", "r").status == 0


def test_usual_preprocessing_is_not_recorded(openclip_specs: Any) -> None:
    """So results keep the hash of the model that they had before it was recorded."""
    assert load(openclip_specs["folder"]).info.preprocessing_sha256 is None
