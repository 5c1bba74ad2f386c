"""What the hooks need to know of a runner."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop

from ..distiller import Distiller


def distiller_of(runner: Any) -> Distiller | None:
    """The distiller of a runner's model; ``None`` for a stock model."""
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    return getattr(model, 'distiller', None)


def is_iteration_based(runner: Any) -> bool:
    """Whether the whole training is one epoch to the loop."""
    return isinstance(runner.train_loop, IterBasedTrainLoop)
