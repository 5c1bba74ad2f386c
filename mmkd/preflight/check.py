"""All checks in order, each section printed as soon as it is known."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmengine.config import Config
from rich.console import Console

from ..cache.cached_teacher import CachedTeacher
from ..config import is_distilled
from ..config_kind import refuse_gan
from ..data_check import check_class_count, check_labels, classes_of
from ..rng import preserved_rng
from .cost import MEMORY_STEPS, cost_table, measure_cost
from .findings import Findings
from .fit_report import check_fit, class_names, fit_table, inputs_told
from .layout import print_verdict, section
from .networks import (
    Network,
    describe,
    describe_adapters,
    first_weights,
    input_size,
    networks_table,
)
from .progress import Stages
from .rehearsal import Rehearsal, rehearse
from .teacher_metric import (
    batches_of,
    check_metric,
    check_pipelines,
    comparable,
    evaluate_teacher,
    metric_table,
)
from .terms import GRADIENT, check_terms, measure_terms, terms_table

_DATA = (
    'training cannot run without the data set: put it there, or name the folder that '
    'holds it with MMKD_DATA=<folder> (docs/data.md)'
)
HOW_TO_NAME_A_TEACHER = (
    'the config names no teacher, so there is nothing to check; add --teacher '
    '<zoo name, config or checkpoint> --method <preset>, or write a distillation '
    'config (README.md shows one)'
)


def check(
    cfg: Config,
    device: str | None = None,
    batches: int | None = 5,
    steps: int = 5,
    console: Console | None = None,
    progress: Console | None = None,
) -> Findings:
    """Rehearse a training run and print what it would be like.

    Nothing is written but to a temporary folder, and the random state is left as
    it was.

    Args:
        cfg: Config of the run, as :func:`mmkd.training.train_config` gives it.
        device: Where the models run; the Runner's choice if not given.
        batches: Validation batches that the teacher is evaluated on; ``None`` for
            all.
        steps: Training steps of each kind that are timed.
        console: Where the report goes, the standard output if not given.
        progress: Where it is told what is being done, the standard error if not
            given.

    Returns:
        What was found.

    Raises:
        ValueError: If the config has no teacher, or is of a GAN.
    """
    refuse_gan(cfg, 'tools/check.py')
    if not is_distilled(cfg):
        raise ValueError(HOW_TO_NAME_A_TEACHER)
    report = console or standard_output()
    stages = Stages(progress or Console(file=sys.stderr))
    findings = Findings()
    with (
        preserved_rng(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),  # pycocotools is talkative
        tempfile.TemporaryDirectory(prefix='mmkd-check-') as folder,
    ):
        warnings.simplefilter('ignore')  # of the host libraries, as in training
        with stages.stage('building both models'):
            run = rehearse(cfg, folder, device, findings)
        _Sections(run, report, stages, findings).all(batches, steps)
    print_verdict(findings, report)
    return findings


def standard_output() -> Console:
    """Console on what is the standard output now, wide enough where it is a file."""
    # Named now: what a run prints goes elsewhere.
    console = Console(file=sys.stdout)
    return console if console.is_terminal else Console(file=sys.stdout, width=120)


class _Sections:
    def __init__(
        self, run: Rehearsal, report: Console, stages: Stages, findings: Findings
    ) -> None:
        self.run = run
        self.report = report
        self.stages = stages
        self.findings = findings

    def all(self, batches: int | None, steps: int) -> None:
        self.models()
        self.initialise()
        train = self.loop('training', 'train_loop')
        classes = _classes(train) or class_names(self.run.cfg)
        if self.run.model is not None and classes and not _is_panoptic(train):
            with self.findings.guarded('classes', 'or take data of these classes'):
                check_class_count(self.run.model, classes)
        if self.run.distiller is not None:
            check_fit(self.run.distiller, self.run.cfg, classes, self.findings)
            told = f'Preprocessing: {inputs_told(self.run.distiller.teacher)}'
            self.report.print(section('Fit', fit_table(self.run.distiller), told))
            self.cache(train)
        batch = self.batch(train)
        if batch is None or self.run.distiller is None:
            self.skipped('One batch, cost', 'they need both models and the data')
        else:
            self.steps(batch, steps, train.max_iters)
        if not self.teachers:
            self.skipped('Teacher', 'it could not be built')
        for name, teacher in self.teachers.items():
            self.teacher(f'Teacher {name}'.strip(), teacher, batches, classes)

    @property
    def teachers(self) -> dict[str, Any]:
        """Those that were built, by name; the name of an only one is empty."""
        return self.run.teacher.members if self.run.teacher is not None else {}

    def cache(self, train: Any) -> None:
        """Compare a cached teacher with the run."""
        its = self.run.teacher
        if isinstance(its, CachedTeacher) and train is not None:
            with self.findings.guarded('the cache', 'or use the live teacher'):
                data = train.dataloader.dataset
                its.check_run(self.run.cfg, data, self.run.model)

    def models(self) -> None:
        size, networks = input_size(self.run.cfg), {}
        with self.stages.stage('counting parameters and GFLOPs'):
            if self.run.model is not None:
                start = self.run.cfg.get('load_from')
                source = f'load_from {start}' if start else first_weights(self.run.cfg)
                networks['student'] = describe(
                    self.run.model, source, size, self.findings
                )
            for name, its in self.teachers.items():
                kind = 'random' if its.is_random else 'strictly loaded'
                source = f'{its.source}; {kind}, {its.digest}'
                if its.is_own:
                    source = its.source
                networks[f'teacher {name}'.strip()] = (
                    Network('none', 0, 0, None, repr(its))
                    if its.model is None
                    else replace(
                        describe(its.model, source, size, self.findings),
                        parameters=its.num_parameters,
                    )
                )
            if self.run.distiller is not None:
                networks['adapters'] = describe_adapters(self.run.distiller)
        self.report.print(section('Models', networks_table(networks, size)))

    def initialise(self) -> None:
        """Give the student the weights that training starts from."""
        if self.run.model is None:
            return
        with (
            self.stages.stage("initialising the student's weights"),
            self.findings.guarded("the student's first weights", 'see init_cfg'),
        ):
            self.run.model.init_weights()
            self.run.runner.load_or_resume()  # type: ignore[union-attr]

    def loop(self, what: str, name: str) -> Any:
        """A loop of the runner with its data, or ``None`` with an error."""
        if self.run.runner is None:
            return None
        with (
            self.stages.stage(f'reading the {what} data set'),
            self.findings.guarded(f'the {what} data', _DATA),
        ):
            loop = getattr(self.run.runner, name)
            if not len(loop.dataloader.dataset):
                raise ValueError('the data set is empty')
            return loop
        return None

    def batch(self, train: Any) -> Any:
        if train is None:
            return None
        with (
            self.stages.stage('loading a training batch'),
            self.findings.guarded('a training batch cannot be loaded', _DATA),
        ):
            # A loop of iterations has begun to read; a second reader would end it.
            stream = getattr(train, 'dataloader_iterator', None)
            batch = next(stream if stream is not None else iter(train.dataloader))
            if self.run.model is not None and isinstance(batch, dict):
                check_labels(self.run.model, batch.get('data_samples'))
            return batch
        return None

    def steps(self, batch: Any, steps: int, iterations: int) -> None:
        """What needs an optimizer and a batch."""
        runner: Any = self.run.runner
        with self.findings.guarded('the optimizer', 'see optim_wrapper'):
            wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
            runner.optim_wrapper = wrapper
            if runner.param_schedulers:
                runner.build_param_scheduler(runner.param_schedulers)
            self.scheduled(runner)
            self.one_batch(batch, wrapper)
            self.cost(batch, wrapper, steps, iterations)

    def scheduled(self, runner: Any) -> None:
        for hook in runner.hooks:
            names = ', '.join(getattr(hook, 'schedules', ()))
            if names:
                self.findings.note(
                    f'{names}: the weight follows a schedule; it is at its full value '
                    'in all figures here'
                )

    def start(self) -> None:
        """Tell models that ask how far the run is, as a hook of the Runner does."""
        hub = self.run.runner.message_hub  # type: ignore[union-attr]
        for name in ('iter', 'epoch'):
            hub.update_info(name, 0)

    def one_batch(self, batch: Any, optim_wrapper: Any) -> None:
        with (
            self.stages.stage('one batch, forward and backward'),
            self.findings.guarded('one batch'),
        ):
            self.start()
            terms = measure_terms(self.run.model, batch, optim_wrapper)
            check_terms(terms, self.findings)
            title = f'One batch of {_pictures(batch)} pictures, first weights'
            self.report.print(section(title, terms_table(terms), GRADIENT))

    def cost(self, batch: Any, optim_wrapper: Any, steps: int, iterations: int) -> None:
        remedy = 'a smaller train_dataloader.batch_size needs less memory'
        total = 2 * steps + MEMORY_STEPS
        with (
            self.stages.stage('timing training steps', total) as advance,
            self.findings.guarded('the training steps', remedy),
        ):
            cost = measure_cost(self.run.model, batch, optim_wrapper, steps, advance)
            title = f'Cost, median of {steps} steps of each kind in turn'
            remark = f'without data loading; memory: {cost.measure}'
            self.report.print(section(title, cost_table(cost, iterations), remark))

    def teacher(self, title: str, its: Any, batches: int | None, classes: Any) -> None:
        """Evaluate a teacher on the validation data."""
        runner = self.run.runner
        if runner is None:
            return self.skipped(title, 'the run could not be built')
        if its.is_own:
            return self.skipped(title, 'it is the student, which has not trained')
        if its.model is None:
            return self.skipped(title, 'it is read from a cache')
        if self.run.cfg.get('val_dataloader') is None:
            self.findings.note('the config has no val_dataloader to try the teacher on')
            return self.skipped(title, 'no validation data')
        val = self.loop('validation', 'val_loop')
        obstacle = comparable(its, classes)
        if val is None or obstacle:
            return self.skipped(title, obstacle or 'it needs the validation data')
        check_pipelines(its, self.run.cfg, self.findings)
        with self.findings.guarded(
            'the teacher on validation data',
            "it must predict what the student's val_evaluator expects",
        ):
            total = len(batches_of(runner, batches))
            with self.stages.stage('evaluating the teacher', total) as advance:
                found = evaluate_teacher(its, runner, batches, advance)
            check_metric(found, len(classes) if classes else None, self.findings)
            of = f'{found.pictures} of {found.total} validation pictures'
            self.report.print(section(f'{title} on {of}', metric_table(found)))
        return None

    def skipped(self, title: str, reason: str) -> None:
        self.report.print(section(title, None, f'skipped: {reason}'))


def _classes(loop: Any) -> Sequence[str] | None:
    return classes_of(getattr(getattr(loop, 'dataloader', None), 'dataset', None))


def _is_panoptic(loop: Any) -> bool:
    """Whether the data have classes that no box head knows."""
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    return 'thing_classes' in (getattr(dataset, 'metainfo', None) or {})


def _pictures(batch: Any) -> int:
    inputs = batch.get('inputs', ()) if isinstance(batch, dict) else batch
    return len(inputs)
