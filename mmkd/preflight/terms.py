"""How strongly each loss term pulls on the student, on one real batch."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ..extended import own_pass_alone
from .findings import Findings
from .layout import table
from .networks import is_ours

#: Share of the task's gradient beyond which a term is worth a warning.
TOO_STRONG, TOO_WEAK = 10.0, 1e-3
#: Gradients of half precision are computed of losses that are that much larger.
_SCALE = 1024.0


@dataclass
class Term:
    """One term, or the task.

    Args:
        name: Log name; of the task, its stock losses added up.
        weight: ``loss_weight``; ``None`` of the task.
        value: Weighted value.
        gradient: L2 norm of its gradient with regard to the student's weights.
        task: The task's norm over the weights that the term reaches.
        is_finite: Whether value and gradient are.
    """

    name: str
    weight: float | None
    value: float
    gradient: float
    task: float
    is_finite: bool

    @property
    def ratio(self) -> float:
        """Its gradient as a share of the task's, on the same weights."""
        if self.task:
            return self.gradient / self.task
        return math.inf if self.gradient else 0.0


def measure_terms(model: Any, batch: Any, optim_wrapper: Any) -> list[Term]:
    """Values and gradients of the task and of every term.

    Args:
        model: The distilled model; its weights get no gradient and no step.
        batch: A batch of the training data loader; not changed.
        optim_wrapper: Of the run: its precision is used.

    Returns:
        The task first, then the terms in order.
    """
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    with optim_wrapper.optim_context(model), own_pass_alone(model):
        if isinstance(data, dict):
            losses = model(**data, mode='loss')
        else:
            losses = model(*data, mode='loss')
    names = [name for name in model.distiller.active if name in losses]
    stock = {k: v for k, v in losses.items() if k not in model.distiller.losses}
    weights = [
        p for n, p in model.named_parameters() if p.requires_grad and not is_ours(n)
    ]
    scale = _SCALE if hasattr(optim_wrapper, 'loss_scaler') else 1.0
    total = model.parse_losses(stock)[0]
    task = _gradients(total, model, weights, scale)
    terms = [_term('task', None, total, task, task)]
    for name in names:
        pull = _gradients(losses[name], model, weights, scale)
        weight = model.distiller.losses[name].loss_weight
        terms.append(_term(name, weight, losses[name], pull, task))
    return terms


def _gradients(
    loss: Tensor, model: Any, weights: list, scale: float
) -> list[Tensor | None]:
    if not loss.requires_grad:
        return [None] * len(weights)
    model.zero_grad()
    # Not autograd.grad: gradient checkpointing (`with_cp`) cannot be part of that.
    (loss * scale).backward(retain_graph=True)
    found = [None if p.grad is None else p.grad / scale for p in weights]
    model.zero_grad()
    return found


def _term(
    name: str, weight: float | None, value: Tensor, pull: list, task: list
) -> Term:
    gradient = _norm(pull)
    shared = _norm([t for p, t in zip(pull, task) if p is not None])
    number = float(value.detach().float().mean())
    is_finite = math.isfinite(number) and math.isfinite(gradient)
    return Term(name, weight, number, gradient, shared, is_finite)


def _norm(gradients: list) -> float:
    squares = [g.double().square().sum() for g in gradients if g is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def check_terms(terms: list[Term], findings: Findings) -> None:
    """Say which terms are broken, overwhelming or without effect."""
    for term in terms:
        name = 'the task (the stock losses)' if term.weight is None else term.name
        if not term.is_finite:
            findings.error(
                f'{name}: value {term.value:g} and gradient {term.gradient:g} must be '
                'finite; look for NaN in the weights or the data, and train without '
                '--amp or with a larger temperature'
            )
        elif term.weight is not None:
            _check_strength(term, findings)


def _check_strength(term: Term, findings: Findings) -> None:
    if not term.gradient:
        findings.warn(
            f'{term.name}: no gradient reaches a trained weight of the student; tap a '
            'module behind the frozen stages, unless this batch has no object that the '
            'term would act on'
        )
    elif term.ratio > TOO_STRONG:
        equal = f'loss_weight {term.weight / term.ratio:.2g}'  # type: ignore[operator]
        findings.warn(
            f"{term.name}: its gradient is {term.ratio:.3g} times the task's and will "
            f'drown it; {equal} would make the two equal'
        )
    elif term.ratio < TOO_WEAK:
        tenth = 0.1 * term.weight / term.ratio  # type: ignore[operator]
        findings.warn(
            f"{term.name}: its gradient is {term.ratio:.2%} of the task's and will "
            f'hardly teach anything; loss_weight {tenth:.2g} would make it a tenth'
        )


def terms_table(terms: list[Term]) -> Table:
    """Value and pull of the task and every term."""
    numbers = ('loss_weight', 'value', 'gradient', "share of the task's")
    rows = table('term', *numbers, numbers=numbers)
    for term in terms:
        is_task = term.weight is None
        rows.add_row(
            term.name,
            '' if is_task else f'{term.weight:g}',
            f'{term.value:.4g}',
            f'{term.gradient:.3g}',
            '' if is_task else f'{term.ratio:.3g}',
        )
    return rows


GRADIENT = (
    "gradient: its L2 norm over the student's weights; share: of the norm of the "
    "task's gradient over the weights that the term reaches"
)
