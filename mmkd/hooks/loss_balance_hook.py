"""How strongly each distillation term pulls, measured while training."""

from __future__ import annotations

import copy
import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log

from ..distill import Distill
from ..preflight.findings import Findings
from ..preflight.terms import check_terms, measure_terms
from ..registry import HOOKS
from ..rng import preserved_rng
from ._runner import model_of


@HOOKS.register_module()
class LossBalanceHook(Hook):
    """Logs the gradient of each term as a share of the task's, and warns.

    Every so many iterations a copy of the model sees the batch once more: its terms'
    gradients are measured one by one, as ``tools/check.py`` does before training, over
    the student's weights that a term reaches. The run itself is not touched:
    weights, statistics of norms, random numbers and critics are those of a run
    without the hook. A measurement takes about as long as a few steps.

    Logged as ``<term>_share``, such as ``hint_share`` for ``loss_hint``. Where a term
    drowns the task, hardly teaches anything, or is not finite, a warning says by which
    weight it would not; once, until it changes. Under DDP every rank measures its own
    images, and the first one's are logged.

    Args:
        interval: Iterations between two measurements; the first iteration is one.

    Raises:
        ValueError: If the interval is no positive integer, or, when training
            starts, the model has no teacher.

    Example:
        >>> LossBalanceHook(interval=200).interval
        200
    """

    # After the factors of a schedule are set.
    priority = 'NORMAL'

    def __init__(self, interval: int = 500) -> None:
        if type(interval) is not int or interval < 1:
            raise ValueError(f'interval must be an integer >= 1 but is {interval!r}')
        self.interval = interval
        self._said: set[str] = set()

    def before_train(self, runner: Any) -> None:
        """Check that there is something to measure."""
        model = model_of(runner)
        if not isinstance(model, Distill):
            raise ValueError(
                'LossBalanceHook measures the terms of a distilled model but the model '
                f'is {type(model).__name__}; take it out of the hooks'
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Measure, if it is time."""
        if runner.iter % self.interval:
            return
        with preserved_rng():
            twin: Any = copy.deepcopy(model_of(runner))
            terms = measure_terms(twin, data_batch, runner.optim_wrapper)
        for term in terms:
            if term.weight is not None:
                name = term.name.replace('loss', '').strip('_')
                runner.message_hub.update_scalar(f'train/{name}_share', term.ratio)
        findings = Findings()
        check_terms(terms, findings)
        wrong = {_subject(text): text for text in findings.errors + findings.warnings}
        for subject in wrong.keys() - self._said:
            print_log(
                f'mmkd: iteration {runner.iter}: {wrong[subject]}',
                logger='current',
                level=logging.WARNING,
            )
        self._said = set(wrong)


def _subject(text: str) -> str:
    """The term that a sentence is about, and what of it: numbers vary."""
    return ''.join(c for c in text if not c.isdigit())[:60]
