"""How near a text encoder is to its teacher, how large it is, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..compat.checkpoint import load_file
from ..config import load_config
from ..teacher_loading import load_strictly, local_path, state_dict_of
from .encoder import embedding

_REPEATS = 7


def check_text(
    cfg: Config, checkpoint: str | None = None, device: str = 'cpu', batches: int = 5
) -> dict[str, dict[str, float]]:
    """Compare the student of a transfer with its teacher, and print a table.

    Args:
        cfg: Config with a model of type ``mmkd.MobileBertTransfer``.
        checkpoint: The student's weights, of a run or its export; as it begins if not
            given.
        device: Where both run.
        batches: Of the validation texts.

    Returns:
        What is compared (``'embedded'``, and ``'text_feat_map'`` where the teacher is a
        detector's that has one) -> ``cosine`` of a token on average and
        ``relative_error``; ``'student'`` and ``'teacher'`` -> ``parameters`` and
        ``seconds`` of a batch.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit, or there is no teacher or validation.
    """
    if not cfg.get('val_dataloader') or not cfg.model.get('teacher'):
        raise ValueError(
            'the config must have a teacher, which the student is compared with, and a '
            'val_dataloader with the texts'
        )
    model: Any = ROOT_MODELS.build(cfg.model)
    if checkpoint:
        path = local_path(checkpoint, "the student's checkpoint")
        state = state_dict_of(load_file(path, map_location='cpu'), path)
        load_strictly(model, state, (), checkpoint)
    model = model.to(device).eval()
    feat_map = _text_feat_map(cfg.model.get('teacher'))
    teacher = model.transfer.teacher.model.encoder
    loader = Runner.build_dataloader(cfg.val_dataloader)
    pairs: list[tuple[Tensor, Tensor]] = []
    inputs: Mapping[str, Any] = {}
    for _, data in zip(range(batches), loader):
        inputs = model.inputs_of(model.data_preprocessor(data, False)['captions'])
        valid = inputs['text_token_mask']
        with torch.no_grad():
            s, t = (
                embedding(e.hidden_states(inputs)[1:], teacher.num_layers_of_embedded)
                for e in (model.encoder, teacher)
            )
        pairs.append((s[valid].float().cpu(), t[valid].float().cpu()))
    student_tokens, teacher_tokens = (torch.cat(side) for side in zip(*pairs))
    found = dict(embedded=_distance(student_tokens, teacher_tokens))
    if feat_map is not None:
        with torch.no_grad():
            found['text_feat_map'] = _distance(
                feat_map(student_tokens), feat_map(teacher_tokens)
            )
    seconds = _timed(inputs, dict(student=model.encoder, teacher=teacher))
    for name, encoder in (('student', model.encoder), ('teacher', teacher)):
        count = sum(p.numel() for p in encoder.parameters())
        found[name] = dict(parameters=float(count), seconds=seconds[name])
    _show(found, len(student_tokens))
    return found


def _text_feat_map(teacher: Any) -> nn.Module | None:
    """What a detector makes of its text features first, if the teacher is its own."""
    if not isinstance(teacher, Mapping) or 'config' not in teacher:
        return None
    checkpoint = teacher.get('checkpoint') or load_config(teacher['config']).get(
        'model_path'
    )
    path = local_path(str(checkpoint))
    contents = load_file(path, map_location='cpu', trust=teacher.get('trust', False))
    state = state_dict_of(contents, path)
    weight, bias = (state.get(f'text_feat_map.{key}') for key in ('weight', 'bias'))
    if weight is None or bias is None:
        return None
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict(dict(weight=weight, bias=bias))
    return linear


def _distance(student: Tensor, teacher: Tensor) -> dict[str, float]:
    return dict(
        cosine=F.cosine_similarity(student, teacher, dim=1).mean().item(),
        relative_error=((student - teacher).norm() / teacher.norm()).item(),
    )


@torch.no_grad()
def _timed(inputs: Mapping[str, Any], encoders: Mapping[str, Any]) -> dict[str, float]:
    """Median seconds of a pass, in turn, the first one not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    wait: Callable[[], Any] = (
        torch.cuda.synchronize if inputs['input_ids'].is_cuda else lambda: None
    )
    for _ in range(_REPEATS + 1):
        for name, encoder in encoders.items():
            wait()
            start = time.perf_counter()
            encoder.hidden_states(inputs)
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def _show(found: Mapping[str, Mapping[str, float]], tokens: int) -> None:
    table = Table(title=f'text encoder, {tokens} tokens of the validation texts')
    for column in ('', 'student', 'teacher'):
        table.add_column(column, justify='left' if not column else 'right')
    student, teacher = found['student'], found['teacher']
    table.add_row(
        'million parameters',
        f'{student["parameters"] / 1e6:.2f}',
        f'{teacher["parameters"] / 1e6:.2f}',
    )
    table.add_row(
        'ms per batch',
        f'{1000 * student["seconds"]:.1f}',
        f'{1000 * teacher["seconds"]:.1f}',
    )
    for name in ('embedded', 'text_feat_map'):
        if name in found:
            table.add_row(f'{name}: cosine', f'{found[name]["cosine"]:.4f}', '1')
            table.add_row(
                f'{name}: relative error', f'{found[name]["relative_error"]:.4f}', '0'
            )
    Console().print(table)
