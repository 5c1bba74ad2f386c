"""From a zoo name, a config or a checkpoint to a network with its weights."""

from __future__ import annotations

import copy
import fnmatch
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .compat.checkpoint import fetch, load_file
from .compat.config_text import parse_config_text
from .compat.config_types import require_registered_types
from .config import load_config, student_config
from .economy import Economy, take_options

#: Keys that may be missing from, or left over in, a teacher's checkpoint without
#: a word from the user: buffers that carry no knowledge. Left-over ones are
#: reported, everything else is an error.
HARMLESS = (
    '*num_batches_tracked',  # absent from files of torch < 0.4.1
    'data_preprocessor.*',  # mean and std come from the config
    '*relative_position_index',  # recomputed from the window size
    '*attn_mask',
    '*position_ids',  # a buffer that newer transformers do not save
    '*.anchors',
    'ema_*',  # the raw weights beside averaged ones
    'distiller.*',
)
#: What a `teacher` entry may say of a teacher that is built, and of one in a cache.
CACHED = {'cache', 'backend_args'}
KNOWN = {
    'config',
    'checkpoint',
    'allow_missing',
    'allow_random',
    'trust',
    'device',
    'classes',  # for the losses
    *Economy.names(),
}


def load_teacher(
    teacher: str | Mapping[str, Any], scope: str | None
) -> tuple[nn.Module, str, Any, bool, Economy]:
    """Build the network that a ``teacher`` entry names, weights loaded.

    Args:
        teacher: See :func:`mmkd.teacher.build_teacher`.
        scope: Registry scope for a config that names none.

    Returns:
        Network, description of its source, device or ``None``, whether its
        weights are random, and how it saves time. The network's ``cfg`` is the
        config it was built from.

    Raises:
        ValueError: For contradicting entries or weights that do not fit.
        TypeError: For anything but a string or a dict.
    """
    options = _as_options(teacher)
    economy = take_options(options)
    checkpoint = options.get('checkpoint')
    trust = options.get('trust', False)
    state, cfg = None, options.get('config')
    zoo_url = None
    if cfg is not None:
        cfg = load_config(cfg)
        zoo_url = cfg.get('model_path')
    if checkpoint is None and 'checkpoint' not in options:
        checkpoint = zoo_url
    if checkpoint is not None:
        path = local_path(str(checkpoint))
        contents = load_file(path, map_location='cpu', trust=trust)
        state = state_dict_of(contents, path)
        if cfg is None:
            cfg = _stored_config(contents, path)
            if not trust:
                require_registered_types(cfg.get('model'))
    elif not options.get('allow_random', False):
        raise ValueError(
            'the teacher has no weights: name a file with '
            'dict(config=..., checkpoint=...), or say checkpoint=None, '
            'allow_random=True to distil from a random network'
        )
    model: Any = _build(cfg, scope)
    if state is not None:
        load_strictly(model, state, options.get('allow_missing', ()), str(checkpoint))
        # Where MMDetection's own `init_detector` leaves the names of the classes.
        model.dataset_meta = dict(classes=_class_names(contents))
    elif hasattr(model, 'init_weights'):
        model.init_weights()  # deformable DETRs have weights without values before
    config = options.get('config')
    name = config if isinstance(config, (str, Path)) else getattr(cfg, 'filename', None)
    source = ', '.join(str(part) for part in (name, checkpoint) if part)
    # Where `init_detector` leaves it.
    model.cfg = cfg
    source = source or 'config given in place'
    return model, source, options.get('device'), state is None, economy


def load_strictly(
    model: nn.Module,
    state: Mapping[str, Any],
    allow_missing: str | Sequence[str] = (),
    source: str = 'the checkpoint',
) -> None:
    """Load weights and insist that they fit.

    Args:
        model: Receives the weights.
        state: Its ``state_dict``; migrations of old key names that the modules
            define are applied.
        allow_missing: Patterns (``fnmatch``) of keys that may be missing.
        source: Named in messages.

    Raises:
        ValueError: Listing every missing, unexpected or mis-shaped key.

    Example:
        >>> load_strictly(nn.Linear(2, 1), dict(bias=nn.Linear(2, 1).bias))
        Traceback (most recent call last):
        ValueError: weights of the checkpoint do not fit Linear; missing: weight
    """
    if isinstance(allow_missing, str):
        allow_missing = [allow_missing]
    result, shapes = _load(model, state)
    allowed = (*allow_missing, *shapes)
    # Only a buffer makes itself; a weight of such a name is missed.
    buffers = {name for name, _ in model.named_buffers() if _matches(name, HARMLESS)}
    missing = [
        k for k in result.missing_keys if k not in buffers and not _matches(k, allowed)
    ]
    left_over = [k for k in result.unexpected_keys if _matches(k, HARMLESS)]
    unexpected = [k for k in result.unexpected_keys if k not in left_over]
    if left_over:
        print_log(f'{source}: not used: {_listed(left_over)}', logger='current')
    problems = [
        f'{kind}: {_listed(keys)}'
        for kind, keys in (
            ('other shapes', list(shapes.values())),
            ('missing', missing),
            ('unexpected', unexpected),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f'weights of {source} do not fit {type(model).__name__}; '
            + '; '.join(problems)
        )


def load_contents_strictly(model: nn.Module, contents: Any, source: str) -> None:
    """Load what a checkpoint file holds and insist that it fits.

    Args:
        model: Receives the weights.
        contents: What was read from the file.
        source: Its name, for messages.

    Raises:
        ValueError: If it holds no weights, or other ones.
    """
    load_strictly(model, state_dict_of(contents, Path(source)), source=source)


def _load(model: nn.Module, state: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """Load what fits; key -> words for those of another shape."""
    try:
        return model.load_state_dict(state, strict=False), {}
    except RuntimeError as error:
        found = re.findall(
            r'size mismatch for ([^\s:]+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)',
            str(error),
        )
        if not found:
            raise
    # torch stops at them; what else is wrong is of interest, too.
    shapes = {
        key: f'{key} ({theirs}) in the file and ({ours}) in the model'
        for key, theirs, ours in found
    }
    rest = copy.copy(state)  # with the versions that torch keeps in `_metadata`
    for key in shapes:
        del rest[key]  # type: ignore[attr-defined]
    return model.load_state_dict(rest, strict=False), shapes


def _as_options(teacher: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(teacher, (str, Path)):
        teacher = str(teacher)
        key = 'checkpoint' if teacher.endswith(('.pth', '.pt')) else 'config'
        return {key: teacher}
    if not isinstance(teacher, Mapping):
        raise TypeError(
            'teacher must be a zoo name, a path, a dict or a module but is '
            f'{type(teacher).__name__}'
        )
    # A scope may be added by `{{_base_.x}}`; it is not the user's.
    options = {key: value for key, value in teacher.items() if key != '_scope_'}
    unknown = set(options) - KNOWN
    if unknown:
        raise ValueError(
            f'teacher accepts {sorted(KNOWN | CACHED)} but was given {sorted(unknown)}'
        )
    if options.get('config') is None and options.get('checkpoint') is None:
        raise ValueError('teacher must name a config, a checkpoint or both')
    return options


def local_path(checkpoint: str, what: str = "the teacher's checkpoint") -> Path:
    """A checkpoint's file here, downloaded if it is an address.

    Args:
        checkpoint: File or address.
        what: What it is, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if re.match(r'https?://', checkpoint):
        return fetch(checkpoint)
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{what} {checkpoint!r} does not exist')
    return path


def state_dict_of(contents: Any, path: Path) -> Mapping[str, Any]:
    """The weights that a checkpoint's contents are, or hold.

    Raises:
        ValueError: If there are none.
    """
    state = contents.get('state_dict', contents) if isinstance(contents, dict) else None
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f'{path} holds no state_dict')
    if all(key.startswith('module.') for key in state):  # saved from inside DDP
        stripped: Any = OrderedDict(
            (key[len('module.') :], v) for key, v in state.items()
        )
        if hasattr(state, '_metadata'):
            stripped._metadata = {
                key[len('module.') :]: v for key, v in state._metadata.items()
            }
        state = stripped
    return state


def _class_names(contents: Any) -> Sequence[str] | None:
    """Names that the training run has stored beside the weights."""
    meta = contents.get('meta') if isinstance(contents, dict) else None
    meta = meta if isinstance(meta, Mapping) else {}
    data = meta.get('dataset_meta') or {}
    return data.get('classes') or data.get('CLASSES') or meta.get('CLASSES')


def _stored_config(contents: Any, path: Path) -> Config:
    """The config text inside a checkpoint: parsed, never executed."""
    text = (contents.get('meta') or {}).get('cfg')
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f'{path} holds no config; name it with dict(config=..., checkpoint=...)'
        )
    return Config(parse_config_text(text))


def _build(cfg: Any, scope: str | None) -> nn.Module:
    if not cfg.get('model'):
        raise ValueError(f'{cfg.filename or "the config of the teacher"} has no model')
    # A distilled model as the next teacher is its student.
    model_cfg = copy.deepcopy(student_config(cfg).model)
    if cfg.get('data_preprocessor') and not model_cfg.get('data_preprocessor'):
        model_cfg.data_preprocessor = copy.deepcopy(cfg.data_preprocessor)
    _drop_pretrained(model_cfg)
    scope = model_cfg.get('_scope_') or cfg.get('default_scope') or scope
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model_cfg)


def _drop_pretrained(cfg: Any) -> None:
    """Forget ImageNet initialisation: a download of weights that are replaced."""
    if isinstance(cfg, (dict, ConfigDict)):
        init = cfg.get('init_cfg')
        if _is_download(init):
            cfg['init_cfg'] = None
        elif isinstance(init, (list, tuple)):
            cfg['init_cfg'] = [one for one in init if not _is_download(one)]
        if isinstance(cfg.get('pretrained'), str):
            cfg['pretrained'] = None
        for value in cfg.values():
            _drop_pretrained(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _drop_pretrained(value)


def _is_download(init: Any) -> bool:
    return isinstance(init, dict) and 'checkpoint' in init


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _listed(keys: Sequence[str], limit: int = 5) -> str:
    more = f' and {len(keys) - limit} more' if len(keys) > limit else ''
    return ', '.join(keys[:limit]) + more
