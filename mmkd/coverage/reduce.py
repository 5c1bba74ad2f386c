"""Stock configs without downloads and full-size inputs, and narrower ones."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..config import load_config
from .samples import NAMES, dicts

#: Sides of the pictures in pixels, where 128 do not suffice.
SIDES = {
    'mmdet/centripetalnet': 256,
    'mmdet/cornernet': 256,
    # Their decoders choose 900 of all locations.
    'mmdet/ddq': 256,
    'mmdet/dino': 256,
    'mmdet/grounding_dino': 256,
    'mmdet/mm_grounding_dino': 256,
    'mmdet/v3det': 256,
    'mmdet/legacy_1.x': 320,
    'mmdet/pisa': 320,
    'mmdet/ssd': 320,
    'mmdet/yolact': 256,
    'mmseg/mobilenet_v3': 416,  # its head pools 49 x 49 cells
}
SIDE = 128
#: Channels of a ResNet's stages with bottlenecks, and without.
_STAGES = {256: 64, 512: 128, 1024: 256, 2048: 512}
#: What costs time and does not depend on the size of the pictures: proposals,
#: sampled regions, and the widths of what is computed for each of them.
_FEWER = dict(nms_pre=200, max_per_img=100, num=64, fc_out_channels=128)
_BERT = 'bert-base-uncased'


def small_inputs(config: str, side: int) -> Config:
    """A stock config that downloads nothing and takes small pictures.

    Args:
        config: Name in the zoo.
        side: Of the pictures, in pixels.

    Returns:
        The config, its model otherwise unchanged.
    """
    cfg = load_config(config)
    cfg.pop('model_path', None)
    _without_downloads(cfg.model, side)
    for holder in (cfg, cfg.model):
        preprocessor = holder.get('data_preprocessor') or {}
        if preprocessor.get('type') == 'SegDataPreProcessor':
            preprocessor.update(size=(side, side), size_divisor=None)
    return cfg


def narrower(cfg: Config) -> Config | None:
    """The same model on ResNet-18, where that is a matter of its channels.

    Args:
        cfg: A stock config; not changed.

    Returns:
        The config, or ``None`` for other backbones.
    """
    cfg = copy.deepcopy(cfg)
    model: Any = cfg.model.get('detector') or cfg.model
    backbone: Any = model.get('backbone') or ConfigDict()
    plain = backbone.get('type') in ('ResNet', 'ResNetV1c', 'ResNetV1d')
    if not plain or backbone.get('depth') not in (50, 101) or backbone.get('plugins'):
        return None
    backbone.depth = 18
    for part in dicts({k: v for k, v in model.items() if k != 'backbone'}):
        for key in ('in_channels', 'c1_in_channels'):
            if key in part:
                part[key] = _mapped(part[key])
    return cfg


def _mapped(channels: Any) -> Any:
    if isinstance(channels, (list, tuple)):
        known = all(width in _STAGES for width in channels)
        return [_STAGES[width] for width in channels] if known else channels
    # 256 and 512 may be the widths of a neck.
    return _STAGES[channels] if channels in (1024, 2048) else channels


def _without_downloads(model: Any, side: int) -> None:
    for part in dicts(model):
        init = part.get('init_cfg') or {}
        if isinstance(init, dict) and 'checkpoint' in init:
            part['init_cfg'] = None
        for key in ('pretrained', 'teacher_ckpt', 'encoder_weights'):
            if isinstance(part.get(key), str):
                part[key] = None
        if part.get('batch_augments'):  # padding to the size of full pictures
            part['batch_augments'] = None
        if part.get('type') in ('BEiT', 'MAE'):  # their positions are of one size
            part['img_size'] = (side, side)
        if part.get('pretrained') is True:  # timm's
            part['pretrained'] = False
        if part.get('type') == 'TridentResNet':  # grows without what it is trained from
            part['norm_eval'] = False
        if part.get('type') == 'FeatureRelayHead':  # reads what is made narrower below
            part['in_channels'] = _FEWER['fc_out_channels']
        if part.get('num_cp'):  # memory, by fairscale, which PyPI has as source only
            part['num_cp'] = 0
        if part.get('type') == 'MMSyncBN':  # asks for a process group when it is built
            part['type'] = 'SyncBN'
        for key, most in _FEWER.items():
            if isinstance(part.get(key), int) and part[key] > most:
                part[key] = most
        for key, value in part.items():
            if value == _BERT:
                part[key] = tiny_bert()
        if isinstance(part.get('teacher_config'), str):
            name = part['teacher_config'].removeprefix('configs/')
            teacher = small_inputs(f'mmdet::{name}', side)
            part['teacher_config'] = ConfigDict(model=teacher.model)


@functools.cache
def tiny_bert() -> str:
    """Folder of a BERT of two layers with random weights and a few words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = Path(tempfile.mkdtemp(prefix='mmkd-bert-'))
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?']
    words += sorted({word for name in NAMES for word in name.split()})
    # The rows that stock code reads as special tokens must exist.
    words += [f'[unused{i}]' for i in range(2048)]
    (folder / 'vocab.txt').write_text('\n'.join(words))
    bert = BertConfig(
        vocab_size=len(words),
        hidden_size=768,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=256,
    )
    BertModel(bert).save_pretrained(folder)
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    return str(folder)
