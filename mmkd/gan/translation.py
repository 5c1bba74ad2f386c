"""What models that make pictures of pictures have in common."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor, BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from ..losses.gan import check_mode
from ..quiet import quiet
from ..registry import MODELS
from ..rng import agreed_seed
from .supernet import SuperMobileResnetGenerator
from .wrapped import keep_keys

Losses = dict[str, Any]


@MODELS.register_module()
class PicturePreprocessor(BaseDataPreprocessor):
    """Pictures from -1 to 1, on the device of the weights.

    Args:
        kwargs: See MMEngine's ``BaseDataPreprocessor``.

    Example:
        >>> pictures = dict(source=[torch.tensor([[[0, 255]]], dtype=torch.uint8)])
        >>> PicturePreprocessor()(dict(inputs=pictures))['inputs']['source']
        tensor([[[[-1.,  1.]]]])
    """

    def forward(self, data: Any, training: bool = False) -> Any:
        """A batch, its pictures stacked.

        Args:
            data: ``inputs``: ``source`` and, where there is one, ``target``, each a
                list of pictures (C, H, W) from 0 to 255, or a stack of them.
            training: Not used.

        Raises:
            ValueError: If pictures of a batch have several shapes.
        """
        data = self.cast_data(data)
        inputs = {name: _scaled(given, name) for name, given in data['inputs'].items()}
        return {**data, 'inputs': inputs}


class TranslationModel(BaseModel):
    """A generator of pictures from pictures, with what it is trained against.

    A training step is one of each optimizer of an ``OptimWrapperDict``, that
    ``mmkd.GANOptimWrapperConstructor`` makes: ``generator``, and ``discriminator`` of
    all children whose names begin so.

    Args:
        gan_mode: ``'hinge'``, ``'lsgan'`` or ``'vanilla'``; see
            :func:`~mmkd.losses.gan.discriminator_loss`.
        data_preprocessor: Its config; by default :class:`PicturePreprocessor`.
        init_cfg: See MMEngine's ``BaseModule``.
    """

    generator: Any
    #: Whether a source and its target have to be pictures of the same thing.
    paired = True

    def __init__(
        self, gan_mode: str, data_preprocessor: Any = None, init_cfg: Any = None
    ) -> None:
        check_mode(gan_mode)
        preprocessor = data_preprocessor or dict(type='mmkd.PicturePreprocessor')
        super().__init__(preprocessor, init_cfg)
        self.gan_mode = gan_mode
        self.seed: int | None = None
        self.draws = 0
        keep_keys(self)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        data_samples: Any = None,
        mode: str = 'tensor',
    ) -> Any:
        """Pictures of pictures.

        Args:
            inputs: ``source`` (N, C, H, W).
            data_samples: Name -> what comes with each picture, handed on.
            mode: ``'tensor'`` for the pictures, ``'predict'`` for a dict of each.

        Returns:
            (N, C', H, W), or N dicts with ``source``, ``generated`` and, where it is
            known, ``target``, all from -1 to 1.

        Raises:
            ValueError: If the mode is another, or pictures have other numbers of
                channels than the generator.
        """
        self._check_channels(inputs)
        generated = self.generator(inputs['source'])
        if mode == 'tensor':
            return generated
        if mode != 'predict':
            raise ValueError(f"mode must be 'tensor' or 'predict' but is {mode!r}")
        maps = {**inputs, 'generated': generated.detach(), **(data_samples or {})}
        return [
            {name: values[i] for name, values in maps.items()}
            for i in range(len(generated))
        ]

    def train_step(self, data: Any, optim_wrapper: Any) -> Losses:
        """One step of the discriminators and one of the generators.

        Args:
            data: A batch.
            optim_wrapper: An ``OptimWrapperDict``.

        Returns:
            Log name -> value; ``loss`` is the sum of what the generators minimise.

        Raises:
            TypeError: If there is one optimizer alone.
            ValueError: If pictures have other numbers of channels than the generator,
                or are no pairs and should be.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict):
            raise TypeError(
                'a GAN needs an optimizer for the generator and one for the '
                "discriminator: optim_wrapper=dict(constructor='mmkd."
                "GANOptimWrapperConstructor', generator=..., discriminator=...)"
            )
        self._count(optim_wrapper)
        inputs = self.data_preprocessor(data, True)['inputs']
        if 'target' not in inputs:
            raise ValueError(
                f'inputs must have a source and a target but have {sorted(inputs)}'
            )
        self._check_channels(inputs)
        samples = data.get('data_samples') or {}
        if self.paired and not all(samples.get('paired', ())):
            raise ValueError(
                f'{type(self).__name__} needs pairs, as mmkd.PairedPictures has them; '
                'without pairs there are mmkd.CycleGAN and '
                'mmkd.GANCompression(paired=False)'
            )
        return self.steps(inputs, optim_wrapper)

    def steps(self, inputs: Mapping[str, Tensor], optimizers: Any) -> Losses:
        """The steps of a batch.

        Args:
            inputs: ``source`` and ``target``, from -1 to 1.
            optimizers: The ``OptimWrapperDict``.
        """
        raise NotImplementedError(f'{type(self).__name__} must define steps()')

    def rank_state(self) -> dict[str, Any]:
        """What this process has beside its weights, for ``DistillerStateHook``."""
        return dict(seed=self.seed, draws=self.draws)

    def set_rank_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`rank_state` gave."""
        self.seed, self.draws = state['seed'], state['draws']

    def _sub_network(self) -> Any:
        """Another one in every step, the same on all ranks, if it is a supernet."""
        generator = unwrapped(self.generator)
        if not isinstance(generator, SuperMobileResnetGenerator):
            return nullcontext()
        if self.seed is None:
            self.seed = agreed_seed(next(generator.parameters()).device)
        channels = generator.sample(self.seed, self.draws)
        self.draws += 1
        return generator.narrowed(channels)

    def _count(self, optimizers: OptimWrapperDict) -> None:
        """Tell each optimizer the length of the training: it accumulates by that."""
        hub = MessageHub.get_current_instance()
        done, all_of_it = (hub.get_info(name) for name in ('iter', 'max_iters'))
        for optimizer in optimizers.values():
            if all_of_it and optimizer._max_counts < 0:
                optimizer.initialize_count_status(self, done or 0, all_of_it)

    def _check_channels(self, inputs: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` if pictures do not fit the generator."""
        generator = unwrapped(self.generator)
        for side, key in (('source', 'in_channels'), ('target', 'out_channels')):
            expected = getattr(generator, key, None)
            if side not in inputs or expected is None:
                continue
            given = inputs[side].shape[1]
            if given != expected:
                raise ValueError(
                    f'{side} must have {expected} channels, as generator.{key} says, '
                    f'but has {given}'
                )

    def _minimise(self, optimizer: Any, losses: Losses) -> Losses:
        """Take a step with the sum of some losses; they without their graphs."""
        optimizer.update_params(sum(losses.values()))
        return {name: value.detach() for name, value in losses.items()}


def unwrapped(module: nn.Module) -> Any:
    """A module without what distributes it."""
    return module.module if is_model_wrapper(module) else module


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[list[Any]]:
    """Networks that judge but do not learn inside a ``with`` block.

    Args:
        modules: They; where they are distributed, what is distributed is handed out,
            which waits for no gradient.

    Yields:
        The networks.
    """
    networks = [unwrapped(module) for module in modules]
    parameters = [p for n in networks for p in n.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield networks
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@torch.compiler.disable
def apart(picture: Tensor) -> Tensor:
    """A picture as it is, where the graph of a compiled step ends.

    Two networks learn from it, each by a backward pass of its own: the first one would
    free the second one's part of a graph that they have in common.

    Args:
        picture: (N, C, H, W).
    """
    return picture


def check_factors(**factors: float) -> None:
    """Insist on factors of losses that losses can have.

    Args:
        factors: They, by the name of the argument.

    Raises:
        ValueError: If one is no number, negative or not finite.
    """
    for name, factor in factors.items():
        is_number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if not is_number or not 0 <= factor < math.inf:
            raise ValueError(f'{name} must be a number of at least 0 but is {factor!r}')


def check_judge(judge: Any, channels: int, seen: str) -> None:
    """Insist that a discriminator is for what it will be shown.

    Args:
        judge: The discriminator.
        channels: Of that.
        seen: What it is, for messages.

    Raises:
        ValueError: If it is for another number of channels.
    """
    given = getattr(judge, 'in_channels', channels)
    if given != channels:
        raise ValueError(
            f'discriminator.in_channels must be {channels}, of {seen}, but is {given}'
        )


def build(cfg: Any, what: str) -> Any:
    """A network from its config, its weights drawn, or the network as it is.

    A Runner draws no weights of it again: it may have been given a teacher's.

    Args:
        cfg: Either.
        what: What it is, for messages.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(cfg, (nn.Module, Mapping)):
        raise TypeError(
            f'{what} must be a config or a network but is a {type(cfg).__name__}'
        )
    network: Any = cfg if isinstance(cfg, nn.Module) else ROOT_MODELS.build(dict(cfg))
    if network is not cfg and not getattr(network, 'is_init', False):
        with quiet(logging.WARNING):  # MMEngine tells of every weight
            getattr(network, 'init_weights', lambda: None)()
    network.is_init = True
    return network


def _scaled(given: Tensor | Sequence[Tensor], name: str) -> Tensor:
    if not isinstance(given, Tensor):
        shapes = sorted({tuple(picture.shape) for picture in given})
        if len(shapes) > 1:
            raise ValueError(
                f'pictures of a batch must have one shape, but those of {name} have '
                f'{shapes}'
            )
        given = torch.stack(list(given))
    return given.float() / 127.5 - 1
