"""The student alone, as a stock checkpoint with its stock config."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from .compat.checkpoint import load_file
from .compat.config_text import parse_config_text
from .config import load_config, student_config
from .fileio import replacing


def export_student(
    checkpoint: str | Path,
    out: str | Path | None = None,
    raw: bool = False,
    config: str | Path | None = None,
    trust: bool = False,
) -> tuple[Path, Path]:
    """Write the student of a checkpoint alone.

    Stock MMDetection / MMSegmentation tools, ``init_detector`` and
    ``init_model`` use the two files with no mmkd installed, and plain
    ``torch.load`` reads the weights with ``weights_only=True``.

    Args:
        checkpoint: Checkpoint of a run, distilled or not.
        out: File to write, ``<checkpoint>_student.pth`` if not given. The config
            is written beside it with the ending ``.py``.
        raw: Take the weights before averaging. With ``EMAHook`` a checkpoint's
            ``state_dict`` is the averaged model, which is the default.
        config: Config of the run, where the checkpoint holds none.
        trust: Allow the checkpoint to run code while it is loaded.

    Returns:
        Weights file, config file.

    Raises:
        ValueError: If there is nothing to export, or ``raw`` without averaging.
        FileNotFoundError: If a file does not exist.
    """
    source = Path(checkpoint)
    contents = load_file(source, map_location='cpu', trust=trust)
    if not isinstance(contents, Mapping) or 'state_dict' not in contents:
        raise ValueError(f'{source} holds no state_dict')
    cfg = student_config(_config_of(contents, source, config))
    target = Path(out) if out else source.with_name(f'{source.stem}_student.pth')
    if target.resolve() == source.resolve():
        raise ValueError(f'out must not be the checkpoint itself: {source}')
    meta = dict(contents.get('meta') or {})
    exported = dict(
        meta=dict(
            cfg=cfg.pretty_text,
            epoch=meta.get('epoch'),
            iter=meta.get('iter'),
            dataset_meta=_plain(meta.get('dataset_meta', {})),
        ),
        state_dict=_weights(contents, raw),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        torch.save(exported, temporary)
    config_path = target.with_suffix('.py')
    with replacing(config_path) as temporary:
        temporary.write_text(cfg.pretty_text)
    return target, config_path


def _config_of(contents: Mapping[str, Any], source: Path, config: Any) -> Config:
    if config is not None:
        return load_config(config)
    text = (contents.get('meta') or {}).get('cfg')
    if not text:
        raise ValueError(f'{source} holds no config; name it with --config')
    return Config(parse_config_text(text))


def _weights(contents: Mapping[str, Any], raw: bool) -> OrderedDict:
    state = contents['state_dict']
    if raw:
        if 'ema_state_dict' not in contents:
            raise ValueError('--raw needs a checkpoint of EMAHook: nothing was averaged')
        # AveragedModel counts its steps beside the model.
        state = {
            key[len('module.') :]: value
            for key, value in contents['ema_state_dict'].items()
            if key.startswith('module.')
        }
    return OrderedDict(
        (key, value) for key, value in state.items() if not key.startswith('distiller.')
    )


def _plain(value: Any) -> Any:
    """Builtin types only, which every torch loads without trust."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(item) for item in value)
    return value.tolist() if hasattr(value, 'tolist') else value
