"""Where texts come from: files of lines, captions, names of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import DATASETS as ROOT_DATASETS
from rich.progress import open as open_with_progress
from rich.progress import track

_WHAT = 'tokenizing'


def lines(path: Path, column: int | None = None) -> Iterator[str]:
    """Lines of a file that are not empty, read as they are asked for.

    Args:
        path: Of UTF-8 text.
        column: Of lines that are split by tabs; the whole line if ``None``.
    """
    with open_with_progress(
        path, 'r', encoding='utf-8', description=_WHAT, transient=True
    ) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            parts = [line] if column is None else line.rstrip('\r\n').split('\t')
            if column is not None and column >= len(parts):
                raise ValueError(
                    f'column must be below {len(parts)}, the columns of line {number} '
                    f'of {path}, but is {column}'
                )
            text = parts[column or 0].strip()
            if text:
                yield text


def captions(path: Path) -> Iterator[str]:
    """Captions of a json file.

    Args:
        path: COCO's format, with ``annotations``; or a list of texts, or of objects
            with a ``caption``.
    """
    content = json.loads(path.read_text(encoding='utf-8'))
    found = content.get('annotations') if isinstance(content, dict) else content
    if not isinstance(found, list):
        raise ValueError(f'{path} must be a list of captions or have annotations')
    for item in track(found, _WHAT, transient=True):
        text = item.get('caption') if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise ValueError(f'{path} has an entry without a caption: {item!r}')
        if text.strip():
            yield text.strip()


def class_prompts(
    names: Sequence[str], count: int, seed: int, longest: int | None
) -> Iterator[str]:
    """Prompts as Grounding DINO gets them: 'person. dog. traffic light. '.

    Args:
        names: Of classes.
        count: Number of prompts.
        seed: Each prompt has its own draw, of how many classes, which, in what order.
        longest: Classes in a prompt at most; all if ``None``.
    """
    names = [clean_name(name) for name in names]
    longest = min(longest or len(names), len(names))
    for i in track(range(count), _WHAT, transient=True):
        generator = np.random.default_rng([seed, i])
        size = generator.integers(1, longest, endpoint=True)
        chosen = generator.permutation(len(names))[:size]
        yield ''.join(f'{names[k]}. ' for k in chosen)


def clean_name(name: str) -> str:
    """A class's name as words.

    Example:
        >>> clean_name('bow_(decorative_ribbons)'), clean_name('traffic light')
        ('bow', 'traffic light')
    """
    return ' '.join(re.sub(r'\(.*?\)', '', name).replace('_', ' ').split())


def class_names(classes: Any) -> list[str]:
    """Names of classes.

    Args:
        classes: A list of names, the type of a data set such as
            ``'mmdet.LVISV1Dataset'``, or a json file with ``categories``.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(classes, str) and classes.endswith('.json'):
        content = json.loads(Path(classes).read_text(encoding='utf-8'))
        found = [entry['name'] for entry in content.get('categories', [])]
    elif isinstance(classes, str):
        kind: Any = ROOT_DATASETS.get(classes)
        found = list(getattr(kind, 'METAINFO', {}).get('classes', ()))
    else:
        found = list(classes)
    if not found:
        raise ValueError(
            'classes must be a list of names, the type of a data set with names, or a '
            f'json file with categories, but {classes!r} has none'
        )
    return found
