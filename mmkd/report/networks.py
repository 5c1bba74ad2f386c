"""The networks of a report, with their weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.utils import import_modules_from_strings
from torch import nn

from ..compat.checkpoint import TRUST_VARIABLE
from ..config import own_kind, teacher_options
from ..teacher_group import is_group
from ..teacher_loading import CACHED, load_teacher
from .run import Run


def student_of(run: Run, device: str) -> nn.Module:
    """The stock network of a run with the weights of its newest checkpoint.

    Args:
        run: The run; it has a checkpoint.
        device: Where the network goes.

    Returns:
        The network in eval mode.

    Raises:
        ValueError: If the weights do not fit the run's config.
    """
    import_custom(run)
    trust = os.environ.get(TRUST_VARIABLE) == '1'
    entry = dict(config=run.cfg, checkpoint=str(run.checkpoint), trust=trust)
    return _ready(load_teacher(entry, run.scope)[0], device)


def teacher_of(run: Run, given: str | None, device: str) -> nn.Module:
    """The teacher of a distilled run.

    Args:
        run: The run.
        given: Checkpoint, config or zoo name in the place of the config's own.
        device: Where the network goes.

    Returns:
        The network in eval mode.

    Raises:
        FileNotFoundError: If a file of it does not exist.
        ValueError: If the run has none, or one without weights.
    """
    import_custom(run)
    own: Any = run.cfg.model.teacher if run.is_distilled else {}
    options = {k: v for k, v in teacher_options(own).items() if k not in CACHED}
    if given:
        options = _replaced(options, given)
    if own_kind(options):
        raise ValueError('the teacher is the student itself')
    if is_group(options):
        raise ValueError('the run has several teachers, and a report shows one')
    if not options.keys() & {'config', 'checkpoint'}:
        raise ValueError('no run of the report names a teacher; name one by --teacher')
    model, _, _, is_random, _ = load_teacher(options, run.scope)
    if is_random:
        raise ValueError('the teacher has random weights, which show nothing')
    return _ready(model, device)


def import_custom(run: Run) -> None:
    """Import what the run's config asks for, as reading the config would."""
    imports = run.cfg.get('custom_imports')
    if imports:
        import_modules_from_strings(**imports)


def _replaced(options: dict[str, Any], given: str) -> dict[str, Any]:
    """Options of another teacher; a plain weights file has the config's network."""
    other = teacher_options(given)
    if 'checkpoint' not in other or 'config' not in options:
        return other
    from ..compat.checkpoint import load_file

    contents = load_file(Path(given))
    meta = contents.get('meta') if isinstance(contents, dict) else None
    if isinstance(meta, dict) and meta.get('cfg'):
        return other
    return dict(options, checkpoint=given)


def _ready(model: nn.Module, device: str) -> nn.Module:
    model.eval()  # what it returns is None in some stock detectors
    return model.requires_grad_(False).to(device)
