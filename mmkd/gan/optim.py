"""An optimizer for generators, and one for what judges them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

_NAMES = ('generator', 'discriminator')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GANOptimWrapperConstructor:
    """Two optimizers: children that are called ``discriminator...``, and all others.

    Args:
        optim_wrapper_cfg: ``generator`` and ``discriminator``, each a config of an
            optimizer wrapper; one of them may have a ``paramwise_cfg``.
        paramwise_cfg: Refused; it belongs into either.

    Raises:
        ValueError: If it is not those two, or a model has no discriminator.

    Example:
        >>> from torch.nn import Linear, ModuleDict
        >>> model = ModuleDict(dict(generator=Linear(1, 1), adapters=Linear(1, 1),
        ...                         discriminator=Linear(1, 1)))
        >>> each = dict(optimizer=dict(type='Adam', lr=2e-4))
        >>> made = GANOptimWrapperConstructor(dict(generator=each, discriminator=each))
        >>> {k: len(w.optimizer.param_groups[0]['params']) for k, w
        ...  in made(model).items()}
        {'generator': 4, 'discriminator': 2}
    """

    def __init__(
        self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Any = None
    ) -> None:
        told = {k: v for k, v in optim_wrapper_cfg.items() if k != 'type'}
        if set(told) != set(_NAMES) or paramwise_cfg:
            raise ValueError(
                'optim_wrapper of a GAN must have generator=dict(optimizer=...) and '
                f'discriminator=dict(optimizer=...), but has {sorted(told)}'
                f'{" and a paramwise_cfg" if paramwise_cfg else ""}'
            )
        self.told = told

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """The optimizers of a model."""
        whole: Any = model.module if is_model_wrapper(model) else model
        children: dict[str, dict[str, nn.Module]] = {name: {} for name in _NAMES}
        for name, child in whole.named_children():
            if next(child.parameters(), None) is not None:
                judges = name.startswith('discriminator')
                children[_NAMES[judges]][name] = child
        if not children['discriminator']:
            raise ValueError(
                f'a {type(whole).__name__} has no discriminator to train against: '
                'train a mmkd.Pix2Pix, a mmkd.CycleGAN or a mmkd.GANCompression'
            )
        return OptimWrapperDict(
            **{
                name: build_optim_wrapper(nn.ModuleDict(children[name]), dict(cfg))
                for name, cfg in self.told.items()
            }
        )
