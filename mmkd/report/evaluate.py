"""All networks of a report evaluated on the same validation pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..preflight.findings import Findings
from ..preflight.fit_report import class_names_of
from ..preflight.progress import Stages
from .data import Data, check_same
from .networks import student_of, teacher_of
from .outcome import Judge, Outcome
from .run import TEACHER, Run


@dataclass
class Options:
    """What a report is made of, beside the work directories.

    Args:
        baseline: Work directory of the baseline; the first run without a teacher,
            else the first one, if not given.
        teacher: Checkpoint, config or zoo name in the place of the config's own.
        pictures: How many are shown.
        images: At most so many validation pictures are evaluated.
        min_score: Score from which a box counts in a picture.
        device: Where networks run.
        with_models: Whether networks run at all; else only the logs are read.
    """

    baseline: Any = None
    teacher: str | None = None
    pictures: int = 12
    images: int = 1000
    min_score: float = 0.3
    device: str = 'cpu'
    with_models: bool = True


@dataclass
class Evaluated:
    """What the evaluation gave.

    Args:
        data: The pictures as the distilled run reads them.
        judge: Draws them.
        outcomes: Name of a run, or ``'teacher'`` -> how good it is.
        networks: The same -> network, of those whose insides are shown.
    """

    data: Data
    judge: Judge
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)

    @property
    def teacher(self) -> Outcome | None:
        """The teacher's outcome, if it was evaluated."""
        return self.outcomes.get(TEACHER)


def evaluate(
    runs: Sequence[Run],
    compared: Run,
    options: Options,
    findings: Findings,
    stages: Stages,
) -> Evaluated | None:
    """Evaluate the newest checkpoints of runs, and the teacher.

    What cannot be evaluated is left out, with a sentence in ``findings``.

    Args:
        runs: The runs, the baseline first.
        compared: The run that is shown beside the baseline.
        options: What is wanted.
        findings: Receives a sentence for whatever is left out.
        stages: Shows progress.

    Returns:
        The outcomes; ``None`` if no network could be evaluated.

    Raises:
        ValueError: If two runs validate on different pictures.
    """
    made: Evaluated | None = None
    with findings.guarded('the validation pictures'):
        data = Data(compared, options.images)
        made = Evaluated(data, _judge(data, compared.scope, options))
    if made is None:
        return None
    for run in runs:
        own = made.data
        if run is not compared and run.checkpoint:
            with findings.guarded(f'the validation pictures of {run.name}'):
                own = Data(run, options.images)
            check_same(made.data, own, (compared.name, run.name))
        if run.checkpoint:
            with findings.guarded(f'{run.name} is shown by its logs alone'):
                network = student_of(run, options.device)
                made.outcomes[run.name] = _outcome(
                    run.name, network, own, made.judge, stages
                )
                if run in (runs[0], compared):
                    made.networks[run.name] = network
    with findings.guarded('the teacher is not shown', 'name another by --teacher'):
        taught = next((run for run in (compared, *runs) if run.is_distilled), compared)
        network = teacher_of(taught, options.teacher, options.device)
        _check_classes(network, made.data)
        made.outcomes[TEACHER] = _outcome(
            TEACHER, network, made.data, made.judge, stages
        )
        made.networks[TEACHER] = network
    return made if made.outcomes.keys() - {TEACHER} else None


def _judge(data: Data, scope: str, options: Options) -> Judge:
    if scope == 'mmdet':
        from .detection import DetectionJudge

        return DetectionJudge(data, options.min_score)
    if scope == 'mmseg':
        from .segmentation import SegmentationJudge

        return SegmentationJudge(data)
    raise ValueError(
        f'networks must be detectors or segmentors to be evaluated, not of {scope!r}'
    )


def _outcome(
    name: str, network: Any, data: Data, judge: Judge, stages: Stages
) -> Outcome:
    judge.begin()
    evaluator, ids = data.evaluator(), []
    with stages.stage(f'evaluating {name}', len(data.indices)) as advance:
        for index, sample in data.predictions(network, advance, evaluator):
            judge.add(index, sample)
            ids.append(getattr(sample, 'img_id', None))
    outcome = judge.outcome()
    outcome.metrics = data.metrics(evaluator, ids)
    return outcome


def _check_classes(teacher: Any, data: Data) -> None:
    theirs = class_names_of(teacher)
    if theirs and data.classes and list(theirs) != data.classes:
        raise ValueError(
            f'it must know the classes of the data, {_few(data.classes)}, but knows '
            f'{_few(theirs)}'
        )


def _few(names: Sequence[str]) -> str:
    more = f' and {len(names) - 4} more' if len(names) > 4 else ''
    return ', '.join(names[:4]) + more


def by_row(
    outcomes: Mapping[str, Outcome], kind: str
) -> dict[str, dict[str, float | None]]:
    """Name of a network -> class or size -> value.

    Args:
        outcomes: Name of a network -> its outcome.
        kind: ``'by_class'`` or ``'by_size'``.
    """
    return {name: getattr(outcome, kind) for name, outcome in outcomes.items()}
