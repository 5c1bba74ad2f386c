"""The line of progress: the same numbers as the stock one, the losses grouped."""

import json
import re

import pytest
from toy import (
    HINT,
    distilled,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
)

from mmkd.config import load_config, student_config
from mmkd.training import train_config

OURS = 'mmkd.DistillLogProcessor'
TERMS = dict(loss_hint=HINT, loss_soft=dict(type='mmkd.SoftTargetLoss', at='head'))


def logged(folder, model, **processor):
    """Lines of the log and of the scalars, of training alone."""
    changes = {
        'log_level': 'INFO',
        'log_processor': processor,
        'default_hooks.logger': dict(type='LoggerHook', interval=2),
        'visualizer': dict(
            type='Visualizer',
            name=str(folder),
            vis_backends=[dict(type='LocalVisBackend')],
        ),
    }
    train(model, folder, **changes)
    (log,) = folder.glob('*/*.log')
    (scalars,) = folder.glob('*/vis_data/scalars.json')
    lines = [line for line in log.read_text().splitlines() if '(train)' in line]
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    key = 'train/loss' if processor.get('log_with_hierarchy') else 'loss'
    return lines, [record for record in records if key in record]


@pytest.mark.parametrize('hierarchy', [False, True])
def test_the_losses_are_grouped_and_add_up(tmp_path, hierarchy):
    lines, records = logged(
        tmp_path / 'run', distilled(TERMS), type=OURS, log_with_hierarchy=hierarchy
    )
    assert len(lines) == len(records) == 4
    prefix = 'train/' if hierarchy else ''
    for line, record in zip(lines, records):
        found = re.search(
            r'\(train\) +\[\d\]\[\d/4\]  .*lr: \S+  eta: \S+  .*time: \S+  data_time: '
            r'\S+  .*loss: (\S+) = task (\S+) \(cls (\S+)\) \+ distillation (\S+) '
            r'\(hint (\S+)  soft (\S+)\)$',
            line,
        )
        assert found, line
        names = ('loss', 'loss_cls', 'loss_cls', None, 'loss_hint', 'loss_soft')
        for text, name in zip(found.groups(), names):
            if name:
                assert float(text) == pytest.approx(record[prefix + name], abs=5e-5)
        total, task, _, taught, hint, soft = map(float, found.groups())
        assert taught == pytest.approx(hint + soft, abs=2e-4)
        assert total == pytest.approx(task + taught, abs=2e-4)


def test_what_trackers_get_is_the_stock_processors(tmp_path):
    ours, theirs = (
        logged(tmp_path / name.partition('.')[0], distilled(TERMS), type=name)
        for name in (OURS, 'LogProcessor')
    )
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert list(one) == list(other)
        names = [name for name in one if 'loss' in name]
        assert [one[n] for n in names] == [other[n] for n in names]


def test_a_stock_model_has_the_stock_line(tmp_path):
    lines, _ = logged(tmp_path / 'run', student(), type=OURS)
    assert all(re.search(r'  loss: \S+  loss_cls: \S+$', line) for line in lines)


def test_training_takes_it_and_the_students_config_does_not():
    config = 'mmkd::hint/hint_gfl_r50_gfl_r101_1x_coco.py'
    cfg = train_config(config)
    stock = load_config(config).log_processor
    assert cfg.log_processor == {**stock, 'type': OURS}
    assert student_config(cfg).log_processor == stock
    assert train_config(config, distill=False).log_processor == stock
    own = {'log_processor.type': 'OwnProcessor'}
    assert train_config(config, options=own).log_processor.type == 'OwnProcessor'
