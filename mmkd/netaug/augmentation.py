"""The wider networks around a network, and one training step with one of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..extended import ADDED
from ..nested import each
from ..recording import unrecorded
from ..resume_check import ResumeCheck
from ..rng import agreed_seed
from .arguments import check_scalars, factors_of
from .blocks import add_middles, blocks_of, note_norms_behind
from .extensions import ConvExtension, LinearExtension, NormExtension, replaced
from .layout import Layout
from .stream import add_stream, exercise

#: Of BatchNorms that have none, when they normalise by a batch.
_EPS = 1e-5


class Augmentation(nn.Module):
    """The extensions of a model's blocks, and the sub-networks that they allow.

    Args:
        model: The model; nothing of it is kept.
        expand: Factors of the middle channels, each >= 1.
        width: Factors of the channels between blocks, or ``None``.
        aug_weight: Factor of the sub-network's losses.
        shared_statistics: Whether the BatchNorms of the model see what the
            sub-networks compute, as in the authors' code.

    Attributes:
        layout: The channels that there are more of, block by block.
        extensions: Their weights, as sub-modules under the paths of those that they
            extend: rules of ``paramwise_cfg`` for a path mean both.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If a factor is out of range, or there is nothing to extend.
    """

    def __init__(
        self,
        model: nn.Module,
        expand: Sequence[float],
        width: Sequence[float] | None,
        aug_weight: float,
        shared_statistics: bool,
    ) -> None:
        super().__init__()
        self.expand = factors_of('expand', expand)
        self.width = None if width is None else factors_of('width', width)
        check_scalars(aug_weight, shared_statistics)
        _check_not_recomputed(model)
        self.aug_weight = aug_weight
        self.shared_statistics = shared_statistics
        self.layout = self._found(model)
        self.extensions = nn.Module()
        sizes = {name: group.largest for name, group in self.layout.groups.items()}
        for path, groups in self.layout.convs.items():
            conv: Any = model.get_submodule(path)
            largest = [None if name is None else sizes[name] for name in groups]
            is_linear = isinstance(conv, nn.Linear)
            kind: Any = LinearExtension if is_linear else ConvExtension
            _put(self.extensions, path, kind(conv, *largest))
        for path, name in self.layout.norms.items():
            norm = model.get_submodule(path)
            _put(self.extensions, path, NormExtension(norm, sizes[name]))
        if self.width is not None:
            self._check_readers(model)
        if not aug_weight:
            # Off means off: the optimizer and gradient clipping see nothing of it.
            self.requires_grad_(False)
        self.seed: int | None = None
        self.steps = 0
        self.resume_check = ResumeCheck()
        self._is_checked = False

    def _found(self, model: nn.Module) -> Layout:
        layout = Layout()
        backbone = model._modules.get('backbone')
        if backbone is None:
            raise ValueError(
                "NetAug extends the blocks of a model's backbone, but this one has "
                f'none: {", ".join(model._modules)}'
            )
        names = {module: path for path, module in model.named_modules()}
        with _as_in_training(model):
            blocks = blocks_of(model)
            add_middles(layout, blocks, self.expand, names)
            note_norms_behind(layout, blocks)
            if self.width is not None:
                add_stream(layout, model, blocks, self.width, names)
        if not layout.groups:
            reasons = '; '.join(f'{path}: {why}' for path, why in layout.left.items())
            raise ValueError(
                'NetAug must find a block to extend (of MobileNetV2, ResNet, '
                f'CSPDarknet or CSPNeXt), but {type(backbone).__name__} has none: '
                f'{reasons or "no block is of such a kind"}'
            )
        return layout

    def _check_readers(self, model: nn.Module) -> None:
        """Refuse a neck or a head that cannot read a wider backbone."""
        plain = exercise(model)
        largest = {g.name: max(g.factors) for g in self.layout.groups.values()}
        with self.widened(model, largest):
            failure = exercise(model)
        if failure != plain:
            raise ValueError(
                'width must be None where something else than a convolution, or a '
                'linear layer behind an average over positions, reads the maps of the '
                f'backbone, such as a concatenation: {failure}'
            )

    def sample(self) -> dict[str, float]:
        """Factor of every group of channels in this step: the same on all ranks.

        It follows from seed and step, so that no other draw disturbs it. In the second
        half of the training only the middle channels are more.
        """
        if self.seed is None:
            self.seed = agreed_seed(next(self.parameters()).device)
        generator = np.random.default_rng([self.seed, self.steps])
        groups = self.layout.groups.values()
        drawn = generator.random(len(groups))
        factors = {
            group.name: group.factors[int(share * len(group.factors))]
            for group, share in zip(groups, drawn)
        }
        if not self.is_widening:
            # Blocks have the names of their middle channels' groups.
            factors = {
                name: 1.0 if name in self.layout.stream else factor
                for name, factor in factors.items()
            }
        return factors

    @property
    def is_widening(self) -> bool:
        """Whether the channels between blocks are more, too, at this time."""
        hub = MessageHub.get_current_instance()
        done, all_of_it = hub.get_info('iter') or 0, hub.get_info('max_iters')
        return self.width is not None and not (all_of_it and 2 * done >= all_of_it)

    def step(
        self, model: nn.Module, run: Any, args: tuple, kwargs: dict
    ) -> dict[str, Any]:
        """The losses of the model, and those of a sub-network that contains it.

        Args:
            model: The model that this is a child of.
            run: Its stock function that returns its losses.
            args: Its arguments: inputs, data samples.
            kwargs: Its keyword arguments.

        Returns:
            Log name -> loss: the stock ones unchanged, and each with ``aug_`` before
            its name, times the weight.
        """
        if not self.aug_weight or not model.training:
            return run(*args, **kwargs)
        if not self._is_checked:  # what a Runner does to a model that is built
            _check_not_recomputed(model)
            self._is_checked = True
        self.resume_check.first_step('the weights that NetAug adds', lambda: True)
        # Heads change the samples that they are given, such as masks to tensors.
        again = [_fresh(value) for value in (args, kwargs)]
        losses = run(*args, **kwargs)
        for name, value in self._augmented(model, run, *again).items():
            if 'loss' in name:
                value = each(value, lambda x: x * self.aug_weight)
            losses[f'aug_{name}'] = value
        return losses

    # Compiled for every width anew it would take longer than it ever saves.
    @torch.compiler.disable
    def _augmented(
        self, model: nn.Module, run: Any, args: tuple, kwargs: dict
    ) -> dict[str, Any]:
        with self.widened(model, self.sample()), unrecorded():
            losses = run(*args, **kwargs)
        self.steps += 1
        return losses

    @contextmanager
    def widened(self, model: nn.Module, factors: Mapping[str, float]) -> Iterator[None]:
        """Make the model a wider one inside a ``with`` block.

        Args:
            model: The model that this is a child of.
            factors: Name of a group of channels -> factor; 1 where it is not named.
        """
        sizes = self.layout.sizes(factors)
        changes = self._copies(model)
        for path, groups in self.layout.convs.items():
            conv = model.get_submodule(path)
            extension: Any = self.extensions.get_submodule(path)
            ins, outs = (None if name is None else sizes[name] for name in groups)
            changes += extension.changes(conv, ins, outs)
        norms: dict[str, Any] = {
            path: model.get_submodule(path)
            for path in [*self.layout.norms, *self.layout.behind]
        }
        keeps = {path: self._keeps(norm) for path, norm in norms.items()}
        # Frozen statistics are of other maps.
        frozen = [norm for norm in norms.values() if isinstance(norm, _BatchNorm)]
        changes += [(vars(norm), 'training', True) for norm in frozen]
        # Which batches are not normalised with.
        changes += [(vars(n), 'eps', _EPS) for n in frozen if not n.eps]
        with ExitStack() as stack:
            stack.enter_context(replaced(changes))
            for path, name in self.layout.norms.items():
                extension = self.extensions.get_submodule(path)
                wider = extension.widened(norms[path], sizes[name], keeps[path])
                stack.enter_context(wider)
            yield

    def _keeps(self, module: nn.Module) -> bool:
        """Whether what a module counts is of both passes."""
        is_norm = isinstance(module, _NormBase)
        return self.shared_statistics and is_norm and module.training

    def _copies(self, model: nn.Module) -> list:
        """What a pass may change in the model: copies in the place of it."""
        changes: list = []
        for path, module in model.named_modules():
            if path.partition('.')[0] in ADDED or self._keeps(module):
                continue
            changes += [
                (module._buffers, name, buffer.clone())
                for name, buffer in module._buffers.items()
                if buffer is not None
            ]
            # Counters, lists that heads add to, and what they tune, as assigners.
            changes += [
                (vars(module), name, copy.copy(value))
                for name, value in vars(module).items()
                if type(value) in (int, float, list) or _is_of_a_host(value)
            ]
        return changes

    def get_extra_state(self) -> dict[str, Any]:
        """Where the sampling goes on, for checkpoints."""
        return dict(seed=self.seed, steps=self.steps)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.seed, self.steps = state['seed'], state['steps']

    def summary(self) -> str:
        """One line: the blocks, the factors and the weights."""
        count = sum(p.numel() for p in self.parameters())
        blocks = [name for name in self.layout.groups if name not in self.layout.stream]
        told = '' if self.width is None else f'what is between them by {self.width}, '
        left = '; '.join(f'{path}: {why}' for path, why in self.layout.left.items())
        return (
            f'{len(blocks)} blocks from {blocks[0]} to {blocks[-1]}, expanded by '
            f'{self.expand}, {told}{count:,} weights in training alone, weight '
            f'{self.aug_weight:g}; left as it is: {left or "no block"}'
        )


def _check_not_recomputed(model: nn.Module) -> None:
    """Refuse what computes with weights at other times than the pass itself."""
    for path, module in model.named_modules():
        # MMEngine's own replaces a module's method.
        code = getattr(vars(module).get('forward'), '__code__', None)
        is_replaced = 'activation_checkpointing' in getattr(code, 'co_filename', '')
        if getattr(module, 'with_cp', False) or is_replaced:
            raise ValueError(
                'with_cp must be False with NetAug, and activation_checkpointing None, '
                f'but {path!r} is checkpointed: it is computed again in the backward '
                'pass, where it is not wider any more'
            )
        if getattr(module, 'efficient_conv_bn_eval_forward', None) is not None:
            raise ValueError(
                'efficient_conv_bn_eval must be None with NetAug but is set for '
                f'{path!r}: it computes with the weights of a fixed width'
            )


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Let a backbone freeze what it freezes when training begins."""
    flags = [(module, module.training) for module in model.modules()]
    backbone = model._modules.get('backbone')
    if backbone is not None:
        backbone.train()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _is_of_a_host(value: Any) -> bool:
    """Whether it is an assigner, a sampler or the like of a host library."""
    host = type(value).__module__.partition('.')[0]
    is_network = isinstance(value, nn.Module)
    return host in ('mmdet', 'mmseg', 'mmpretrain') and not is_network


def _put(root: nn.Module, path: str, leaf: nn.Module) -> None:
    """Add a sub-module at a dotted path."""
    *above, name = path.split('.')
    for part in above:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    root.add_module(name, leaf)


def _fresh(value: Any) -> Any:
    """Containers of data samples anew, with the tensors that they hold."""
    if isinstance(value, BaseDataElement):
        twin = value.clone()
        for key, item in value.items():
            twin.set_field(_fresh(item), key, dtype=None)
        return twin
    if isinstance(value, Mapping):
        return {key: _fresh(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and not hasattr(value, '_fields'):
        return type(value)(map(_fresh, value))
    return value
