"""Weights of the terms, searched on a short horizon."""

from __future__ import annotations

import hashlib
import inspect
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..config import is_distilled
from ..config_kind import refuse_gan
from ..fileio import replacing
from ..preflight.teacher_metric import main_metric
from ..registry import MODELS
from .process import run_training
from .results import newest_scalars

#: Logged with every evaluation, but about the machine.
_NO_METRIC = ('data_time', 'time', 'step', 'epoch')
#: Optuna's name of the study in its journal.
STUDY = 'mmkd'


@dataclass
class Search:
    """A search for the factors of loss weights.

    Each trial trains the config for a while with every weight times a factor of its
    own; the first one has the config's weights. Schedules of learning rates are cut,
    not shortened.

    Args:
        command: What trains the config: ``tools/train.py`` and its arguments.
        cfg: The config.
        folder: Where the trials and the journal go; a search is continued there.
        length: Epochs or iterations of a trial, whichever the config counts in.
        seeds: Seeds of a trial; its value is the mean over them.
        span: Factors lie between 1 / span and span.
        terms: Log names of the terms whose weights are searched; all that are on by
            default.
        metric: Name of the evaluated value that is to be large; the task's main one
            by default.

    Raises:
        ValueError: If the config has no teacher, or no such term, or a number is bad.
    """

    command: Sequence[str]
    cfg: Config
    folder: Path
    length: int
    seeds: Sequence[int] = (0,)
    span: float = 10.0
    terms: Sequence[str] | None = None
    metric: str | None = None
    weights: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        refuse_gan(self.cfg, 'tools/tune.py')
        if not is_distilled(self.cfg):
            raise ValueError('the config names no teacher, so there are no weights')
        if self.length < 1:
            raise ValueError(f'a trial must be of length >= 1 but is of {self.length}')
        if not self.span > 1:
            raise ValueError(f'span must be > 1 but is {self.span}')
        known = weights_of(self.cfg)
        unknown = set(self.terms or ()) - known.keys()
        if unknown or not known:
            raise ValueError(
                f'terms must be among {sorted(known)}, which are on and have a '
                f'loss_weight, but are {sorted(self.terms or ())}'
            )
        self.weights = {k: v for k, v in known.items() if k in (self.terms or known)}

    @property
    def unit(self) -> str:
        """What :attr:`length` counts: ``'epochs'`` or ``'iters'``."""
        return 'epochs' if 'max_epochs' in self.cfg.train_cfg else 'iters'

    def options(self, factors: Mapping[str, float]) -> dict[str, float]:
        """The weights of a trial as overrides of the config by dotted key.

        Args:
            factors: Term -> factor of its weight.
        """
        return {
            f'model.losses.{name}.loss_weight': float(f'{weight * factors[name]:.4g}')
            for name, weight in self.weights.items()
        }

    def run(
        self,
        number: int,
        factors: Mapping[str, float],
        tell: Callable[[str], None] = lambda text: None,
    ) -> float:
        """Train a trial.

        Args:
            number: Of the trial; names its folder.
            factors: Term -> factor of its weight.
            tell: Called with how far it is.

        Returns:
            The metric, its mean over the seeds.

        Raises:
            RuntimeError: If a training failed.
        """
        options = {
            f'train_cfg.max_{self.unit}': self.length,
            'train_cfg.val_interval': self.length,
            'default_hooks.checkpoint.interval': self.length,
            'default_hooks.checkpoint.save_optimizer': False,
            **self.options(factors),
        }
        values = []
        for seed in self.seeds:
            folder = self.folder / f'trial_{number}' / f'seed_{seed}'
            command = [
                *(sys.executable, *self.command),
                *('--work-dir', str(folder), '--seed', str(seed), '--cfg-options'),
                *(f'{key}={value}' for key, value in options.items()),
            ]
            log = folder / 'log.txt'
            if run_training(command, log, tell)[0]:
                last = log.read_text().strip().splitlines() or ['no output']
                raise RuntimeError(f'{last[-1]} (see {log})')
            values.append(self._value(folder))
        return statistics.fmean(values)

    def _value(self, folder: Path) -> float:
        found = [line for line in newest_scalars(folder) if 'iter' not in line]
        if not found:
            raise RuntimeError(f'nothing was evaluated in {folder}')
        metrics = {key: x for key, x in found[-1].items() if key not in _NO_METRIC}
        if self.metric is None:
            self.metric = (main_metric(metrics) or ('', 0.0))[0]
        if self.metric not in metrics:
            raise RuntimeError(f'{self.metric!r} is not among {sorted(metrics)}')
        return metrics[self.metric]

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same for trials to be compared, ready for json."""
        return dict(
            weights=self.weights,
            length=self.length,
            seeds=list(self.seeds),
            span=self.span,
            command=list(self.command[1:]),
            config=hashlib.sha256(self.cfg.dump().encode()).hexdigest()[:16],
        )


def weights_of(cfg: Config) -> dict[str, float]:
    """Weights of the terms that are on, by log name.

    Args:
        cfg: A distillation config.

    Example:
        >>> hint = dict(type='mmkd.FeatureImitationLoss', at='neck')
        >>> losses = dict(loss_hint=hint, loss_off=dict(hint, loss_weight=0))
        >>> weights_of(Config(dict(model=dict(losses=losses))))
        {'loss_hint': 1.0}
    """
    found = {}
    for name, loss in cfg.model.losses.items():
        if not loss:  # switched off by a config that inherits
            continue
        kind: Any = MODELS.get(loss.type) if isinstance(loss.type, str) else loss.type
        known = inspect.signature(kind).parameters.get('loss_weight')
        weight = loss.get('loss_weight', getattr(known, 'default', None))
        if known is not None and isinstance(weight, (int, float)) and weight > 0:
            found[name] = float(weight)
    return found


def study_of(search: Search) -> Any:
    """The study of a search, new or begun: of Optuna, and it maximises.

    Args:
        search: The search.

    Raises:
        ImportError: If Optuna is missing.
        ValueError: If another search was begun in its folder.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ImportError(
            'the search needs Optuna: pip install optuna', name='optuna'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search.folder.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(search.folder / 'journal.log'))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=STUDY,
        direction='maximize',
        load_if_exists=True,
    )
    before = study.user_attrs.get('facts', search.facts)
    other = [key for key, value in search.facts.items() if before[key] != value]
    if other:
        key = other[0]
        raise ValueError(
            f'the search in {search.folder} has another {", ".join(other)} '
            f'({before[key]} there, {search.facts[key]} here): trials of both cannot '
            'be compared; give another --work-dir'
        )
    study.set_user_attr('facts', search.facts)
    metric = study.user_attrs.get('metric')
    if None not in (metric, search.metric) and metric != search.metric:
        raise ValueError(
            f'the search in {search.folder} is for {metric}, not {search.metric}: give '
            'another --work-dir'
        )
    search.metric = search.metric or metric
    # Else a search that goes on would draw again what it has drawn.
    seed = len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    return study


def tune(
    search: Search,
    study: Any,
    trials: int,
    tell: Callable[[str], None] = lambda text: None,
    advance: Callable[[int, float | None], None] = lambda number, value: None,
) -> None:
    """Run trials until there are so many that came to their end.

    Args:
        search: What is searched.
        study: See :func:`study_of`.
        trials: Number of trials with a result in all, those of before included.
        tell: Called with how far a training is.
        advance: Called after a trial with its number and value, ``None`` if it failed.

    Raises:
        RuntimeError: If three trials in a row fail.
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # was killed
        study.tell(trial.number, state=TrialState.FAIL)
    done = (TrialState.COMPLETE,)
    if not study.get_trials(states=(*done, TrialState.WAITING)):
        study.enqueue_trial(dict.fromkeys(search.weights, 1.0))
    failed = 0
    while len(study.get_trials(states=done)) < trials:
        trial = study.ask()
        factors = {
            name: trial.suggest_float(name, 1 / search.span, search.span, log=True)
            for name in search.weights
        }
        try:
            value = search.run(trial.number, factors, tell)
            if not math.isfinite(value):
                raise RuntimeError(f'{search.metric} is {value}')
        except RuntimeError as error:
            trial.set_user_attr('failure', str(error))
            study.tell(trial, state=TrialState.FAIL)
            advance(trial.number, None)
            failed += 1
            if failed == 3:
                raise RuntimeError(f'three trials in a row failed: {error}') from error
            continue
        failed = 0
        study.set_user_attr('metric', search.metric)
        study.tell(trial, value)
        advance(trial.number, value)


def draw_search(search: Search, study: Any, path: Path) -> Path:
    """Draw the metric over each factor, a point for each trial.

    Args:
        search: What was searched.
        study: Its trials.
        path: Picture to write, whole or not at all.

    Returns:
        ``path``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = [trial for trial in study.trials if trial.value is not None]
    names = list(search.weights)
    figure = Figure(figsize=(3.4 * len(names) + 0.6, 3.2), layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axis, name in zip(grid, names):
        axis.set_xscale('log')
        axis.scatter(
            [trial.params[name] * search.weights[name] for trial in done],
            [trial.value for trial in done],
            c=[trial.number for trial in done],
            cmap='viridis',
        )
        axis.axvline(search.weights[name], color='#333333', lw=1, ls='--')
        axis.set_xlabel(f'loss_weight of {name}')
    grid[0].set_ylabel(search.metric or 'metric')
    figure.suptitle('every trial, later ones lighter; dashed: the config', fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format='png')
    return path
