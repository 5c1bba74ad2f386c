"""Every logged value as a chart, in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .run import Run
from .svg import line_chart
from .tables import Table, curve_table


@dataclass
class Chart:
    """A chart of a page: one logged key of all runs."""

    key: str
    svg: str
    table: Table


def chart_groups(runs: Sequence[Run]) -> dict[str, list[Chart]]:
    """Charts by what they show: metrics, the task, the teacher, and what else.

    Args:
        runs: The runs; a run has the same colour and dashes in every chart.

    Returns:
        Heading -> charts; a group without charts is left out.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.curves))
    terms = {term for run in runs for term in run.terms}
    groups: dict[str, list[Chart]] = {
        'Metrics': [],
        'Losses of the task': [],
        'Losses of the wider network': [],
        'Losses of distillation': [],
        'Logged by distillation': [],
        'What else was logged': [],
    }
    for number, key in enumerate(keys):
        groups[_group(key, runs, terms)].append(_chart(f'c{number}', key, runs))
    return {heading: charts for heading, charts in groups.items() if charts}


def _group(key: str, runs: Sequence[Run], terms: set[str]) -> str:
    if any(key in run.metrics for run in runs):
        return 'Metrics'
    if key in terms:
        return 'Losses of distillation'
    # A term logs beside its loss what is called after it: `ld_kl` of `loss_ld`.
    if key.startswith(tuple(f'{term.removeprefix("loss_")}_' for term in terms)):
        return 'Logged by distillation'
    # What `mmkd.NetAug` logs of the networks around the model.
    if key.startswith('aug_') and 'loss' in key:
        return 'Losses of the wider network'
    return 'Losses of the task' if 'loss' in key else 'What else was logged'


def _chart(identity: str, key: str, runs: Sequence[Run]) -> Chart:
    lines = {
        place: (run.name, run.curves[key])
        for place, run in enumerate(runs)
        if key in run.curves
    }
    is_metric = any(key in run.metrics for run in runs)
    unit = runs[next(iter(lines))].step_unit if is_metric else 'iteration'
    return Chart(
        key,
        line_chart(identity, key, lines, unit),
        curve_table(key, dict(lines.values())),
    )
