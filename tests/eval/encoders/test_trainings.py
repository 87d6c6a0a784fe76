"""The training that a result says its model is of."""

import json

import pytest
from support.encoders import TINY, save_cosmos
from support.rows import make_row, write_result

import cosmos_core
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_eval import evaluate, load_results
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.models.training import training_record
from cosmos_eval.results.export import table_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_result
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.types import UsageError

STATED = {"group": "my-clip", "seed": 1, "samples": 128, "flops": 2.0e12, "data_sha256": "a" * 64}


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints: one that states nothing of its training, and one that does."""
    save_cosmos(tmp_path / "foreign.safetensors")
    training = {"config": {"recipe": "own", "seed": 4}, "samples_seen": 64}
    models = {"teacher": cosmos_core.create_model(TINY)}
    save_checkpoint(tmp_path / "own.safetensors", models, "clip", TINY, training)
    return tmp_path


def stated(folder, text, models=("foreign",)):
    """Return what results of models will record with a file of trainings."""
    (folder / "trainings.yaml").write_text(text)
    specs = [f"cosmos:{folder / name}.safetensors" for name in models]
    plan = make_plan(models=specs, datasets=["scenes-cls"], trainings=folder / "trainings.yaml")
    return [training_record(spec) for spec in plan.specs]


def test_a_result_states_the_training_of_its_model(tmp_path):
    row = evaluate("scenes-clip", "scenes-cls", limit=2, cache=False)
    training = row.model["training"]
    assert training == training_record(parse_model_spec("scenes-clip"))
    assert (training["group"], training["seed"]) == ("scenes_clip-fdaf36bd", 0)
    path = write_result(tmp_path, row, {})
    assert read_result(path).model["training"] == training
    table = load_results(tmp_path)
    assert (set(table["group"]), set(table["seed"])) == ({training["group"]}, {0})


def test_a_result_without_a_training_is_as_it_was(tmp_path):
    path = write_result(tmp_path, make_row(), {})
    assert "training" not in json.loads(path.read_text())["model"]
    table = table_of([StoredResult(path, read_result(path))])
    assert table[["group", "seed"]].isna().to_numpy().all()
    assert training_record(parse_model_spec("openclip:ViT-B-32/openai")) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"data_sha256": "a"}, "data_sha256: String should match pattern"),
        ({"flops": 0.0}, "flops: Input should be greater than 0"),
        ({"colour": 1}, "colour: Extra inputs"),
    ],
)
def test_another_training_is_refused(tmp_path, change, message):
    training = {**training_record(parse_model_spec("scenes-clip")), **change}
    with pytest.raises(UsageError, match=rf"\$\.model\.training\.{message}"):
        write_result(tmp_path, make_row(model={"training": training}), {})


def test_a_file_states_the_training_of_foreign_weights(folder):
    entry = json.dumps(STATED)
    foreign, trained_here = stated(
        folder,
        f"cosmos:foreign.safetensors: {entry}\ncosmos:own.safetensors: {{group: %s}}"
        % training_record(parse_model_spec(f"cosmos:{folder}/own.safetensors"))["group"],
        ("foreign", "own"),
    )
    assert foreign == {**STATED, "recipe_sha256": None}
    assert (trained_here["seed"], trained_here["samples"]) == (4, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosmos:foreign.safetensors: {group: a, sed: 1}", "unknown key `sed`; nearest .*: seed"),
        ("cosmos:foreign.safetensors: {seed: 1}", "`group` is missing"),
        ("cosmos:foreign.safetensors: {group: a, seed: x}", "`seed` must be a whole number"),
        ("cosmos:foreign.safetensors: {group: a, flops: 1e9}", "`flops` must be a finite number"),
        ("cosmos:foreign.safetensors: {group: a, data_sha256: x}", "`data_sha256` must .* 64 hex"),
        ("cosmos:foreign.safetensors: my-clip", "must map names to values, such as `group"),
        (
            "cosmos:foreign.safetensors: {group: a}\ncosmos:./foreign.safetensors: {group: b}",
            r"cosmos:./foreign.safetensors is given twice",
        ),
        ("cosmos:foriegn.safetensors: {group: a}", "no such file"),
        ("scenes-clip: {group: scenes_clip-fdaf36bd}", "names none of the models"),
        ("[]", "must hold keys and values, such as `cosmos:a.pt"),
    ],
)
def test_misuse_is_one_clear_line(folder, text, message):
    with pytest.raises(UsageError, match=f"trainings.yaml: .*{message}") as raised:
        stated(folder, text)
    assert "\n" not in str(raised.value)


def test_a_statement_against_the_checkpoint_is_refused(folder):
    message = "own.safetensors: its seed is said to be 1, and its checkpoint states 4"
    group = training_record(parse_model_spec(f"cosmos:{folder}/own.safetensors"))["group"]
    with pytest.raises(UsageError, match=message):
        stated(folder, f"cosmos:own.safetensors: {{group: {group}, seed: 1}}", ("own",))
