"""Weights are fetched by the Hugging Face hub's own client, from a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
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
from support.hub import COMMIT, Hub
from support.writing import file_size_limit

from cosmos_eval.data.hub import was_not_fetched
from cosmos_eval.models.hub import fetch, offline
from cosmos_eval.models.specs import RELEASED, parse_model_spec
from cosmos_eval.models.training import training_facts
from cosmos_eval.types import UsageError

FILE = "sankim2/cosmos/cosmos_vitb16_cc3m.pt"
CONTENT = CHECKPOINT.read_bytes()


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


def test_a_fetched_file_of_another_architecture_is_refused(hub: Hub) -> None:
    hub.files[FILE] = CONTENT
    message = refusal("cosmos:vitb16_cc3m")
    assert message.startswith("'cosmos:vitb16_cc3m': ")
    assert "missing keys, first: " in message


@pytest.mark.parametrize("trouble", ["cut", "short"])
def test_a_broken_download_leaves_no_file(trouble: Any, hub: Hub) -> None:
    hub.files[FILE], hub.trouble[FILE] = CONTENT, trouble
    assert "cannot fetch cosmos_vitb16_cc3m.pt" in refusal("cosmos:vitb16_cc3m")
    # If the hub is away, the broken file is not taken for the whole one.
    hub.trouble[FILE] = 503
    assert "cannot fetch cosmos_vitb16_cc3m.pt" in refusal("cosmos:vitb16_cc3m")
    del hub.trouble[FILE]
    assert fetch("vitb16_cc3m").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "404"),
        (401, "no such repository, or a private one: correct its name, or set HF_TOKEN"),
        (403, "no such repository, or a private one: correct its name, or set HF_TOKEN"),
        ("gated", "accept the terms on its page there, set HF_TOKEN"),
        (500, "answers with status 500: try again later"),
        (None, "no such repository, or a private one: correct its name, or set HF_TOKEN"),
    ],
)
def test_a_hubs_refusal_is_explained(status: Any, reason: str, hub: Hub) -> None:
    if status is not None:
        hub.trouble[FILE] = status
    message = refusal("cosmos:vitb16_cc3m")
    assert reason in message
    assert message.endswith("use cosmos:PATH --arch ViT-B-16")


def test_offline_only_cached_files_load(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.files[FILE] = CONTENT
    message = refusal("cosmos:vitb16_cc3m")
    assert "offline mode is enabled" in message
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    fetch("vitb16_cc3m")
    request_count = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch("vitb16_cc3m").read_bytes() == CONTENT
    assert len(hub.requests) == request_count
    assert "offline mode is enabled" in refusal("openclip:ViT-B-32/laion2b_s34b_b79k")


def test_nothing_is_requested_inside_an_offline_block(hub, monkeypatch, tmp_path) -> None:
    """Neither the hub nor a plain download is requested, but files fetched before are found."""
    original_urlopen = urllib.request.urlopen
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
    request_count = len(hub.requests)
    with offline():
        assert fetch("vitb16_cc3m").read_bytes() == CONTENT
    assert len(hub.requests) == request_count
    with pytest.raises(UsageError) as raised:
        load("cosmos:vitb16_yfcc15m")  # outside the block it is requested
    assert hub.requests[request_count:] == ["HEAD sankim2/cosmos/cosmos_vitb16_yfcc15m.pt"]
    assert not was_not_fetched(raised.value)
    assert urllib.request.urlopen is original_urlopen


def test_openclips_tags_come_from_the_same_hub(hub: Hub) -> None:
    message = refusal("openclip:ViT-B-32/laion2b_s34b_b79k")
    assert message.startswith("'openclip:ViT-B-32/laion2b_s34b_b79k' cannot be loaded: ")
    assert f"{hub.url} has no such repository" in message
    repository = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert f"HEAD {repository}/open_clip_model.safetensors" in hub.requests
    assert f"HEAD {repository}/open_clip_pytorch_model.bin" in hub.requests


@pytest.fixture
def state(tiny_archs: dict[str, str]) -> dict[str, torch.Tensor]:
    return open_clip.create_model(tiny_archs["tiny"]).state_dict()


@pytest.mark.parametrize("trouble", ["cut", "short", 404])
def test_a_tag_loads_after_a_broken_download(trouble, hub, tiny_archs, state, monkeypatch) -> None:
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
    """Its tokenizer is in another repository, like SigLIP's."""
    config = open_clip.get_model_config(tiny_archs["tiny"])
    config["text_cfg"] |= {"hf_tokenizer_name": "made/words"}
    description = {
        "model_cfg": config,
        "preprocess_cfg": {key: _slpcfg()[key] for key in ("mean", "std", "resize_mode")},
    }
    for path in siglip_tokenizer.iterdir():
        hub.files[f"made/words/{path.name}"] = path.read_bytes()
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
    """Upload a tiny SigLIP of transformers as made/two, tagged v1; return a folder of its files."""
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
    (folder / "spiece.model").write_bytes(b"of other programs")
    hub.files["made/two/onnx/config.json"] = b"{}"
    hub.files |= {f"made/two/{path.name}": path.read_bytes() for path in folder.iterdir()}
    hub.tags.append("v1")
    return folder


def test_a_repository_of_transformers_loads_like_its_folder(
    hub: Hub, repository: Path, monkeypatch: Any
) -> None:
    """Its commit is recorded; it is fetched once, without pickles, with the card of its model."""
    hub.files["made/two/README.md"] = b"---\ndatasets: laion/laion2B-en\n---\nA model."
    local, tokens = load(f"hf:{repository}"), torch.tensor([[2, 3] + [1] * 62])
    assert local.info.revision is None
    for name in ("made/two", "made/two@v1", f"made/two@{COMMIT}"):
        encoder = load(f"hf:{name}")
        assert encoder.info.spec == f"hf:{name}"
        assert encoder.info.revision == COMMIT
        training = training_facts(parse_model_spec(f"hf:{name}"))
        assert training == {"training_data": "laion/laion2B-en", "samples_seen": None}
        assert encoder.info.weights_sha256 == local.info.weights_sha256
        assert torch.equal(encoder.encode_text(tokens), local.encode_text(tokens))
        # Embeddings in the cache belong to all of these names.
        assert encoder.preprocessing == local.preprocessing
        assert encoder.tokenizer == local.tokenizer
    downloads = sorted(request for request in hub.requests if request.startswith("GET"))
    needless = (".bin", "onnx/config.json")
    expected = [f"GET {name}" for name in hub.files if not name.endswith(needless)]
    assert downloads == sorted(expected)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    request_count = len(hub.requests)
    assert load("hf:made/two@v1").info.revision == COMMIT
    assert len(hub.requests) == request_count


def test_a_repository_of_transformers_loads_after_a_broken_download(
    hub: Hub, repository: Path
) -> None:
    with offline(), pytest.raises(UsageError) as raised:
        load("hf:made/two")
    assert was_not_fetched(raised.value)
    hub.trouble["made/two/model.safetensors"] = "cut"
    assert f"the connection to {hub.url} failed" in refusal("hf:made/two")
    del hub.trouble["made/two/model.safetensors"]
    assert load("hf:made/two").info.revision == COMMIT


WEIGHTS = "made/two/model.safetensors"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
CODE_FIELDS = {
    "config.json": "model_type",
    "preprocessor_config.json": "image_processor_type",
    "processor_config.json": "processor_class",
    "tokenizer_config.json": "tokenizer_class",
}
"""Files that can ask to run code, with the field that names the class."""


def edit(hub: Hub, name: str, **changes: Any) -> None:
    """Change entries of a JSON file of the repository."""
    content = json.loads(hub.files.get(f"made/two/{name}", b"{}"))
    hub.files[f"made/two/{name}"] = json.dumps({**content, **changes}).encode()


def spoil(hub: Hub, fault: str) -> None:
    """Spoil the repository by a fault of FAULTS."""
    if fault in ("gated", "cut", "short"):
        hub.trouble[WEIGHTS] = fault
    elif fault == "busy":
        hub.trouble[WEIGHTS] = 503
    elif fault == "pickles":
        del hub.files[WEIGHTS]
    elif fault == "damaged":
        hub.files[WEIGHTS] = hub.files[WEIGHTS][:-100]
    elif fault == "part":
        leave_the_first_shard(hub)
    elif fault == "text":
        edit(hub, "config.json", model_type="bert")
    elif fault == "vision":
        edit(hub, "config.json", model_type="siglip_vision_model")
    elif fault == "no processor":
        del hub.files["made/two/preprocessor_config.json"]
    elif fault == "no tokenizer":
        del hub.files["made/two/tokenizer.json"]
        del hub.files["made/two/spiece.model"]
    elif fault == "vocabulary":
        add_a_word(hub)
    elif fault == "layout":
        rename_config_to_openclips(hub)
    elif fault == "nested":
        edit(hub, "processor_config.json", image_processor={"auto_map": {}})
    else:
        edit(hub, fault, auto_map={"Auto": "own.Own"}, **{CODE_FIELDS[fault]: "Own"})


def leave_the_first_shard(hub: Hub) -> None:
    """Leave the first of two files of weights, and an index that names both."""
    state = safetensors.torch.load(hub.files.pop(WEIGHTS))
    first_state = {"logit_scale": state["logit_scale"]}
    hub.files[f"made/two/{SHARDS[0]}"] = safetensors.torch.save(first_state)
    weight_map = dict.fromkeys(state, SHARDS[1]) | dict.fromkeys(first_state, SHARDS[0])
    edit(hub, "model.safetensors.index.json", metadata={}, weight_map=weight_map)


def add_a_word(hub: Hub) -> None:
    tokenizer = json.loads(hub.files["made/two/tokenizer.json"])
    tokenizer["model"]["vocab"].append(["more", -1.0])
    hub.files["made/two/tokenizer.json"] = json.dumps(tokenizer).encode()


def rename_config_to_openclips(hub: Hub) -> None:
    hub.files["made/two/open_clip_config.json"] = hub.files.pop("made/two/config.json")


FETCH_AGAIN = "fetch its files again, or update transformers"
CODE_IS_REFUSED = "asks to run code (auto_map): refused; use python:FILE.py"
NOT_TWO_TOWERS = "has not an image and a text tower; take e.g. CLIP"
# Faults of a repository, with words of the message.
FAULTS = {
    "gated": "accept the terms on its page",
    "busy": "status 503: try again later",
    "cut": "check it and HF_ENDPOINT, then try",
    "short": FETCH_AGAIN,
    "pickles": "no model.safetensors (pickles are never opened): name a revision with them",
    "damaged": f"incomplete metadata, file not fully covered; {FETCH_AGAIN}",
    "part": f"model-00002-of-00002.safetensors; {FETCH_AGAIN}",
    "text": f"BertConfig {NOT_TWO_TOWERS}",
    "vision": f"SiglipVisionConfig {NOT_TWO_TOWERS}",
    "no processor": "no image processor (preprocessor_config.json); save it with save_pretrained",
    "no tokenizer": "no tokenizer (tokenizer.json); save it with save_pretrained",
    "vocabulary": "ids that its text tower lacks; use the tokenizer of its training",
    "layout": "no config.json: use openclip:hf-hub:made/two",
    **{file: f"{file} {CODE_IS_REFUSED}" for file in CODE_FIELDS},
    "nested": f"processor_config.json {CODE_IS_REFUSED}",
}


@pytest.fixture
def run(command: Any, tmp_path: Path, save_colour: Any) -> Callable[[str], Any]:
    """Return a function that measures a model on two pictures."""
    for colour in ("red", "blue"):
        save_colour(tmp_path / "pets" / colour / "0.png", colour)
    (tmp_path / "pets.yaml").write_text("kind: cls\nfolder: pets\n")
    return partial(command, "run", "--dataset", "pets.yaml", "--output", "out", "--model")


@pytest.fixture
def refused(run: Callable[[str], Any], capsys: Any) -> Callable[[str], str]:
    """Return a function that returns the one line by which the command refuses a model."""

    def refusal_line(model: str) -> str:
        capsys.readouterr()
        completed = run(model)
        assert completed.status == 2
        (line,) = completed.err.splitlines()
        return line

    return refusal_line


@pytest.mark.parametrize("fault", FAULTS)
def test_repositories_that_the_command_refuses(fault, hub, repository, refused) -> None:
    spoil(hub, fault)
    message = FAULTS[fault]
    hub.files["made/two/own.py"] = b"raise SystemExit('run')"
    line = refused("hf:made/two")
    assert line.startswith("cosmos-eval: 'hf:made/two' cannot be loaded: ")
    assert message in line
    assert not any(name.endswith((".bin", ".py")) for name in hub.requests)


def test_code_beside_a_model_of_transformers_is_not_run(hub, repository, tmp_path) -> None:
    for name, content in hub.files.items():
        (tmp_path / Path(name).name).write_bytes(content)
    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        edit(hub, file, auto_map={"Auto": "own.Own"})
    hub.files["made/two/own.py"] = b"raise SystemExit('run')"
    without_code, with_code = load(f"hf:{tmp_path}"), load("hf:made/two")
    assert b"auto_map" in hub.files["made/two/config.json"]
    assert not any(name.endswith(".py") for name in hub.requests)
    tokens = without_code.tokenize(["a dog", "two red dogs"])
    assert torch.equal(with_code.tokenize(["a dog", "two red dogs"]), tokens)
    assert torch.equal(with_code.encode_text(tokens), without_code.encode_text(tokens))


@pytest.mark.parametrize("name", ["hf:made/two", "openclip:hf-hub:made/two", "cosmos:vitb16_cc3m"])
def test_the_command_says_why_a_hub_gives_no_file(
    name, hub, repository, refused, monkeypatch
) -> None:
    hub.files |= {FILE: CONTENT, "made/two/open_clip_config.json": bytes(8192)}
    constants = huggingface_hub.constants
    with file_size_limit(4096):
        line = refused(name)
        assert f"cannot write to {constants.HF_HUB_CACHE} (File too large): free space" in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = refused(name)
    assert f"not in {constants.HF_HUB_CACHE}, and offline mode is enabled: unset" in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.files.clear()
    line = refused(name)
    assert f"{hub.url} has no such repository, or a private one: correct its name" in line
    url = "http://127.0.0.1:1"  # where nothing listens
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    line = refused(name)
    assert f"the connection to {url} failed ([Errno 111] Connection refused): check it" in line


def test_revisions_that_are_refused(hub, repository, refused) -> None:
    line = refused("hf:made/two@v2")
    assert line.endswith(f"{hub.url} has no such revision of it: name a branch, tag or commit")
    rename_config_to_openclips(hub)
    assert refused("hf:made/two@v1").endswith("no config.json: use openclip:hf-hub:made/two")


def test_a_users_environment_variables_are_obeyed(hub: Hub, tmp_path: Path) -> None:
    """The client reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported.

    Here a block that is offline imports it, before anything else does.
    """
    hub.files[FILE] = CONTENT
    program = (
        "from cosmos_eval.models.hub import fetch, offline\n"
        "with offline(): pass\n"
        "print(fetch('vitb16_cc3m'))"
    )
    online = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    for environment in (online, online | {"HF_HUB_OFFLINE": "1"}):
        run_program = [sys.executable, "-c", program]
        output = subprocess.check_output(run_program, env=environment, text=True)
        path = Path(output.removesuffix("\n"))
        assert path.is_relative_to(tmp_path / "home")
        assert path.read_bytes() == CONTENT
    assert hub.requests == [f"HEAD {FILE}", f"GET {FILE}"]


def test_a_result_records_the_commit(hub, repository, run, command) -> None:
    assert run("hf:made/two@v1").status == 0
    (path,) = Path("out").glob("*.json")
    record = json.loads(path.read_text())["model"]
    assert (record["spec"], record["revision"]) == ("hf:made/two@v1", COMMIT)
    assert record["architecture"] == "SiglipConfig"
    assert command("verify", "out").status == 0
