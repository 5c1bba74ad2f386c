"""The page: everything a template needs, and the template filled in."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..fileio import replacing
from ..preflight.findings import Findings
from ..preflight.progress import Stages
from ..quiet import quiet
from .config_diff import config_diff
from .curves import chart_groups
from .environment import environment_now, git_state, logged_table
from .evaluate import TEACHER, Evaluated, Options, by_row, evaluate
from .outcome import Outcome
from .run import Run, read_runs
from .sections import edge_section, feature_section, picture_row, ranked
from .tables import Table, final_table, gap_table, seeds_table

_TEMPLATE = Path(__file__).with_name('page.html.j2')


def write_report(
    work_dirs: Sequence[Path], out: Path, options: Options, stages: Stages
) -> list[str]:
    """Write the page, whole or not at all.

    Args:
        work_dirs: Of the runs.
        out: File to write.
        options: What is wanted.
        stages: Shows progress.

    Returns:
        What is not on the page and why, in sentences.

    Raises:
        FileNotFoundError: If a work directory has no log or no config.
        ValueError: If the runs cannot be compared.
        ModuleNotFoundError: If jinja2 is not installed.
    """
    template = _template()
    with quiet():  # tables of evaluators, which the report shows itself
        page, notes = contents(work_dirs, options, stages)
    html = template.render(page)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(html, encoding='utf-8')
    return notes


def contents(
    work_dirs: Sequence[Path], options: Options, stages: Stages
) -> tuple[dict[str, Any], list[str]]:
    """What the template shows, and what could not be had.

    Args:
        work_dirs: Of the runs.
        options: What is wanted.
        stages: Shows progress.
    """
    runs = ordered(read_runs(work_dirs), options.baseline)
    base, findings = runs[0], Findings()
    compared = compared_with(runs)
    made = None
    if options.with_models:
        made = evaluate(runs, compared, options, findings, stages)
    # What the runs logged is of all pictures; a part of them is not compared with it.
    is_whole = made is not None and len(made.data.indices) == made.data.total
    teacher = made.teacher if made and is_whole else None
    page: dict[str, Any] = dict(
        title=_title(runs),
        created=datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z'),
        runs=runs,
        compared=compared,
        final=final_table(runs, 0, teacher),
        means=seeds_table(runs),
        groups=chart_groups(runs),
        made=made,
        tables=_gap_tables(made, base),
        pictures=[],
        features=[],
        edges=None,
        diffs={
            run.name: config_diff(base.cfg, run.cfg, (base.name, run.name))
            for run in runs[1:]
        },
        now=environment_now(),
        logged=Table('As the runs logged it', *logged_table(runs)),
        git=git_state(Path(__file__).parent),
        command=shlex.join(sys.argv),
        options=options,
    )
    if made:
        _add_pictures(page, made, runs, compared, options, findings, stages)
    notes = [f'{run.name} {note}' for run in runs for note in run.notes]
    page['notes'] = [*notes, *findings.errors]
    return page, page['notes']


def ordered(runs: Sequence[Run], baseline: Any) -> list[Run]:
    """The runs with the baseline first.

    Args:
        runs: The runs.
        baseline: Its work directory; the first run without a teacher, else the
            first one, if not given.

    Raises:
        ValueError: If it is none of the runs.
    """
    first = next((run for run in runs if not run.is_distilled), runs[0])
    if baseline is not None:
        wanted = Path(baseline).resolve()
        named = [run for run in runs if run.work_dir.resolve() == wanted]
        if not named:
            known = ', '.join(str(run.work_dir) for run in runs)
            raise ValueError(
                f'--baseline must be one of the work directories ({known}) but is '
                f'{baseline}'
            )
        first = named[0]
    return [first, *(run for run in runs if run is not first)]


def compared_with(runs: Sequence[Run]) -> Run:
    """The run whose pictures are shown beside the baseline's: the first distilled.

    Args:
        runs: The baseline first; of one run alone, it is that.
    """
    others = [run for run in runs[1:] if run.checkpoint] or runs[1:] or runs[:1]
    return next((run for run in others if run.is_distilled), others[0])


def _gap_tables(made: Evaluated | None, base: Run) -> list[Table]:
    if made is None:
        return []
    alone = base.name if base.name in made.outcomes else None
    teacher = TEACHER if made.teacher else None
    found = []
    for kind, attribute in (('size', 'by_size'), ('class', 'by_class')):
        values = by_row(made.outcomes, attribute)
        if any(values.values()):
            caption = f'{made.judge.measure} by {kind}'
            found.append(gap_table(caption, kind, values, alone, teacher))
    return found


def _add_pictures(
    page: dict[str, Any],
    made: Evaluated,
    runs: Sequence[Run],
    compared: Run,
    options: Options,
    findings: Findings,
    stages: Stages,
) -> None:
    names = dict.fromkeys([runs[0].name, compared.name, TEACHER])
    outcomes: dict[str, Outcome] = {
        name: made.outcomes[name] for name in names if name in made.outcomes
    }
    alone = None if compared is runs[0] else outcomes.get(runs[0].name)
    order = ranked(made.data.indices, alone, outcomes.get(compared.name))
    roles = {runs[0].name: 'student', compared.name: 'distilled', TEACHER: 'teacher'}
    page['roles'] = roles
    networks = {name: made.networks[name] for name in names if name in made.networks}
    chosen = order[: options.pictures]
    with (
        findings.guarded('not all pictures are shown'),
        stages.stage('drawing pictures', len(chosen)) as advance,
    ):
        for index in chosen:
            page['pictures'].append(picture_row(index, made.data, made.judge, outcomes))
            advance()
    if compared.scope == 'mmdet' and compared.name in networks:
        with findings.guarded('edge distributions are not shown'):
            page['edges'] = edge_section(
                networks, roles, compared.name, made.data, made.judge, order[:20]
            )
    if compared.name in networks:
        with findings.guarded('feature maps are not shown'):
            page['features'] = feature_section(
                networks, roles, compared, made.data, order[:2]
            )


def _title(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    return ' and '.join([', '.join(names[:-1])] * (len(names) > 1) + names[-1:])


def _template() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a report needs jinja2, which is not installed: pip install jinja2'
        ) from error
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(_TEMPLATE.read_text(encoding='utf-8'))
