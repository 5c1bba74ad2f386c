"""tools/check.py: what it measures is true, and what is wrong it says at once."""

import json
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tool_runs import call_tool, checkpoint

from mmkd.rng import get_rng_state

QUICK = ('--steps', 1, '--seed', 3)


def files(folder) -> dict:
    return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


def row(out: str, name: str) -> list[str]:
    """Cells of the row of a table that starts with a name."""
    (line,) = (x for x in out.splitlines() if re.match(rf'│ {re.escape(name)} +│', x))
    return [cell.strip() for cell in line.strip('│').split('│')]


def verdict(out: str, label: str) -> list[str]:
    return [x for x in out.splitlines() if x.startswith(f'{label}: ')]


def evaluated(place, config, weights, work_dir, *options) -> dict:
    """What tools/test.py says of a network."""
    done = call_tool(
        'test', place / config, place / weights, '--work-dir', work_dir, *options
    )
    assert done.code == 0, done.err
    (path,) = work_dir.glob('*/*.json')
    return json.loads(path.read_text())


@pytest.fixture(scope='module')
def good(place, tmp_path_factory):
    """A check of a good config, and what it left behind."""
    here = tmp_path_factory.mktemp('here')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_DATA', str(place / 'big_disk'))
        patch.chdir(here)
        before, state = files(place), get_rng_state()['torch']
        done = call_tool(
            'check', place / 'hint.py', *QUICK, '--batches', 'all',
            '--cfg-options', 'model.losses.loss_hint.loss_weight=0.05',
        )  # fmt: skip
        left = files(place), list(here.iterdir()), get_rng_state()['torch']
    assert done.code == 0, done.err + done.out
    assert left[:2] == (before, [])
    assert torch.equal(left[2], state)
    return done.out


def test_a_good_config_is_ready(good):
    assert 'ready to train: 0 errors' in good
    assert verdict(good, 'error') == []
    sections = ('Models', 'Fit', 'One batch of 2', 'Cost', 'Teacher on 6 of', 'Verdict')
    positions = [good.index(f'\n{title}') for title in sections]
    assert positions == sorted(positions)


def test_the_numbers_are_the_networks(good, place):
    from mmengine.registry import MODELS

    def weights(config) -> int:
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(Config.fromfile(place / config).model)
        return sum(p.numel() for p in model.parameters())

    student, teacher = weights('student.py'), weights('teacher.py')
    # A preprocessed picture has 64 x 64 pixels.
    assert row(good, 'student')[1:4] == ['GFL', f'{student:,}', f'{student:,}']
    assert row(good, 'teacher')[1:4] == ['GFL', f'{teacher:,}', '0']
    adapters = 5 * (16 * 32 + 32)
    assert row(good, 'adapters')[2:4] == [f'{adapters:,}', f'{adapters:,}']
    assert 'FPN, 5x16 channels' in good
    assert '1x1 16 to 32' in good
    stock, distilled = (float(x.split()[0]) for x in row(good, 'memory')[1:3])
    assert distilled > stock + teacher * 4 / 2**20


def test_the_teachers_metric_is_that_of_the_test_tool(good, place, tmp_path):
    metrics = evaluated(place, 'teacher.py', 'teacher.pth', tmp_path)
    assert metrics['coco/AR@100'] > 0
    for name in ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/AR@100', 'coco/AR_s@1000'):
        assert float(row(good, name)[1]) == metrics[name]
    assert any('about what chance gives' in x for x in verdict(good, 'warning'))


def test_some_batches_are_judged_by_their_own_pictures(place, tmp_path):
    full = json.loads((place / 'big_disk/digits/annotations/val.json').read_text())
    chosen = [full['images'][i]['id'] for i in (0, 1, 3, 4)]  # spread over all six
    full['images'] = [x for x in full['images'] if x['id'] in chosen]
    full['annotations'] = [x for x in full['annotations'] if x['image_id'] in chosen]
    part = tmp_path / 'part.json'
    part.write_text(json.dumps(full))
    expected = evaluated(
        place, 'teacher.py', 'teacher.pth', tmp_path / 'out', '--cfg-options',
        f'test_dataloader.dataset.ann_file={part}', f'test_evaluator.ann_file={part}',
    )  # fmt: skip
    # A term that does not fit is left out, and the teacher is tried all the same.
    done = call_tool(
        'check', place / 'hint.py', *QUICK, '--batches', 2,
        '--cfg-options', 'model.losses.loss_hint.at=nekc',
    )  # fmt: skip
    assert 'Teacher on 4 of 6' in done.out
    assert float(row(done.out, 'coco/AR@100')[1]) == expected['coco/AR@100'] > 0
    assert done.code == 1
    (error,) = verdict(done.out, 'error')
    assert error.startswith("error: loss_hint: 'nekc' is not a sub-module of GFL")


BAD = {
    'several': (
        'model.losses.loss_hint.at=nekc',
        'model.losses.loss_b.type=mmkd.FeatureImitationLoss',
        'model.losses.loss_b.at=backbone.layer1',
        'model.losses.loss_b.teacher_at=backbone.layer3',
        'model.losses.loss_ld.type=mmkd.LocalizationDistillationLoss',
        'model.bbox_head.reg_max=8',
        'train_dataloader.dataset.ann_file=gone.json',
    ),
    'weights': ('model.teacher.checkpoint={place}/seg_teacher.pth',),
    'classes': (
        'model.teacher.checkpoint={here}/other_order.pth',
        'model.losses.loss_kd.type=mmkd.ClassificationDistillationLoss',
    ),
    'student': ('model.backbone.depth=19',),
}
SAID = {
    'several': [
        r"loss_hint: 'nekc' is not a sub-module of GFL; did you mean 'neck'\?",
        r'loss_b: .* maps of one size .* set resize=',
        r'loss_ld: .* bins \(reg_max \+ 1\) .* \[?9.* give both heads the same reg_max',
        r'the training data: .*gone\.json.*MMKD_DATA',
    ],
    'weights': [r'weights of .*seg_teacher\.pth do not fit GFL'],
    'classes': [r'loss_kd: student and teacher must have the same classes'],
    'student': [r'the student cannot be built: .*depth 19'],
}


@pytest.mark.parametrize('case', BAD)
def test_bad_configs(place, tmp_path, monkeypatch, case):
    state = checkpoint(place / 'teacher.pth')
    state['meta']['dataset_meta'] = dict(classes=tuple('9876543210'))
    torch.save(state, tmp_path / 'other_order.pth')
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path), files(place)
    options = [text.format(place=place, here=tmp_path) for text in BAD[case]]
    done = call_tool(
        'check', place / 'hint.py', *QUICK, '--batches', 1, '--cfg-options', *options
    )
    assert done.code == 1
    assert 'not ready to train' in done.out
    errors = verdict(done.out, 'error')
    assert len(errors) == len(SAID[case]), errors
    for sentence in SAID[case]:
        assert any(re.search(sentence, error) for error in errors), sentence
    assert 'Traceback' not in done.out + done.err
    assert (files(tmp_path), files(place)) == before


def test_without_data_the_rest_is_checked(place, monkeypatch):
    monkeypatch.setenv('MMKD_DATA', '/nowhere')
    done = call_tool(
        'check', place / 'hint.py', *QUICK, '--cfg-options',
        'model.teacher.checkpoint=None', 'model.teacher.allow_random=True',
    )  # fmt: skip
    assert done.code == 1
    errors = verdict(done.out, 'error')
    assert len(errors) == 2
    for error, name in zip(errors, ('train', 'val')):
        assert f'/nowhere/digits/annotations/{name}.json' in error
        assert 'MMKD_DATA=<folder>' in error
    assert done.out.count('\nskipped: ') == 2
    assert row(done.out, 'teacher')[1] == 'GFL'
    assert '1x1 16 to 32' in done.out
    assert 'random weights' in verdict(done.out, 'warning')[0]


def test_a_stock_config_is_told_how_to_name_a_teacher(place):
    done = call_tool('check', place / 'student.py')
    assert done.code == 2
    assert 'add --teacher' in done.err
    assert '--method' in done.err


def test_a_segmentor(place, tmp_path):
    done = call_tool(
        'check', place / 'seg_student.py', '--teacher', place / 'seg_teacher.pth',
        '--method', 'cwd', *QUICK, '--batches', 'all',
    )  # fmt: skip
    assert done.code == 0, done.err + done.out
    metrics = evaluated(place, 'seg_teacher.py', 'seg_teacher.pth', tmp_path)
    assert metrics['mAcc'] > 0
    for name in ('aAcc', 'mIoU', 'mAcc'):
        value = float(row(done.out, name)[1])
        assert value == pytest.approx(metrics[name], abs=5e-3)
    assert '11 channels, stride' in done.out


def test_training_says_the_cheap_part_by_itself(hint_run):
    (log,) = hint_run.glob('*/*.log')
    text = log.read_text()
    assert 'Preflight (tools/check.py tells more)' in text
    assert '1x1 16 to 32' in text
    assert 'Preprocessing: the same for both' in text


def test_a_model_that_asks_for_the_iteration_and_evaluators_that_write(place, tmp_path):
    """YOLOX resizes by the iteration; a dump of predictions is a file of the user's."""
    mine = tmp_path / 'predictions.pkl'
    mine.write_text('mine')
    resize = dict(
        type='BatchSyncRandomResize',
        random_size_range=(64, 96),
        size_divisor=32,
        interval=1,
    )
    cfg = Config.fromfile(place / 'hint.py')
    cfg.model.student.data_preprocessor.batch_augments = [resize]
    dump = dict(type='DumpDetResults', out_file_path=str(mine))
    cfg.val_evaluator = [cfg.val_evaluator, dump]
    cfg.dump(tmp_path / 'resized.py')
    done = call_tool('check', tmp_path / 'resized.py', *QUICK, '--batches', 1)
    assert done.code == 0, done.err + done.out
    assert verdict(done.out, 'error') == []
    assert mine.read_text() == 'mine'
