# Evaluate while transformers' Trainer trains: trainer.add_callback(EvaluationCallback(...)).
from typing import Any

from transformers import Trainer, TrainerCallback

from cosmos_eval import Evaluation


class EvaluationCallback(TrainerCallback):
    """Measures the model when `evaluation` is due, and logs its metrics like those of the trainer.

    Args:
        trainer: The trainer that the callback is added to.
        evaluation: The data sets, and the steps at which they are measured.
        tokenizer: The tokenizer of the model.
        image_processor: The image processor of the model.
    """

    def __init__(
        self, trainer: Trainer, evaluation: Evaluation, tokenizer: Any, image_processor: Any
    ) -> None:
        self.trainer = trainer
        self.evaluation = evaluation
        self.inputs = {"tokenizer": tokenizer, "transform": image_processor}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model after a step."""
        model = self.trainer.model_wrapped  # with DistributedDataParallel or FSDP around it
        metrics = self.evaluation(model, step=state.global_step, **self.inputs)
        if metrics:
            self.trainer.log(metrics)
