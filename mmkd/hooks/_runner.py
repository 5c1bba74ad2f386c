"""What the hooks need to know of a runner."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from ..distiller import Distiller


def model_of(runner: Any) -> nn.Module:
    """A runner's model without what wraps it."""
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    return model


def distiller_of(runner: Any) -> Distiller | None:
    """The distiller of a runner's model; ``None`` for a stock model.

    The distilled model may be a part of another, such as the student of
    MMDetection's ``SoftTeacher``, whose averaged twin comes after it.
    """
    model = model_of(runner)
    own = getattr(model, 'distiller', None)
    if own is not None:
        return own
    return next((m for m in model.modules() if isinstance(m, Distiller)), None)


def netaug_of(runner: Any) -> nn.Module | None:
    """What NetAug adds to a runner's model, or to a part of it; ``None`` elsewhere."""
    return getattr(augmented_of(runner), 'netaug', None)


def augmented_of(runner: Any) -> nn.Module | None:
    """A runner's model, or the part of it, that NetAug adds to; or ``None``."""
    modules = model_of(runner).modules()
    return next((m for m in modules if 'netaug' in m._modules), None)


def transfer_of(runner: Any) -> Any:
    """What teaches a text encoder in a runner's model; ``None`` elsewhere."""
    return model_of(runner)._modules.get('transfer')


def is_iteration_based(runner: Any) -> bool:
    """Whether the whole training is one epoch to the loop."""
    return isinstance(runner.train_loop, IterBasedTrainLoop)
