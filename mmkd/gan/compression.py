"""GAN Compression: a small generator that learns from a large one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from ..losses.gan import discriminator_loss, generator_loss
from ..registry import MODELS
from ..taps import Tap, record, resolve
from ..teacher_loading import load_strictly
from .inherit import inherit as inherit_channels
from .layers import init_normal
from .supernet import SlicedConv
from .teacher import build_gan_teacher
from .translation import (
    Losses,
    TranslationModel,
    apart,
    build,
    check_factors,
    check_judge,
    frozen,
    unwrapped,
)

INHERITED = ('generator', 'discriminator')


class Adapters(nn.Module):
    """A 1x1 convolution for each tapped map, to the teacher's channels.

    Args:
        pairs: Channels of student and teacher, map by map.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        # Of the leading channels, if a supernet has narrower ones.
        self.convs = nn.ModuleList(SlicedConv(*pair, 1) for pair in pairs)
        init_normal(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps with the teacher's channels."""
        return [conv(x) for conv, x in zip(self.convs, maps)]


@MODELS.register_module()
class GANCompression(TranslationModel):
    """A generator that learns from a larger one, and from a discriminator.

    Its loss is ``lambda_gan`` times the discriminator's say, ``lambda_recon`` times the
    mean absolute difference from the real picture (``paired``) or from the teacher's,
    and ``lambda_distill`` times the sum of the squared differences of the tapped maps,
    the student's each behind a 1x1 convolution that learns with it. A supernet trains
    another sub-network in every step.

    Reference:
        Li et al., GAN Compression: Efficient Architectures for Interactive
        Conditional GANs, CVPR 2020, https://arxiv.org/abs/2003.08936

    Args:
        generator: Config of the student.
        teacher: See :func:`~mmkd.gan.teacher.build_gan_teacher`.
        discriminator: Its config; by default the teacher's, or a
            ``mmkd.PatchDiscriminator``.
        paired: Whether pictures come in pairs: then the discriminator sees both.
        gan_mode: ``'hinge'``, ``'lsgan'`` or ``'vanilla'``.
        lambda_gan: See above.
        lambda_recon: See above.
        lambda_distill: See above; 0 needs no taps.
        taps: Sub-modules whose outputs are compared, the same in both, or a dict of
            the student's path -> the teacher's; by default the trunk's input and what
            each third of the blocks yields.
        inherit: What starts as the teacher's: of ``'generator'`` (its largest
            channels, see :func:`~mmkd.gan.inherit.inherit`) and ``'discriminator'``.
        data_preprocessor: See :class:`~mmkd.gan.translation.TranslationModel`.
        init_cfg: See there.

    Attributes:
        teacher: The :class:`~mmkd.teacher.Teacher`; its weights are not the model's.
        adapters: The :class:`Adapters`.

    Raises:
        TypeError: If a network is neither a config nor a network.
        ValueError: If something does not fit, when the model is built.
    """

    def __init__(
        self,
        generator: Any,
        teacher: Any,
        discriminator: Any = None,
        paired: bool = True,
        gan_mode: str = 'hinge',
        lambda_gan: float = 1.0,
        lambda_recon: float = 100.0,
        lambda_distill: float = 1.0,
        taps: Sequence[str] | Mapping[str, str] | None = None,
        inherit: Sequence[str] = ('discriminator',),
        data_preprocessor: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(gan_mode, data_preprocessor, init_cfg)
        check_factors(
            lambda_gan=lambda_gan,
            lambda_recon=lambda_recon,
            lambda_distill=lambda_distill,
        )
        self.generator = build(generator, 'generator')
        self.teacher, judge = build_gan_teacher(teacher)
        self._check_pair()
        if not isinstance(inherit, (list, tuple)) or set(inherit) - set(INHERITED):
            raise ValueError(
                f'inherit must be a list of {INHERITED} but is {inherit!r}'
            )
        self.paired = paired
        is_wanted = 'discriminator' in inherit
        judge = judge if is_wanted else None
        self.discriminator = self._judge(discriminator, judge, is_wanted)
        if 'generator' in inherit:
            inherit_channels(self.generator, self.teacher.model)
        self.lambda_gan = lambda_gan
        self.lambda_recon = lambda_recon
        self.lambda_distill = lambda_distill
        self.taps = self._taps(taps) if lambda_distill else {}
        self.adapters = Adapters(self._widths()) if self.taps else None
        print_log(
            f'mmkd: a generator learns from {self.teacher.source}; compared are '
            f'{list(self.taps) or "no maps"}',
            logger='current',
        )

    def _check_pair(self) -> None:
        """Raise ``ValueError`` if the teacher is for other pictures."""
        teacher: Any = self.teacher.model
        for key in ('in_channels', 'out_channels'):
            own, theirs = getattr(self.generator, key), getattr(teacher, key, None)
            if theirs not in (None, own):
                raise ValueError(
                    f'generator.{key} must be {theirs}, as of the teacher, but is {own}'
                )

    def _judge(
        self, discriminator: Any, given: nn.Module | None, is_wanted: bool
    ) -> Any:
        """The discriminator, with the teacher's weights if it has some."""
        channels = self.generator.out_channels
        if self.paired:
            channels += self.generator.in_channels
        if discriminator is None and given is not None:
            discriminator = copy.deepcopy(given).requires_grad_(True).train()
            if discriminator.in_channels != channels:
                raise ValueError(
                    f'the discriminator of the teacher {self.teacher.source} must see '
                    f'{channels} channels but sees {discriminator.in_channels}: '
                    'paired=True for a teacher with pairs, or inherit=[]'
                )
            return discriminator
        # As the authors have them with and without pairs.
        default = dict(type='mmkd.PatchDiscriminator', ndf=128 if self.paired else 64)
        own = build(
            discriminator or {**default, 'in_channels': channels}, 'discriminator'
        )
        check_judge(own, channels, 'what it is shown')
        if is_wanted and given is None:
            print_log(
                f'mmkd: the teacher {self.teacher.source} has no discriminator: the '
                "student's begins with random weights",
                logger='current',
            )
        if given is not None:
            load_strictly(own, given.state_dict(), (), self.teacher.source)
        return own

    def _taps(self, given: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
        """Path in the student -> in the teacher."""
        teacher: Any = self.teacher.model
        if given is None:
            if not all(hasattr(g, 'taps') for g in (self.generator, teacher)):
                raise ValueError(
                    'taps must be given for generators that name none of their own'
                )
            own, theirs = self.generator.taps, teacher.taps
            if len(own) != len(theirs):
                raise ValueError(
                    f'taps must be given where a student of {len(own)} maps learns '
                    f"from a teacher of {len(theirs)}: student's path -> teacher's"
                )
            return dict(zip(own, theirs))
        if isinstance(given, str):
            raise TypeError(f'taps must be a list of paths but is {given!r}')
        pairs = given if isinstance(given, Mapping) else {path: path for path in given}
        paths = [*pairs, *pairs.values()]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise ValueError(
                'taps must be paths of sub-modules, one at least, or lambda_distill '
                f'must be 0, but taps are {given}'
            )
        for own, theirs in pairs.items():
            resolve(self.generator, own)
            resolve(teacher, theirs)
        return dict(pairs)

    def _widths(self) -> list[tuple[int, int]]:
        """Channels of every pair of maps, found by a pass of a small picture."""
        shapes = []
        for generator, paths in (
            (self.generator, self.taps.keys()),
            (self.teacher.model, self.taps.values()),
        ):
            x = torch.zeros(1, generator.in_channels, 32, 32)
            x = x.to(next(generator.parameters()))
            with torch.no_grad(), record(generator, dict.fromkeys(paths, Tap)) as taps:
                generator(x)
            shapes.append([taps[path].value.shape for path in paths])
        for path, own, theirs in zip(self.taps, *shapes):
            if own[2:] != theirs[2:]:
                raise ValueError(
                    f'taps must be maps of one size in both, but {path!r} has '
                    f"{tuple(own[2:])} and the teacher's {tuple(theirs[2:])} for a "
                    'picture of 32x32'
                )
        return [(own[1], theirs[1]) for own, theirs in zip(*shapes)]

    def steps(self, inputs: Mapping[str, Tensor], optimizers: Any) -> Losses:
        """The discriminator's step, and then the generator's."""
        source, target = inputs['source'], inputs['target']
        learner = optimizers['generator']
        fake, own, taught, theirs = self._pictures(source, learner)
        seen = (source,) if self.paired else ()
        with optimizers['discriminator'].optim_context(self.discriminator):
            made, real = (torch.cat((*seen, x.detach()), 1) for x in (fake, target))
            judged = dict(
                loss_discriminator=discriminator_loss(
                    self.discriminator(made), self.discriminator(real), self.gan_mode
                )
            )
        log = self._minimise(optimizers['discriminator'], judged)
        wanted = target if self.paired else taught
        with frozen(self.discriminator) as (judge,), learner.optim_context(self):
            scores = judge(torch.cat((*seen, fake), 1))
            losses: Losses = dict(
                loss_gan=self.lambda_gan * generator_loss(scores, self.gan_mode),
                loss_recon=self.lambda_recon * F.l1_loss(fake.float(), wanted.float()),
            )
            if self.adapters is not None:
                pairs = zip(self.adapters(own), theirs)
                distances = [F.mse_loss(s.float(), t.float()) for s, t in pairs]
                losses['loss_distill'] = self.lambda_distill * sum(distances)
        log.update(self._minimise(learner, losses))
        return dict(log, loss=sum(log[name] for name in losses))

    def _pictures(
        self, source: Tensor, learner: Any
    ) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
        """Picture and tapped maps of the student, and those of the teacher."""
        own = unwrapped(self.generator)
        with (
            learner.optim_context(self.generator),
            self._sub_network(),
            record(own, dict.fromkeys(self.taps, Tap)) as taps,
        ):
            fake = apart(self.generator(source))
        paths = self.taps.values()
        taught, maps = source, []
        if self.taps or not self.paired:  # or nobody asks it
            theirs: Any = self.teacher.model
            with (
                torch.no_grad(),
                learner.optim_context(theirs),
                record(theirs, dict.fromkeys(paths, Tap)) as seen,
            ):
                taught = theirs(source)
            maps = [seen[path].value for path in paths]
        return fake, [taps[path].value for path in self.taps], taught, maps

    def _apply(self, fn: Any, recurse: bool = True) -> GANCompression:
        super()._apply(fn, recurse)
        self.teacher.apply(fn)
        return self
