"""docs/choosing.md says what its sources say.

``python tests/test_choosing.py`` writes the table of what was measured anew.
"""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'choosing.md'
RESULTS = ROOT / 'docs' / 'results'
ALONE, TEACHER = 'student alone', 'teacher'
BEGIN = '<!-- measured: written by `python tests/test_choosing.py` -->\n'
END = '<!-- end -->'
#: File, stage, metric, what it is of. Short schedules are on docs/results.md alone.
MEASURED = [
    ('bccd_chen2017', 'long', 'AP', 'BCCD, Faster R-CNN'),
    ('bccd_ld', 'long', 'AP', 'BCCD, GFL'),
    ('demo', None, 'AP', 'digits, GFL'),
    ('camvid_skds', 'main', 'mIoU', 'CamVid, Semantic FPN'),
    ('demo_seg', None, 'mIoU', 'digits, Semantic FPN'),
    ('digits_fpn', 'main', 'mIoU', 'digits, Semantic FPN, 500 steps'),
    ('digits_gfl', 'main', 'AP', 'digits, GFL, 10 epochs'),
]
DEMO_ROWS = {
    'demo': 'hint + CWD on class scores',
    'demo_seg': 'pixel + pair + holistic',
}
HEAD = (
    '| data, student | terms | metric | alone | with a teacher | gain | all seeds '
    '| time |\n|---|---|---|---:|---:|---:|---|---:|\n'
)


def runs_of(name: str, stage: str | None) -> dict[str, dict[int, dict]]:
    """Row -> seed -> run, in the order of the file."""
    found: dict[str, dict[int, dict]] = {}
    for line in (RESULTS / f'{name}.jsonl').read_text().splitlines():
        run = json.loads(line)
        if run.get('stage') == stage and 'failure' not in run:
            values = run.get('metrics', run)
            seconds = run.get('train_seconds', run['seconds'])
            row = run.get('row') or run['name']
            found.setdefault(row, {})[run['seed']] = {**values, 'seconds': seconds}
    return found


def spread(values: list[float], digits: int, sign: str = '') -> str:
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return f'{mean:{sign}.{digits}f} ± {deviation:.{digits}f}'


def has_a_teacher_alone(row: str) -> bool:
    """Whether a row has the baseline's iterations, and nothing but a teacher.

    The others are in configs/netaug/README.md.
    """
    return 'as long as' not in row and 'NetAug' not in row


def measured() -> str:
    lines = []
    for name, stage, metric, what in MEASURED:
        runs = runs_of(name, stage)
        digits = 3 if metric == 'AP' else 2
        alone = runs[ALONE]
        for row, found in runs.items():
            # One seed says nothing of a spread.
            if row in (ALONE, TEACHER) or found.keys() != alone.keys():
                continue
            if not has_a_teacher_alone(row):
                continue
            gains = [found[seed][metric] - alone[seed][metric] for seed in alone]
            times = [run['seconds'] for run in found.values()]
            usual = [run['seconds'] for run in alone.values()]
            cells = [
                what,
                DEMO_ROWS.get(name, row),
                metric,
                spread([run[metric] for run in alone.values()], digits),
                spread([run[metric] for run in found.values()], digits),
                spread(gains, digits, '+'),
                f'{sum(gain > 0 for gain in gains)} of {len(gains)}',
                f'{statistics.fmean(times) / statistics.fmean(usual):.1f}',
            ]
            lines.append(f'| {" | ".join(cells)} |\n')
    return HEAD + ''.join(lines)


def text() -> str:
    return PAGE.read_text(encoding='utf-8')


def rows_below(heading: str) -> list[list[str]]:
    part = text().split(f'\n## {heading}\n')[1].split('\n## ')[0]
    rows = [line for line in part.splitlines() if line.startswith('| ')]
    return [[cell.strip() for cell in row.strip('|').split(' | ')] for row in rows[1:]]


def test_what_was_measured_is_what_the_runs_logged():
    shown = text().split(BEGIN)[1].split(END)[0]
    assert shown.strip() == measured().strip(), (
        f'{PAGE} is not what docs/results holds: run `python {Path(__file__)}`, and '
        'read whether what follows from the numbers still does'
    )
    assert shown.count('\n') > 10


def test_the_readme_shows_some_of_it():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    shown = [line for line in readme.splitlines() if ' ± ' in line and line[0] == '|']
    assert len(shown) >= 4
    assert set(shown) <= set(measured().splitlines())


def gains(name: str, stage: str | None, metric: str) -> dict[str, list[float]]:
    runs = runs_of(name, stage)
    return {
        row: [found[seed][metric] - runs[ALONE][seed][metric] for seed in found]
        for row, found in runs.items()
        if row != TEACHER and found.keys() == runs[ALONE].keys()
    }


def test_what_follows_follows():
    chen = gains('bccd_chen2017', 'long', 'AP')
    ld = gains('bccd_ld', 'long', 'AP')
    camvid = gains('camvid_skds', 'main', 'mIoU')
    mean = statistics.fmean
    # What three times the iterations are worth, beside any teacher, and beside CrossKD
    # for as long.
    longer = mean(ld['student alone, as long as NetAug takes'])
    assert longer > max(mean(v) for row, v in ld.items() if has_a_teacher_alone(row))
    assert longer < mean(ld['CrossKD, as long as both take'])
    # "the largest gain measured here on real pictures", "better than the hint alone"
    equal = [values for row, values in ld.items() if has_a_teacher_alone(row)]
    assert mean(chen['all together']) == max(map(mean, [*chen.values(), *equal]))
    assert mean(chen['all together']) > mean(chen['hint'])
    # The hint alone and beside LD; LD by half a percent without main KD, which costs.
    pair, hint = ld['main LD + VLR LD'], ld['main LD + VLR LD + main KD + hint']
    assert all(value > 0 for value in [*chen['hint'], *pair, *hint])
    assert 0.004 < mean(pair) < 0.007
    assert 0.004 < mean(hint) < 0.007
    assert all(value < 0 for value in ld['main LD + VLR LD + main KD'])
    assert mean(ld["MMDetection's LDHead"]) < -0.05
    # Pixel and pair: on every seed; the critic added nothing, CWD less than its spread.
    assert all(value > 0 for value in camvid['pixel + pair'])
    assert mean(camvid['pixel + pair + holistic']) < mean(camvid['pixel + pair'])
    cwd = camvid['CWD on logits']
    assert mean(cwd) < statistics.stdev(cwd)


def test_costs_are_those_of_the_performance_page():
    performance = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    shown = rows_below('What a step costs')
    assert len(shown) >= 4
    for recipe, alone, ours in shown:
        [row] = [x for x in performance.splitlines() if x.startswith(f'| {recipe} |')]
        cells = [cell.strip() for cell in row.strip('|').split('|')]
        assert (alone, ours) == (cells[1], cells[4])
    assert '**1.052** of the student alone' in performance
    assert '1.052 of the\nstudent alone' in text()


def methods() -> list[str]:
    return sorted(p.stem for p in (ROOT / 'configs' / '_methods_').glob('*.py'))


def test_every_preset_has_a_row_or_a_page():
    rows = {
        re.match(r'\[(\w+)\]', row[0])[1]
        for row in rows_below('What each method needs')
    }
    # The two codes of the authors of skds are described on its own page.
    assert rows == set(methods()) - {'skds_pami_code', 'skds_cvpr19_code'}


@pytest.mark.parametrize(
    'row', rows_below('What each method needs'), ids=lambda r: r[0]
)
def test_a_row_says_what_code_and_readme_say(row):
    from mmkd.config import method_losses
    from mmkd.losses import DistillLoss
    from mmkd.registry import MODELS

    method = re.match(r'\[(\w+)\]', row[0])[1]
    readme = (ROOT / 'configs' / method / 'README.md').read_text(encoding='utf-8')
    for before, after in re.findall(r'([\d.]+) → ([\d.]+)', row[6]):
        assert f'{before} → {after}' in readme or (
            f'from {before} to {after}' in ' '.join(readme.split())
        )
    scopes = {'all': {'mmdet', 'mmseg'}, 'segmentors': {'mmseg'}}.get(row[2])
    if scopes is None:
        scopes = {'mmdet', *(['mmseg'] if 'segmentors' in row[2] else [])}
    for scope in ('mmdet', 'mmseg'):
        if scope not in scopes:
            with pytest.raises(ValueError, match='has no preset'):
                method_losses(method, scope)
            continue
        kinds = [MODELS.get(x['type']) for x in method_losses(method, scope).values()]
        stored = [kind.places is not DistillLoss.places for kind in kinds]
        expected = {'yes': all(stored), 'no': not any(stored)}
        assert expected.get(row[5], any(stored) and not all(stored)), stored


if __name__ == '__main__':
    before, after = text().split(BEGIN)[0], text().split(END)[1]
    PAGE.write_text(f'{before}{BEGIN}{measured()}{END}{after}', encoding='utf-8')
