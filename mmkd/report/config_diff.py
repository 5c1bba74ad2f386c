"""What the configs of two runs differ in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ..config import is_augmented, is_distilled

#: Differs from run to run by necessity, or is a part of other entries.
_LEFT_OUT = ('work_dir', 'student', 'experiment_name')


def flat_lines(cfg: Config) -> list[str]:
    """A config as sorted lines ``dotted.key = value``.

    The student of a distilled run stands where a stock config has its model, so
    that the two can be compared.

    Args:
        cfg: The config.

    Example:
        >>> student = dict(type='GFL', depth=18)
        >>> flat_lines(Config(dict(model=dict(
        ...     type='mmkd.DistillDetector', student=student, teacher='t.py',
        ...     losses=dict(loss_ld=dict(at='bbox_head'))))))
        ... # doctest: +NORMALIZE_WHITESPACE
        ["distilled.losses.loss_ld.at = 'bbox_head'", "distilled.teacher = 't.py'",
         "distilled.type = 'mmkd.DistillDetector'", 'model.depth = 18',
         "model.type = 'GFL'"]
    """
    plain = {k: v for k, v in cfg.to_dict().items() if k not in _LEFT_OUT}
    if 'model' in plain and is_distilled(cfg):
        wrapper = dict(plain['model'])
        plain['model'] = wrapper.pop('student')
        plain['distilled'] = wrapper
    if 'model' in plain and is_augmented(cfg):
        wrapper = dict(plain['model'])
        plain['model'] = wrapper.pop('model')
        plain['netaug'] = wrapper
    return sorted(f'{key} = {value!r}' for key, value in _flat(plain, ''))


def config_diff(base: Config, other: Config, names: tuple[str, str]) -> list[str]:
    """Unified diff of two configs without context, as lines.

    Args:
        base: What is compared with.
        other: What differs.
        names: What the two are called.

    Returns:
        The lines; none if the configs are equal.

    Example:
        >>> base, other = Config(dict(lr=0.1, steps=5)), Config(dict(lr=0.2, steps=5))
        >>> config_diff(base, other, ('alone', 'ld'))
        ['--- alone', '+++ ld', '-lr = 0.1', '+lr = 0.2']
    """
    lines = difflib.unified_diff(
        flat_lines(base), flat_lines(other), *names, lineterm='', n=0
    )
    return [line for line in lines if not line.startswith('@@')]


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f'{prefix}.{key}' if prefix else str(key))
    elif isinstance(value, (list, tuple)) and any(
        isinstance(item, (Mapping, list, tuple)) for item in value
    ):
        for index, item in enumerate(value):
            yield from _flat(item, f'{prefix}[{index}]')
    else:
        yield prefix, value
