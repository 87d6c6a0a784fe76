"""`--dry-run` reports what exists, and makes nothing up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.results import store_result
from support.rows import make_row, write_result

from cosmos_core.utils.files import file_sha256
from cosmos_eval.embedding.cache import EMBEDDING, ShardStore, fingerprint
from cosmos_eval.embedding.embed import embedding_identity
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import local_weights, parse_model_spec
from cosmos_eval.protocols import known_protocols
from cosmos_eval.runner.execute import existing_results
from cosmos_eval.runner.facts import facts_of
from cosmos_eval.runner.plan import Pair, make_plan
from cosmos_eval.runner.preview import ROUGH, preview
from cosmos_eval.types import RunOptions

SCENES = Pair("scenes-cosmos", "scenes-cls", "scenes")


def test_a_suite_before_and_after_it_ran(command, own_suite, tmp_path):
    arguments = ("run", "--device", "cpu", "--output", "out", "--suite", str(own_suite))
    planned = json.loads(command(*arguments, "--dry-run", "--json").out)
    assert [item["dataset"] for item in planned] == ["cold", "warm"] * 2
    assert {item["data"] for item in planned} == {str(own_suite.parent)}
    for item in planned:
        assert item["data_state"] == "there"
        nothing = ("result", "result_fault", "samples", "embeddings_kept", "estimated_seconds")
        assert [item[key] for key in nothing] == [None] * len(nothing)
    assert not (tmp_path / "out").exists()

    ran = json.loads(command(*arguments, "--json").out)
    (own_suite.parent / "warm").rename(own_suite.parent / "gone")
    planned = json.loads(command(*arguments, "--dry-run", "--json").out)
    for item, row in zip(planned, ran, strict=True):
        assert item["result"].startswith("out/")
        assert item["samples"] == row["n_samples"] == 4
        assert item["data_state"] == {"cold": "there", "warm": "not found"}[item["dataset"]]
        assert item["estimated_from"] == "results on this data set"
        assert item["estimated_seconds"] == round(row["provenance"]["seconds"]["total"], 1)

    shown = command(*arguments, "--dry-run").out
    assert "there already: 4 of 4" in shown
    assert "data of warm: not found" in shown


@pytest.mark.parametrize(
    ("provenance", "model", "plan_changes"),
    [
        ({}, {}, {}),
        ({"precision": "bf16"}, {}, {"options": RunOptions(precision="bf16")}),
        ({"limit": 3}, {}, {"options": RunOptions(limit=3)}),
        ({}, {"weights": "student"}, {"weights": "student"}),
    ],
)
def test_results_are_found_by_the_names_they_are_stored_under(
    provenance, model, plan_changes, tmp_path
):
    (file,) = local_weights(parse_model_spec("scenes-cosmos"))
    model_record = {**model, "weights_sha256": file_sha256(file)}
    path = store_result(tmp_path, "cls", provenance=provenance, model=model_record)
    plan = make_plan(datasets=["scenes-cls"], models=["scenes-cosmos"], **plan_changes)
    existing = existing_results(plan, tmp_path)[SCENES]
    assert existing.path == path
    assert existing.row is not None


def test_the_form_of_attention_is_part_of_the_name(tmp_path):
    spec = "openclip:ViT-B-16/openai"
    for used, requested in (("csa", None), ("csa", "csa"), ("naclip", "naclip")):
        path = store_result(
            tmp_path / used,
            "seg",
            dataset="voc20",
            protocol="cosmos",
            provenance={"attention": used, "protocol_attention": "csa"},
            model={"spec": spec, "weights": None},
        )
        options = RunOptions(attention=requested)
        plan = make_plan(datasets=["voc20"], models=[spec], options=options)
        (existing,) = existing_results(plan, tmp_path / used).values()
        assert (existing.path, existing.error) == (path, None)


def test_a_result_of_replaced_weights_is_an_error(tmp_path):
    store_result(tmp_path, "cls")
    plan = make_plan(datasets=["scenes-cls"], models=["scenes-cosmos"])
    existing = existing_results(plan, tmp_path)[SCENES]
    assert existing.row is None
    assert "was measured with other weights than" in str(existing.error)


def test_cached_embeddings_are_counted_for_the_weights_that_made_them(tmp_path):
    plan = make_plan(
        datasets=["scenes-cls"],
        models=["scenes-clip", "scenes-cosmos", "openclip:ViT-B-16/openai"],
        options=RunOptions(cache=str(tmp_path)),
    )
    encoder = load_encoder(parse_model_spec("scenes-clip"))
    identity = embedding_identity(encoder, "image", preprocessing={})
    keys = [bytes([n]) * 32 for n in range(5)]
    ShardStore(tmp_path, identity).add(keys, {"features": np.zeros((5, 2), np.float32)})
    for change in ({"code": "other"}, {"precision": "bf16"}, {"weights": "student"}):
        ShardStore(tmp_path, {**identity, **change}).add(keys[:1], {"features": np.zeros((1, 2))})
    # The cached facts of the model are not counted as an embedding.
    facts_of(encoder, parse_model_spec("scenes-clip"), plan.options, pytest.fail)
    counts = [item.embeddings_kept for item in preview(plan, {}, tmp_path)]
    assert counts == [{"image": 5}, {}, None]


def test_an_estimate_names_its_basis(tmp_path):
    model = "cosmos:vitb16_cc3m"
    names = ["food101", "dtd", "scenes-cls"]
    plan = make_plan(datasets=names, models=[model], options=RunOptions(data_root=str(tmp_path)))

    def estimates() -> list[tuple[float | None, str | None]]:
        return [(p.estimated_seconds, p.estimated_from) for p in preview(plan, {}, tmp_path)]

    assert [known_protocols()[name].n_images for name in names] == [25_250, 1_880, None]
    assert [basis for _, basis in estimates()] == [ROUGH, ROUGH, None]
    # Models of the same architecture took 1, 3 and 60 s for 6 images of dtd: the median counts.
    # Those of another architecture do not.
    for spec, seconds in zip("abcdef", (1.0, 3.0, 60.0, 99.0, 99.0, 99.0), strict=True):
        model = {"spec": spec, "architecture": "ViT-B-16" if spec in "abc" else "ViT-B-32"}
        took = {"seconds": {"total": seconds}, "limit": 6}
        row = make_row(took, model, dataset="dtd", n_samples=6)
        write_result(tmp_path, row, {"x": np.arange(3)})
    assert estimates() == [
        (12_625.0, "results of this task"),
        (940.0, "results on this data set"),
        (None, None),
    ]


def test_every_known_data_set_can_be_previewed_without_a_data_root():
    datasets = list(known_protocols())
    plan = make_plan(datasets=datasets, models=["scenes-clip"])
    states = {item.dataset: item.data_state for item in preview(plan, {}, Path("nowhere"))}
    assert list(states) == datasets
    assert states["voc20"] == "no --data-root"
    assert states["scenes-cls"] in ("there", "made by the run")


def test_code_is_fingerprinted_without_importing_it():
    assert len(fingerprint(*EMBEDDING)) == 64
    with pytest.raises(ModuleNotFoundError, match=r"nosuch\.module is missing"):
        fingerprint("nosuch.module")


@pytest.mark.parametrize(
    ("dataset", "files"),
    [
        ("imagenet1k", ("n01440764/ILSVRC2012_val_00000293.JPEG",)),
        ("imagenet1k", ("ILSVRC2012_val_00000293_n01440764.JPEG",)),
        ("flickr30k-val", ("flickr30k_val.json", "1007129816.jpg")),
    ],
)
def test_the_data_root_may_be_the_folder_of_the_set(tmp_path, dataset, files):
    options = RunOptions(data_root=str(tmp_path))

    def state() -> str:
        plan = make_plan(datasets=[dataset], models=["scenes-clip"], options=options)
        (item,) = preview(plan, {}, Path("nowhere"))
        return item.data_state

    assert state() == "not found"
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert state() == "there"
