"""What a cache belongs to: if one part of it changes the cache is stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..data_check import classes_of
from ..losses.head_rows import HeadRowsLoss
from ..renormalize import Normalization
from ..taps import resolve
from .names import image_name
from .views import described, leaves, roots_of, type_name, views_of

#: Part of the key -> what messages call it.
WORDS = dict(
    data='training data',
    pipeline='training pipeline',
    preprocessor="student's data_preprocessor",
    head="student's head",
    terms='terms',
)
#: What of a data preprocessor says how a batch is padded.
_PADDING = ('pad_size_divisor', 'size_divisor', 'size')
#: Hooks that exchange the pipeline while the training runs.
_SWITCHES = ('PipelineSwitchHook', 'YOLOXModeSwitchHook')


def run_parts(cfg: Any, dataset: Any, student: Any) -> tuple[dict[str, Any], list[str]]:
    """What a cache of a run belongs to, but for the teacher.

    Args:
        cfg: Config of the run.
        dataset: Its training data.
        student: The distilled model.

    Returns:
        Part -> what it is, as JSON knows it; and the folders of the images.

    Raises:
        ValueError: If the run cannot have a cache.
    """
    _check_hooks(cfg)
    found = leaves(cfg.train_dataloader['dataset'], dataset)
    roots = [root for _, leaf in found for root in roots_of(leaf)]
    parts = dict(
        data=_data(found, dataset, roots),
        pipeline=[described(_pipeline(leaf)) for leaf, _ in found],
        preprocessor=_preprocessor(student.data_preprocessor),
        head=_heads(student),
        terms=sorted(_terms(student)),
    )
    return json.loads(json.dumps(parts)), roots


def check_parts(built: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise ``ValueError`` if a run has another key than the cache.

    Args:
        built: Parts when the cache was made.
        now: Parts of the run.
        where: The cache, for the message.
    """
    for part, words in WORDS.items():
        # A run may read less than was stored.
        terms = [term for term in now['terms'] if term not in built['terms']]
        lacking = f'it lacks {", ".join(terms)}' if terms else ''
        difference = lacking if part == 'terms' else differs(built[part], now[part])
        if difference:
            raise ValueError(
                f'the cache at {where} is stale, as the {words} changed '
                f'({difference}); '
                'build it anew in another folder with tools/cache_teacher.py'
            )


def differs(there: Any, here: Any) -> str:
    """The first difference of two parts in words; empty if there is none.

    Example:
        >>> differs(dict(images=[3, 4]), dict(images=[3, 5]))
        'images[1]: 4 there, 5 here'
    """
    return next(_differences(there, here), '')


def digest(parts: Any) -> str:
    """SHA-256 of what JSON can say, in one canonical form."""
    text = json.dumps(parts, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(there: Any, here: Any, at: str = '') -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            path = f'{at}.{key}'.strip('.')
            yield from _differences(there.get(key), here.get(key), path)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, (a, b) in enumerate(zip(there, here)):
            yield from _differences(a, b, f'{at}[{index}]')
    elif there != here:
        yield f'{at or "it"}: {_short(there)} there, {_short(here)} here'


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else f'{text[:100]}...'


def _check_hooks(cfg: Any) -> None:
    for hook in cfg.get('custom_hooks') or ():
        name = type_name(hook) if isinstance(hook, Mapping) else type(hook).__name__
        if name in _SWITCHES:
            raise ValueError(
                f'{name} exchanges the pipeline during training, and a cache is of one '
                'pipeline; use a live teacher'
            )


def _pipeline(cfg: Mapping[str, Any]) -> Any:
    """What decides a view: of a data set of random ones all of its config."""
    return cfg if type_name(cfg) == 'SeededViews' else cfg.get('pipeline')


def _data(found: list, dataset: Any, roots: list[str]) -> dict[str, Any]:
    sha, images = hashlib.sha256(), 0
    for cfg, leaf in found:
        views = views_of(cfg, leaf)
        for image in range(views.images):
            sha.update(_sample(views.info(image), roots).encode())
        images += views.images
    classes = classes_of(dataset)
    return dict(
        images=images,
        classes=None if classes is None else list(classes),
        samples=sha.hexdigest(),
    )


def _sample(info: Mapping[str, Any], roots: list[str]) -> str:
    """What of an image decides rows and maps."""
    objects = [
        (item.get('bbox'), item.get('bbox_label'), item.get('ignore_flag'))
        for item in info.get('instances') or ()
    ]
    name = image_name(info, roots)
    return repr((name, info.get('height'), info.get('width'), objects))


def _preprocessor(module: Any) -> dict[str, Any]:
    if getattr(module, 'batch_augments', None) is not None:
        raise ValueError(
            "the student's data_preprocessor has batch_augments, which change images "
            'at random after the pipeline, so that their views cannot be enumerated; '
            'leave them out or use a live teacher'
        )
    padding = {name: getattr(module, name, None) for name in _PADDING}
    return dict(vars(Normalization.of(module)), **padding)


def _heads(student: Any) -> dict[str, Any]:
    """What decides the rows that are read of a head, or the cells of a map."""
    rules: dict[str, Any] = {}
    for name, loss in live(student.distiller).items():
        if not reads_rows(loss):
            # Maps are laid side by side with the student's.
            rules[f'strides of {loss.at}'] = student.distiller.fit[name][0].strides
            continue
        rule = student.row_rule(resolve(student, loss.at))
        if rule['counts_padding'] and loss.region == 'all':
            raise ValueError(
                f"region='all' of {rule['type']} counts the padding of a batch, which "
                "no cache of single images knows; take another region ('main', 'vlr') "
                'or a live teacher'
            )
        rules[loss.at] = described(rule)
    return rules


def _terms(student: Any) -> set[str]:
    """What the terms read of the teacher, and where."""
    found = set()
    for loss in live(student.distiller).values():
        if reads_rows(loss):
            fields = ', '.join(loss.reads)
            found.add(
                f'{fields} of {loss.teacher_at} in region {loss.region} of {loss.at}'
            )
        else:
            found.add(f'maps of {loss.teacher_at}')
    return found


def reads_rows(loss: Any) -> bool:
    """Whether a term reads rows of a dense head, and not whole maps."""
    return isinstance(loss, HeadRowsLoss)


def live(distiller: Any) -> dict[str, Any]:
    """Terms that are on, whatever a schedule makes of them."""
    return {name: loss for name, loss in distiller.losses.items() if loss.loss_weight}
