"""Weights from the Hugging Face hub: its client as it is, against a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import safetensors.torch
import torch
import transformers
from open_clip.pretrained import _pcfg, _slpcfg
from support.encoders import CHECKPOINT, load, refusal
from support.hub import COMMIT, Hub, serving

from cosmos_eval.models.hub import fetch, offline, was_not_fetched
from cosmos_eval.models.specs import RELEASED
from cosmos_eval.types import UsageError

FILE = "sankim2/cosmos/cosmos_vitb16_cc3m.pt"
CONTENT = CHECKPOINT.read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub, with an empty cache, whose client does not wait before it tries again. The
    constants are what the client makes of HF_ENDPOINT and HF_HOME when it is imported."""
    with serving() as hub:
        constants = huggingface_hub.constants
        path = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + path)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub


def test_a_released_file_is_fetched_once_and_then_cached(hub: Hub) -> None:
    hub.files[FILE] = CONTENT
    assert fetch("vitb16_cc3m").read_bytes() == CONTENT
    assert hub.requests == [f"HEAD {FILE}", f"GET {FILE}"]
    assert fetch("vitb16_cc3m").read_bytes() == CONTENT
    assert hub.requests[2:] == [f"HEAD {FILE}"]


def test_every_released_name_asks_for_its_file(hub: Hub) -> None:
    for name in RELEASED:
        hub.files[f"sankim2/cosmos/cosmos_{name}.pt"] = name.encode()
        assert fetch(name).read_text() == name
    assert len(hub.files) == 10


def test_what_was_fetched_is_audited(hub: Hub) -> None:
    """The file of another architecture than the name promises."""
    hub.files[FILE] = CONTENT
    message = refusal("cosmos:vitb16_cc3m")
    assert message.startswith("'cosmos:vitb16_cc3m': ")
    assert "missing keys, first: " in message


@pytest.mark.parametrize("trouble", ["cut", "short"])
def test_a_broken_download(trouble: Any, hub: Hub) -> None:
    hub.files[FILE], hub.trouble[FILE] = CONTENT, trouble
    assert "cannot fetch cosmos_vitb16_cc3m.pt" in refusal("cosmos:vitb16_cc3m")
    # Without a hub there is still no file that would pass for one.
    hub.trouble[FILE] = 503
    assert "cannot fetch cosmos_vitb16_cc3m.pt" in refusal("cosmos:vitb16_cc3m")
    del hub.trouble[FILE]
    assert fetch("vitb16_cc3m").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 401, 403, 500, None])
def test_a_hub_that_refuses(status: int | None, hub: Hub) -> None:
    if status is not None:
        hub.trouble[FILE] = status
    found = refusal("cosmos:vitb16_cc3m")
    assert str(status or 404) in found
    assert found.endswith("use cosmos:PATH --arch ViT-B-16")


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.files[FILE] = CONTENT
    message = refusal("cosmos:vitb16_cc3m")
    assert "offline mode is enabled" in message
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    fetch("vitb16_cc3m")
    asked = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch("vitb16_cc3m").read_bytes() == CONTENT
    assert len(hub.requests) == asked
    assert "offline mode is enabled" in refusal("openclip:ViT-B-32/laion2b_s34b_b79k")


def test_inside_a_block_that_is_offline(hub, monkeypatch, tmp_path) -> None:
    """Neither the hub nor a plain download is requested; files fetched before are found."""
    plain = urllib.request.urlopen
    monkeypatch.setenv("HOME", str(tmp_path))  # OpenCLIP keeps plain downloads below it
    hub.files[FILE] = CONTENT
    tag = _pcfg(url=f"{hub.url}/weights.pt")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-32", {"plain": tag})
    specs = (
        "cosmos:vitb16_cc3m",
        "openclip:ViT-B-16/laion2b_s34b_b88k",
        "openclip:ViT-B-32/plain",
        "openclip:hf-hub:made/described",
    )
    for spec in specs:
        with offline(), pytest.raises(UsageError) as raised:
            load(spec)
        assert was_not_fetched(raised.value), spec
    assert hub.requests == []
    fetch("vitb16_cc3m")
    asked = len(hub.requests)
    with offline():
        assert fetch("vitb16_cc3m").read_bytes() == CONTENT
    assert len(hub.requests) == asked
    with pytest.raises(UsageError) as raised:
        load("cosmos:vitb16_yfcc15m")  # outside it is asked for
    assert hub.requests[asked:] == ["HEAD sankim2/cosmos/cosmos_vitb16_yfcc15m.pt"]
    assert not was_not_fetched(raised.value)
    assert urllib.request.urlopen is plain


def test_openclips_tags_come_from_the_same_hub(hub: Hub) -> None:
    message = refusal("openclip:ViT-B-32/laion2b_s34b_b79k")
    assert message.startswith("'openclip:ViT-B-32/laion2b_s34b_b79k' cannot be loaded: ")
    assert "404" in message
    repository = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert f"HEAD {repository}/open_clip_model.safetensors" in hub.requests
    assert f"HEAD {repository}/open_clip_pytorch_model.bin" in hub.requests


@pytest.fixture
def state(tiny_archs: dict[str, str]) -> dict[str, torch.Tensor]:
    return open_clip.create_model(tiny_archs["tiny"]).state_dict()


@pytest.mark.parametrize("trouble", ["cut", "short", 404])
def test_a_tag_whose_download_breaks_at_first(trouble, hub, tiny_archs, state, monkeypatch) -> None:
    arch, file = tiny_archs["tiny"], "made/tiny/open_clip_model.safetensors"
    tag = _pcfg(hf_hub="made/tiny/")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, arch, {"made": tag})
    hub.files[file], hub.trouble[file] = safetensors.torch.save(state), trouble
    assert "Failed to download" in refusal(f"openclip:{arch}/made")
    del hub.trouble[file]
    encoder = load(f"openclip:{arch}/made")
    assert encoder.info.random is False
    for key, value in encoder.model.state_dict().items():
        assert torch.equal(value, state[key])


def test_a_repository_that_describes_itself(hub, state, tiny_archs, siglip_tokenizer) -> None:
    """With a tokenizer of its own in another repository, as SigLIP's."""
    config = open_clip.get_model_config(tiny_archs["tiny"])
    config["text_cfg"] |= {"hf_tokenizer_name": "made/words"}
    description = {
        "model_cfg": config,
        "preprocess_cfg": {key: _slpcfg()[key] for key in ("mean", "std", "resize_mode")},
    }
    for name in siglip_tokenizer.iterdir():
        hub.files[f"made/words/{name.name}"] = name.read_bytes()
    hub.files["made/whole/open_clip_model.safetensors"] = safetensors.torch.save(state)
    hub.files["made/whole/open_clip_config.json"] = json.dumps(description).encode()
    encoder = load("openclip:hf-hub:made/whole")
    assert encoder.preprocessing["resize_mode"] == "squash"
    assert encoder.tokenize(["a dog"]).tolist() == [[2, 3] + [1] * 18]
    assert "made/none" in refusal("openclip:hf-hub:made/none")
    del hub.files["made/whole/open_clip_model.safetensors"]
    hub.files["made/empty/open_clip_config.json"] = json.dumps(description).encode()
    assert "open_clip_pytorch_model.bin" in refusal("openclip:hf-hub:made/empty")


@pytest.fixture
def repository(hub: Hub, siglip_tokenizer: Path, tmp_path: Path) -> Path:
    """A tiny SigLIP of transformers as made/two, tagged v1; the folder is what the hub holds."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2}
    text = {**size, "vocab_size": 14, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**size, "image_size": 16, "patch_size": 8}
    folder = tmp_path / "two"
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(siglip_tokenizer).save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    hub.files |= {f"made/two/{path.name}": path.read_bytes() for path in folder.iterdir()}
    hub.tags.append("v1")
    return folder


def test_a_repository_of_transformers(hub: Hub, repository: Path, monkeypatch: Any) -> None:
    """Its commit is recorded; it is fetched once, without pickles."""
    local, tokens = load(f"hf:{repository}"), torch.tensor([[2, 3] + [1] * 62])
    assert local.info.revision is None
    for name in ("made/two", "made/two@v1", f"made/two@{COMMIT}"):
        encoder = load(f"hf:{name}")
        assert encoder.info.spec == f"hf:{name}"
        assert encoder.info.revision == COMMIT
        assert encoder.info.weights_sha256 == local.info.weights_sha256
        assert torch.equal(encoder.encode_text(tokens), local.encode_text(tokens))
        # Embeddings are the same ones in the cache, whatever the name.
        assert encoder.preprocessing == local.preprocessing
        assert encoder.tokenizer == local.tokenizer
    fetched = sorted(name for name in hub.requests if name.startswith("GET"))
    wanted = {f"GET {name}" for name in hub.files if not name.endswith(".bin")}
    assert fetched == sorted(wanted)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert load("hf:made/two@v1").info.revision == COMMIT
    assert len(hub.requests) == asked


def test_repositories_of_transformers_that_are_refused(hub: Hub, repository: Path) -> None:
    with offline(), pytest.raises(UsageError) as raised:
        load("hf:made/two")
    assert was_not_fetched(raised.value)
    found = refusal("hf:made/two@v2")
    assert found == (
        "'hf:made/two@v2' cannot be loaded: no revision 'v2': name a branch, tag or commit"
    )
    assert "404" in refusal("hf:made/none")
    hub.trouble["made/two/model.safetensors"] = "cut"
    assert refusal("hf:made/two").startswith("'hf:made/two' cannot be loaded: ")
    del hub.trouble["made/two/model.safetensors"]
    assert load("hf:made/two").info.revision == COMMIT


def test_a_repository_of_pickles(hub: Hub, repository: Path) -> None:
    del hub.files["made/two/model.safetensors"]
    assert "pickles are never opened" in refusal("hf:made/two")
    assert "GET made/two/pytorch_model.bin" not in hub.requests


def test_what_a_user_sets(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, which the client reads when it is imported."""
    hub.files[FILE] = CONTENT
    program = "from cosmos_eval.models.hub import fetch; print(fetch('vitb16_cc3m'))"
    surroundings = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        own = {**surroundings, **more}
        path = Path(
            subprocess.check_output([sys.executable, "-c", program], env=own, text=True)[:-1]
        )
        assert path.is_relative_to(tmp_path / "home")
        assert path.read_bytes() == CONTENT
    assert hub.requests == [f"HEAD {FILE}", f"GET {FILE}"]


def test_the_command_ends_with_status_2(hub, command, tmp_path, save_colour) -> None:
    save_colour(tmp_path / "pets" / "cat" / "0.png", "red")
    (tmp_path / "pets.yaml").write_text("kind: cls\nfolder: pets\n")
    hub.files[FILE], hub.trouble[FILE] = CONTENT, 401
    ended = command("run", "--dataset", "pets.yaml", "--model", "cosmos:vitb16_cc3m")
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("cosmos-eval: cannot fetch cosmos_vitb16_cc3m.pt of sankim2/cosmos")
    assert "401" in line


def test_a_result_records_the_commit(hub, repository, command, tmp_path, save_colour) -> None:
    save_colour(tmp_path / "pets" / "cat" / "0.png", "red")
    save_colour(tmp_path / "pets" / "dog" / "0.png", "blue")
    (tmp_path / "pets.yaml").write_text("kind: cls\nfolder: pets\n")
    model = ("--model", "hf:made/two@v1", "--device", "cpu")
    assert command("run", "--dataset", "pets.yaml", *model, "--output", "out").status == 0
    (path,) = Path("out").glob("*.json")
    record = json.loads(path.read_text())["model"]
    assert (record["spec"], record["revision"]) == ("hf:made/two@v1", COMMIT)
    assert record["architecture"] == "SiglipConfig"
    assert command("verify", "out").status == 0


def test_it_can_be_offline_before_anything_else_has_imported_the_hub() -> None:
    """`huggingface_hub.constants` is a module that the package itself does not import."""
    code = "from cosmos_eval.models.hub import offline\nwith offline(): pass"
    subprocess.run([sys.executable, "-c", code], check=True)
