"""`cosmos_eval.Evaluation`: models in training measured in their loop, and left as they were."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.ImageFile
import pytest
import torch
from support.scene_files import write_scenes
from support.user_models import pixels_of, tokens_of
from torch import Tensor, nn

import cosmos_eval
from cosmos_eval import Evaluation, TwoTower, UsageError
from cosmos_eval.embedding.prepared import PreparedInputs
from cosmos_eval.models import dense, live, load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.tasks import find_protocol

SCENES = 40  # more than a batch of images
KINDS = ("found", "named", "segmented", "chosen", "looked-at")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A set of few scenes for each of five tasks."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", SCENES, *KINDS)


@pytest.fixture
def classes(data_sets: list[str]) -> str:
    return data_sets[KINDS.index("named")]


@pytest.fixture
def openclip(tiny_archs: dict[str, str]) -> Callable[[], Any]:
    """Makes the same tiny model of OpenCLIP, in training mode, each time."""
    return lambda: load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny']}/random")).model


@pytest.fixture
def tokenizer(tiny_archs: dict[str, str]) -> Any:
    return open_clip.get_tokenizer(tiny_archs["tiny"])


def train(model: nn.Module) -> None:
    """Change the weights."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def metrics_of(encoder: Any, datasets: list[str]) -> dict[str, float]:
    """The metrics that `evaluate` computes of an encoder, named as the hook names them."""
    rows = [cosmos_eval.evaluate(encoder, dataset) for dataset in datasets]
    return {f"{row.dataset}/{name}": row.metrics[name] for row in rows for name in row.metrics}


def test_a_model_of_openclip_has_the_metrics_of_its_file(
    data_sets, openclip, tokenizer, tiny_encoder
):
    evaluation = Evaluation(data_sets, on_error="raise")
    metrics = evaluation(openclip(), tokenizer=tokenizer, step=1)
    assert {name.split("/")[0] for name in metrics} == set(KINDS)
    assert metrics == pytest.approx(metrics_of(tiny_encoder, data_sets), abs=1e-6)


def test_a_tokenizer_of_a_user(data_sets, openclip, tokenizer, tiny_encoder):
    evaluation = Evaluation(data_sets, on_error="raise")
    metrics = evaluation(openclip(), tokenizer=lambda texts: tokenizer(texts), step=1)
    assert metrics == pytest.approx(metrics_of(tiny_encoder, data_sets), abs=1e-6)


def test_later_calls_read_no_file(tmp_path, openclip, tokenizer):
    datasets = write_scenes(tmp_path / "scenes", SCENES, *KINDS)
    model = openclip()
    evaluation = Evaluation(datasets, on_error="raise")
    first = evaluation(model, tokenizer=tokenizer, step=1)
    folders = [tmp_path / "scenes" / folder for folder in ("coco", "folder", "voc")]
    for folder in folders:
        folder.rename(tmp_path / folder.name)
    assert evaluation(model, tokenizer=tokenizer, step=2) == first

    train(model)
    trained = evaluation(model, tokenizer=tokenizer, step=3)
    assert trained != first
    for folder in folders:
        (tmp_path / folder.name).rename(folder)
    again = Evaluation(datasets, on_error="raise")(model, tokenizer=tokenizer, step=3)
    assert trained == again


def test_new_tokenizers_and_copies_of_a_model_share_pixels(
    data_sets, openclip, tokenizer, monkeypatch
):
    n_images = []
    load = PreparedInputs.pixels

    def count(memory: Any, sha256: bytes, transform: Any, read: Callable[[], Any]) -> Any:
        return load(memory, sha256, transform, lambda: n_images.append(1) or read())

    monkeypatch.setattr(PreparedInputs, "pixels", count)
    evaluation = Evaluation([data_sets[KINDS.index("named")]], on_error="raise")
    model = openclip()
    for step in range(4):  # a new tokenizer, and then a copy of the model as well
        model = model if step < 2 else openclip()
        metrics = evaluation(model, tokenizer=lambda texts: tokenizer(texts), step=step)
        assert metrics
    assert len(n_images) == SCENES


def test_pixels_of_discarded_encoders_are_dropped(classes, towers):
    evaluation = Evaluation([classes])
    sizes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another transform in each call
        for step in range(4):
            transform = partial(pixels_of)
            evaluation(towers, tokenizer=tokens_of, transform=transform, step=step)
            sizes.append(evaluation._memory.size)
    assert sizes[0] < sizes[1] == sizes[2] == sizes[3]


def test_without_memory_images_are_read_again(tmp_path, openclip, tokenizer):
    datasets = write_scenes(tmp_path / "scenes", SCENES, "named", "segmented")
    evaluation = Evaluation(datasets, memory_gb=0, on_error="raise")
    model = openclip()
    with pytest.warns(UserWarning, match="memory_gb is too small for all images"):
        first = evaluation(model, tokenizer=tokenizer, step=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert evaluation(model, tokenizer=tokenizer, step=2) == first
    shutil.rmtree(tmp_path / "scenes" / "folder")
    with pytest.raises(UsageError, match="image not found"):
        evaluation(model, tokenizer=tokenizer, step=3)


def test_results_are_stored_by_step(tmp_path, classes, openclip, tokenizer, command):
    evaluation = Evaluation([classes], name="run 1", every=10, output=tmp_path / "results")
    model = openclip()
    assert evaluation(model, tokenizer=tokenizer, step=5) == {}
    metrics = [evaluation(model, tokenizer=tokenizer, step=10)]
    train(model)
    metrics.append(evaluation(model, tokenizer=tokenizer, step=20))

    rows = cosmos_eval.read_results(tmp_path / "results")
    assert [row.model["spec"] for row in rows] == ["run 1-step10", "run 1-step20"]
    assert [row.model["step"] for row in rows] == [10, 20]
    assert len({row.model["weights_sha256"] for row in rows}) == 2
    for row, metrics_of_step in zip(rows, metrics, strict=True):
        assert metrics_of_step == {f"named/{name}": row.metrics[name] for name in row.metrics}
        assert row.model["facts"]["parameters"] == sum(map(torch.numel, model.parameters()))
    assert command("verify", str(tmp_path / "results")).status == 0


class Towers(nn.Module):
    """Towers with dropout and batch statistics, which keep a tensor of their first call."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(48, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.text = nn.Sequential(nn.Linear(9, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.scale: Tensor | None = None
        self.n_texts = 0
        self.fails = False

    def encode_image(self, images: Tensor) -> Tensor:
        random.random(), np.random.random(), torch.rand(1), torch.set_grad_enabled(False)
        torch.set_num_threads(torch.get_num_threads() + 1)
        if self.fails:
            raise RuntimeError("out of memory")
        if self.scale is None:
            self.scale = torch.ones(16) * 2
        return self.scale * self.image(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.n_texts += len(tokens)
        return self.text(tokens / 100)


@pytest.fixture
def towers() -> Towers:
    torch.manual_seed(0)
    towers = Towers().train()
    towers.text[1].eval()
    return towers


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Everything that a call must leave as it was."""
    modes = [module.training for module in model.modules()]
    numpy_state = np.random.get_state()[1].tolist()
    random_states = random.getstate(), numpy_state, torch.get_rng_state().tolist()
    process = torch.is_grad_enabled(), torch.get_num_threads(), PIL.ImageFile.LOAD_TRUNCATED_IMAGES
    return modes, random_states, process, [value.tolist() for value in model.state_dict().values()]


def call(evaluation: Evaluation, model: Any, step: int = 1) -> dict[str, float]:
    return evaluation(model, tokenizer=tokens_of, transform=pixels_of, step=step)


def test_a_call_leaves_no_trace(classes, towers, monkeypatch):
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    evaluation = Evaluation([classes], on_error="raise")
    before = state_of(towers)
    metrics = call(evaluation, towers)
    assert state_of(towers) == before
    assert metrics == call(Evaluation([classes], on_error="raise"), towers.eval())

    towers.fails = True
    towers.train()
    before = state_of(towers)
    with pytest.raises(RuntimeError, match="out of memory"):
        call(evaluation, towers)
    assert state_of(towers) == before


def test_a_model_goes_on_training(classes, towers):
    call(Evaluation([classes], on_error="raise"), towers)
    images = torch.rand(4, 3, 8, 8)
    features = towers.encode_image(images)  # which uses the tensor of the first call
    torch.set_grad_enabled(True)
    (towers.scale * towers.image(images.flatten(1)[:, :48])).sum().backward()
    assert features.shape == (4, 16)
    assert towers.image[0].weight.grad is not None


def test_an_error_does_not_end_the_training(classes, towers):
    evaluation = Evaluation([classes])
    towers.fails = True
    with pytest.warns(UserWarning, match=r"^evaluation at step 3 failed: .*out of memory"):
        assert call(evaluation, towers, step=3) == {}
    towers.fails = False
    assert call(evaluation, towers, step=4)


def test_prompts_are_encoded_once_per_call(data_sets, classes, towers, tmp_path):
    (same_classes,) = write_scenes(tmp_path / "scenes", SCENES // 2, "named")
    renamed = tmp_path / "scenes" / "again-named.yaml"
    Path(same_classes).rename(renamed)
    evaluation = Evaluation([classes, str(renamed)], on_error="raise")
    call(evaluation, towers)
    n_classes = 10
    n_example_texts = towers.n_texts - n_classes
    assert 0 < n_example_texts < n_classes  # that check the model before its first measurement
    call(evaluation, towers)
    assert towers.n_texts == n_example_texts + 2 * n_classes


def test_features_of_texts_follow_an_adapter_that_is_turned_off(classes, towers):
    encode_text = towers.encode_text
    towers.sign = -1
    towers.encode_text = lambda tokens: towers.sign * encode_text(tokens)
    evaluation = Evaluation([classes], on_error="raise")
    first = call(evaluation, towers)
    towers.sign = 1  # no weight changes
    second = call(evaluation, towers)
    assert second != first
    assert second == call(Evaluation([classes], on_error="raise"), towers)


def test_the_best_step(classes, towers, openclip, tokenizer):
    evaluation = Evaluation([classes], best="named/acc1", on_error="raise")
    evaluation.load_state_dict({"best": "named/acc1", "best_value": 0.999, "best_step": 7})
    call(evaluation, towers, step=8)
    assert (evaluation.is_best, evaluation.best_step) == (False, 7)
    evaluation.load_state_dict({"best": "named/acc1", "best_value": -0.001, "best_step": 7})
    metrics = call(evaluation, towers, step=9)
    assert evaluation.is_best
    state = evaluation.state_dict()
    expected = {"best": "named/acc1", "best_value": metrics["named/acc1"], "best_step": 9}
    assert {name: state[name] for name in expected} == expected
    call(evaluation, towers, step=10)
    assert not evaluation.is_best  # the same value is not better
    with pytest.raises(UsageError, match="the state has the best named/acc5"):
        evaluation.load_state_dict({"best": "named/acc5"})
    evaluation.load_state_dict(Evaluation([classes]).state_dict())  # of a run without a best metric
    assert (evaluation.best_value, evaluation.best_step) == (None, None)


def test_a_best_value_on_other_data_is_forgotten(classes, towers):
    options = {"best": "named/acc1", "on_error": "raise"}
    before = Evaluation([classes], limit=SCENES // 2, **options)
    call(before, towers, step=1)
    high = {**before.state_dict(), "best_value": 2.0}
    same = Evaluation([classes], limit=SCENES // 2, **options)
    same.load_state_dict(high)
    call(same, towers, step=2)
    assert (same.is_best, same.best_step) == (False, 1)
    other = Evaluation([classes], **options)
    other.load_state_dict(high)
    with pytest.warns(UserWarning, match="named has other data or settings than at the best step"):
        call(other, towers, step=2)
    assert (other.is_best, other.best_step) == (True, 2)


def test_lower_ranks_are_better(data_sets, openclip, tokenizer):
    best = "found/image_to_text_mean_rank"
    evaluation = Evaluation(data_sets[:1], best=best, on_error="raise")
    for former_value, is_best in ((1.0, False), (1e9, True)):
        evaluation.load_state_dict({"best": best, "best_value": former_value, "best_step": 0})
        evaluation(openclip(), tokenizer=tokenizer, step=1)
        assert evaluation.is_best is is_best


def test_two_towers(classes, towers):
    encoder = TwoTower(
        encode_image=towers.encode_image,
        encode_text=towers.encode_text,
        transform=pixels_of,
        tokenize=tokens_of,
        name="mine",
    )
    evaluation = Evaluation([classes], on_error="raise")
    first = evaluation(encoder, step=1)
    assert first == pytest.approx(call(Evaluation([classes], on_error="raise"), towers), abs=1e-6)
    train(towers)
    assert evaluation(encoder, step=2) != first
    with pytest.raises(UsageError, match=r"model is an Encoder: leave tokenizer= and transform="):
        call(evaluation, encoder)


def test_modules_in_containers_of_a_module(classes, towers, tmp_path):
    head = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5))
    towers.heads = {"text": head}
    encode_text = towers.encode_text
    towers.encode_text = lambda tokens: towers.heads["text"](encode_text(tokens))
    evaluation = Evaluation([classes], output=tmp_path, on_error="raise")
    first = call(evaluation, towers, step=1)
    assert call(evaluation, towers, step=1) == first  # without dropout
    assert head.training
    assert head[1].training
    train(head)
    assert call(evaluation, towers, step=2) != first
    first_result, second_result = cosmos_eval.read_results(tmp_path)
    assert first_result.model["weights_sha256"] != second_result.model["weights_sha256"]


def test_an_encoder_that_does_not_hash_its_weights_again(classes, tiny_archs):
    encoder = load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny']}/random"))
    evaluation = Evaluation([classes], on_error="raise")
    first = evaluation(encoder, step=1)
    with torch.no_grad():  # the features of images stay
        torch.manual_seed(1)
        encoder.model.text_projection.copy_(torch.randn_like(encoder.model.text_projection))
    second = evaluation(encoder, step=2)
    assert second != first
    assert second == pytest.approx(metrics_of(encoder, [classes]), abs=1e-6)


def test_student_and_teacher_take_turns(classes, openclip, tokenizer):
    evaluation = Evaluation([classes], on_error="raise")
    student, teacher = openclip(), openclip()
    train(student)
    measure = [evaluation(model, tokenizer=tokenizer, step=1) for model in (student, teacher) * 2]
    assert measure[:2] == measure[2:]
    assert measure[0] != measure[1]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own modules
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_modules(wrap, classes, openclip, tokenizer):
    evaluation = Evaluation([classes], on_error="raise")
    expected = evaluation(openclip(), tokenizer=tokenizer, step=1)
    assert evaluation(wrap(openclip()), tokenizer=tokenizer, step=1) == expected


def test_half_precision_weights(classes, openclip, tokenizer, tmp_path):
    evaluation = Evaluation([classes], on_error="raise", output=tmp_path)
    evaluation(openclip().bfloat16(), tokenizer=tokenizer, step=1)
    (row,) = cosmos_eval.read_results(tmp_path)
    assert row.provenance["precision"] == "bf16"


def test_a_model_that_changes_its_precision_is_measured_again(
    classes, openclip, tokenizer, tmp_path
):
    """So is one that moves to another device: an encoder has one precision and one device."""
    evaluation = Evaluation([classes], on_error="raise", output=tmp_path)
    model = openclip()
    evaluation(model, tokenizer=tokenizer, step=1)
    metrics = evaluation(model.bfloat16(), tokenizer=tokenizer, step=2)
    rows = cosmos_eval.read_results(tmp_path)
    assert [row.provenance["precision"] for row in rows] == ["fp32", "bf16"]
    alone = Evaluation([classes], on_error="raise")
    assert metrics == alone(model, tokenizer=tokenizer, step=2)


def test_results_state_an_unusual_preprocessing(classes, openclip, tokenizer, tmp_path):
    evaluation = Evaluation([classes], on_error="raise", output=tmp_path)
    for step, mean in enumerate([(0.5, 0.5, 0.5), (0.4, 0.5, 0.5)]):
        model = openclip()
        model.visual.preprocess_cfg["mean"] = mean
        evaluation(model, tokenizer=tokenizer, step=step)
    first, second = cosmos_eval.read_results(tmp_path)
    hashes = [row.model["preprocessing_sha256"] for row in (first, second)]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_of_mixed_types(precision, openclip, tokenizer):
    model = openclip().eval()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    open_clip.model.convert_weights_to_lp(model, dtype)
    assert next(model.parameters()).dtype == torch.float32
    arguments = (model, tokenizer, None, "mine")
    encoder = live.make_encoder(*arguments, None, "0" * 64)
    assert encoder.info.precision == precision
    with pytest.raises(UsageError, match=f'give precision="{precision}"'):
        live.make_encoder(*arguments, "fp32", "0" * 64)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own modules
def test_a_compiled_image_tower_has_patches(openclip, tokenizer):
    model = openclip().eval()
    images = torch.rand(2, 3, 32, 32)
    expected = dense.encode_patches(model.visual, images, "vanilla")
    model.visual = torch.compile(model.visual, backend="eager")
    torch.testing.assert_close(dense.encode_patches(model.visual, images, "vanilla"), expected)
    encoder = live.make_encoder(model, tokenizer, None, "mine", None, "0" * 64)
    torch.testing.assert_close(encoder.encode_patches(images, "vanilla"), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ["nosuch"]}, "unknown data set"),
        ({"datasets": []}, "datasets must be a list"),
        ({"datasets": "scenes-cls"}, "datasets must be a list"),
        ({"datasets": {"kind": "cls"}}, "datasets must be a list"),
        ({"datasets": Path("set.yaml")}, "datasets must be a list"),
        ({"every": 0}, "every must be a whole number, 1 or more, not 0"),
        ({"every": 0.5}, "every must be a whole number, 1 or more, not 0.5"),
        ({"name": None}, "name must be a text, not None"),
        ({"name": ""}, "name '': use 1 to 100 printable characters"),
        ({"memory_gb": -1}, "memory_gb must be 0 or more, not -1"),
        ({"best": ["scenes-cls/acc1"]}, "best must be one metric, not"),
        ({"best": "scenes-cls/acc1_*"}, r"no data set has the metric scenes-cls/acc1_\*"),
        ({"best": "scenes-cls/acc"}, "no data set has the metric scenes-cls/acc; nearest:"),
        ({"on_error": "ignore"}, "on_error must be warn or raise, not 'ignore'"),
        ({"precision": "int8"}, "precision must be one of"),
    ],
)
def test_wrong_options_are_refused_before_the_training(options, message):
    with pytest.raises(UsageError, match=message):
        Evaluation(**{"datasets": ["scenes-cls"], **options})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Identity(), "model: Identity has no parameters: give the model that is trained"),
        (nn.Linear(2, 2), "Linear has neither `encode_image` and `encode_text` nor"),
        (7, "model must be a module or an Encoder, not int"),
    ],
)
def test_wrong_models(model, message, classes):
    with pytest.raises(UsageError, match=message):
        call(Evaluation([classes], on_error="raise"), model)


def test_missing_parts(classes, openclip, towers):
    evaluation = Evaluation([classes], on_error="raise")
    with pytest.raises(UsageError, match=r"give open_clip.get_tokenizer\(...\) as tokenizer="):
        evaluation(openclip(), step=1)
    with pytest.raises(UsageError, match="give the transform of the evaluation as transform="):
        evaluation(towers, tokenizer=tokens_of, step=1)


@pytest.mark.parametrize("step", [np.int64(20), torch.tensor(20), np.array(20)])
def test_numbers_of_other_libraries(step, classes, towers, tmp_path):
    options = {"output": tmp_path, "best": "named/acc1", "on_error": "raise"}
    evaluation = Evaluation([classes], every=np.int64(10), **options)
    assert call(evaluation, towers, step)
    (row,) = cosmos_eval.read_results(tmp_path)
    assert (row.model["spec"], row.model["step"]) == ("model-step20", 20)
    torch.save(evaluation.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["best_step"] == 20


@pytest.mark.parametrize("step", [2.5, 3.0, "3", None, -1])
def test_wrong_steps(step, classes, towers):
    with pytest.raises(UsageError, match="step must be a whole number, 0 or more, not"):
        call(Evaluation([classes]), towers, step)


def test_a_data_set_under_two_protocols():
    protocols = [find_protocol("scenes-retrieval", name) for name in ("scenes", "scenes-pairs")]
    message = "make an Evaluation for each protocol: scenes-retrieval is given twice"
    with pytest.raises(UsageError, match=message):
        Evaluation(protocols)


def test_other_data_sets_are_measured_after_an_error(data_sets, classes, towers):
    segmented = data_sets[KINDS.index("segmented")]
    evaluation = Evaluation([segmented, classes], best="segmented/mIoU")
    with pytest.warns(UserWarning, match=r"^segmented failed at step 1: .* has no patches"):
        metrics = call(evaluation, towers)
    assert metrics == call(Evaluation([classes], on_error="raise"), towers)
    assert evaluation.best_step is None


def test_warnings_of_errors_name_their_class_and_the_line(classes, towers):
    def fail(texts: list[str]) -> Tensor:
        raise KeyError("a")

    evaluation = Evaluation([classes])
    with pytest.warns(UserWarning, match=r"KeyError: 'a' \(on_error=\"raise\" shows") as warned:
        evaluation(towers, tokenizer=fail, transform=pixels_of, step=1)
    assert [Path(warning.filename).name for warning in warned] == [Path(__file__).name]

    call(evaluation, towers)
    towers.fails = True
    train(towers)
    match = r"^named failed at step 1: RuntimeError: out of memory \(on_error=\"raise\" shows"
    with pytest.warns(UserWarning, match=match) as warned:
        call(evaluation, towers)
    assert [Path(warning.filename).name for warning in warned] == [Path(__file__).name]


def test_a_best_metric_that_results_lack(classes, towers):
    evaluation = Evaluation([classes], best="named/acc1_urban")  # a group of other data sets
    with pytest.warns(UserWarning, match="no result has the best named/acc1_urban; nearest: named"):
        assert call(evaluation, towers)
    assert (evaluation.is_best, evaluation.best_step) == (False, None)


def test_a_best_metric_of_a_group_of_classes(openclip, tokenizer, tmp_path):
    (dataset,) = write_scenes(tmp_path / "scenes", 4, "segmented")
    with open(dataset, "a") as file:
        file.write("groups: {nature: [sky, tree]}\n")
    evaluation = Evaluation([dataset], best="segmented/mIoU_nature", on_error="raise")
    metrics = evaluation(openclip(), tokenizer=tokenizer, step=1)
    assert evaluation.best_value == metrics["segmented/mIoU_nature"]


def test_another_transform_in_each_call(classes, towers):
    evaluation = Evaluation([classes], on_error="raise")
    call(evaluation, towers)
    with pytest.warns(UserWarning, match="make it once, before the loop") as warned:
        evaluation(towers, tokenizer=tokens_of, transform=lambda image: pixels_of(image), step=2)
    assert [Path(warning.filename).name for warning in warned] == [Path(__file__).name]


def test_methods_are_the_same_object_in_each_call(classes, towers):
    class Inputs:
        n_calls = 0

        def pixels(self, image: Any) -> Tensor:
            return pixels_of(image)

        def tokens(self, texts: list[str]) -> Tensor:
            self.n_calls += 1
            return tokens_of(texts)

    inputs = Inputs()
    evaluation = Evaluation([classes], on_error="raise")
    for step in (1, 2):
        n_calls = inputs.n_calls
        evaluation(towers, tokenizer=inputs.tokens, transform=inputs.pixels, step=step)
    assert inputs.n_calls == n_calls  # texts are tokenized once


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_pixels_keep_their_type(dtype, classes, towers):
    types = []

    def encode_image(images: Tensor) -> Tensor:
        types.append(images.dtype)
        return nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)[:, :16]

    def transform(image: Any) -> Tensor:
        return (pixels_of(image.resize((32, 32))) * 255).to(dtype)

    towers.encode_image = encode_image
    evaluation = Evaluation([classes], on_error="raise")
    first, second = (
        evaluation(towers, tokenizer=tokens_of, transform=transform, step=step) for step in (1, 2)
    )
    assert first == second
    assert set(types) == {dtype}


def test_an_interrupted_call_leaves_no_trace(classes, towers):
    encode_image = towers.encode_image

    def interrupt(images: Tensor) -> Tensor:
        if len(images) > 2:  # not the example, but a batch of images
            raise KeyboardInterrupt
        return encode_image(images)

    towers.encode_image = interrupt
    before = state_of(towers)
    with pytest.raises(KeyboardInterrupt):
        call(Evaluation([classes]), towers)
    assert state_of(towers) == before


def test_an_average_of_weights(classes, openclip, tokenizer):
    evaluation = Evaluation([classes], on_error="raise")
    expected = evaluation(openclip(), tokenizer=tokenizer, step=1)
    average = torch.optim.swa_utils.AveragedModel(openclip())
    assert evaluation(average, tokenizer=tokenizer, step=1) == expected


def test_an_encoder_has_its_precision(classes, tiny_encoder):
    evaluation = Evaluation([classes], precision="amp", on_error="raise")
    with pytest.raises(UsageError, match="an Encoder of precision fp32: leave precision= out"):
        evaluation(tiny_encoder, step=1)


def test_tokens_that_are_no_tensor(classes, towers):
    evaluation = Evaluation([classes], on_error="raise")
    with pytest.raises(UsageError, match="`tokenize` returns list, not a tensor of 2 rows in 2"):
        evaluation(
            towers,
            tokenizer=lambda texts: tokens_of(texts).tolist(),
            transform=pixels_of,
            step=1,
        )
