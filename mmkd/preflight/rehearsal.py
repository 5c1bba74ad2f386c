"""The run as training would set it up, in a folder that is thrown away."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..base_teacher import BaseTeacher
from ..cli import build_runner
from ..config import is_distilled, model_scope, own_kind, student_config
from ..distiller import Distiller
from ..problems import problems_of
from ..teacher_group import build_teachers
from .findings import Findings, told

#: Stands for a model that cannot be built, so that the rest of the run can.
_PLACEHOLDER = dict(type='mmkd.Identity')
#: Where evaluators write predictions, if they are told to.
_OUTPUTS = dict(outfile_prefix='', output_dir='', out_file_path='.pkl')


@dataclass
class Rehearsal:
    """What could be built.

    Args:
        cfg: The config, without what does not fit.
        runner: The runner; its data are built when they are asked for.
        model: The student, distilled unless its teacher fails.
        teacher: The teacher, also where the student fails.
    """

    cfg: Config
    runner: Runner | None = None
    model: Any = None
    teacher: BaseTeacher | None = None

    @property
    def distiller(self) -> Distiller | None:
        """The losses, where both networks stand."""
        return getattr(self.model, 'distiller', None)


def rehearse(
    cfg: Config, folder: str, device: str | None, findings: Findings
) -> Rehearsal:
    """Build a run piece by piece and say what does not fit.

    A term that does not fit is left out and the rest is tried again, so that one
    mistake does not hide another.

    Args:
        cfg: Config of the training run; not changed.
        folder: Where its files go.
        device: Device of the models; the Runner's own choice if not given.
        findings: Receives an error for everything that does not fit.

    Returns:
        What could be built.
    """
    rest = _harmless(cfg, folder)
    entry = copy.deepcopy(rest.model.get('teacher'))
    scope = model_scope(rest)
    runner = _runner_without_the_broken(rest, findings)
    model = runner.model if runner and rest.model.type != _PLACEHOLDER['type'] else None
    teacher = None
    if model is not None:
        model.to(torch.device(device) if device else next(model.parameters()).device)
        if is_distilled(rest):
            teacher = model.distiller.teacher
    elif own_kind(entry) is None:
        with findings.guarded('the teacher', 'see mmkd.teacher.build_teacher'):
            teacher = build_teachers(entry, scope)
            for member in teacher.members.values():
                if member.model is not None:
                    member.model.to(torch.device(device or 'cpu'))
    return Rehearsal(rest, runner, model, teacher)


def _runner_without_the_broken(rest: Config, findings: Findings) -> Runner | None:
    """Try to build; drop what fails until it works. Changes the config."""
    doubt: Exception | None = None
    while True:
        try:
            runner = build_runner(copy.deepcopy(rest))
            if doubt is not None:
                findings.error(_cannot('the student cannot be built', doubt))
            return runner
        except Exception as error:
            if os.environ.get('MMKD_TRACEBACK'):
                raise
            problems = problems_of(error)
            for problem in problems:
                findings.error(told(problem.error))
            terms = {problem.where for problem in problems}
            if problems and terms <= set(rest.model.losses):
                for name in terms:
                    rest.model.losses[name] = None
            elif problems:
                rest.model = student_config(rest).model
            elif rest.model.type != _PLACEHOLDER['type']:
                doubt = error
                rest.model = dict(_PLACEHOLDER)
            else:
                findings.error(_cannot('the run cannot be set up', error))
                if doubt is not None and told(doubt) != told(error):
                    findings.error(_cannot('nor can the student', doubt))
                return None


def _cannot(what: str, error: Exception) -> str:
    return f'{what}: {told(error)}; correct the config (MMKD_TRACEBACK=1 tells where)'


def _harmless(cfg: Config, folder: str) -> Config:
    """The same run without a trace: no logs, no trackers, no checkpoints."""
    cfg = copy.deepcopy(cfg)
    cfg.work_dir, cfg.log_level, cfg.launcher = folder, 'ERROR', 'none'
    cfg.resume = False
    for key in ('runner_type', 'strategy'):  # a FlexibleRunner builds its model late
        cfg.pop(key, None)
    if cfg.get('visualizer'):
        cfg.visualizer = dict(cfg.visualizer, vis_backends=None)
    for key in ('val_evaluator', 'test_evaluator'):
        entries: Any = cfg.get(key) or {}
        for entry in entries if isinstance(entries, (list, tuple)) else [entries]:
            for name, suffix in _OUTPUTS.items():
                if entry.get(name):  # some evaluators insist on one
                    entry[name] = os.path.join(folder, name) + suffix
    return cfg
