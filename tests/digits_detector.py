"""The zoo's GFL, narrow, on a few pictures of the digits data set."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from toy import merge

from mmkd.config import distill_config, load_config

CLASSES = tuple('0123456789')


def stock(root: Path, work_dir: Path, **changes) -> Config:
    """Two epochs of three iterations on 64 x 64 pixels.

    ResNet-18 with BatchNorm, 8 channels wide; flips at random.
    """
    cfg = load_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py')
    norm = dict(type='GN', num_groups=4)
    cfg.merge_from_dict(
        {
            'model.backbone': dict(depth=18, base_channels=8, frozen_stages=-1),
            'model.backbone.norm_eval': False,
            'model.backbone.init_cfg': None,
            'model.neck': dict(in_channels=[8, 16, 32, 64], out_channels=16),
            'model.bbox_head': dict(in_channels=16, feat_channels=16, stacked_convs=1),
            'model.bbox_head.norm_cfg': norm,
            'model.bbox_head.num_classes': 10,
            'model.test_cfg.score_thr': 0.0,
            'train_cfg': dict(max_epochs=2, val_interval=9),
            'optim_wrapper.clip_grad': dict(max_norm=10),
            'work_dir': str(work_dir),
            'experiment_name': '_'.join(Path(work_dir).parts[-2:]),
            'randomness': dict(seed=5),
            'log_level': 'ERROR',
            'custom_imports': dict(imports=['mmkd', 'toy'], allow_failed_imports=False),
            'default_hooks.recorder': dict(type='LossRecorder'),
            'default_hooks.distiller_state': dict(type='mmkd.DistillerStateHook'),
            'default_hooks.checkpoint.type': 'mmkd.AtomicCheckpointHook',
        }
    )
    cfg.param_scheduler = None
    for loader, split in ((cfg.train_dataloader, 'train'), (cfg.val_dataloader, 'val')):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(
            data_root=f'{root}/',
            ann_file=f'annotations/{split}.json',
            data_prefix=dict(img=f'{split}/'),
            metainfo=dict(classes=CLASSES),
        )
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (64, 64)
    cfg.val_evaluator.ann_file = f'{root}/annotations/val.json'
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    return merge(cfg, changes)


def distilled(root: Path, work_dir: Path, losses: dict, **changes) -> Config:
    """The same with a random teacher of twice the width."""
    cfg = stock(root, work_dir, **changes)
    teacher = cfg.model.to_dict()
    teacher['backbone']['base_channels'] = 16
    teacher['neck'].update(in_channels=[16, 32, 64, 128], out_channels=32)
    teacher['bbox_head']['in_channels'] = 32
    return distill_config(
        cfg,
        dict(
            config=dict(model=teacher, default_scope='mmdet'),
            checkpoint=None,
            allow_random=True,
        ),
        losses,
    )
