"""Teachers of generators: a run's, or released weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from ..compat.checkpoint import load_file
from ..config_kind import type_name
from ..teacher import Teacher
from ..teacher_loading import load_strictly, load_teacher, local_path, state_dict_of
from .discriminator import PatchDiscriminator

#: What is told of a teacher that a run trained.
_OF_A_RUN = {'config', 'checkpoint', 'trust', 'allow_random', 'allow_missing'}


def build_gan_teacher(entry: Any) -> tuple[Teacher, nn.Module | None]:
    """The generator that an entry names, and what judged it.

    Args:
        entry: ``dict(config=..., checkpoint=...)`` of a run of mmkd, whose generator
            it is; or ``dict(generator=..., checkpoint=...)``, the config of a
            generator and a file with its weights alone, such as the authors release.

    Returns:
        The :class:`~mmkd.teacher.Teacher`, and the run's discriminator; ``None`` for a
        generator alone.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the entry is of another type.
        ValueError: If it says too much or too little, or its weights do not fit.
    """
    if not isinstance(entry, Mapping):
        raise TypeError(
            'teacher must be dict(config=..., checkpoint=...) of a run or '
            'dict(generator=..., checkpoint=...) but is a '
            f'{type(entry).__name__}'
        )
    entry = dict(entry)
    if 'generator' not in entry:
        unknown = sorted(set(entry) - _OF_A_RUN)
        if unknown:
            raise ValueError(
                f'teacher of a GAN must have {sorted(_OF_A_RUN)} alone but has '
                f'{unknown}, too'
            )
        model, source, _, is_random, _ = load_teacher(entry, 'mmkd')
        generator: Any = model._modules.get('generator')
        if generator is None:
            raise ValueError(
                f'the teacher {source} must be a model with a generator, such as '
                f'mmkd.Pix2Pix, but is a {type(model).__name__}'
            )
        judge = None if is_random else _judge(model.cfg, entry)
        return Teacher(generator, source, is_random=is_random), judge
    allowed = {'generator', 'checkpoint', 'trust', 'allow_random'}
    unknown = sorted(set(entry) - allowed)
    checkpoint = entry.get('checkpoint')
    if unknown or (checkpoint is None and not entry.get('allow_random')):
        raise ValueError(
            'teacher must have a generator and the checkpoint with its weights, or '
            f'checkpoint=None and allow_random=True, but has {sorted(entry)}'
        )
    generator = ROOT_MODELS.build(dict(entry['generator']))
    if checkpoint is not None:
        path = local_path(str(checkpoint))
        contents = load_file(path, map_location='cpu', trust=entry.get('trust', False))
        weights = released(state_dict_of(contents, path))
        load_strictly(generator, weights, (), str(checkpoint))
    source = str(checkpoint or type(generator).__name__)
    return Teacher(generator, source, is_random=checkpoint is None), None


def released(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights as released files have them, without what ours have no use for.

    Args:
        state: Maybe with a prefix of ``DataParallel``, with statistics of instance
            normalisations, which are never read, and of blocks without dropout, whose
            second convolution comes one place earlier.
    """
    found = {
        key.removeprefix('module.'): value
        for key, value in state.items()
        if not key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
    }
    if any('.conv_block.6.' in key for key in found):
        return found
    return {k.replace('.conv_block.5.', '.conv_block.6.'): v for k, v in found.items()}


def _judge(cfg: Any, entry: Mapping[str, Any]) -> nn.Module | None:
    """The discriminator of a run, if its checkpoint has one."""
    path = local_path(str(entry.get('checkpoint') or cfg.get('model_path')))
    contents = load_file(path, map_location='cpu', trust=entry.get('trust', False))
    prefix = 'discriminator.'
    state = {
        key[len(prefix) :]: value
        for key, value in state_dict_of(contents, path).items()
        if key.startswith(prefix)
    }
    if not state:
        return None
    told = dict(cfg.model.get('discriminator') or {})
    if told and type_name(told) != 'mmkd.PatchDiscriminator':
        judge = ROOT_MODELS.build(told)
    else:
        judge = PatchDiscriminator.like(state)
    load_strictly(judge, state, (), str(path))
    return judge
