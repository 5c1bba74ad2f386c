"""Structured knowledge distillation, holistic: a critic compares whole score maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch
from ..registry import MODELS
from .adversary import Adversary
from .base import DistillLoss, paired_levels
from .precision import HALF, check_same_shape
from .score_maps import resized, scored_alike

CRITIC = dict(type='mmkd.SelfAttentionCritic', condition_on_image=False)
# As usual for critics with a gradient penalty: no momentum.
OPTIMIZER = dict(type='Adam', betas=(0.0, 0.9))
GP_NORMS = ('l2', 'rms')
EPS = 1e-12  # under the root, whose derivative at 0 is not finite


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    mix: Tensor | None = None,
) -> Tensor:
    r"""How far the critic's slope is from 1 between real and fake samples.

    .. math::
        \frac{1}{N} \sum_n \big(\|\nabla_{x} D(x_n)\|_2 - 1\big)^2, \qquad
        x_n = u_n r_n + (1 - u_n) f_n

    with one uniformly random :math:`u_n` per sample. Not weighted; differentiable
    with regard to the critic's parameters. Computed with autocast off.

    Reference:
        Gulrajani et al., Improved Training of Wasserstein GANs, NIPS 2017,
        https://arxiv.org/abs/1704.00028

    Args:
        critic: Function of a batch to scores, one or several per sample (then they
            are summed).
        real: Samples, shape (N, ...).
        fake: Samples of the same shape.
        mix: The :math:`u_n`, shape (N,); drawn from [0, 1) if not given.

    Returns:
        Scalar tensor, in at least float32. Zero for an empty batch.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> real, fake = torch.ones(2, 3), torch.zeros(2, 3)
        >>> gradient_penalty(lambda x: 2 * x[:, 0], real, fake)  # slope 2 everywhere
        tensor(1.)
    """
    check_same_shape(fake, real)
    if mix is None:
        mix = torch.rand(len(real), device=real.device, dtype=real.dtype)
    elif tuple(mix.shape) != (len(real),):
        raise ValueError(
            f'mix must have shape {(len(real),)} but has {tuple(mix.shape)}'
        )
    real, fake, mix = (x.float() if x.dtype in HALF else x for x in (real, fake, mix))
    share = mix.view(-1, *[1] * (real.dim() - 1))
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
        mixed = share * real + (1 - share) * fake
        if not mixed.requires_grad:
            mixed.requires_grad_()
        scores = critic(mixed)
        (slope,) = torch.autograd.grad(scores.sum(), mixed, create_graph=True)
        norms = (slope.flatten(1).square().sum(1) + EPS).sqrt()
        return (norms - 1).square().sum() / max(len(real), 1)


class _Known(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None


@MODELS.register_module()
class HolisticLoss(DistillLoss):
    """A critic tells teacher from student by their score maps; the student objects.

    The value is the mean of -D(student) over the images, with the critic D as it was
    before this step. After it, in training, the critic takes ``critic_steps`` steps on
    D(student) - D(teacher) + ``gp_weight`` times :func:`gradient_penalty`
    (Wasserstein), with an optimizer of its own; neither the runner's optimizer nor DDP
    know of it. Its gradients are averaged over ranks; a critic with ``norm='batch'``
    normalises by the images of each process. It is stored with the distiller and
    resumes exactly. Padding is set to 0 in both maps. Where the teacher's map has
    another size it is resized to the student's; of several decode heads the last one
    counts.

    A step whose gradients are not finite is left out and reported; where the term or
    its gradient is not finite the student gets zero from it.

    Logged beside it: ``gap``, the mean of D(teacher) - D(student), ``penalty``, and
    ``skipped``, the number of steps left out so far.

    Reference:
        Liu et al., Structured Knowledge Distillation for Semantic Segmentation,
        CVPR 2019, https://arxiv.org/abs/1903.04197

    Args:
        at: Decode head of the student, or a module that yields logits per pixel.
        loss_weight: Factor of the term in the student's loss; the critic's own loss
            is not scaled.
        critic: Config of the critic, a module that maps (N, C, H, W) to one or
            several scores per image. ``in_channels`` is added when the model is built.
            With an attribute ``condition_on_image`` that is true it gets the image,
            resized, and the probabilities; else the logits.
        gp_weight: Factor of the gradient penalty; must be >= 0.
        critic_lr: Initial learning rate of the critic; decays as (1 - t)^0.9 over the
            run.
        critic_steps: Steps of the critic per iteration.
        gp_norm: In what the penalty measures slopes. ``'l2'``: the norm of the whole
            map, as published. Teacher and student are far apart in it, the farther the
            larger the map, and the critic outweighs the penalty. ``'rms'``: the root
            mean square over the map's values, in which maps of all sizes are equally
            far apart and the student's gradient does not grow with the map.
        critic_optimizer: Config of its optimizer without ``lr``; Adam with betas
            (0, 0.9) if not given.
        teacher_at: The same in the teacher; ``at`` if not given.

    Raises:
        ValueError: When the model is built: numbers of classes that differ, taps that
            yield no maps, or numbers out of range.

    Example:
        >>> critic = dict(type='mmkd.SelfAttentionCritic', channels=8, in_channels=2)
        >>> loss = HolisticLoss(critic=critic)
        >>> s = torch.randn(2, 2, 8, 12, requires_grad=True)
        >>> loss(s, torch.randn(2, 2, 8, 12)).shape, len(list(loss.parameters()))
        (torch.Size([]), 0)
    """

    reads = ('logits',)

    def __init__(
        self,
        at: str = 'decode_head',
        loss_weight: float = 0.1,
        critic: Mapping[str, Any] | None = None,
        gp_weight: float = 10.0,
        critic_lr: float = 4e-4,
        critic_steps: int = 1,
        gp_norm: str = 'l2',
        critic_optimizer: Mapping[str, Any] | None = None,
        teacher_at: str | None = None,
    ) -> None:
        super().__init__(at, loss_weight, teacher_at)
        if not (0 <= gp_weight < math.inf and 0 < critic_lr < math.inf):
            raise ValueError(
                'gp_weight must be >= 0 and critic_lr > 0, both finite, but they are '
                f'{gp_weight} and {critic_lr}'
            )
        if type(critic_steps) is not int or critic_steps < 1:
            raise ValueError(
                f'critic_steps must be an integer >= 1 but is {critic_steps!r}'
            )
        if gp_norm not in GP_NORMS:
            raise ValueError(f'gp_norm must be one of {GP_NORMS} but is {gp_norm!r}')
        self.gp_weight = gp_weight
        self.gp_norm = gp_norm
        self.critic_lr = critic_lr
        self.critic_steps = critic_steps
        self._optimizer_config = dict(critic_optimizer or OPTIMIZER)
        self._critic_config = dict(CRITIC if critic is None else critic)
        self.adversary: Adversary | None = None
        if 'in_channels' in self._critic_config:
            self._build(self._critic_config)

    def extra_repr(self) -> str:
        own = f'critic={self._critic_config}, gp_norm={self.gp_norm!r}'
        return f'{super().extra_repr()}, {own}'

    def prepare(self, student: Any, teacher: Any) -> None:
        self.class_names = getattr(teacher, 'class_names', None)
        if student is None or teacher is None:
            if self.adversary is None:
                raise ValueError(
                    'the classes cannot be counted by a dry run; give '
                    'critic=dict(type=..., in_channels=...)'
                )
            return
        pairs = scored_alike(student, teacher, self.at, self.teacher_at)
        widths = sorted({s.shape[1] for s, _ in pairs})
        if len(widths) > 1:
            raise ValueError(f'one critic cannot judge maps of {widths} channels')
        channels = widths[0] + self._image_channels(student)
        given = self._critic_config.get('in_channels', channels)
        if given != channels:
            raise ValueError(
                f'in_channels of the critic must be {channels}, the classes and the '
                f'image if it is conditioned on it, but is {given}'
            )
        if self.adversary is None:
            self._build(dict(self._critic_config, in_channels=channels))
            # A student that is given as a network may be on a GPU.
            self.critic.to(pairs[0][0].device)

    def _image_channels(self, student: Any) -> int:
        """Channels that the image adds to what the critic is given."""
        kind = self._critic_config['type']
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        default = getattr(kind, 'condition_on_image', False)
        if not self._critic_config.get('condition_on_image', default):
            return 0
        model = getattr(student, 'model', None)
        mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
        return 3 if mean is None else mean.numel()

    def _build(self, critic: Mapping[str, Any]) -> None:
        self.adversary = Adversary(critic, self._optimizer_config, self.critic_lr)

    @property
    def critic(self) -> Any:
        """The critic; it is no sub-module."""
        return self.adversary.critic  # type: ignore[union-attr]

    def distance(self, student: Any, teacher: Any, batch: Batch | None) -> Tensor:
        if self.adversary is None:
            raise RuntimeError(
                'the critic is made when the model is built; without one give '
                'critic=dict(type=..., in_channels=...)'
            )
        pairs = paired_levels(student, teacher)
        terms = [self._compare(s, resized(t, s), batch) for s, t in pairs]
        return sum(terms) / len(terms)  # type: ignore[return-value]

    def _compare(self, student: Tensor, teacher: Tensor, batch: Batch | None) -> Tensor:
        adversary: Any = self.adversary
        trains = self.training and torch.is_grad_enabled()
        if trains:
            adversary.begin()
        with torch.autocast(student.device.type, enabled=False):
            scores = student.to(adversary.dtype)
            logits = scores.detach().requires_grad_()
            fake = self._inputs(logits, batch)
            value = self._objection(scores, logits, fake)
            if trains:
                real = self._inputs(teacher.detach().to(scores), batch)
                self._train_critic(real, fake.detach(), batch)
        return value

    def _inputs(self, logits: Tensor, batch: Batch | None) -> Tensor:
        """What the critic is given: maps without padding, with the image if asked."""
        maps = logits
        if getattr(self.critic, 'condition_on_image', False):
            if batch is None:
                raise ValueError('a critic that is conditioned on the image needs it')
            image = F.interpolate(
                batch.inputs.to(maps), size=maps.shape[2:], mode='bilinear'
            )
            is_one = maps.shape[1] == 1  # the log odds of a foreground
            maps = torch.cat([image, maps.sigmoid() if is_one else maps.softmax(1)], 1)
        mask = batch.valid_mask(logits) if batch is not None else None
        return maps if mask is None else maps.masked_fill(~mask, 0)

    def _objection(self, scores: Tensor, logits: Tensor, fake: Tensor) -> Tensor:
        """Mean of -D with its gradient, by a critic that does not change by it.

        Args:
            scores: The student's logits, part of its graph.
            logits: The same as a leaf, of which ``fake`` was made.
            fake: What the critic is given.
        """
        if not len(scores):
            return scores.sum()
        self.critic.eval()
        value = -self.critic(fake).mean()
        # At once: the critic's weights change before the student's backward pass.
        # And in full precision: a gradient scaler multiplies only then.
        gradient = torch.zeros_like(logits)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, logits)
        value = value.detach()
        finite = value.isfinite() & gradient.isfinite().all()
        value, gradient = (torch.where(finite, x, 0) for x in (value, gradient))
        return _Known.apply(scores, value, gradient)

    def _train_critic(self, real: Tensor, fake: Tensor, batch: Batch | None) -> None:
        seen: dict[str, Tensor] = {}

        def loss(mix: Tensor) -> Tensor:
            gap = self.critic(real).mean() - self.critic(fake).mean()
            # Slopes per root mean square are those of maps that are that much smaller.
            size = real[0].numel() ** 0.5 if self.gp_norm == 'rms' else 1.0
            penalty = gradient_penalty(
                lambda x: self.critic(x * size), real / size, fake / size, mix
            )
            seen.update(gap=gap.detach(), penalty=penalty.detach())
            return self.gp_weight * penalty - gap

        adversary: Any = self.adversary
        for _ in range(self.critic_steps):
            adversary.train_step(loss, len(real))
        if batch is not None and seen:
            batch.logs.update(seen, skipped=seen['gap'].new_tensor(adversary.skipped))

    def _apply(self, fn: Any, recurse: bool = True) -> HolisticLoss:
        super()._apply(fn, recurse)
        if self.adversary is not None:
            self.adversary.apply(fn)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """State of critic and optimizer, for checkpoints."""
        return {} if self.adversary is None else self.adversary.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        if bool(state) != (self.adversary is not None):
            have = ('no critic', 'a critic')
            raise RuntimeError(
                f'the state has {have[bool(state)]} and the loss '
                f'{have[self.adversary is not None]}'
            )
        if self.adversary is not None:
            self.adversary.load_state(state)
