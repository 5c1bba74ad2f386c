"""The teacher's own metric on the student's validation data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import Runner
from rich.table import Table
from torch.utils.data import Subset

from ..teacher import Teacher
from .findings import Findings
from .fit_report import class_names_of, pipeline_of
from .layout import table

#: A metric below it, as a share of 1, is about what chance gives.
_NOTHING = 0.01
#: What a metric is called that says how good a network is, best first.
_MAIN = ('mAP', 'mIoU', 'AP', 'IoU', 'Dice', 'PQ')


@dataclass
class TeacherMetric:
    """What the evaluator says of the teacher.

    Args:
        metrics: Name -> value.
        pictures: Number that it was measured on.
        total: Number of validation pictures.
    """

    metrics: dict[str, float]
    pictures: int
    total: int


def batches_of(runner: Any, batches: int | None) -> Any:
    """A loader of some validation batches, spread evenly over the data set.

    Args:
        runner: The runner.
        batches: How many; ``None`` for all.

    Returns:
        The config's own loader, or one of fewer pictures.
    """
    loader = runner.val_loop.dataloader
    if batches is None or batches >= len(loader):
        return loader
    total = len(loader.dataset)
    wanted = min(batches * (loader.batch_size or 1), total)
    indices = [i * total // wanted for i in range(wanted)]
    cfg = copy.deepcopy(runner.cfg.val_dataloader)
    part: Any = Subset(loader.dataset, indices)
    part.metainfo = loader.dataset.metainfo
    cfg['dataset'] = part
    return Runner.build_dataloader(cfg, seed=runner.seed)


@torch.no_grad()
def evaluate_teacher(
    teacher: Teacher,
    runner: Any,
    batches: int | None,
    advance: Callable[[], None] = lambda: None,
) -> TeacherMetric:
    """Let the teacher predict as it does in a test, and evaluate that.

    Pictures come from the student's validation pipeline; the teacher normalises
    them itself.

    Args:
        teacher: The teacher.
        runner: The run, of which data and evaluator are taken.
        batches: Number of validation batches; ``None`` for all.
        advance: Called after every batch.

    Returns:
        The metrics.
    """
    loader = batches_of(runner, batches)
    teacher.use_all()
    network: Any = teacher.model
    evaluator, seen, ids = runner.val_loop.evaluator, 0, []
    for batch in loader:
        outputs = network.val_step(batch)
        evaluator.process(data_samples=outputs, data_batch=batch)
        seen += len(outputs)
        ids += [getattr(output, 'img_id', None) for output in outputs]
        advance()
    total = len(runner.val_loop.dataloader.dataset)
    if seen < total:
        for metric in evaluator.metrics:
            if hasattr(metric, 'img_ids'):  # COCO's; else pictures not seen count as 0
                metric.img_ids = ids
    return TeacherMetric(evaluator.evaluate(seen), seen, total)


def main_metric(metrics: dict[str, float]) -> tuple[str, float] | None:
    """The one metric that tells whether a network works.

    Example:
        >>> main_metric({'aAcc': 60.0, 'mIoU': 17.2, 'mAcc': 30.0})
        ('mIoU', 17.2)
        >>> main_metric({'coco/bbox_mAP': 0.4, 'coco/bbox_mAP_50': 0.6})
        ('coco/bbox_mAP', 0.4)
    """
    for ending in _MAIN:
        for name, value in metrics.items():
            if name.endswith(ending):
                return name, float(value)
    return next(((k, float(v)) for k, v in metrics.items()), None)


def check_metric(found: TeacherMetric, classes: int | None, findings: Findings) -> None:
    """Warn of a teacher that knows nothing of the data.

    Args:
        found: Its metrics.
        classes: Number of classes, if known.
        findings: Receives the warning.
    """
    main = main_metric(found.metrics)
    if main is None:
        findings.warn(
            f'the teacher predicts nothing at all on {found.pictures} validation '
            'pictures, so that there is no metric; look at its weights'
        )
        return
    name, value = main
    # MMSegmentation's are in percent, and one class named everywhere gives 1 / K.
    nothing = 100 / max(classes or 100, 2) if name.endswith('IoU') else _NOTHING
    # COCO says -1 where there is no object at all.
    if value <= nothing:
        findings.warn(
            f"the teacher's {name} is {value:.4g} on {found.pictures} validation "
            'pictures, about what chance gives; probable causes: weights of another '
            'training or none, classes in another order, another channel order or '
            'normalisation, or too few pictures (--batches all)'
        )


def check_pipelines(teacher: Teacher, cfg: Any, findings: Findings) -> None:
    """Say where the teacher was validated on pictures made in another way."""
    own = getattr(teacher.model, 'cfg', None) or {}
    theirs, ours = (
        [_plain(step) for step in pipeline_of(c.get('val_dataloader') or {})]
        for c in (own, cfg)
    )
    if not theirs or theirs == ours:
        return
    different = [step for step in theirs if step not in ours]
    text = ', '.join(map(_short, different)) or 'other steps or another order'
    findings.note(
        "the teacher's own validation pipeline differs from the student's, which is "
        f'used here and may cost it some of its metric; its own has {text}'
    )


def _plain(step: Any) -> dict[str, Any]:
    """A step without what does not change the picture."""
    left_out = ('backend_args', 'file_client_args', 'meta_keys', '_scope_')
    return {k: v for k, v in dict(step).items() if k not in left_out}


def _short(step: dict[str, Any]) -> str:
    given = ', '.join(f'{k}={v}' for k, v in step.items() if k != 'type')
    return f'{step.get("type")}({given})'


def comparable(teacher: Teacher, ours: Any) -> str | None:
    """Why the evaluator cannot judge the teacher; ``None`` if it can."""
    theirs = class_names_of(teacher.model)
    if ours and theirs and len(ours) != len(theirs):
        return f'it knows {len(theirs)} classes and the data has {len(ours)}'
    return None


def metric_table(found: TeacherMetric) -> Table:
    """The teacher's metrics."""
    rows = table('metric', 'value', numbers=('value',))
    for name, value in found.metrics.items():
        rows.add_row(name, f'{value:.4g}')
    return rows
