"""Runs of GANs on two processes: validated, averaged, resumed; one beside them."""

import copy
import os
import sys
from pathlib import Path

import torch
from gan_toy import SUPER, compression, cyclegan, pix2pix, run_config
from mmengine.config import Config
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.runner import Runner

from mmkd.gan.translation import unwrapped
from mmkd.processes import leave_processes

# So slow that differences of rounding do not grow.
SGD = dict(optimizer=dict(type='SGD', lr=1e-5, momentum=0.9))
OPTIMIZERS = dict(
    constructor='mmkd.GANOptimWrapperConstructor', generator=SGD, discriminator=SGD
)


def models(folder: Path) -> dict:
    """Kinds of models; ``teacher.pth`` in the folder is a teacher's."""
    teacher = dict(config=dict(model=pix2pix()), checkpoint=str(folder / 'teacher.pth'))
    return dict(
        pix2pix=pix2pix(),
        cyclegan=cyclegan(),
        supernet=compression(teacher, student=SUPER),
    )


def train(model: dict, work_dir: Path, batch_size: int, **changes) -> Runner:
    evaluated = dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='ToyPairs', length=6),
    )
    cfg = run_config(
        model,
        work_dir,
        optim_wrapper=OPTIMIZERS,
        val_dataloader=evaluated,
        val_cfg=dict(),
        val_evaluator=dict(type='mmkd.PictureMetrics', metric=['psnr', 'ssim']),
        custom_hooks=[dict(type='EMAHook', momentum=0.5)],
        **changes,
    )
    cfg['train_dataloader'].update(batch_size=batch_size)
    cfg['experiment_name'] = '_'.join(work_dir.parts[-2:])
    runner = Runner.from_cfg(Config(copy.deepcopy(cfg)))
    runner.train()
    return runner


def found(runner: Runner) -> dict:
    """What a run comes to: its weights, their average, its last metrics."""
    model = unwrapped(runner.model)
    path = Path(runner.work_dir) / 'epoch_2.pth'
    scalars = runner.message_hub.log_scalars
    return dict(
        weights={k: v.clone() for k, v in model.state_dict().items()},
        saved=torch.load(path, weights_only=False)['state_dict'],
        metrics={
            name: float(scalars[f'val/pictures/{name}'].current())
            for name in ('psnr', 'ssim')
        },
    )


def main(folder: Path) -> None:
    rank = int(os.environ['RANK'])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    ranks = dict(
        launcher='pytorch',
        model_wrapper_cfg=dict(
            type='MMSeparateDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
        ),
    )
    results = {}
    for kind, model in models(folder).items():
        straight = train(model, folder / kind, 1, **ranks)
        assert isinstance(straight.model, MMSeparateDistributedDataParallel)
        results[kind] = found(straight)
        first = str(folder / kind / 'epoch_1.pth')
        again = train(
            model, folder / f'{kind}_resumed', 1, resume=True, load_from=first, **ranks
        )
        results[f'{kind} resumed'] = found(again)
    torch.save(results, folder / f'rank{rank}.pth')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
    leave_processes()
