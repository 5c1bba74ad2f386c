"""MobileBERT: a thin text encoder learns from a BERT, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log

from ..extended import Extended, build_stock
from ..registry import MODELS
from ..rng import preserved_rng
from .bert import BertModel
from .judging import judge
from .transfer import COPIED, Transfer


@MODELS.register_module()
class MobileBertTransfer(Extended):
    """A thin text encoder that learns from a BERT, layer by layer.

    Building it gives an instance of a subclass of *the student's own class*: its
    ``state_dict()`` is the student's, with the keys that a detector's
    ``language_model`` has. The head for masked words, and the teacher, are not in it.

    Reference:
        Sun et al., MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited
        Devices, ACL 2020, https://arxiv.org/abs/2004.02984

    Args:
        student: Config of a text encoder, such as
            :class:`~mmkd.text.mobilebert.MobileBertModel`, or the encoder: as many
            layers, heads and features as the teacher.
        teacher: A folder or name of the hub, or ``dict(config=..., checkpoint=...)`` of
            a detector; see :func:`~mmkd.text.text_teacher.build_text_teacher`. Without
            one masked words are guessed alone, as IB-BERT is trained: the encoder can
            have any structure, and its dropout is on.
        schedule: ``'progressive'``, one layer after the other; ``'joint'``, all layers
            at once; ``'auxiliary'``, all beside the masked language model.
        transfer_iters: Iterations of the layers, after which only words are guessed;
            ``None`` for all of the training.
        weights: Factors of the terms, in place of the paper's:
            ``dict(feature_map=100, mean=5000, variance=5, attention=1)``.
        soft_targets: Share of the teacher, beside the words themselves, in what masked
            words are guessed.
        copy: What the student is given of the teacher's, each where all of its weights
            have the same shapes.
        data_preprocessor: Used where the student's config has none.

    Attributes:
        transfer: The :class:`~mmkd.text.transfer.Transfer`.

    Raises:
        ValueError: For whatever does not fit, when the model is built.
        TypeError: For arguments of a wrong type.
    """

    added = 'transfer'
    transfer: Transfer

    def __new__(
        cls,
        student: Any,
        teacher: Any = None,
        data_preprocessor: Any = None,
        **kwargs: Any,
    ) -> MobileBertTransfer:
        model: Any = build_stock(student, 'student', data_preprocessor)
        if isinstance(model, MobileBertTransfer) or not isinstance(model, BertModel):
            raise ValueError(
                'student must be a text encoder of mmkd, such as mmkd.MobileBertModel, '
                f'but is a {type(model).__name__}'
            )
        return cls.extend(model)

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        schedule: str = 'progressive',
        transfer_iters: int | None = None,
        weights: Mapping[str, float] | None = None,
        soft_targets: float = 0.5,
        copy: Sequence[str] = COPIED,
        data_preprocessor: Any = None,
    ) -> None:
        # The student's __init__ has run in __new__.
        with preserved_rng():
            told = (schedule, transfer_iters, weights, soft_targets, copy)
            self.add(Transfer(self, teacher, *told))  # type: ignore[arg-type]
        copied = ', '.join(self.transfer.copied) or 'nothing'
        own = self.transfer.teacher
        source = f'from {own.source}; copied from it: {copied}' if own else 'from words'
        print_log(f'mmkd: a text encoder learns {source}', logger='current')

    def train(self, mode: bool = True) -> MobileBertTransfer:
        """As usual; with a teacher the student's dropout stays off, as the authors'."""
        super().train(mode)
        if self.transfer.teacher is not None:
            self.encoder.model.eval()  # type: ignore[union-attr]
        return self

    def val_step(self, data: Any) -> list[dict[str, Any]]:
        """How near the student is to the teacher, for ``mmkd.TransferMetric``.

        Args:
            data: A batch with ``captions``.
        """
        data = self.data_preprocessor(data, False)  # type: ignore[operator]
        tokens = self.tokens_of(data['captions'])  # type: ignore[operator]
        return judge(self, self.transfer, tokens)  # type: ignore[arg-type]

    test_step = val_step

    def training_step(self, run: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The terms of the layers, and of masked words, that the stage has."""
        tokens = kwargs.get('captions', args[0] if args else None)
        return self.transfer.step(self, tokens)  # type: ignore[arg-type]
