"""Small GANs and pictures for them."""

from __future__ import annotations

import torch
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import Dataset

import mmkd  # noqa: F401

OPTIMIZERS = dict(
    constructor='mmkd.GANOptimWrapperConstructor',
    generator=dict(optimizer=dict(type='Adam', lr=2e-4, betas=(0.5, 0.999))),
    discriminator=dict(optimizer=dict(type='Adam', lr=2e-4, betas=(0.5, 0.999))),
)
SMALL = dict(type='mmkd.ResnetGenerator', ngf=4, num_blocks=3)
MOBILE = dict(type='mmkd.MobileResnetGenerator', ngf=3, num_blocks=3)
SUPER = dict(type='mmkd.SuperMobileResnetGenerator', ngf=4, num_blocks=3)
JUDGE = dict(type='mmkd.PatchDiscriminator', in_channels=6, ndf=4, num_layers=2)


@DATASETS.register_module(force=True)
class ToyPairs(Dataset):
    """Squares, and the same darker and mirrored."""

    metainfo: dict = {}

    def __init__(self, length: int = 8) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if index >= self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(index)
        source = torch.randint(0, 60, (3, 16, 24), generator=generator)
        left = int(torch.randint(12, (1,), generator=generator))
        source[:, 4:12, left : left + 8] += 180
        target = source.flip(-1) // 2
        return dict(inputs=dict(source=source.byte(), target=target.byte()))


def pix2pix(**told):
    cfg = dict(type='mmkd.Pix2Pix', generator=SMALL, discriminator=JUDGE)
    return {**cfg, **told}


def cyclegan(**told):
    judge = dict(type='mmkd.PatchDiscriminator', ndf=4, num_layers=2)
    cfg = dict(type='mmkd.CycleGAN', generator=SMALL, discriminator=judge, pool_size=3)
    return {**cfg, **told}


def compression(teacher, student=MOBILE, **told):
    return {
        **dict(type='mmkd.GANCompression', generator=student, teacher=teacher),
        **told,
    }


def saved(cfg, folder, seed=7):
    """A teacher: the config of a run, and a checkpoint with random weights."""
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return dict(config=dict(model=cfg), checkpoint=str(path))


def batch(indices=range(4)):
    items = [ToyPairs(64)[i] for i in indices]
    return dict(
        inputs={
            name: [item['inputs'][name] for item in items]
            for name in ('source', 'target')
        }
    )


def run_config(model, work_dir, **changes):
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='ToyPairs'),
    )
    return dict(
        dict(
            model=model,
            work_dir=str(work_dir),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=OPTIMIZERS,
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1),
                distiller_state=dict(type='mmkd.DistillerStateHook'),
            ),
            randomness=dict(seed=3),
            log_level='ERROR',
        ),
        **changes,
    )
