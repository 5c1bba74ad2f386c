"""A teacher beside a text encoder: what is compared, when, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from ..losses import (
    attention_transfer,
    feature_map_transfer,
    mean_transfer,
    variance_transfer,
)
from ..losses.masked_lm import masked_lm_distillation
from ..resume_check import ResumeCheck
from ..rng import agreed_seed
from .bert import BertModel
from .encoder import TextEncoder
from .masked_lm import MaskedLMHead, hide_words
from .masks import additive_mask
from .pair_check import check_pair, check_tokens
from .schedule import Schedule, Stage
from .scores import recorded_scores
from .text_teacher import build_text_teacher

#: The factors of the paper's code.
WEIGHTS = dict(feature_map=100.0, mean=5000.0, variance=5.0, attention=1.0)
#: Texts, or their tokens.
Tokens = Mapping[str, Tensor] | Sequence[str]
#: What a student can be given of its teacher's.
COPIED = ('embeddings', 'pooler', 'head')
_LAYER = re.compile(r'language_backbone\.body\.model\.encoder\.layer\.(\d+)\.')
_EMBEDDINGS = 'language_backbone.body.model.embeddings.'


class Transfer(nn.Module):
    """A teacher, what is compared with it, and when.

    Args:
        student: The student.
        teacher: See :func:`~mmkd.text.text_teacher.build_text_teacher`; ``None`` for a
            training of masked words alone.
        schedule: See :class:`~mmkd.text.schedule.Schedule`.
        transfer_iters: See there.
        weights: Term -> factor, in place of :data:`WEIGHTS`.
        soft_targets: Share of the teacher in what words are guessed.
        copy: Of :data:`COPIED`.

    Attributes:
        teacher: The :class:`~mmkd.teacher.Teacher`, or ``None``.
        head: What guesses masked words, ``None`` where none are guessed.
        copied: What the student was given of the teacher's.
        iteration: Of the training, set by ``mmkd.TransferHook``.
        max_iters: Of the training, set by it, too.

    Raises:
        ValueError: If student and teacher do not fit each other.
    """

    def __init__(
        self,
        student: BertModel,
        teacher: Any,
        schedule: str,
        transfer_iters: int | None,
        weights: Mapping[str, float] | None,
        soft_targets: float,
        copy: Sequence[str],
    ) -> None:
        super().__init__()
        own = student.encoder
        if teacher is None:
            if transfer_iters:
                raise ValueError(
                    'transfer_iters must be 0 or None without a teacher, of whose '
                    f'layers there are none to learn from, but is {transfer_iters}'
                )
            schedule, transfer_iters, soft_targets = 'joint', 0, 0.0
        if not 0 <= soft_targets <= 1:
            raise ValueError(f'soft_targets must be from 0 to 1 but is {soft_targets}')
        self.weights = {**WEIGHTS, **_checked(weights)}
        if isinstance(copy, str) or set(copy) - set(COPIED):
            raise ValueError(f'copy must be a list of {COPIED} but is {copy!r}')
        self.schedule = Schedule(schedule, len(own.layers), transfer_iters)
        self.soft_targets = soft_targets
        guesses = schedule == 'auxiliary' or transfer_iters is not None
        self.head = MaskedLMHead(own.model) if guesses else None
        self.teacher: Any = None
        self.copied: list[str] = []
        if teacher is not None:
            self.teacher = build_text_teacher(teacher, with_head=guesses)
            check_pair(student, self.teacher)
            if guesses and self.teacher.model.head is None and soft_targets:
                raise ValueError(
                    f'soft_targets must be 0, since the teacher {self.teacher.source} '
                    'has no head for masked words, or transfer_iters=None without '
                    "schedule='auxiliary', so that none are guessed"
                )
            self.copied = self._copy(own, copy)
        self.iteration: int | None = None
        self.max_iters = 0
        self.seed: int | None = None
        self.resume_check = ResumeCheck()
        self._are_tokens_checked = False

    def _copy(self, student: TextEncoder, wanted: Sequence[str]) -> list[str]:
        """Give the student what it can take of the teacher's."""
        theirs: Any = self.teacher.model.encoder.model
        pairs = [('embeddings', student.model.embeddings, theirs.embeddings)]
        if getattr(student.model, 'pooler', None) and getattr(theirs, 'pooler', None):
            pairs.append(('pooler', student.model.pooler, theirs.pooler))
        if self.head is not None and self.teacher.model.head is not None:
            pairs.append(('head', self.head, self.teacher.model.head))
        copied = []
        for name, to, source in (pair for pair in pairs if pair[0] in wanted):
            ours, state = to.state_dict(), source.state_dict()
            if {k: v.shape for k, v in ours.items()} == {
                k: v.shape for k, v in state.items()
            }:
                to.load_state_dict(state)
                copied.append(name)
                if isinstance(to, MaskedLMHead):
                    to.activation = source.activation
        return copied

    @property
    def stage(self) -> Stage:
        """What is done in this iteration."""
        if self.iteration is None:
            raise RuntimeError(
                "mmkd.MobileBertTransfer needs custom_hooks=[dict(type='mmkd."
                "TransferHook')], which tells it the iteration"
            )
        return self.schedule.at(self.iteration, self.max_iters)

    def part_of(self, parameter: str) -> str:
        """Which part of the student a parameter is in: all of a part learn alike.

        Embeddings that are not the teacher's learn as the first layer does.

        Args:
            parameter: Its name in the student.

        Returns:
            The number of its layer, or ``'rest'``.
        """
        found = _LAYER.match(parameter)
        if found:
            return found[1]
        is_new = parameter.startswith(_EMBEDDINGS) and 'embeddings' not in self.copied
        return '0' if is_new else 'rest'

    def rate_of(self, part: str, stage: Stage) -> float:
        """Factor of the learning rate of a part.

        Args:
            part: See :meth:`part_of`.
            stage: The stage.
        """
        return stage.rest if part == 'rest' else stage.rates[int(part)]

    def step(self, student: BertModel, tokens: Tokens) -> dict[str, Any]:
        """The losses of one step.

        Args:
            student: The student.
            tokens: ``input_ids`` and ``attention_mask``, each (B, T), or texts.
        """
        stage, tokens = self.stage, student.tokens_of(tokens)
        self.resume_check.first_step('the head for masked words', self._has_state)
        if not self._are_tokens_checked:
            check_tokens(tokens['input_ids'], student)
            self._are_tokens_checked = True
        words, guessed = dict(tokens), None
        if stage.masked_lm:
            if self.seed is None:
                self.seed = agreed_seed(tokens['input_ids'].device)
            words, guessed = hide_words(
                words,
                student.tokenizer,
                self.seed,
                self.iteration or 0,
                getattr(student, 'special_tokens', ()),
            )
        x = student.inputs_of(words)
        states, scores = self._run(student, x, stage)
        theirs, their_scores = self._run_teacher(x, stage)
        losses: dict[str, Any] = {}
        if stage.layers:
            terms = [
                self.compare((states[i + 1], s), (theirs[i + 1], t), x)
                for i, s, t in zip(stage.layers, scores, their_scores)
            ]
            share = _share(x['text_token_mask'].sum()) / self.schedule.layers
            for name, weight in self.weights.items():
                values = [term[name] for term in terms]
                losses[f'loss_{name}'] = sum(values) * (share * weight)
            losses['layers'] = states[0].new_tensor(float(stage.layers.stop))
        if guessed is not None:
            labels = tokens['input_ids'][guessed]
            hidden = states[-1][guessed]
            soft = theirs[-1][guessed] if self.soft_targets else None
            losses['loss_masked_lm'] = self._guess(student, hidden, soft, labels)
        return losses

    def compare(
        self,
        student: tuple[Tensor, Tensor],
        teacher: tuple[Tensor, Tensor],
        x: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """Every term of one layer, without its factor.

        Args:
            student: Output (B, T, C) and scores (B, H, T, T) of the layer.
            teacher: Those of the teacher's.
            x: What the encoders were given.
        """
        valid, seen = x['text_token_mask'], x['attention_mask']
        if seen.dim() == 3:
            seen = seen & valid[:, :, None] & valid[:, None]
        return dict(
            feature_map=feature_map_transfer(student[0], teacher[0], valid),
            mean=mean_transfer(student[0], teacher[0], valid),
            variance=variance_transfer(student[0], teacher[0], valid),
            attention=attention_transfer(student[1], teacher[1], seen),
        )

    def _run(
        self, student: BertModel, x: Mapping[str, Any], stage: Stage
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs of the embeddings and the layers, scores of those compared."""
        encoder = student.encoder
        is_still = not self.rate_of(self.part_of(_EMBEDDINGS), stage)
        with torch.no_grad() if is_still else nullcontext():
            states = [encoder.embed(x)]
        mask = additive_mask(x['attention_mask'], states[0].dtype)
        last = len(encoder.layers) if stage.masked_lm else stage.layers.stop
        compared = [encoder.layers[i] for i in stage.layers]
        with recorded_scores(compared) as scores:
            for i, layer in enumerate(encoder.layers[:last]):
                # New embeddings learn with the first layer.
                before = states[-1].detach() if stage.apart and i else states[-1]
                states.append(encoder.run_layer(layer, before, mask))
        return states, [one.read() for one in scores]

    @torch.no_grad()
    def _run_teacher(
        self, x: Mapping[str, Any], stage: Stage
    ) -> tuple[list[Tensor], list[Tensor]]:
        if stage.masked_lm and not stage.layers and not self.soft_targets:
            return [], []  # nobody asks it
        encoder = self.teacher.model.encoder
        last = None if stage.masked_lm else stage.layers.stop
        with recorded_scores([encoder.layers[i] for i in stage.layers]) as scores:
            states = encoder.hidden_states(x, last)
        return states, [one.read() for one in scores]

    def _guess(
        self, student: BertModel, hidden: Tensor, theirs: Tensor | None, labels: Tensor
    ) -> Tensor:
        logits, targets = self.logits(student, hidden), None
        if theirs is not None:
            teacher = self.teacher.model
            with torch.no_grad():
                words = teacher.encoder.model.embeddings.word_embeddings.weight
                targets = teacher.head(theirs, words)
        loss = masked_lm_distillation(logits, labels, targets, self.soft_targets)
        return loss * _share(hidden.new_tensor(float(len(labels))))

    def logits(self, student: BertModel, hidden: Tensor) -> Tensor:
        """Guesses of words, (N, V).

        Args:
            student: The student.
            hidden: Its outputs where the words are hidden, (N, C).
        """
        assert self.head is not None
        words = student.encoder.model.embeddings.word_embeddings.weight
        return self.head(hidden, words)

    def _has_state(self) -> bool:
        return self.head is not None

    def _apply(self, fn: Any, recurse: bool = True) -> Transfer:
        super()._apply(fn, recurse)
        if self.teacher is not None:
            self.teacher.apply(fn)
        return self


def _checked(weights: Any) -> dict[str, float]:
    """Factors of the terms that are no mistake."""
    if not isinstance(weights or {}, Mapping):
        raise TypeError(
            f'weights must be a dict of {sorted(WEIGHTS)} but is a '
            f'{type(weights).__name__}'
        )
    told = dict(weights or {})
    unknown = sorted(set(told) - set(WEIGHTS))
    if unknown:
        raise ValueError(f'weights must be of {sorted(WEIGHTS)}, not {unknown}')
    for name, weight in told.items():
        if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(
                f'{name} of weights must be a number from 0 on but is {weight!r}'
            )
    return told


def _share(count: Tensor) -> Tensor:
    """What a mean over this process's tokens counts for beside the others'.

    Averaged over processes as DDP does, means so weighted are the mean over all tokens.
    """
    if get_world_size() == 1:
        return count.new_ones((), dtype=torch.float32)
    mean = count.float().clone()
    all_reduce(mean, 'mean')
    return count.float() / mean.clamp(min=1e-6)
