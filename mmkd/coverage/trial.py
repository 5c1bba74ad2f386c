"""Trains one stock config alone, then with every loss that could make sense for it."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import platform
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..config import distill_config
from ..problems import problems_of
from .families import Family
from .reduce import SIDE, SIDES, narrower, small_inputs
from .samples import detection_batch, segmentation_batch
from .terms import Term, terms_for, trunk_term

STEPS = 3


class Trial:
    """One family: its stock config, and what could be distilled of it.

    Args:
        family: The family.

    Attributes:
        result: What has been found so far, ready for json.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.result: dict[str, Any] = dict(
            family=family.name,
            config=family.config,
            model=list(family.model),
            versions=versions(),
        )
        self.side = SIDES.get(family.name, SIDE)

    def run(self) -> dict[str, Any]:
        """Do all of it.

        Returns:
            :attr:`result`: the stock traceback as ``stock`` where that does not
            train, else ``'trains'``; ``trunk`` and ``terms``: for each loss
            ``'works'``, ``'refused: <sentence>'`` or ``'fails: <traceback>'``.
        """
        started = time.monotonic()
        init_default_scope(self.family.library)
        MMLogger.get_instance('mmengine', log_level='ERROR')
        try:
            self.teacher = small_inputs(self.family.config, self.side)
            self.student, stock = self._stock()
        except Exception:
            self.result['stock'] = _traceback()
            return self.result
        self.result['stock'] = 'trains'
        self.keys = set(stock.state_dict())
        del stock
        with tempfile.TemporaryDirectory() as folder:
            self.teacher_file = Path(folder) / 'teacher.py'
            (_inside(self.teacher) or self.teacher).dump(self.teacher_file)
            trunk = trunk_term(self.student.model)
            self.result['at'] = trunk.at
            self.result['trunk'] = self._distil([trunk], STEPS)[trunk.label]
            self.result['terms'] = self._distil(terms_for(self.student.model), 1)
        self.result['seconds'] = round(time.monotonic() - started)
        return self.result

    def _stock(self) -> tuple[Config, nn.Module]:
        """Train the student alone: a narrow one, or the config as it is."""
        small = narrower(self.teacher)
        if small is not None:
            with contextlib.suppress(Exception):
                model = self._trained(small)
                self.result['reduced'] = True
                return small, model
        self.result['reduced'] = False
        return self.teacher, self._trained(self.teacher)

    def _trained(self, cfg: Config) -> nn.Module:
        model = self._built(cfg)
        self._train(model, cfg, STEPS)
        try:
            self._predict(model)
            self.result['predicts'] = True
        except Exception:
            # SSD's head of MMDetection 3.3 trains and cannot predict.
            self.result['predicts'] = f'no: {_traceback()}'
        return model

    def _built(self, cfg: Config) -> nn.Module:
        torch.manual_seed(0)  # some (LAD) depend on what their weights happen to be
        model: Any = MODELS.build(copy.deepcopy(cfg.model))
        model.init_weights()  # some of them have no values before
        return revert_sync_batchnorm(model)

    def _batch(self) -> dict[str, Any]:
        make = dict(mmdet=detection_batch, mmseg=segmentation_batch)
        return make[self.family.library](self.teacher, self.side)

    def _train(self, model: nn.Module, cfg: Config, steps: int) -> dict[str, Any]:
        """Some steps of the config's own optimizer; the logs of the last one."""
        options = copy.deepcopy(cfg.optim_wrapper)
        for key in ('loss_scale', 'dtype', 'accumulative_counts'):
            options.pop(key, None)
        options.update(type='OptimWrapper', clip_grad=dict(max_norm=1.0))
        options.optimizer.lr = 1e-4  # small: nothing is pretrained here
        wrapper = build_optim_wrapper(model, options)
        model.train()
        logs: dict[str, Any] = {}
        for step in range(steps):
            # Where the Runner leaves them, for losses that warm up (BoxInst, TOOD).
            MessageHub.get_current_instance().update_info('iter', step)
            MessageHub.get_current_instance().update_info('epoch', 0)
            logs = model.train_step(self._batch(), wrapper)  # type: ignore[operator]
            bad = [key for key, value in logs.items() if not _finite(value)]
            if bad:
                raise FloatingPointError(f'not finite in training: {bad}')
        return logs

    def _predict(self, model: nn.Module) -> None:
        model.eval()
        batch = self._batch()
        if isinstance(batch['inputs'], dict):
            batch = {key: value['sup'] for key, value in batch.items()}
        # Some detectors (guided anchoring) predict on one picture only.
        batch = {key: value[:1] for key, value in batch.items()}
        with torch.no_grad():
            found = model.test_step(batch)  # type: ignore[operator]
        if len(found) != len(batch['inputs']):
            raise ValueError(f'{len(found)} predictions for {len(batch["inputs"])}')

    def _distil(self, terms: Sequence[Term], steps: int) -> dict[str, str]:
        """Train with some losses at once; those that do not fit are left out.

        Args:
            terms: The losses.
            steps: Of training; a prediction follows if there are several.

        Returns:
            Label -> what came of it.
        """
        found: dict[str, str] = {}
        left = {f'loss_{index}_': term for index, term in enumerate(terms)}
        while left:
            try:
                model = self._built(self._distilled_config(left))
                break
            except Exception as error:
                problems = problems_of(error)
                if not problems or {p.where for p in problems} - left.keys():
                    # No fault of one of them.
                    trace = _traceback()
                    return {t.label: f'fails: {trace}' for t in terms} | found
                for problem in problems:
                    found[left.pop(problem.where).label] = _refusal(problem.error)
        if left:
            try:
                wrong = self._check(model, left, steps)
                found |= {t.label: wrong.get(n, 'works') for n, t in left.items()}
            except Exception:
                found |= {t.label: f'fails: {_traceback()}' for t in left.values()}
        return {term.label: found[term.label] for term in terms}

    def _distilled_config(self, terms: Mapping[str, Term]) -> Config:
        """The public way: the stock config, the name of a teacher's, and losses."""
        teacher = dict(
            config=str(self.teacher_file), checkpoint=None, allow_random=True
        )
        losses = {name: term.loss for name, term in terms.items()}
        inside = _inside(self.student)
        if inside is None:
            return distill_config(self.student, teacher, losses)
        # Semi-supervised: the detector inside is distilled.
        cfg = copy.deepcopy(self.student)
        cfg.model.detector = distill_config(inside, teacher, losses).model
        return cfg

    def _check(
        self, model: nn.Module, terms: Mapping[str, Term], steps: int
    ) -> dict[str, str]:
        """Whether the terms train the student, and nothing else changed.

        Returns:
            Log name -> what is wrong with the term.

        Raises:
            Exception: Whatever training or prediction raise.
        """
        self._train(model, self.student, steps)
        # After training, in which DDQ gives its decoder the head's branches.
        if set(model.state_dict()) != self.keys:
            raise AssertionError('the state_dict is not the stock one')
        model.train()
        data = model.data_preprocessor(self._batch(), True)  # type: ignore[operator]
        losses = model(**data, mode='loss')
        weights = [
            p
            for name, p in model.named_parameters()
            if p.requires_grad and 'distiller.' not in name
        ]
        wrong = {}
        for name in terms:
            # A semi-supervised detector puts the name of the branch before it.
            (value,) = [losses[key] for key in losses if key.endswith(name)]
            if not (math.isfinite(value) and value > 0):
                wrong[name] = f'fails: the term is {value.item()}'
                continue
            model.zero_grad()
            value.backward(retain_graph=True)  # not .grad(): it bars checkpointing
            if not any(w.grad is not None and w.grad.any() for w in weights):
                wrong[name] = 'fails: no gradient reaches the student'
        if steps > 1 and self.result['predicts'] is True:
            self._predict(model)
        return wrong


def _inside(cfg: Config) -> Config | None:
    """The config of a semi-supervised model's own detector."""
    if 'detector' not in cfg.model:
        return None
    cfg = copy.deepcopy(cfg)
    cfg.model = cfg.model.detector
    return cfg


def _refusal(error: BaseException) -> str:
    if not _is_ours(error.__cause__ or error):
        trace = ''.join(traceback.format_exception(error))
        return f'fails: {portable(trace)}'
    return 'refused: ' + re.sub(r'^loss_\d+_: ', '', ' '.join(str(error).split()))


def _finite(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or bool(torch.isfinite(value).all())


def _is_ours(error: BaseException) -> bool:
    """Whether it is a sentence for users of this package, not from below it."""
    if not isinstance(error, (ValueError, TypeError)):
        return False
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{Path(__file__).parents[1]}' in frame.filename


def _traceback() -> str:
    return portable(traceback.format_exc())


def portable(trace: str) -> str:
    """The end of a traceback without the folders of the machine it was made on.

    Example:
        >>> portable('File "/home/me/lib/site-packages/mmdet/x.py", line 1')
        'File "mmdet/x.py", line 1'
    """
    return re.sub(r'"/[^"]*/(?:site-packages/|(?=mmkd/))', '"', trace.strip())[-2000:]


def versions() -> str:
    """Of Python and what the trials meet."""
    names = 'torch mmengine mmcv-lite mmdet mmsegmentation mmpretrain transformers timm'
    found = [f'Python {platform.python_version()}']
    for name in names.split():
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return ', '.join(found)


def quietly(family: Family) -> dict[str, Any]:
    """Run a trial without the host libraries' warnings and logs."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        logging.disable(logging.WARNING)
        return Trial(family).run()
