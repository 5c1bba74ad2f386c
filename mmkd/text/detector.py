"""A text encoder that was trained here, in the place of a detector's."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ..compat.checkpoint import load_file
from ..compat.config_text import parse_config_text
from ..config import add_import, load_config, student_config, without_run
from ..fileio import replacing
from ..teacher_loading import local_path, state_dict_of
from .text_teacher import PREFIX

_PLACES = 'language_backbone.body.model.embeddings.position_embeddings.weight'
#: What a detector says of its texts, whatever encodes them.
_OF_TEXTS = (
    'max_tokens',
    'pad_to_max',
    'use_sub_sentence_represent',
    'special_tokens_list',
    'num_layers_of_embedded',
)


def export_detector(
    checkpoint: str | Path,
    detector: str | Path,
    detector_checkpoint: str | None = None,
    out: str | Path | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write a detector with the text encoder of a run in the place of its own.

    Args:
        checkpoint: Checkpoint of a run of ``mmkd.MobileBertTransfer``, or its export.
        detector: Config of a detector with a ``language_model``, or its zoo name.
        detector_checkpoint: Its weights; those of the zoo if not given.
        out: File to write, ``<checkpoint>_detector.pth`` if not given. The config is
            written beside it with the ending ``.py``.
        trust: Allow the files to run code while they are loaded.
        overwrite: Whether files that exist are replaced.

    Returns:
        Weights file, config file.

    Raises:
        FileExistsError: If a file to write exists, without ``overwrite``.
        FileNotFoundError: If a file does not exist.
        ValueError: If the two do not fit each other.
    """
    source = Path(checkpoint).expanduser()
    target = (
        Path(out).expanduser()
        if out
        else source.with_name(f'{source.stem}_detector.pth')
    )
    config_path = target.with_suffix('.py')
    if target.suffix != '.pth' or target.resolve() == source.resolve():
        raise ValueError(
            f'out must be another file that ends with .pth but is {target}'
        )
    for path in (target, config_path):
        if path.exists() and not overwrite:
            raise FileExistsError(f'{path} exists; name another --out, or --overwrite')
    contents = load_file(source, map_location='cpu', trust=trust)
    encoder = _encoder_config(contents, source)
    cfg = without_run(load_config(detector))
    zoo = cfg.pop('model_path', None)
    weights = detector_checkpoint or zoo
    if not weights:
        raise ValueError(
            f'the weights of {detector} must be named: --detector-checkpoint FILE'
        )
    file = local_path(str(weights))
    state = state_dict_of(load_file(file, map_location='cpu', trust=trust), file)
    own = state_dict_of(contents, source)
    _check_width(own, state, source)
    cfg.model.language_model = _language_model(cfg, encoder)
    add_import(cfg)
    kept = {k: v for k, v in state.items() if not k.startswith(PREFIX)}
    merged = OrderedDict({**kept, **{PREFIX + k: v for k, v in own.items()}})
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        torch.save(dict(meta=dict(cfg=cfg.pretty_text), state_dict=merged), temporary)
    with replacing(config_path) as temporary:
        temporary.write_text(cfg.pretty_text)
    return target, config_path


def _encoder_config(contents: Any, source: Path) -> ConfigDict:
    text = (contents.get('meta') or {}).get('cfg')
    if not text:
        raise ValueError(f'{source} holds no config of the run that wrote it')
    model = student_config(Config(parse_config_text(text))).model
    kind = str(model.get('type'))
    if not kind.startswith('mmkd.') or 'name' not in model:
        raise ValueError(f'{source} must be of a text encoder of mmkd, not of a {kind}')
    return model


def _language_model(cfg: Config, encoder: ConfigDict) -> ConfigDict:
    theirs = cfg.model.get('language_model')
    if theirs is None:
        raise ValueError(
            'the detector must have a language_model, as Grounding DINO and GLIP have, '
            f'but {cfg.model.type} has none'
        )
    told = {key: theirs[key] for key in _OF_TEXTS if key in theirs}
    own = {k: v for k, v in encoder.items() if k not in _OF_TEXTS}
    phrases = 'use_sub_sentence_represent'
    if bool(told.get(phrases)) != bool(encoder.get(phrases)):
        print_log(
            f'mmkd: the detector has {phrases}={bool(told.get(phrases))} and the '
            'encoder was trained without it being so: its tokens see others there; '
            'train it with the same',
            logger='current',
            level=logging.WARNING,
        )
    return ConfigDict({**own, **told})


def _check_width(own: Any, state: Any, source: Path) -> None:
    """Refuse an encoder that is not as wide as what the detector reads."""
    theirs = state.get('text_feat_map.weight')  # GLIP has none
    theirs = state.get(PREFIX + _PLACES) if theirs is None else theirs
    if theirs is None:
        raise ValueError(f'the weights of the detector have no {PREFIX + _PLACES}')
    last = own.get('language_backbone.body.projection.weight')
    if last is None:
        last = own[_PLACES].T
    if len(last) != theirs.shape[1]:
        raise ValueError(
            f'the encoder of {source} must yield {theirs.shape[1]} features, which the '
            f'detector reads, but yields {len(last)}: set out_dim, and train the '
            'detector'
        )
