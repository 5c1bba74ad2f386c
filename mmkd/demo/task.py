"""The demos: the same digits to be detected, segmented, and drawn from edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import gan_picture, picture, segmentation_picture
from .runs import ALONE, DISTILLED, TEACHER


@dataclass(frozen=True)
class DemoTask:
    """What one demo trains, and how it is judged and shown.

    Args:
        name: Of its files.
        command: What runs it over seeds.
        configs: Name of a run -> its config.
        metrics: Name in the table -> key in the log; the first one is the score.
        digits: Digits behind the point.
        explained: What the score is.
        chosen: How the terms were chosen.
        draw: Function of the runs by name, the data set and the file to write.
    """

    name: str
    command: str
    configs: Mapping[str, str] = field(hash=False)
    metrics: Mapping[str, str] = field(hash=False)
    digits: int
    explained: str
    chosen: str
    draw: Callable[[Mapping[str, Any], Path, Path], Path]

    @property
    def score(self) -> str:
        """Name of the score."""
        return next(iter(self.metrics))


DETECTION = DemoTask(
    name='demo',
    command='make demo-seeds',
    configs={
        TEACHER: 'mmkd::demo/gfl_r18-w48_fpn_digits.py',
        ALONE: 'mmkd::demo/gfl_r18-w8_fpn_digits.py',
        DISTILLED: 'mmkd::demo/hint-cwd_gfl_r18-w8_gfl_r18-w48_digits.py',
    },
    metrics={'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50'},
    digits=3,
    explained="AP is COCO's",
    chosen='The weights of the distillation\nterms were tuned once since, with another '
    'seed but on these validation pictures: see\n`configs/demo/README.md`.',
    draw=picture.draw_demo,
)
SEGMENTATION = DemoTask(
    name='demo_seg',
    command='make demo-seg-seeds',
    configs={
        TEACHER: 'mmkd::demo/fpn_r18-w24_digits.py',
        ALONE: 'mmkd::demo/fpn_r18-w8_digits.py',
        DISTILLED: 'mmkd::demo/skds_fpn_r18-w8_fpn_r18-w24_digits.py',
    },
    metrics={'mIoU': 'mIoU', 'mAcc': 'mAcc'},
    digits=2,
    explained='mIoU (percent, background included) is',
    chosen='The pixel-wise\nterm was tuned once, with another seed but on these '
    'validation pictures: see\n`configs/demo/README.md`.',
    draw=segmentation_picture.draw_segmentation_demo,
)
GAN = DemoTask(
    name='demo_gan',
    command='make demo-gan-seeds',
    configs={
        TEACHER: 'mmkd::demo/pix2pix_mobile-resnet-w24_digits.py',
        ALONE: 'mmkd::demo/pix2pix_mobile-resnet-w8_digits.py',
        DISTILLED: 'mmkd::demo/gan-compression_mobile-resnet-w8_digits.py',
    },
    metrics={'SSIM': 'pictures/ssim', 'PSNR': 'pictures/psnr'},
    digits=3,
    explained='SSIM and PSNR (in decibels) are of what is made of edges, against the '
    'pictures\nthat they are of,',
    chosen='The weights of the\nterms are those of the paper; with what the student '
    'begins was chosen once since, with\nanother seed but on these validation '
    'pictures: see `configs/demo/README.md`.',
    draw=gan_picture.draw_gan_demo,
)
TASKS = {task.name: task for task in (DETECTION, SEGMENTATION, GAN)}
