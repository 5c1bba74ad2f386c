"""CycleGAN: pictures of one kind from those of another, without pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.gan import discriminator_loss, generator_loss
from ..registry import MODELS
from .pool import PicturePool
from .supernet import SuperMobileResnetGenerator
from .translation import Losses, TranslationModel, build, check_factors, frozen


@MODELS.register_module()
class CycleGAN(TranslationModel):
    """Two generators, there and back, that learn without pairs.

    What went there and back is to be what it was, and a picture of the kind that a
    generator makes is to stay as it is. ``generator`` makes targets of sources and
    ``discriminator`` judges targets; ``generator_back`` and ``discriminator_back``
    are for the way back.

    Reference:
        Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent
        Adversarial Networks, ICCV 2017, https://arxiv.org/abs/1703.10593

    Args:
        generator: Its config, such as ``dict(type='mmkd.ResnetGenerator')``.
        discriminator: Its config; by default a ``mmkd.PatchDiscriminator`` of 64
            channels.
        gan_mode: ``'hinge'``, ``'lsgan'`` or ``'vanilla'``.
        lambda_gan: Factor of the discriminators' say.
        lambda_cycle: Factor of the mean absolute difference after both ways.
        lambda_identity: Factor of the same for a picture of the kind that is made,
            relative to ``lambda_cycle``; 0 leaves it out, as pictures with other
            channels on the two sides need.
        pool_size: Made pictures that each discriminator is shown again later; 0 for
            none.
        data_preprocessor: See :class:`~mmkd.gan.translation.TranslationModel`.
        init_cfg: See there.

    Raises:
        TypeError: If a network is no config.
        ValueError: If there is no such ``gan_mode``, a factor is negative, or the
            identity is asked for of other channels.
    """

    paired = False

    def __init__(
        self,
        generator: Any,
        discriminator: Any = None,
        gan_mode: str = 'lsgan',
        lambda_gan: float = 1.0,
        lambda_cycle: float = 10.0,
        lambda_identity: float = 0.5,
        pool_size: int = 50,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(gan_mode, data_preprocessor, init_cfg)
        check_factors(
            lambda_gan=lambda_gan,
            lambda_cycle=lambda_cycle,
            lambda_identity=lambda_identity,
        )
        named = dict(generator=generator, discriminator=discriminator or {})
        for name, cfg in named.items():
            if not isinstance(cfg, Mapping):
                raise TypeError(
                    f'{name} must be a config, of which there and back are built, but '
                    f'is a {type(cfg).__name__}'
                )
        self.generator = build(generator, 'generator')
        if isinstance(self.generator, SuperMobileResnetGenerator):
            raise ValueError(
                'generator must be of one width, such as a mmkd.MobileResnetGenerator: '
                'supernets are trained by mmkd.GANCompression'
            )
        there, back = self.generator.in_channels, self.generator.out_channels
        other_way = dict(generator, in_channels=back, out_channels=there)
        self.generator_back = build(other_way, 'generator')
        if lambda_identity and there != back:
            raise ValueError(
                'lambda_identity must be 0 where source and target have other numbers '
                f'of channels, but is {lambda_identity}; they have {there} and {back}'
            )
        judge = discriminator or dict(type='mmkd.PatchDiscriminator', ndf=64)
        self.discriminator = build(dict(judge, in_channels=back), 'discriminator')
        self.discriminator_back = build(dict(judge, in_channels=there), 'discriminator')
        self.lambda_gan = lambda_gan
        self.lambda_cycle = lambda_cycle
        self.lambda_identity = lambda_identity
        self.pool = PicturePool(pool_size)
        self.pool_back = PicturePool(pool_size, 1)

    def steps(self, inputs: Mapping[str, Tensor], optimizers: Any) -> Losses:
        """The generators' step, and then the discriminators'."""
        source, target = inputs['source'], inputs['target']
        generators = optimizers['generator']
        judges = self.discriminator, self.discriminator_back
        with frozen(*judges) as (judge, judge_back), generators.optim_context(self):
            fake, fake_back = self.generator(source), self.generator_back(target)
            losses = dict(
                loss_gan=self._said(judge(fake)),
                loss_gan_back=self._said(judge_back(fake_back)),
                loss_cycle=self._kept(self.generator_back(fake), source),
                loss_cycle_back=self._kept(self.generator(fake_back), target),
            )
            if self.lambda_identity:
                same = self._kept(self.generator(target), target)
                same_back = self._kept(self.generator_back(source), source)
                losses['loss_identity'] = self.lambda_identity * same
                losses['loss_identity_back'] = self.lambda_identity * same_back
        log = self._minimise(generators, losses)
        total = sum(log.values())
        with torch.no_grad():
            shown, shown_back = self.pool(fake), self.pool_back(fake_back)
        with optimizers['discriminator'].optim_context(self):
            judged = dict(
                loss_discriminator=self._told(self.discriminator, shown, target),
                loss_discriminator_back=self._told(
                    self.discriminator_back, shown_back, source
                ),
            )
        log.update(self._minimise(optimizers['discriminator'], judged))
        return dict(log, loss=total)

    def rank_state(self) -> dict[str, Any]:
        """The pictures that were made before."""
        return dict(pool=self.pool.state(), pool_back=self.pool_back.state())

    def set_rank_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`rank_state` gave."""
        self.pool.set_state(state['pool'])
        self.pool_back.set_state(state['pool_back'])

    def _said(self, scores: Tensor) -> Tensor:
        return self.lambda_gan * generator_loss(scores, self.gan_mode)

    def _kept(self, picture: Tensor, wanted: Tensor) -> Tensor:
        return self.lambda_cycle * F.l1_loss(picture.float(), wanted)

    def _told(self, judge: Any, fake: Tensor, real: Tensor) -> Tensor:
        return discriminator_loss(judge(fake.detach()), judge(real), self.gan_mode)
