"""The same pair of networks in the distillers of other libraries."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from ..config import load_config, student_config
from .setting import SEED

if TYPE_CHECKING:
    from .networks import Networks, Trainee


def mmdetection_distiller(networks: Networks) -> Trainee:
    """``KnowledgeDistillationSingleStageDetector`` with ``LDHead``.

    Args:
        networks: Builds the models.

    Raises:
        ValueError: If the student is no GFL.
    """
    stock = networks.stock.model
    head = (stock.get('bbox_head') or {}).get('type')
    if (stock.type, head) != ('GFL', 'GFLHead'):
        raise ValueError(
            f"MMDetection's distiller is for a GFL with a GFLHead, not {stock.type} "
            f'with {head}'
        )
    entry = networks.teacher_entry
    teacher = student_config(load_config(entry['config']))
    cfg = copy.deepcopy(stock)
    cfg.update(
        type='KnowledgeDistillationSingleStageDetector',
        teacher_config=ConfigDict(model=teacher.model),
        teacher_ckpt=entry.get('checkpoint') or teacher.get('model_path'),
    )
    kind = 'KnowledgeDistillationKLDivLoss'
    loss = dict(type=kind, loss_weight=0.25, T=10)
    cfg.bbox_head.update(type='LDHead', loss_ld=loss)
    torch.manual_seed(SEED)
    model: Any = MODELS.build(cfg)
    trainee = networks.trainee(model, networks.student.model.state_dict())
    trainee.teacher = model.teacher_model
    return trainee


def mmrazor_distiller(networks: Networks) -> Trainee:
    """MMRazor's channel-wise distillation, of the neck or of the segmentor's logits.

    Args:
        networks: Builds the models.

    Raises:
        ImportError: If mmrazor is not installed, or not for this PyTorch.
    """
    import mmrazor.models  # noqa: F401  registers them

    neck = 'neck' in networks.stock.model
    source = 'neck' if neck else 'decode_head.conv_seg'
    maps = networks.stock.model.neck.get('num_outs', 1) if neck else 1
    losses, mappings = {}, {}
    for index in range(maps):
        which = dict(recorder='at', data_idx=index if neck else None)
        name = f'loss_cwd_{index}'
        losses[name] = dict(type='ChannelWiseDivergence', tau=1, loss_weight=5)
        mappings[name] = dict(
            preds_S=dict(which, from_student=True),
            preds_T=dict(which, from_student=False),
        )
    recorders = dict(at=dict(type='ModuleOutputs', source=source))
    student: Any = MODELS.build(copy.deepcopy(networks.stock.model))
    student.load_state_dict(networks.student.model.state_dict())
    kind = 'FpnTeacherDistill' if neck else 'SingleTeacherDistill'
    cfg = dict(
        _scope_='mmrazor',
        type=f'mmrazor.{kind}',
        architecture=student,
        teacher=copy.deepcopy(networks.teacher),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=recorders,
            teacher_recorders=copy.deepcopy(recorders),
            distill_losses=losses,
            loss_forward_mappings=mappings,
        ),
    )
    model: Any = MODELS.build(cfg)
    # It has the student's preprocessor only if it is told so.
    model.data_preprocessor = student.data_preprocessor
    model.student.requires_grad_(True)
    _keep_frozen(model.student, networks.student.model)
    return networks.trainee(model)


def _keep_frozen(model: nn.Module, like: nn.Module) -> None:
    for ours, theirs in zip(model.parameters(), like.parameters()):
        ours.requires_grad_(theirs.requires_grad)
