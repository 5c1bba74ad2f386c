"""Pix2pix: pictures from their pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.gan import discriminator_loss, generator_loss
from ..registry import MODELS
from .translation import (
    Losses,
    TranslationModel,
    apart,
    build,
    check_factors,
    check_judge,
    frozen,
)


@MODELS.register_module()
class Pix2Pix(TranslationModel):
    """A generator that learns from pairs of pictures.

    The discriminator sees a picture with what it was, or could have been, made of.

    Reference:
        Isola et al., Image-to-Image Translation with Conditional Adversarial
        Networks, CVPR 2017, https://arxiv.org/abs/1611.07004

    Args:
        generator: Its config, such as ``dict(type='mmkd.ResnetGenerator')``.
        discriminator: Its config; by default a ``mmkd.PatchDiscriminator`` of both
            pictures' channels.
        gan_mode: ``'hinge'``, ``'lsgan'`` or ``'vanilla'``.
        lambda_gan: Factor of the discriminator's say.
        lambda_recon: Factor of the mean absolute difference from the real picture.
        data_preprocessor: See :class:`~mmkd.gan.translation.TranslationModel`.
        init_cfg: See there.

    Raises:
        TypeError: If a network is neither a config nor a network.
        ValueError: If there is no such ``gan_mode``, or a factor is negative.
    """

    def __init__(
        self,
        generator: Any,
        discriminator: Any = None,
        gan_mode: str = 'hinge',
        lambda_gan: float = 1.0,
        lambda_recon: float = 100.0,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(gan_mode, data_preprocessor, init_cfg)
        check_factors(lambda_gan=lambda_gan, lambda_recon=lambda_recon)
        self.generator = build(generator, 'generator')
        channels = self.generator.in_channels + self.generator.out_channels
        default = dict(type='mmkd.PatchDiscriminator', in_channels=channels)
        self.discriminator = build(discriminator or default, 'discriminator')
        check_judge(self.discriminator, channels, 'source and target')
        self.lambda_gan = lambda_gan
        self.lambda_recon = lambda_recon

    def steps(self, inputs: Mapping[str, Tensor], optimizers: Any) -> Losses:
        """The discriminator's step, and then the generator's."""
        source, target = inputs['source'], inputs['target']
        learner = optimizers['generator']
        with learner.optim_context(self.generator), self._sub_network():
            fake = apart(self.generator(source))
        with optimizers['discriminator'].optim_context(self.discriminator):
            made, real = (torch.cat((source, x.detach()), 1) for x in (fake, target))
            judged = dict(
                loss_discriminator=discriminator_loss(
                    self.discriminator(made), self.discriminator(real), self.gan_mode
                )
            )
        log = self._minimise(optimizers['discriminator'], judged)
        with (
            frozen(self.discriminator) as (judge,),
            optimizers['generator'].optim_context(self.generator),
        ):
            scores = judge(torch.cat((source, fake), 1))
            losses = dict(
                loss_gan=self.lambda_gan * generator_loss(scores, self.gan_mode),
                loss_recon=self.lambda_recon * F.l1_loss(fake.float(), target),
            )
            log.update(self._minimise(optimizers['generator'], losses))
        return dict(log, loss=log['loss_gan'] + log['loss_recon'])
