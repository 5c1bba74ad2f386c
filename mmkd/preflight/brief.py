"""The part of the check that costs nothing, said before every training run."""

from __future__ import annotations

import io
from typing import Any

from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from rich.console import Console, RenderableType

from .findings import Findings
from .fit_report import check_fit, class_names, fit_table, inputs_told


def announce(runner: Any) -> Findings:
    """Log how the two networks of a run fit, and what looks wrong.

    The models are the runner's, nothing is run, and no random number is drawn.

    Args:
        runner: A runner that has not started to train.

    Returns:
        What was found; nothing for a stock model.
    """
    findings = Findings()
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    distiller = getattr(model, 'distiller', None)
    if distiller is None or not is_main_process():
        return findings
    # Errors are raised when the data set is there.
    check_fit(distiller, runner.cfg, class_names(runner.cfg), findings)
    for warning in findings.warnings:
        runner.logger.warning(warning)
    runner.logger.info(
        f'Preflight (tools/check.py tells more)\n{as_text(fit_table(distiller))}'
        f'Preprocessing: {inputs_told(distiller.teacher)}'
    )
    return findings


def as_text(content: RenderableType, width: int = 120) -> str:
    """What a console would show, for a log file."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(content)
    return console.file.getvalue()  # type: ignore[attr-defined]
