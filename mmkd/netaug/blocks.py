"""The channels in the middle of a network's blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layout import Group, Layout, channels_of, units

#: A convolution and the normalisation behind it.
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Block:
    """A block of a known kind.

    Args:
        path: Dotted path.
        module: The module.
        pairs: Its convolutions in order, each with its normalisation or ``None``.
    """

    path: str
    module: Any
    pairs: tuple[Pair, ...]

    @property
    def inner(self) -> tuple[Pair, ...]:
        """From the first dense convolution on, which yields the middle channels."""
        dense = [i for i, (conv, _) in enumerate(self.pairs) if conv.groups == 1]
        return self.pairs[dense[0] :]

    @property
    def obstacle(self) -> str | None:
        """Why nothing of it can be made wider; ``None`` if it can."""
        for conv, norm in self.pairs:
            if not is_plain(conv):
                return f'{type(conv).__name__} is no plain convolution'
            if not isinstance(norm, (_BatchNorm, nn.GroupNorm, type(None))):
                return f'{type(norm).__name__} is neither BatchNorm nor GroupNorm'
            if norm is not None and channels_of(norm) != conv.out_channels:
                return f'a {type(norm).__name__} is not behind its convolution'
        if unknown := self._unknown():
            return f'its {unknown} is not known'
        if self.pairs[-1][0].groups != 1:
            return 'its last convolution has groups'
        channels = self.inner[0][0].out_channels
        sizes = [conv.in_channels for conv, _ in self.inner[1:]]
        sizes += [conv.out_channels for conv, _ in self.inner[:-1]]
        if any(size != channels for size in sizes):
            return 'its middle has several widths'
        if self.module._modules.get('se') is not None:
            return 'its squeeze-and-excitation works on the middle channels'
        if getattr(self.module, 'with_plugins', False):
            return 'it has plugins'
        if any(not p.requires_grad for c, _ in self.pairs for p in c.parameters()):
            return 'it is frozen'
        return None

    def _unknown(self) -> str | None:
        """Name of a convolution or a normalisation beside those that are known."""
        known = {module for pair in self.pairs for module in pair}
        kinds = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
        for name, child in self.module._modules.items():
            if isinstance(child, kinds) and child not in known and name != 'downsample':
                return name
        return None


def blocks_of(model: nn.Module, within: str = 'backbone') -> list[Block]:
    """The blocks of a network that are of a known kind, in order.

    Those of MobileNetV2, ResNet, CSPDarknet and CSPNeXt, in MMDetection,
    MMSegmentation and MMPretrain, are known by how they are built, so that other
    networks made of them are found, too.

    Args:
        model: The model.
        within: Path of the part that is searched.
    """
    part = model.get_submodule(within)
    found = []
    for name, module in part.named_modules(prefix=within):
        pairs = [] if module is part else _chain(module)
        if pairs:
            found.append(Block(name, module, tuple(pairs)))
    return found


def add_middles(
    layout: Layout,
    blocks: Sequence[Block],
    factors: tuple[float, ...],
    names: dict[nn.Module, str],
) -> None:
    """Note the middle channels of blocks, which nothing outside of them sees.

    Args:
        layout: Where.
        blocks: The blocks.
        factors: Of these channels.
        names: Module -> path.
    """
    for block in blocks:
        reason = block.obstacle
        if not reason and len(block.inner) == 1:
            reason = 'no channels are inside of it alone'
        if reason:
            layout.left[block.path] = reason
            continue
        inner = block.inner
        channels = inner[0][0].out_channels
        group = Group(block.path, channels, units(inner[:-1]), factors)
        if group.largest == channels:
            layout.left[block.path] = f'no factor makes its {channels} channels more'
            continue
        layout.groups[group.name] = group
        for i, (conv, norm) in enumerate(inner):
            ins = group.name if i else None
            outs = group.name if i < len(inner) - 1 else None
            layout.put_conv(names[conv], ins, outs)
            if norm is not None and outs:
                layout.norms[names[norm]] = group.name
            elif norm is not None:
                layout.behind.append(names[norm])


def note_norms_behind(layout: Layout, blocks: Sequence[Block]) -> None:
    """Note the normalisations of all blocks behind the first that is extended.

    Args:
        layout: With the middle channels; where.
        blocks: The blocks in order.
    """
    extended = [i for i, block in enumerate(blocks) if block.path in layout.groups]
    for block in blocks[extended[0] + 1 :] if extended else ():
        for path, module in block.module.named_modules(prefix=block.path):
            known = path in layout.norms or path in layout.behind
            if isinstance(module, _BatchNorm) and not known:
                layout.behind.append(path)


def _chain(block: Any) -> list[Pair]:
    """Convolutions of a block in order, empty if it is of no known kind."""
    children = block._modules
    if {'depthwise_conv', 'linear_conv'} <= children.keys():  # MMDetection's
        names = ('expand_conv', 'depthwise_conv', 'linear_conv')
        return pairs_of([children[name] for name in names if name in children])
    if isinstance(children.get('conv'), nn.Sequential) and 'act' not in children:
        return pairs_of(children['conv'])  # MMSegmentation's and MMPretrain's
    if isinstance(children.get('conv1'), nn.Conv2d) and 'conv2' in children:  # ResNet's
        count = 3 if 'conv3' in children else 2
        return [
            (children[f'conv{i}'], getattr(block, f'norm{i}', None))
            for i in range(1, count + 1)
        ]
    numbered = [name for name in ('conv1', 'conv2', 'conv3') if name in children]
    # Of Darknet and CSPNeXt, of DDRNet and PIDNet.
    if len(numbered) > 1 and children.keys() - {'downsample', 'act'} == {*numbered}:
        return pairs_of([children[name] for name in numbered])
    return []


def pairs_of(modules: Sequence[Any] | nn.Sequential) -> list[Pair]:
    """What MMCV's convolution modules are made of; empty if one is something else."""
    found: list[Pair] = []
    for module in modules:
        parts = list(_parts(module))
        if not parts:
            return []
        found += parts
    return found


def _parts(module: Any) -> Iterator[Pair]:
    children = module._modules
    if {'depthwise_conv', 'pointwise_conv'} <= children.keys():
        yield from _parts(children['depthwise_conv'])
        yield from _parts(children['pointwise_conv'])
    elif 'conv' in children and getattr(module, 'order', None) == _ORDER:
        yield children['conv'], module.norm if module.with_norm else None


_ORDER = ('conv', 'norm', 'act')


def is_plain(conv: Any) -> bool:
    """Whether a module is a convolution of a weight and a bias, and nothing else."""
    # Others make something else of their weight, as those that standardise it.
    return (
        type(conv).__name__ in ('Conv2d', 'Conv2dAdaptivePadding')
        and isinstance(conv, nn.Conv2d)
        and conv._parameters.keys() == {'weight', 'bias'}
        and not conv._buffers
        and not hasattr(conv, 'parametrizations')
    )
