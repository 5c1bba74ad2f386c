"""The search for weights: a real one, and what it does with results and failures."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import digits_detector
import pytest
from mmengine.config import Config

from mmkd.demo.digits import make_digits
from mmkd.experiments.process import run_training
from mmkd.experiments.tuning import Search, draw_search, study_of, tune, weights_of

ROOT = Path(__file__).resolve().parents[1]
LOSSES = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck', loss_weight=0.5),
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
    loss_off=dict(type='mmkd.PKDLoss', at='neck', loss_weight=0),
    loss_none=None,
)
#: Logs a metric that is best where the weight of loss_hint is 2; 20 cannot be trained.
STAND_IN = """
import json, math, pathlib, sys
arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index('--work-dir') + 1])
seed = int(arguments[arguments.index('--seed') + 1])
told = dict(a.split('=') for a in arguments if '=' in a)
weight = float(told['model.losses.loss_hint.loss_weight'])
if weight > 4:
    sys.exit('ValueError: the loss is not finite')
log = folder / '1' / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True)
value = 1 - math.log(weight / 2) ** 2 + (seed - 0.5) / 50
log.write_text(json.dumps(dict(step=1, mIoU=value, told=told)) + '\\n')
"""


def config(losses=LOSSES, **loop) -> Config:
    model = dict(type='mmkd.Distill', student=dict(), teacher='x', losses=losses)
    return Config(dict(model=model, train_cfg=loop or dict(max_epochs=12)))


def search(tmp_path, **options) -> Search:
    script = tmp_path / 'train.py'
    script.write_text(STAND_IN)
    known = dict(length=3, terms=['loss_hint'])
    return Search([str(script)], config(), tmp_path / 'out', **{**known, **options})


def test_the_weights_are_those_of_the_terms_that_are_on():
    assert weights_of(config()) == dict(loss_hint=0.5, loss_ld=0.25)  # LD's default


def test_it_finds_the_best_weight_and_goes_on_where_it_stopped(tmp_path):
    its = search(tmp_path, seeds=[0, 1])
    seen = []
    for trials in (4, 14):
        study = study_of(its)
        tune(its, study, trials, advance=lambda *told: seen.append(told))
    assert [number for number, _ in seen] == list(range(len(seen)))
    assert sum(value is not None for _, value in seen) == 14
    tried = [t.params['loss_hint'] for t in study.trials]
    assert len(set(tried)) == len(tried)  # nothing twice, also where it went on
    first = study.trials[0]
    assert its.options(first.params) == {'model.losses.loss_hint.loss_weight': 0.5}
    assert first.value == pytest.approx(1 - math.log(4) ** 2)  # both seeds
    best = its.options(study.best_trial.params)
    assert best['model.losses.loss_hint.loss_weight'] == pytest.approx(2, rel=0.4)
    failed = [trial for trial in study.trials if 'failure' in trial.user_attrs]
    assert failed
    for trial in failed:
        assert its.options(trial.params)['model.losses.loss_hint.loss_weight'] > 4
        assert 'the loss is not finite (see ' in trial.user_attrs['failure']
    log = its.folder / 'trial_0' / 'seed_1' / '1' / 'vis_data' / 'scalars.json'
    told = json.loads(log.read_text())['told']
    assert told['train_cfg.max_epochs'] == told['train_cfg.val_interval'] == '3'
    assert draw_search(its, study, tmp_path / 'x.png').read_bytes()[:4] == b'\x89PNG'


def test_iterations_are_counted_where_the_config_counts_them(tmp_path):
    cfg = config(max_iters=100)
    assert Search(['x'], cfg, tmp_path, 10).unit == 'iters'


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(length=0), 'length >= 1 but is of 0'),
        (dict(span=1), 'span must be > 1 but is 1'),
        (dict(terms=['loss_off']), r"\['loss_hint', 'loss_ld'\].*\['loss_off'\]"),
    ],
)
def test_what_cannot_be_searched(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        search(tmp_path, **options)
    stock = Config(dict(model=dict(type='GFL'), train_cfg=dict(max_epochs=1)))
    with pytest.raises(ValueError, match='names no teacher'):
        Search(['x'], stock, tmp_path, 1)


def test_a_metric_that_nobody_logs_fails_the_trial(tmp_path):
    its = search(tmp_path, metric='mAcc')
    study = study_of(its)
    with pytest.raises(RuntimeError, match='three trials in a row failed'):
        tune(its, study, 1)
    assert "'mAcc' is not among" in study.trials[0].user_attrs['failure']


def test_what_was_killed_is_tried_again_and_other_searches_are_refused(tmp_path):
    its = search(tmp_path)
    study = study_of(its)
    study.enqueue_trial(dict(loss_hint=1.0))
    study.ask()  # and then the power is cut
    study = study_of(search(tmp_path))
    tune(its, study, 1)
    first, again = study.trials
    assert first.state.name == 'FAIL'
    assert again.params == dict(loss_hint=1.0)
    for changes in (dict(length=4), dict(seeds=[3]), dict(terms=None), dict(span=5)):
        with pytest.raises(ValueError, match='trials of both cannot be compared'):
            study_of(search(tmp_path, **changes))
    with pytest.raises(ValueError, match='is for mIoU, not mAcc'):
        study_of(search(tmp_path, metric='mAcc'))


def test_whoever_is_stopped_stops_its_training(tmp_path):
    def stop(text):
        raise KeyboardInterrupt

    command = [sys.executable, '-c', 'import time; time.sleep(60)']
    with pytest.raises(KeyboardInterrupt):
        run_training(command, tmp_path / 'log.txt', stop)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):  # as by `kill` or a scheduler
        run_training(
            [*command], tmp_path / 'log.txt', lambda _: os.kill(os.getpid(), 15)
        )
    assert signal.getsignal(signal.SIGTERM) is before
    killed = [sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)']
    with pytest.raises(RuntimeError, match='killed from outside: see .*log.txt'):
        run_training(killed, tmp_path / 'log.txt')


@pytest.mark.slow
def test_a_search_on_real_trainings(tmp_path):
    digits = make_digits(tmp_path / 'digits', num_train=6, num_val=3, size=64)
    cfg = digits_detector.distilled(digits, tmp_path / 'run', LOSSES)
    cfg.custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
    del cfg.default_hooks.recorder
    path = tmp_path / 'config.py'
    cfg.dump(path)
    command = [sys.executable, 'tools/tune.py', str(path), '--length', '1']
    command += ['--trials', '2', '--work-dir', str(tmp_path / 'out')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(
        r'best: --cfg-options model\.losses\.loss_hint\.loss_weight=(\S+) '
        r'model\.losses\.loss_ld\.loss_weight=(\S+)$',
        done.stdout.strip(),
    )
    assert found, done.stdout
    assert '0 (the config)' in done.stdout
    import optuna
    from optuna.storages.journal import JournalFileBackend

    journal = JournalFileBackend(str(tmp_path / 'out' / 'journal.log'))
    study = optuna.load_study(
        study_name='mmkd', storage=optuna.storages.JournalStorage(journal)
    )
    for trial in study.trials:
        folder = tmp_path / 'out' / f'trial_{trial.number}' / 'seed_0'
        text = next(folder.glob('*/vis_data/scalars.json')).read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert (
            trial.value
            == [x for x in lines if 'coco/bbox_mAP' in x][-1]['coco/bbox_mAP']
        )
        ran = Config.fromfile(next(folder.glob('*.py'))).model.losses
        factor = trial.params['loss_hint']
        assert ran.loss_hint.loss_weight == pytest.approx(0.5 * factor, rel=1e-3)
