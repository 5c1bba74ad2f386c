"""The shipped configs, and which of them stand for a family."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

LIBRARIES = ('mmdet', 'mmseg')
#: Folders that train no detector or segmentor of their own, and why.
OUT_OF_SCOPE = {
    'mmdet/bytetrack': 'tracking',
    'mmdet/common': 'data pipelines, no model',
    'mmdet/deepsort': 'tracking',
    'mmdet/mask2former_vis': 'tracking',
    'mmdet/masktrack_rcnn': 'tracking',
    'mmdet/misc': 'wraps detectron2, whose models have their own registry',
    'mmdet/ocsort': 'tracking',
    'mmdet/qdtrack': 'tracking',
    'mmdet/reid': 're-identification',
    'mmdet/sort': 'tracking',
    'mmdet/strongsort': 'tracking',
}
#: Parts of a config's name that tell of a smaller or a larger model than the rest.
_SIZES = (
    (-2, r'r18|mit-b0|-b0|_s_|-s_|swin-t|hr18|w18|tiny|scnn|light|mobilenet'),
    (-1, r'r50|d53|-t_|1x|regnetx-400|vit-s|-b1'),
    (1, r'r101|x101|swin-s|hr48|w40|s101|-m_|-m-|instaboost'),
    (2, r'swin-[bl]|swin[bl]|vit-[bl]|-l_|-l-|-x_|-h_|b5|pretrain|zeroshot'),
    # Variants that would only hide the family's own model.
    (1, r'dcn|dconv|gcb|fp16|amp|lsj|caffe|crop|ms-|dod/|odinw|refcoco|lvis'),
)


@dataclass(frozen=True)
class Family:
    """A config that stands for others.

    Args:
        library: ``'mmdet'`` or ``'mmseg'``.
        folder: Folder of the config.
        config: Name in the zoo, such as ``'mmdet::gfl/gfl_r50_fpn_1x_coco.py'``.
        model: Types of the model and its heads.
    """

    library: str
    folder: str
    config: str
    model: tuple[str, ...]

    @property
    def name(self) -> str:
        """Library and folder."""
        return f'{self.library}/{self.folder}'


def folders(library: str) -> list[str]:
    """Names of a library's config folders, those out of scope included.

    Example:
        >>> 'gfl' in folders('mmdet'), '_base_' in folders('mmdet')
        (True, False)
    """
    root = _root(library)
    found = [f.name for f in root.iterdir() if f.is_dir() and f.name != '_base_']
    return sorted(found)


def families(library: str, only: Iterable[str] = ()) -> list[Family]:
    """The smallest config of every folder and of every detector with its heads.

    A folder without a model that could be read stands there with its first config:
    what is wrong with it shows when it is built.

    Args:
        library: ``'mmdet'`` or ``'mmseg'``.
        only: Folders to look at, such as ``'mmdet/gfl'``; all if empty.

    Returns:
        Sorted by name, the first one of a folder first.
    """
    found: list[Family] = []
    seen: set[tuple[str, ...]] = set()
    for folder in folders(library):
        name = f'{library}/{folder}'
        if name in OUT_OF_SCOPE or (only and name not in only):
            continue
        best: dict[tuple[str, ...], Path] = {}
        for path in sorted((_root(library) / folder).rglob('*.py'), key=_size):
            best.setdefault(_model_of(path), path)
        best = {model: p for model, p in best.items() if model} or best
        ordered = sorted(best.items(), key=lambda item: _size(item[1]))
        for index, (model, path) in enumerate(ordered):
            if index == 0 or model not in seen:
                config = f'{library}::{path.relative_to(_root(library))}'
                found.append(Family(library, folder, config, model))
            seen.add(model)
    return found


def types_of(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Types of a model's config and of its heads: what a family is told by.

    Example:
        >>> types_of(dict(type='GFL', bbox_head=dict(type='GFLHead')))
        ('GFL', 'GFLHead')
    """
    parts = [str(model.get('type', ''))]
    model = model.get('detector') or model
    inner = [model.get(key) for key in _HEADS]
    roi = model.get('roi_head') or {}
    inner += [roi.get('bbox_head'), roi.get('mask_head')]
    for part in inner:
        for one in part if isinstance(part, (list, tuple)) else [part]:
            kind = str(one.get('type', '')) if isinstance(one, Mapping) else ''
            if kind and kind not in parts:
                parts.append(kind)
    return tuple(part for part in parts if part)


_HEADS = (
    'rpn_head',
    'bbox_head',
    'roi_head',
    'mask_head',
    'semantic_head',
    'panoptic_head',
    'decode_head',
)


def _model_of(path: Path) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            # Without what it imports, which may be a package that is not there.
            cfg = Config.fromfile(path, import_custom_modules=False)
        except Exception:  # a config is a program
            return ()
    model = cfg.get('model') or {}
    # A classifier that pretrains a backbone.
    return () if 'ImageClassifier' in str(model.get('type')) else types_of(model)


def _size(path: Path) -> tuple[int, int, str]:
    name = f'{path.parent.name}/{path.name}'.lower()
    score = sum(weight for weight, part in _SIZES if re.search(part, path.name))
    return score, len(name), name


def _root(library: str) -> Path:
    package = importlib.import_module(library)
    assert package.__file__ is not None
    return Path(package.__file__).parent / '.mim' / 'configs'
