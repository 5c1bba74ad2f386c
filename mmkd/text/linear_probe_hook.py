"""What a linear classifier reads off a text encoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from ..registry import HOOKS
from .bert import BertModel

Texts = tuple[list[str], list[str]]


@HOOKS.register_module()
class LinearProbeHook(Hook):
    """Logs after every validation how well texts can be told apart by an encoder.

    The texts of two files are encoded, each as the mean of its embedded tokens, and a
    logistic regression learns from one file what it is asked in the other. The
    encoder does not learn from it. The share of right answers is logged as
    ``probe/accuracy``.

    Args:
        train: File with a text, a tab and its label in every line.
        val: Another, with labels of the first.
        batch_size: Texts that are encoded at once.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If scikit-learn is not installed.
        ValueError: If a line is none of a text and a label, all labels are one, or the
            model is no text encoder.

    Example:
        >>> from mmkd.text.linear_probe_hook import linear_probe
        >>> x, y = np.array([[0.0], [0.1], [1.0], [0.9]]), ['no', 'no', 'yes', 'yes']
        >>> linear_probe((x, y), (x[:3], ['no', 'yes', 'yes']))
        0.6666666666666666
    """

    # Before the log is written, and before an average of weights goes back.
    priority = 'ABOVE_NORMAL'

    def __init__(self, train: str, val: str, batch_size: int = 64) -> None:
        _logistic_regression()
        self.train, self.val = _labelled(train), _labelled(val)
        if len(set(self.train[1])) < 2:
            raise ValueError(f'labels in {train} must be at least 2 but are one')
        unknown = sorted(set(self.val[1]) - set(self.train[1]))
        if unknown:
            raise ValueError(
                f'labels in {val} must be of those in {train}, not {unknown[:3]}'
            )
        self.batch_size = batch_size

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        """Encode, learn, ask."""
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        if not isinstance(model, BertModel):
            raise ValueError(
                'mmkd.LinearProbeHook must go with a text encoder of mmkd but the '
                f'model is a {type(model).__name__}'
            )
        if not is_main_process():  # who writes the log
            return
        print_log('mmkd: a linear classifier reads the encoder', logger='current')
        sides = [
            (mean_features(model, texts, self.batch_size), labels)
            for texts, labels in (self.train, self.val)
        ]
        accuracy = linear_probe(*sides)
        runner.message_hub.update_scalar('val/probe/accuracy', accuracy)
        if metrics is not None:
            metrics['probe/accuracy'] = accuracy


@torch.no_grad()
def mean_features(
    model: BertModel, texts: Sequence[str], batch_size: int = 64
) -> np.ndarray:
    """Texts as the means of their embedded tokens.

    Args:
        model: In evaluation mode while it encodes.
        texts: N of them.
        batch_size: How many at once.

    Returns:
        (N, C), float64.
    """
    was_training = model.training
    model.eval()
    found = []
    for start in range(0, len(texts), batch_size):
        x = model.inputs_of(model.tokenize(texts[start : start + batch_size]))
        tokens = model.encoder.hidden_states(x)[-1].double()
        valid = x['text_token_mask'][..., None]
        mean = tokens.masked_fill(~valid, 0).sum(1) / valid.sum(1)
        found.append(mean.cpu().numpy())
    model.train(was_training)
    return np.concatenate(found)


def linear_probe(
    train: tuple[np.ndarray, Sequence[str]], val: tuple[np.ndarray, Sequence[str]]
) -> float:
    """Accuracy of a logistic regression on features that are scaled to unit variance.

    Args:
        train: Features (N, C) and N labels to learn from.
        val: Those that it is asked.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), _logistic_regression()(max_iter=200))
    with warnings.catch_warnings():
        # Of a student that has not learned much: near enough to its optimum.
        warnings.filterwarnings('ignore', message='(?s).*failed to converge')
        classifier.fit(*train)
    return float(classifier.score(*val))


def _logistic_regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError(
            "mmkd.LinearProbeHook needs scikit-learn: pip install 'mmkd[text]'"
        ) from error
    return LogisticRegression


def _labelled(file: str) -> Texts:
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'file of labelled texts {file!r} does not exist')
    texts, labels = [], []
    # Not `splitlines`, which splits at more than ends of lines.
    for number, line in enumerate(path.read_text(encoding='utf-8').split('\n'), 1):
        if not line.strip():
            continue
        text, _, label = (part.strip() for part in line.rpartition('\t'))
        if not text or not label:
            raise ValueError(
                f'line {number} of {file} must be a text, a tab and a label but is '
                f'{line!r}'
            )
        texts.append(text)
        labels.append(label)
    return texts, labels
