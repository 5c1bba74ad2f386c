"""A critic and what trains it, beside the student's own training."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce_params, broadcast
from mmengine.logging import MessageHub, print_log
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..registry import MODELS
from ..rng import agreed_seed, image_generators, preserved_rng
from .precision import HALF

POWER = 0.9  # of the decay, the authors'
SKIPPED = (
    'mmkd: a step of the critic was left out because its gradients were not finite; '
    'the log value skipped counts such steps. If they go on, lower critic_lr or see '
    'whether the student itself diverges'
)


class Adversary:
    """A critic with an optimizer and a schedule of its own.

    No ``nn.Module`` on purpose: the critic stays out of the student's
    ``parameters()``, of DDP, and of the runner's optimizer and gradient scaler.

    Args:
        critic: Config of the network; it computes in at least float32.
        optimizer: Config of its optimizer without ``lr``.
        lr: Initial learning rate; decays polynomially to 0 over the iterations of the
            run, which a Runner makes known. Without one it is constant.

    Attributes:
        critic: The network.
        steps: Number of steps it was asked for.
        skipped: Number of those that were left out.

    Raises:
        TypeError: If the critic is no module.
    """

    def __init__(
        self,
        critic: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        lr: float,
    ) -> None:
        self._arguments = (critic, optimizer, lr)
        self.critic: Any = MODELS.build(copy.deepcopy(dict(critic)))
        if not isinstance(self.critic, nn.Module):
            name = type(self.critic).__name__
            raise TypeError(f'critic must be a module but is a {name}')
        self.lr = lr
        self.optimizer = OPTIMIZERS.build(
            dict(copy.deepcopy(dict(optimizer)), params=self.critic.parameters(), lr=lr)
        )
        self.steps = 0
        self.skipped = 0
        self.seed: int | None = None

    def apply(self, function: Any) -> None:
        """What ``nn.Module._apply`` does: follow a move or a cast of the student."""
        wanted = function(next(self.critic.parameters()).detach().new_zeros(1))
        # A gradient penalty in half precision is noise.
        dtype = self.dtype if wanted.dtype in HALF else wanted.dtype
        self.critic.to(wanted.device, dtype)
        # Loading casts and moves what the optimizer has gathered.
        self.optimizer.load_state_dict(self.optimizer.state_dict())

    @property
    def dtype(self) -> torch.dtype:
        """In which the critic computes."""
        return next(self.critic.parameters()).dtype

    def __reduce__(self) -> tuple:
        # Copied and pickled by what it is made of: torch's spectral norm cannot be.
        like = next(self.critic.parameters()).new_zeros(())
        return _restored, (self._arguments, like, self.state())

    def train_step(self, loss: Callable[[Tensor], Tensor], images: int) -> None:
        """One step of the critic; none, and a warning, if it is not finite.

        Ranks average their gradients, and so decide alike.

        Args:
            loss: Function of the interpolation weights of the gradient penalty, (N,);
                called only where there are images.
            images: Number N of images in this process.
        """
        parameters = list(self.critic.parameters())
        device = parameters[0].device
        self.critic.train()
        # One pass of the power iteration in a step, not one in every call.
        with torch.enable_grad(), parametrize.cached():
            gradients: Any = [None] * len(parameters)
            if images:  # a rank without any still takes part in the average
                value = loss(self._mix(images).to(device, self.dtype))
                gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        found = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, gradients)
        ]
        all_reduce_params(found, op='mean')
        self.steps += 1
        if not torch.stack([g.isfinite().all() for g in found]).all():
            self.skipped += 1
            if math.log10(self.skipped).is_integer():  # the 1st, the 10th, ...
                print_log(SKIPPED, logger='current', level=logging.WARNING)
            return
        for group in self.optimizer.param_groups:
            group['lr'] = self.lr * (1 - _progress()) ** POWER
        for p, g in zip(parameters, found):
            p.grad = g
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def begin(self) -> None:
        """Agree once on where to start; ranks may have been seeded differently."""
        if self.seed is not None:
            return
        self.seed = agreed_seed(next(self.critic.parameters()).device)
        for tensor in (*self.critic.parameters(), *self.critic.buffers()):
            broadcast(tensor.data)

    def _mix(self, images: int) -> Tensor:
        """Uniform numbers, (N,)."""
        generators = image_generators(self.seed or 0, self.steps, images)
        return torch.tensor([g.random() for g in generators], dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """All that has to be kept to go on as if nothing had happened."""
        return dict(
            critic=dict(self.critic.state_dict()),
            optimizer=self.optimizer.state_dict(),
            steps=self.steps,
            skipped=self.skipped,
            seed=self.seed,
        )

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave.

        Raises:
            RuntimeError: If it belongs to another critic.
        """
        self.critic.load_state_dict(state['critic'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.steps = state['steps']
        self.skipped = state['skipped']
        self.seed = state['seed']


def _restored(arguments: tuple, like: Tensor, state: Mapping[str, Any]) -> Adversary:
    with preserved_rng():
        adversary = Adversary(*arguments)
    adversary.critic.to(like)
    adversary.load_state(state)
    return adversary


def _progress() -> float:
    """Share of the run's iterations that are done; 0 where no Runner tells."""
    known = MessageHub.get_current_instance().runtime_info
    iteration, total = known.get('iter', 0), known.get('max_iters')
    return min(iteration / total, 1.0) if total else 0.0
