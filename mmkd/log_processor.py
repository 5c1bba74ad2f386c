"""One line of progress in which the terms of the teacher stand apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import LogProcessor

from .registry import LOG_PROCESSORS


@LOG_PROCESSORS.register_module()
class DistillLogProcessor(LogProcessor):
    """The stock lines, with the losses grouped: the task's and the teacher's.

    ``loss: 3.10 = task 2.90 (cls 1.10  bbox 1.80) + distillation 0.20 (hint 0.20)``

    What is logged to files and trackers is the stock processor's, key for key.
    ``tools/train.py`` takes it in the place of the stock one; arguments are the same.

    Example:
        >>> DistillLogProcessor(window_size=20).window_size
        20
    """

    def get_log_after_iter(
        self, runner: Any, batch_idx: int, mode: str
    ) -> tuple[dict, str]:
        """The stock values and line, the line of a training step with grouped losses.

        Args:
            runner: The runner.
            batch_idx: Of the batch in its loop.
            mode: ``'train'``, ``'val'`` or ``'test'``.
        """
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        distiller = getattr(model, 'distiller', None)
        if mode != 'train' or (distiller is None and not hasattr(model, 'netaug')):
            return tag, line
        terms = () if distiller is None else distiller.losses
        prefix = f'{mode}/' if self.log_with_hierarchy else ''
        values = {key.removeprefix(prefix): value for key, value in tag.items()}
        # Entries of the user's own are no terms, and stay as they are.
        own = {entry.get('log_name') for entry in self.custom_cfg}
        values = {key: value for key, value in values.items() if key not in own}
        told = grouped(values, terms, self.num_digits)
        if told is None:
            return tag, line
        # A value of the stock line is `name: number`, two spaces apart.
        kept = [
            part
            for part in line.split('  ')
            if part.strip()
            and ('loss' not in (name := part.partition(':')[0]) or name in own)
        ]
        return tag, '  '.join([*kept, told])


def grouped(
    values: Mapping[str, Any], terms: Iterable[str], digits: int = 4
) -> str | None:
    """Losses in words: the sum, the shares of the task, a wider network, the teacher.

    Args:
        values: Log name -> value; what has no ``loss`` in its name is passed over.
        terms: Names of the teacher's losses.
        digits: Behind the point.

    Returns:
        ``None`` if no sum was logged.

    Example:
        >>> losses = dict(loss=3.0, loss_cls=1.0, loss_bbox=1.5, loss_hint=0.5, lr=0.1)
        >>> grouped(losses, ['loss_hint'], 1)
        'loss: 3.0 = task 2.5 (cls 1.0  bbox 1.5) + distillation 0.5 (hint 0.5)'
    """
    if 'loss' not in values:
        return None
    ours = {name: values[name] for name in terms if name in values}
    others = {
        name: value
        for name, value in values.items()
        if 'loss' in name and name != 'loss' and name not in ours
    }
    wider = {name: value for name, value in others.items() if name.startswith('aug_')}
    stock = {name: value for name, value in others.items() if name not in wider}
    groups = [
        f'{title} {sum(group.values()):.{digits}f} ({_listed(group, digits)})'
        for title, group in (
            ('task', stock),
            ('wider network', wider),
            ('distillation', ours),
        )
        if group
    ]
    return f'loss: {values["loss"]:.{digits}f} = {" + ".join(groups)}'


def _listed(group: Mapping[str, float], digits: int) -> str:
    return '  '.join(
        f'{name.removeprefix("aug_").replace("loss_", "").replace("_loss", "")} '
        f'{value:.{digits}f}'
        for name, value in group.items()
    )
