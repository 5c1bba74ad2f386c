"""Which layers of a text encoder learn when, and how fast."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict

from ..registry import HOOKS
from ._runner import model_of, transfer_of


@HOOKS.register_module()
class TransferHook(Hook):
    """Tells ``mmkd.MobileBertTransfer`` the iteration, and scales learning rates.

    For the time of an iteration the rate of every parameter is multiplied by what its
    stage says: 1 for the layers that learn, 0.1 for those that had their turn, 0 for
    those that wait. Schedulers never see it.

    Raises:
        ValueError: When the training starts, if the model is another one, parameters of
            several layers share a group of the optimizer, DDP would wait for layers
            that do not take part, or the training is too short for all of them.

    Example:
        >>> from mmkd.registry import HOOKS
        >>> type(HOOKS.build(dict(type='mmkd.TransferHook'))).__name__
        'TransferHook'
    """

    # After the log of the rate, before schedulers move it.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._rates: list[float] = []

    def before_train(self, runner: Any) -> None:
        """Check the run."""
        transfer = transfer_of(runner)
        if transfer is None:
            raise ValueError(
                'mmkd.TransferHook must go with a model of type mmkd.MobileBertTransfer'
            )
        transfer.max_iters = runner.max_iters
        transfer.schedule.check(runner.max_iters)
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            raise ValueError(
                'mmkd.TransferHook needs one optimizer but there are several'
            )
        self._parts = _parts(model_of(runner), transfer, wrapper.optimizer)
        _check_wrapper(runner)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Scale the rates."""
        transfer: Any = transfer_of(runner)
        transfer.iteration = runner.iter
        if runner.iter == transfer.schedule.transfer_iters:
            # The layers are over: their last losses are no news any more.
            for name in (*map('loss_{}'.format, transfer.weights), 'layers'):
                runner.message_hub.log_scalars.pop(f'train/{name}', None)
        stage = transfer.stage
        groups = runner.optim_wrapper.optimizer.param_groups
        self._rates = [group['lr'] for group in groups]
        for group, part in zip(groups, self._parts):
            group['lr'] = group['lr'] * transfer.rate_of(part, stage)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Put the rates back."""
        for group, rate in zip(
            runner.optim_wrapper.optimizer.param_groups, self._rates
        ):
            group['lr'] = rate


def _parts(model: Any, transfer: Any, optimizer: Any) -> list[str]:
    """What part of the student every group of the optimizer is."""
    names = {id(p): name for name, p in model.named_parameters()}
    parts: list[str] = []
    for group in optimizer.param_groups:
        found = {transfer.part_of(names[id(p)]) for p in group['params']}
        if len(found) > 1:
            raise ValueError(
                'every group of the optimizer must have parameters of one layer, but '
                f'one has those of {sorted(found)[:3]}: give the optim_wrapper a '
                'paramwise_cfg, such as dict(bias_decay_mult=0.0, norm_decay_mult=0.0)'
            )
        parts += found
    return parts


def _check_wrapper(runner: Any) -> None:
    model = runner.model
    if is_model_wrapper(model) and not getattr(model, 'find_unused_parameters', True):
        raise ValueError(
            'find_unused_parameters must be True in the config: layers that wait take '
            'no part in a step, and DistributedDataParallel would wait for them'
        )
