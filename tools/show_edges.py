#!/usr/bin/env python
"""Draw the edge distributions of student and teacher on a picture.

    python tools/show_edges.py configs/ld/ld_gfl_r50_gfl_r101_1x_coco.py \
        work_dirs/ld_gfl_r50_gfl_r101_1x_coco/epoch_12.pth picture.jpg
"""

import argparse

from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmkd.cli import one_sentence_errors
from mmkd.config import is_distilled
from mmkd.training import train_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='distillation config of a detector')
    parser.add_argument('checkpoint', help='checkpoint of its student')
    parser.add_argument('image', help='picture')
    parser.add_argument('--out', default='edges.png', help='file to write')
    parser.add_argument('--objects', type=int, default=3, help='how many objects')
    parser.add_argument('--at', default='bbox_head', help='path of the dense head')
    parser.add_argument('--device', default='cpu')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        cfg = train_config(args.config)
        if not is_distilled(cfg):
            raise ValueError(f'config {args.config!r} names no teacher')
        init_default_scope('mmdet')
        model = MODELS.build(cfg.model)
        load_checkpoint(model, args.checkpoint, map_location='cpu', strict=True)
        from mmkd.det.edge_picture import draw_edge_distributions, edge_distributions

        model.to(args.device)
        seen = edge_distributions(model, args.image, cfg, args.objects, args.at)
        print(f'written: {draw_edge_distributions(seen, args.out)}')


if __name__ == '__main__':
    main()
