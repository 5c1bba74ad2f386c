"""Every method for five steps of a Runner, in one of two processes or in one."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner
from tiny_models import (
    build,
    detection_batch,
    segmentation_batch,
    tiny_gfl,
    tiny_pspnet,
    tiny_two_stage,
)
from toy import quicken, recorded

from mmkd.config import distill_config, method_losses
from mmkd.processes import leave_processes

STEPS = 5
PER_RANK = 2
GN = dict(type='GN', num_groups=4, requires_grad=True)
DDP = dict(
    type='MMDistributedDataParallel',
    device_ids=None,
    broadcast_buffers=False,
    find_unused_parameters=False,
)


@DATASETS.register_module(force=True)
class Pictures(torch.utils.data.Dataset):
    """Noise with two objects, or with label maps; one size, equal counts on each."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return STEPS * PER_RANK * 2

    def __getitem__(self, index: int) -> dict:
        if self.kind == 'seg':
            raw = segmentation_batch(seed=index)
        else:
            raw = detection_batch(((96, 128),), seed=index)
        return {key: value[0] for key, value in raw.items()}


@DATA_SAMPLERS.register_module(force=True)
class Blocks(torch.utils.data.Sampler):
    """Of every joined batch the first half on the first rank."""

    def __init__(self, dataset, seed=None, round_up=True) -> None:
        self.length = len(dataset)

    def __iter__(self):
        step = PER_RANK * 2
        size = step // get_world_size()
        for start in range(0, self.length, step):
            yield from range(start + get_rank() * size, start + (get_rank() + 1) * size)

    def __len__(self) -> int:
        return self.length // get_world_size()


def gfl(width: int) -> Config:
    """With frozen BatchNorm and a frozen stage, as stock configs have them."""
    cfg = tiny_gfl(width)
    cfg.model.backbone.update(norm_eval=True, frozen_stages=1)
    return cfg


def faster_rcnn(width: int, random: bool = False, norm: dict = GN) -> Config:
    cfg = tiny_two_stage(width)
    cfg.model.backbone.norm_cfg = norm
    if not random:
        rcnn, rpn = cfg.model.train_cfg.rcnn.sampler, cfg.model.train_cfg.rpn.sampler
        for sampler in (rcnn, rpn):
            sampler.type = 'FirstSampler'
        rcnn.num = 16  # fewer than there are: equally many on both ranks
    return cfg


def pspnet(width: int) -> Config:
    cfg = tiny_pspnet(width)
    cfg.model.backbone.norm_cfg = GN
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(norm_cfg=GN, dropout_ratio=0)
    return cfg


def detection_terms() -> dict:
    return {
        **method_losses('hint', 'mmdet'),
        **method_losses('cwd', 'mmdet'),
        **method_losses('ld', 'mmdet'),
        **method_losses('mgd', 'mmdet'),
        **method_losses('fgd', 'mmdet'),
    }


def two_stage_terms() -> dict:
    return {
        **method_losses('chen2017', 'mmdet'),
        'loss_imitation': dict(type='mmkd.BoxImitationLoss', at='rpn_head'),
        **method_losses('dkd', 'mmdet'),
    }


def segmentation_terms() -> dict:
    soft = dict(type='mmkd.SoftTargetLoss', at='decode_head.conv_seg')
    terms = {
        **method_losses('hint', 'mmseg'),
        **method_losses('cwd', 'mmseg'),
        **method_losses('skds', 'mmseg'),
        'loss_soft': dict(soft, loss_weight=1e-3),
    }
    # BatchNorm in a critic lets the images of a batch influence each other, and Adam
    # makes the rounding of a gradient as large as any gradient.
    terms['loss_holistic'].update(
        critic=dict(type='mmkd.SelfAttentionCritic', channels=4, norm=None),
        critic_optimizer=dict(type='SGD', momentum=0.9),
        critic_lr=0.002,
    )
    # Its pixel-wise term is no mean over images, so that two ranks halve it.
    terms['loss_pair_pami'] = method_losses('skds_pami_code', 'mmseg')['loss_pair']
    return terms


#: Name -> scope, student, teacher, terms.
MODELS = {
    'gfl': ('mmdet', gfl(16), gfl(24), detection_terms()),
    'faster_rcnn': ('mmdet', faster_rcnn(16), faster_rcnn(24), two_stage_terms()),
    'pspnet': ('mmseg', pspnet(16), pspnet(24), segmentation_terms()),
}
#: Where the stock model itself is another one in two processes.
BN = dict(type='BN', requires_grad=True)
UNEQUAL = {
    'batch_norm': (
        *('mmdet', faster_rcnn(16, norm=BN), faster_rcnn(24, norm=BN)),
        two_stage_terms(),
    ),
    'random_sampler': (
        *('mmdet', faster_rcnn(16, random=True), faster_rcnn(24, random=True)),
        two_stage_terms(),
    ),
}
RUNS = [(name, kind) for name in (*MODELS, *UNEQUAL) for kind in ('stock', 'distilled')]


def model(name: str, kind: str) -> torch.nn.Module:
    import chen_ranks

    scope, student, teacher, terms = {**MODELS, **UNEQUAL}[name]
    cfg = student
    if kind == 'distilled':
        network = chen_ranks.roughened(build(teacher.model, scope, seed=7), seed=7)
        cfg = distill_config(student, network, terms)
    built = build(cfg.model, scope)
    if scope == 'mmdet':
        chen_ranks.roughened(built, seed=1)
    if hasattr(getattr(built, 'bbox_head', None), 'gfl_cls'):
        # GFL divides by a sum of scores that it takes for 1 at least: so they must be.
        torch.nn.init.constant_(built.bbox_head.gfl_cls.bias, -1.0)
    return built.train()


def train(name: str, kind: str, folder: Path, halves: int = 1) -> dict:
    """Losses of every step; weights before and after.

    Args:
        name: Key of :data:`MODELS` or :data:`UNEQUAL`.
        kind: Whether the model is stock or distilled.
        folder: Where the Runner works.
        halves: 2 for one process that takes the ranks' batches one after the other
            and their gradients together.
    """
    made = model(name, kind)
    start = copy.deepcopy(made.state_dict())
    ranks = get_world_size()
    loader = dict(
        dataset=dict(type='Pictures', kind='seg' if name == 'pspnet' else 'det'),
        sampler=dict(type='Blocks'),
        batch_size=PER_RANK * 2 // ranks // halves,
        num_workers=0,
    )
    runner = Runner(
        model=made,
        work_dir=str(folder / f'{name}_{kind}'),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.005, momentum=0.9),
            accumulative_counts=halves,
        ),
        default_hooks=dict(
            checkpoint=None,
            distiller_state=dict(type='mmkd.DistillerStateHook'),
            recorder=dict(type='LossRecorder'),
        ),
        launcher='pytorch' if ranks > 1 else 'none',
        randomness=dict(seed=3, diff_rank_seed=True),
        experiment_name=f'{name}_{kind}_{ranks}_{halves}',
        log_level='ERROR',
        cfg=dict(model_wrapper_cfg=dict(DDP)) if ranks > 1 else {},
    )
    runner.train()
    assert isinstance(runner.model, MMDistributedDataParallel) == (ranks > 1)
    inner = getattr(runner.model, 'module', runner.model)
    weights = {k: p.detach().clone() for k, p in inner.named_parameters()}
    return dict(steps=recorded(runner), start=start, weights=weights)


def train_all(folder: Path) -> dict:
    return {run: train(*run, folder) for run in RUNS}


def main() -> None:
    quicken()
    torch.set_num_threads(1)
    rank, folder = int(os.environ['RANK']), Path(sys.argv[1])
    sys.path.append(str(Path(__file__).parents[1] / 'det'))
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    torch.save(train_all(folder), folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main()
    leave_processes()
