# Evaluate while Lightning trains: Trainer(callbacks=[EvaluationCallback(...)]).
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cosmos_eval import Evaluation


class EvaluationCallback(Callback):
    """Measures `pl_module.model` when `evaluation` is due, and logs its metrics.

    `ModelCheckpoint(monitor="imagenet1k/acc1", mode="max")` can keep the best step.

    Args:
        evaluation: The data sets, and the steps at which they are measured. Those of several
            callbacks need different names (`Evaluation(..., name="often")`).
        tokenizer: Maps a list of texts to tokens.
        transform: Maps an RGB image to pixels. It may be None for a model of OpenCLIP.
    """

    def __init__(self, evaluation: Evaluation, tokenizer: Any, transform: Any = None) -> None:
        self.evaluation = evaluation
        self.inputs = {"tokenizer": tokenizer, "transform": transform}
        self.last_step = 0

    @property
    def state_key(self) -> str:
        """Return a key that differs between callbacks whose evaluations have different names."""
        return f"{type(self).__name__}({self.evaluation.name})"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Measure the model after a step, of which accumulated gradients take several batches."""
        step = trainer.global_step
        if step > self.last_step:
            metrics = self.evaluation(pl_module.model, step=step, **self.inputs)
            pl_module.log_dict(metrics)
        self.last_step = step

    def state_dict(self) -> dict[str, Any]:
        """Return the best step, which Lightning stores in each checkpoint."""
        return self.evaluation.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best step from the checkpoint that a training resumes from."""
        self.evaluation.load_state_dict(state_dict)
