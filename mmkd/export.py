"""The student alone, as a stock checkpoint with its stock config."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from .compat.checkpoint import load_file
from .compat.config_text import parse_config_text
from .config import load_config, names_mmkd, student_config, without_run
from .config_kind import type_name
from .fileio import replacing
from .teacher_loading import load_teacher


def export_student(
    checkpoint: str | Path,
    out: str | Path | None = None,
    raw: bool = False,
    config: str | Path | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write the student of a checkpoint alone.

    Stock MMDetection / MMSegmentation tools, ``init_detector`` and
    ``init_model`` use the two files with no mmkd installed, and plain
    ``torch.load`` reads the weights with ``weights_only=True``. A student that is
    itself made of modules of mmkd, such as a distributional head, is the
    exception: its config imports mmkd, and a line in the log says so.

    Args:
        checkpoint: Checkpoint of a run, distilled or not.
        out: File to write, ``<checkpoint>_student.pth`` if not given. The config
            is written beside it with the ending ``.py``.
        raw: Take the weights before averaging. With ``EMAHook`` a checkpoint's
            ``state_dict`` is the averaged model, which is the default.
        config: Config of the run, where the checkpoint holds none.
        trust: Allow the checkpoint to run code while it is loaded.
        overwrite: Whether files that exist are replaced.

    Returns:
        Weights file, config file.

    Raises:
        ValueError: If there is nothing to export, ``raw`` without averaging, or
            weights that do not fit ``config``.
        FileNotFoundError: If a file does not exist.
        FileExistsError: If a file to write exists, without ``overwrite``.
    """
    source = Path(checkpoint).expanduser()
    target = Path(out) if out else source.with_name(f'{source.stem}_student.pth')
    target = target.expanduser()
    config_path = target.with_suffix('.py')
    _check_targets(target, config_path, source, config)
    for path in (target, config_path):
        if path.exists() and not overwrite:
            raise FileExistsError(f'{path} exists; name another --out, or --overwrite')
    contents = load_file(source, map_location='cpu', trust=trust)
    if not isinstance(contents, Mapping) or 'state_dict' not in contents:
        raise ValueError(f'{source} holds no state_dict')
    cfg = without_run(student_config(_config_of(contents, source, config)))
    state = _weights(contents, raw)
    if type_name(cfg.model) == 'mmkd.Translator':  # as released by the authors
        # An export that is exported again has bare weights already.
        state = _below(state, 'generator.') or state
    if config is not None:  # nothing else says that the two belong together
        load_teacher(dict(config=cfg, checkpoint=str(source), trust=trust), None)
    meta = contents.get('meta') or {}
    exported = dict(
        meta=dict(
            cfg=cfg.pretty_text,
            epoch=meta.get('epoch'),
            iter=meta.get('iter'),
            dataset_meta=_plain(meta.get('dataset_meta', {})),
        ),
        state_dict=state,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        torch.save(exported, temporary)
    with replacing(config_path) as temporary:
        temporary.write_text(exported['meta']['cfg'])
    if names_mmkd(cfg.model.to_dict()):
        print_log(
            'The student itself has modules of mmkd: its config imports it, and it '
            'must be installed where the student is used.',
            logger='current',
        )
    return target, config_path


def _check_targets(target: Path, config_path: Path, source: Path, config: Any) -> None:
    if target.suffix not in ('.pth', '.pt'):
        raise ValueError(
            f'out must end with .pth, beside it goes a .py, but is {target}'
        )
    if target.resolve() == source.resolve():
        raise ValueError(f'out must not be the checkpoint itself: {source}')
    if config is not None and config_path.resolve() == Path(config).resolve():
        raise ValueError(f'out would overwrite the config of the run: {config_path}')


def _config_of(contents: Mapping[str, Any], source: Path, config: Any) -> Config:
    if config is not None:
        return load_config(config)
    text = (contents.get('meta') or {}).get('cfg')
    if not text:
        raise ValueError(f'{source} holds no config; name it with --config')
    return Config(parse_config_text(text))


def _weights(contents: Mapping[str, Any], raw: bool) -> OrderedDict:
    state, prefix = contents['state_dict'], ''
    # Modules migrate old files by these; without them a new file passes for old.
    versions = getattr(state, '_metadata', {})
    if raw:
        if 'ema_state_dict' not in contents:
            raise ValueError(
                '--raw needs a checkpoint of EMAHook: nothing was averaged'
            )
        # AveragedModel counts its steps beside the model.
        state, prefix = contents['ema_state_dict'], 'module.'
    weights = OrderedDict(
        (key, value)
        for key, value in _below(state, prefix).items()
        if not key.startswith('distiller.')
    )
    weights._metadata = OrderedDict(  # type: ignore[attr-defined]
        (key, value)
        for key, value in versions.items()
        if not f'{key}.'.startswith('distiller.')
    )
    return weights


def _below(state: Mapping[str, Any], prefix: str) -> OrderedDict:
    """What a prefix is in front of, without it."""
    return OrderedDict(
        (key[len(prefix) :], value)
        for key, value in state.items()
        if key.startswith(prefix)
    )


def _plain(value: Any) -> Any:
    """Builtin types only, which every torch loads without trust."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(item) for item in value)
    return value.tolist() if hasattr(value, 'tolist') else value
