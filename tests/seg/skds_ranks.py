"""Five steps of structured distillation, in one of two processes or in one."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel
from tiny_models import build, segmentation_batch, tiny_pspnet

from mmkd.config import distill_config
from mmkd.processes import leave_processes

STEPS = 5
TERMS = dict(
    loss_pixel=dict(type='mmkd.PixelWiseLoss', loss_weight=2.0),
    loss_pair=dict(type='mmkd.PairWiseLoss', loss_weight=3.0),
    loss_holistic=dict(
        type='mmkd.HolisticLoss',
        loss_weight=0.5,
        critic=dict(type='mmkd.SelfAttentionCritic', channels=4, norm=None),
        # Adam would make a gradient's rounding as large as any gradient.
        critic_optimizer=dict(type='SGD', momentum=0.9),
        # At 0.02 the critic explodes, and roundings grow to 0.1 % with it.
        critic_lr=0.005,
    ),
)


def segmentor(width: int):
    """No dropout, and no statistics of a batch."""
    cfg = tiny_pspnet(width)
    norm = dict(type='GN', num_groups=4, requires_grad=True)
    cfg.model.backbone.norm_cfg = norm
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(norm_cfg=norm, dropout_ratio=0)
    return cfg


def model():
    teacher = build(segmentor(24).model, 'mmseg', seed=7)
    return build(distill_config(segmentor(16), teacher, TERMS).model, 'mmseg').train()


def batches(rank: int) -> list[dict]:
    """Other images in every step and on every rank, equally many of them labelled."""
    return [segmentation_batch(seed=10 * step + rank) for step in range(STEPS)]


def joined(*parts: dict) -> dict:
    """One batch of all images, those of the first rank first."""
    return {key: sum((list(part[key]) for part in parts), []) for key in parts[0]}


def train(wrapped, raw: list[dict]) -> dict:
    """Losses of every step, the student's weights and the critic's state at the end."""
    inner = getattr(wrapped, 'module', wrapped)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.02, momentum=0.9)
    logged = []
    for batch in raw:
        data = inner.data_preprocessor(copy.deepcopy(batch), True)
        losses = wrapped(**data, mode='loss')
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        optimizer.step()
        logged.append({name: value.item() for name, value in losses.items()})
    adversary = inner.distiller.losses['loss_holistic'].adversary
    critic = copy.deepcopy(adversary.state())
    return dict(logged=logged, student=inner.state_dict(), critic=critic)


def main() -> None:
    torch.set_num_threads(1)
    rank, folder = int(os.environ['RANK']), Path(sys.argv[1])
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    ours = model()
    if rank:  # ranks that were seeded differently agree in the first step
        with torch.no_grad():
            for p in ours.distiller.losses['loss_holistic'].critic.parameters():
                p.add_(torch.randn_like(p))
    torch.manual_seed(5 + rank)
    wrapped = MMDistributedDataParallel(ours, device_ids=None, broadcast_buffers=False)
    found = train(wrapped, batches(rank))
    # Not a number on one rank: both leave the step out.
    term = ours.distiller.losses['loss_holistic']
    maps = torch.randn(2, 2, 4, 8, 8) * (float('nan') if rank else 1)
    term(*maps)
    found['after'] = copy.deepcopy(term.adversary.state())
    torch.save(found, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main()
    leave_processes()
