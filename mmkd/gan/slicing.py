"""A sub-network of a supernet by itself: as a file, and to be trained further."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from ..compat.checkpoint import load_file
from ..compat.config_text import parse_config_text
from ..config_kind import is_gan
from ..export import export_student
from ..fileio import replacing
from ..taps import Tap, record
from .supernet import SuperMobileResnetGenerator

_PREFIX = 'generator.'


def sliced(contents: Mapping[str, Any], channels: Sequence[int]) -> dict[str, Any]:
    """A run of a sub-network, out of the checkpoint of its supernet's run.

    The discriminator stays, adapters keep what is for the channels that are left.

    Args:
        contents: Of the checkpoint: ``state_dict``, and ``meta`` with the config.
        channels: The eight widths of the sub-network.

    Returns:
        ``state_dict`` and ``meta``, as of a run of that generator.

    Raises:
        ValueError: If the run is none of a supernet, or a width is larger than its.
    """
    text = (contents.get('meta') or {}).get('cfg')
    cfg = Config(parse_config_text(text)) if text else None
    supernet = MODELS.build(cfg.model.generator) if cfg and is_gan(cfg) else None
    if not isinstance(supernet, SuperMobileResnetGenerator):
        raise ValueError(
            'channels can be chosen of the checkpoint of a run whose generator is a '
            'mmkd.SuperMobileResnetGenerator, which this one is not'
        )
    assert cfg is not None
    state = contents['state_dict']
    own = {k[len(_PREFIX) :]: v for k, v in state.items() if k.startswith(_PREFIX)}
    supernet.load_state_dict(own)
    alone = supernet.extracted(channels)
    rest = {k: v for k, v in state.items() if not k.startswith(_PREFIX)}
    for key, width in _tapped(alone, cfg.model):
        if key in rest:
            rest[key] = rest[key][:, :width].clone()
    weights = {f'{_PREFIX}{key}': value for key, value in alone.state_dict().items()}
    cfg.model.generator = narrow_config(supernet, channels)
    meta = dict(contents['meta'], cfg=cfg.pretty_text)
    return dict(meta=meta, state_dict=OrderedDict(**weights, **rest))


def narrow_config(
    supernet: SuperMobileResnetGenerator, channels: Sequence[int]
) -> ConfigDict:
    """Config of a sub-network by itself.

    Args:
        supernet: Of which it is one.
        channels: Its eight widths.
    """
    return ConfigDict(
        type='mmkd.MobileResnetGenerator',
        in_channels=supernet.in_channels,
        out_channels=supernet.out_channels,
        num_blocks=supernet.num_blocks,
        channels=list(channels),
        dropout=supernet.dropout,
    )


def export_sub_network(
    checkpoint: str | Path,
    channels: Sequence[int],
    out: str | Path | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write a sub-network of a supernet alone.

    Args:
        checkpoint: Of the supernet's run.
        channels: The eight widths of the sub-network.
        out: File to write, ``<checkpoint>_student.pth`` if not given. The config is
            written beside it with the ending ``.py``.
        trust: Allow the checkpoint to run code while it is loaded.
        overwrite: Whether files that exist are replaced.

    Returns:
        Weights file, config file.

    Raises:
        FileExistsError: If a file to write exists, without ``overwrite``.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: See :func:`sliced`.
    """
    source = Path(checkpoint).expanduser()
    contents = sliced(load_file(source, map_location='cpu', trust=trust), channels)
    target = out or source.with_name(f'{source.stem}_student.pth')
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / source.name
        torch.save(contents, run)
        return export_student(run, target, overwrite=overwrite)


def finetuning_of(cfg: Config) -> dict[str, Any] | None:
    """What a config says of the training of a sub-network that was found.

    Args:
        cfg: Config of the supernet.

    Returns:
        Overrides by dotted key; ``None`` if there is to be no such training.

    Raises:
        ValueError: If it is something else, or says the same twice.

    Example:
        >>> finetuning_of(Config(dict(finetune={'train_cfg.max_iters': 9})))
        {'train_cfg.max_iters': 9}
    """
    told = cfg.get('finetune', {})
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise ValueError(
            'finetune must be None or a dict of overrides by dotted key, on the '
            f'command line finetune.train_cfg.max_iters=9, but is {told!r}'
        )
    twice = [key for key in told for k in told if key.startswith(f'{k}.')]
    if twice:
        raise ValueError(
            f'finetune must say {twice[0]!r} once, but the dict has a key that '
            f'holds it, too: {sorted(told)}'
        )
    return dict(told)


def write_finetuning(
    contents: Mapping[str, Any],
    cfg: Config,
    channels: Sequence[int],
    folder: Path,
) -> tuple[Path, Path]:
    """Write what ``tools/train.py`` needs to train a sub-network further.

    Args:
        contents: Of the checkpoint of the supernet's run.
        cfg: Config of that run; its ``finetune``, if it has one, holds overrides by
            dotted key.
        channels: The eight widths of the sub-network.
        folder: For ``best.pth`` and ``finetune.py``.

    Returns:
        The two files.

    Raises:
        ValueError: See :func:`finetuning_of`.
    """
    run = sliced(contents, channels)
    weights, config = folder / 'best.pth', folder / 'finetune.py'
    told = dict(cfg.to_dict())
    options = finetuning_of(cfg) or {}
    for key in ('finetune', 'search', 'work_dir', 'resume'):
        told.pop(key, None)
    further = Config(told)
    further.model.generator = Config(parse_config_text(run['meta']['cfg'])).model[
        'generator'
    ]
    # The discriminator's layers are the teacher's; what it learned since is loaded.
    inherit = further.model.get('inherit', ('discriminator',))
    further.model.inherit = [name for name in inherit if name != 'generator']
    further.load_from = str(weights.resolve())
    # One for each choice of widths, and for each config.
    name = f'finetune_{"-".join(map(str, channels))}'
    further.work_dir = str(folder.resolve() / name)
    further.merge_from_dict(options)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(weights) as temporary:
        torch.save(run, temporary)
    with replacing(config) as temporary:
        temporary.write_text(further.pretty_text)
    return weights, config


def _tapped(alone: Any, model: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Weights of adapters, and the channels that they are given."""
    paths = list(model.get('taps') or alone.taps)
    x = torch.zeros(1, alone.in_channels, 32, 32)
    with torch.no_grad(), record(alone, dict.fromkeys(paths, Tap)) as taps:
        alone(x)
    return [
        (f'adapters.convs.{i}.weight', taps[path].value.shape[1])
        for i, path in enumerate(paths)
    ]
