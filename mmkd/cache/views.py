"""The views of an image that a training pipeline can draw, one by one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset, Compose

from .names import image_name

#: Transforms that do the same with an image every time.
_FIXED = {
    'CLAHE',
    'CenterCrop',
    'FilterAnnotations',
    'FixScaleResize',
    'FixShapeResize',
    'GenerateEdge',
    'LoadAnnotations',
    'LoadImageFromFile',
    'LoadPanopticAnnotations',
    'Normalize',
    'PackDetInputs',
    'PackSegInputs',
    'Pad',
    'RGB2Gray',
    'Rerange',
    'Resize',
    'ResizeShortestEdge',
    'ResizeToMultiple',
    'SegRescale',
}
#: Arguments of transforms that do not change what comes out.
_SILENT = ('backend_args', 'file_client_args', 'meta_keys', '_scope_')
#: Data sets that hand out the samples of one or several others as they are.
_WRAPPERS = ('RepeatDataset', 'ClassBalancedDataset', 'ConcatDataset')


def type_name(entry: Mapping[str, Any]) -> str:
    """Name of a type without scope; new-style configs give the class.

    Example:
        >>> type_name(dict(type='mmdet.Resize'))
        'Resize'
    """
    kind = entry.get('type')
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition('.')[2]


def leaves(cfg: Mapping[str, Any], dataset: Any) -> list[tuple[Any, Any]]:
    """The data sets that images come from: config and data set.

    Args:
        cfg: Config of a data set, perhaps of one that repeats or joins others.
        dataset: What was built of it.

    Raises:
        ValueError: If one mixes images, or seeded views are joined with others.
    """
    found = list(_leaves(cfg, dataset))
    if len(found) > 1 and any(type_name(leaf) == 'SeededViews' for leaf, _ in found):
        raise ValueError(
            'SeededViews must be around all of the training data, not around one of '
            'several data sets'
        )
    return found


def _leaves(cfg: Mapping[str, Any], dataset: Any) -> Iterator[tuple[Any, Any]]:
    name = type_name(cfg)
    if name == 'SeededViews':
        yield cfg, dataset
    elif name in _WRAPPERS and 'datasets' in cfg:
        for pair in zip(cfg['datasets'], dataset.datasets):
            yield from _leaves(*pair)
    elif name in _WRAPPERS:
        yield from _leaves(cfg['dataset'], dataset.dataset)
    elif isinstance(dataset, BaseDataset) and 'dataset' not in cfg:
        yield cfg, dataset
    else:
        raise ValueError(
            f'the training data are a {name}, whose views cannot be enumerated for a '
            f'cache; {SEEDED_REMEDY}'
        )


SEEDED_REMEDY = (
    'take a fixed scale with flips, or a fixed number of random views: dataset=dict('
    "type='mmkd.SeededViews', views=4, dataset=...), see docs/cache.md"
)


def pipelines(steps: list[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """The pipelines without chance that a pipeline chooses from.

    Args:
        steps: Configs of its transforms.

    Returns:
        One pipeline for every view that it can draw.

    Raises:
        ValueError: If one of its transforms has too many outcomes to enumerate.

    Example:
        >>> flip = dict(type='RandomFlip', prob=0.5)
        >>> [steps[0]['prob'] for steps in pipelines([flip])]
        [0.0, 1.0]
    """
    return [list(drawn) for drawn in itertools.product(*map(_outcomes, steps))]


def _outcomes(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    name, drawn = type_name(step), copy.deepcopy(dict(step))
    if name == 'RandomFlip':
        return [{**drawn, **flip} for flip in _flips(drawn)]
    if name == 'RandomChoiceResize':
        scales = drawn['scales']
        # A tuple of two numbers is one scale.
        one = not isinstance(scales, list)
        return [{**drawn, 'scales': [s]} for s in ([scales] if one else scales)]
    if name not in _FIXED:
        raise ValueError(
            f'the training pipeline has {name}, whose outcomes cannot be enumerated '
            f'for a cache; {SEEDED_REMEDY}'
        )
    return [drawn]


def _flips(step: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    directions = step.get('direction', 'horizontal')
    directions = [directions] if isinstance(directions, str) else list(directions)
    prob = step.get('prob')
    total = sum(prob) if isinstance(prob, (list, tuple)) else float(prob or 0)
    each = prob if isinstance(prob, (list, tuple)) else [total] * len(directions)
    if total < 1:
        yield dict(prob=0.0, direction=directions[0])
    for direction, chance in zip(directions, each):
        if chance > 0:
            yield dict(prob=1.0, direction=direction)


class Views:
    """The views of the images of one data set without chance.

    Args:
        cfg: Its config.
        dataset: What was built of it; left as it is.

    Raises:
        ValueError: If its pipeline has too many views.
    """

    def __init__(self, cfg: Mapping[str, Any], dataset: Any) -> None:
        self.dataset = dataset
        self._variants = []
        for steps in pipelines(cfg.get('pipeline') or []):
            variant = copy.copy(dataset)
            variant.pipeline = Compose(steps)
            self._variants.append(variant)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.dataset)

    @property
    def per_image(self) -> int:
        """Largest number of views of an image."""
        return len(self._variants)

    def name(self, image: int, roots: Sequence[str]) -> str:
        """Name of an image in a cache."""
        return image_name(self.info(image), roots)

    def check(self) -> None:
        """Nothing: there is no chance left."""

    def info(self, image: int) -> Mapping[str, Any]:
        """What the data set knows of an image."""
        return self.dataset.get_data_info(image)

    def samples(self, image: int) -> Iterator[Any]:
        """The views of an image as the pipeline packs them."""
        for variant in self._variants:
            sample = variant.prepare_data(image)
            # Without an object left, training draws another image in its place.
            if sample is not None:
                yield sample


def views_of(cfg: Mapping[str, Any], dataset: Any) -> Any:
    """The views of one of :func:`leaves`."""
    if type_name(cfg) == 'SeededViews':
        return dataset
    return Views(cfg, dataset)


def roots_of(dataset: Any) -> list[str]:
    """Folders that the images of a data set lie below."""
    prefixes = getattr(dataset, 'data_prefix', None) or {}
    found = [*prefixes.values(), getattr(dataset, 'data_root', None)]
    return [str(root) for root in found if root]


def described(value: Any) -> Any:
    """A config as plain JSON, without what changes nothing."""
    if isinstance(value, Mapping):
        plain = {
            str(key): described(item)
            for key, item in value.items()
            if key not in _SILENT
        }
        return {**plain, 'type': type_name(value)} if 'type' in value else plain
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return getattr(value, '__name__', None) or str(value)
