"""The channels between a network's blocks: of the stem, the stages, what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..dry_run import eval_mode, pictures, synthetic_samples
from ..nested import tensors_of
from ..taps import Tap, record
from .blocks import Block, Pair, is_plain, pairs_of
from .layout import Group, Layout, units


@dataclass
class _Stretch:
    """Channels from where they are yielded to where they are read.

    Args:
        name: Path of the module that yields them.
        pairs: The convolutions that yield or keep them, each with its normalisation.
        readers: The convolutions, or linear layers, that read them.
        ends: Modules whose output they are.
    """

    name: str
    pairs: list[Pair] = field(default_factory=list)
    readers: list[Any] = field(default_factory=list)
    ends: list[nn.Module] = field(default_factory=list)


class _Watch(Tap):
    """Keeps what a module was given and what it returned, the tensors themselves."""

    keeps_arguments = ('forward',)

    def kept(self, name: str, output: Any) -> Any:
        return output


def add_stream(
    layout: Layout,
    model: nn.Module,
    blocks: Sequence[Block],
    factors: tuple[float, ...],
    names: Mapping[nn.Module, str],
) -> None:
    """Note the channels of the stem, of what stages yield, and of what reads them.

    A block with a shortcut yields what it reads; every other one begins a stretch.

    Args:
        layout: Where.
        model: The model, with a backbone of MobileNetV2 or ResNet.
        blocks: Its blocks in order.
        factors: Of these channels.
        names: Module -> path.

    Raises:
        ValueError: If the backbone is of another kind, or a part of it is frozen.
    """
    backbone: Any = model.get_submodule('backbone')
    stem, tail = _ends(backbone, blocks)
    for block in blocks:
        if block.obstacle:
            raise ValueError(
                f'width must be None where a block cannot be wider: {block.path}, '
                f'{block.obstacle}'
            )
    stretches = _stretches(stem, blocks, tail, names)
    for stretch in stretches:
        for conv, _ in stretch.pairs:
            if not conv.weight.requires_grad:
                raise ValueError(
                    'width must be None where a part of the backbone is frozen, as '
                    f'{names[conv]} is; or set frozen_stages=-1'
                )
    for reader, index in _readers_outside(model, stretches, names):
        if getattr(reader, 'groups', 1) > 1:
            raise ValueError(
                'width must be None where a convolution of groups reads maps of the '
                f'backbone, as {names[reader]} does: its output would be wider, too'
            )
        stretches[index].readers.append(reader)
    for stretch in stretches:
        channels = stretch.pairs[-1][0].out_channels
        name = f'{stretch.name} (output)'
        group = Group(name, channels, units(stretch.pairs), factors)
        if group.largest == channels:
            continue
        layout.groups[name] = group
        layout.stream.add(name)
        for conv, norm in stretch.pairs:
            layout.put_conv(names[conv], name if conv.groups > 1 else None, name)
            if norm is not None:
                layout.norms[names[norm]] = name
        for conv in stretch.readers:
            layout.put_conv(names[conv], name, None)


def _stretches(
    stem: Pair, blocks: Sequence[Block], tail: Any, names: Mapping[nn.Module, str]
) -> list[_Stretch]:
    found = [_Stretch(names[stem[0]], [stem])]
    for block in blocks:
        # A depthwise convolution of what comes in, as in MobileNetV2's first block.
        found[-1].pairs += [p for p in block.pairs if p not in block.inner]
        found[-1].readers.append(block.inner[0][0])
        shortcut = _shortcut(block.module)
        if shortcut is None or shortcut:
            pairs = list(shortcut or ())
            found[-1].readers += [conv for conv, _ in pairs]
            found.append(_Stretch(block.path, pairs))
        found[-1].pairs.append(block.pairs[-1])
        found[-1].ends.append(block.module)
    if tail is not None:
        pairs = pairs_of([tail])
        found[-1].readers.append(pairs[0][0])
        found.append(_Stretch(names[tail], pairs, ends=[tail]))
    return found


def _ends(backbone: Any, blocks: Sequence[Block]) -> tuple[Pair, Any]:
    """The stem, and the module behind the blocks if there is one."""
    children = backbone._modules
    first, last = children.get('conv1'), children.get('conv2')
    stem = pairs_of([first]) if first is not None else []
    if is_plain(first):
        stem = [(first, getattr(backbone, 'norm1', None))]
    known = all(_shortcut(block.module) is not False for block in blocks)
    if len(stem) != 1 or not blocks or not known:
        raise ValueError(
            'width must be None but for backbones of MobileNetV2 and ResNet with one '
            f'convolution as their stem; {type(backbone).__name__} is another: expand '
            'the middle channels of its blocks alone'
        )
    return stem[0], last


def _shortcut(block: Any) -> Any:
    """What is added to a block's output: ``[]`` what came in, pairs that convolve it.

    ``None`` is nothing, ``False`` what is not known.
    """
    for name in ('with_res_shortcut', 'use_res_connect'):
        if hasattr(block, name):
            return [] if getattr(block, name) else None
    if not hasattr(block, 'downsample'):
        return False
    if block.downsample is None:
        return []
    rest = [m for m in block.downsample if not isinstance(m, nn.AvgPool2d)]
    return [tuple(rest)] if len(rest) == 2 and is_plain(rest[0]) else False


def _readers_outside(
    model: nn.Module, stretches: Sequence[_Stretch], names: Mapping[nn.Module, str]
) -> Iterator[tuple[Any, int]]:
    """What reads the maps that the backbone yields, each with its stretch.

    Convolutions, and linear layers that are given the means of the maps.
    """
    backbone = model.get_submodule('backbone')
    inside = set(backbone.modules())
    kinds = (nn.Conv2d, nn.Linear)
    readers = [m for m in names if isinstance(m, kinds) and m not in inside]
    ends = {end: i for i, stretch in enumerate(stretches) for end in stretch.ends}
    watched = {names[m]: _Watch for m in [backbone, *ends, *readers]}
    # Both without gradients: taps tell what is computed without from checkpointing.
    with torch.no_grad(), record(model, watched) as taps:
        exercise(model)

    def passed(module: nn.Module, part: str) -> list[Tensor]:
        calls = taps[names[module]].calls['forward']
        return tensors_of([getattr(call, part) for call in calls])

    made = [(tensor, i) for end, i in ends.items() for tensor in passed(end, 'output')]
    yielded = {id(tensor) for tensor in passed(backbone, 'output')}
    made = [(tensor, i) for tensor, i in made if id(tensor) in yielded]
    for reader in readers:
        for read in passed(reader, 'args'):
            for tensor, index in made:
                if read is tensor or (
                    isinstance(reader, nn.Linear) and _are_means(read, tensor)
                ):
                    yield reader, index


def _are_means(vectors: Tensor, maps: Tensor) -> bool:
    """Whether vectors, (N, C), are the means over the positions of maps."""
    if maps.dim() != 4 or vectors.shape != maps.shape[:2]:
        return False
    return torch.allclose(vectors, maps.mean((2, 3)), rtol=1e-3, atol=1e-6)


@torch.no_grad()
def exercise(model: Any) -> str:
    """Run all of a model that sees its backbone's maps on small pictures.

    Args:
        model: The model; in eval mode meanwhile.

    Returns:
        Why it could not; empty if it could.
    """
    inputs, samples = pictures(model, _SIDE), synthetic_samples((_SIDE, _SIDE))
    with eval_mode(model):
        try:
            model(inputs, samples, mode='tensor')
            # Those of segmentors run in training alone.
            heads: Any = model._modules.get('auxiliary_head') or []
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                head.forward(model.extract_feat(inputs))
        except Exception as error:
            return f'{type(error).__name__}: {error}'
    return ''


_SIDE = 128
