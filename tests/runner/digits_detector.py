"""A stock GFL, narrow, on a few pictures of the digits data set."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from toy import merge

from mmkd.config import distill_config, load_config

DEMO = Path(__file__).parents[2] / 'configs' / 'demo' / 'gfl_r18-w8_fpn_digits.py'


def stock(root: Path, work_dir: Path, **changes) -> Config:
    """Two epochs of three iterations on 96 x 96 pixels.

    ResNet-18 with BatchNorm, 8 channels wide, flips at random.
    """
    cfg = load_config(DEMO)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size, loader.num_workers = 2, 0
        loader.persistent_workers = False
        loader.dataset.data_root = f'{root}/'
    cfg.val_evaluator.ann_file = f'{root}/annotations/val.json'
    cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type='RandomFlip', prob=0.5))
    cfg.train_dataloader.dataset.filter_cfg = None
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            experiment_name=Path(work_dir).name,
            train_cfg=dict(max_epochs=2, val_interval=9),
            param_scheduler=None,
            randomness=dict(seed=5),
            log_level='ERROR',
            custom_imports=dict(imports=['mmkd', 'toy'], allow_failed_imports=False),
            default_hooks=dict(
                recorder=dict(type='LossRecorder'),
                distiller_state=dict(type='mmkd.DistillerStateHook'),
                checkpoint=dict(type='mmkd.AtomicCheckpointHook', interval=1),
            ),
        )
    )
    return merge(cfg, changes)


def distilled(
    root: Path, work_dir: Path, losses: dict, width: int = 16, **changes
) -> Config:
    """The same with a random teacher of twice the width."""
    cfg = stock(root, work_dir, **changes)
    teacher = cfg.model.to_dict()
    teacher['backbone']['base_channels'] = width
    teacher['neck'].update(in_channels=[2 * width, 4 * width, 8 * width])
    return distill_config(
        cfg,
        dict(
            config=dict(model=teacher, default_scope='mmdet'),
            checkpoint=None,
            allow_random=True,
        ),
        losses,
    )
