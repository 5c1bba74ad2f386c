"""How student, teacher and data fit each other: what is known without a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from rich.table import Table
from torch import nn

from ..adapters import FeatureImitationNeck
from ..base_teacher import BaseTeacher
from ..distiller import Distiller
from ..fit import Tapped
from ..renormalize import Normalization
from .findings import Findings
from .layout import table

#: ImageNet's means in the order of RGB, which most preprocessors have.
_IMAGENET = (123.675, 116.28, 103.53)


def fit_table(distiller: Distiller) -> Table:
    """Terms, taps, widths, strides and adapters of both sides."""
    rows = table('term', 'tap', 'student', 'teacher', 'adapter')
    for name, loss in distiller.losses.items():
        if not loss.loss_weight:
            rows.add_row(name, loss.at, 'off: loss_weight is 0')
        elif name in distiller.fit:
            ours, theirs = distiller.fit[name]
            paths = dict.fromkeys((ours.path, theirs.path))
            rows.add_row(
                name, ' / '.join(paths), _side(ours), _side(theirs), _adapter(loss)
            )
    return rows


def check_fit(
    distiller: Distiller, cfg: Config, classes: Sequence[str] | None, findings: Findings
) -> None:
    """What can be told from two built models and the config.

    Args:
        distiller: Of the built model.
        cfg: Config of the run.
        classes: Names of the training data's classes, if known.
        findings: Receives what is found.
    """
    if not distiller.active:
        findings.warn(
            'no term is on: training is that of the student alone; give a loss a '
            'loss_weight > 0'
        )
    for name, teacher in distiller.teacher.members.items():
        _check_teacher(called(name), teacher, cfg, findings)
    _check_classes(distiller, classes, findings)


def called(name: str) -> str:
    """What a teacher is called in sentences; one of several has a name."""
    return f'the teacher {name!r}' if name else 'the teacher'


def _check_teacher(
    name: str, teacher: BaseTeacher, cfg: Config, findings: Findings
) -> None:
    if teacher.is_random:
        findings.warn(
            f'{name} has random weights (allow_random=True): it teaches noise; '
            'name a file with model.teacher.checkpoint=... unless that is wanted'
        )
    _check_inputs(name, teacher, cfg, findings)


def class_names(cfg: Config) -> Sequence[str] | None:
    """Class names of the training data, as far as the config alone tells."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while not dataset.get('metainfo') and 'dataset' in dataset:
        dataset = dataset['dataset']  # RepeatDataset and its kind
    given = dict(dataset.get('metainfo') or {}).get('classes')
    kind = dataset.get('type')
    found = DATASETS.get(kind) if isinstance(kind, str) else kind
    return given or getattr(found, 'METAINFO', {}).get('classes')


def inputs_told(teacher: BaseTeacher) -> str:
    """How the teacher's inputs are made of the student's, in words."""
    return '; '.join(
        f'{name}: {_inputs_told(member)}' if name else _inputs_told(member)
        for name, member in teacher.members.items()
    )


def _inputs_told(teacher: BaseTeacher) -> str:
    both = teacher.normalizations
    if teacher.model is None and not teacher.is_own:
        return 'as it was when the teacher was cached'
    if both is None or both[0] == both[1]:
        return 'the same for both'
    return (
        f'student {_normalization(both[0])}; teacher {_normalization(both[1])}: '
        'inputs are renormalised for the teacher in every step'
    )


def _check_inputs(
    name: str, teacher: BaseTeacher, cfg: Config, findings: Findings
) -> None:
    both = teacher.normalizations
    if both is None:
        return
    for side, its in zip(('the student', name), both):
        # A mean that another order fits exactly is the other order's.
        order = _IMAGENET if its.flipped else _IMAGENET[::-1]
        if len(its.mean) == 3 and _near(its.mean, order[::-1]):
            findings.warn(
                f"{side}'s mean {its.mean} is ImageNet's in the order "
                f'{"BGR" if its.flipped else "RGB"} but its inputs are '
                f'{"RGB" if its.flipped else "BGR"}; swap bgr_to_rgb or the mean'
            )
    if both[0] != both[1] and 'Normalize' in _step_types(cfg):
        findings.warn(
            'the training pipeline normalises the pictures itself (Normalize), where '
            f'{name} cannot undo it; leave that to data_preprocessor'
        )


def _check_classes(
    distiller: Distiller, ours: Sequence[str] | None, findings: Findings
) -> None:
    try:
        distiller.check_classes(ours)
    except ValueError as error:
        findings.error(str(error))
        return
    for name, teacher in distiller.teacher.members.items():
        terms = [loss for loss in distiller.losses.values() if loss.teacher == name]
        if not any(getattr(loss, 'teacher_classes', None) for loss in terms):
            theirs = class_names_of(teacher.model)
            _compare_classes(called(name), ours, theirs, findings)


def _compare_classes(
    name: str,
    ours: Sequence[str] | None,
    theirs: Sequence[str] | None,
    findings: Findings,
) -> None:
    if not ours or not theirs or list(ours) == list(theirs):
        return
    if sorted(ours) == sorted(theirs):
        findings.warn(
            f'the data has the classes {list(ours)} and {name} was trained on the '
            f'same in another order, {list(theirs)}: no term compares classes, but its '
            'metric below does; give metainfo the order of the teacher'
        )
    else:
        findings.note(
            f'{name} was trained on {len(theirs)} classes and the data has '
            f'{len(ours)}, other ones; no term compares classes'
        )


def class_names_of(model: nn.Module) -> Sequence[str] | None:
    """Names that the teacher's checkpoint holds."""
    meta: Any = getattr(model, 'dataset_meta', None) or {}
    return meta.get('classes')


def _side(tap: Tapped) -> str:
    if not tap.kind:
        return 'not run on a synthetic image'
    parts = [tap.kind]
    if tap.channels:
        parts.append(f'{_run(tap.channels)} channels')
    strides = tap.facts.get('strides') or tap.strides
    if strides:
        parts.append(f'stride {_run(strides)}')
    parts += [
        f'{name} {_run(tap.facts[name])}'
        for name in ('classes', 'reg_max', 'priors')
        if name in tap.facts
    ]
    return ', '.join(parts)


def _run(values: Any) -> str:
    """``[16, 16, 16]`` -> ``3x16``; anything else item by item."""
    if not isinstance(values, (list, tuple)):
        return f'{values:g}'
    if len(values) > 1 and len(set(values)) == 1:
        return f'{len(values)}x{values[0]:g}'
    return '/'.join(f'{value:g}' for value in values)


def _adapter(loss: nn.Module) -> str:
    adapter = getattr(loss, 'adapter', None)
    if isinstance(adapter, FeatureImitationNeck):
        convs: Any = adapter.convs
        told = dict.fromkeys(
            f'{conv.weight.shape[1]} to {conv.weight.shape[0]}' for conv in convs
        )
        return f'1x1 {", ".join(told)}'
    if adapter is None:
        return 'none'
    count = sum(p.numel() for p in adapter.parameters())
    return f'{type(adapter).__name__}, {count:,} weights'


def _normalization(its: Normalization) -> str:
    mean, std = (', '.join(f'{v:g}' for v in values) for values in (its.mean, its.std))
    order = 'channels reversed' if its.flipped else 'channels as loaded'
    return f'mean ({mean}), std ({std}), {order}'


def _near(mean: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) < 1 for a, b in zip(mean, other))


def _step_types(cfg: Config) -> set[str]:
    loader = cfg.get('train_dataloader') or {}
    return {str(step.get('type')) for step in pipeline_of(loader)}


def pipeline_of(loader: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every step of every pipeline of a data loader's config."""
    return list(_steps(loader.get('dataset') or {}))


def _steps(dataset: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(dataset, Mapping):
        for key, value in dataset.items():
            if key == 'pipeline':
                yield from (step for step in value or () if isinstance(step, Mapping))
            elif key in ('dataset', 'datasets'):
                yield from _steps(value)
    elif isinstance(dataset, (list, tuple)):
        for one in dataset:
            yield from _steps(one)
