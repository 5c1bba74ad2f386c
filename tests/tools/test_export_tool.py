"""What tools/export.py writes, used by stock code that never imports mmkd."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tool_runs import call_tool, checkpoint, distilled_model, same

CLASSES = list('0123456789')


def stock_use(kind: str, weights: Path, picture: Path, out: Path) -> dict:
    """Predictions of stock code in a process that does not know of mmkd."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name('stock_user.py'),
            kind,
            weights.with_suffix('.py'),
            weights,
            picture,
            out,
        ],
        cwd=out.parent,
        env={**env, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


def test_stock_detection_uses_the_pair(hint_run, place, tmp_path):
    source, weights = hint_run / 'epoch_2.pth', tmp_path / 'new' / 'student.pth'
    done = call_tool('export', source, '--out', weights)
    assert done.code == 0, done.err
    assert done.out.split() == [
        'weights:',
        str(weights),
        'config:',
        str(weights.with_suffix('.py')),
    ]
    picture = place / 'big_disk' / 'digits' / 'val' / '000000.png'
    found = stock_use('det', weights, picture, tmp_path / 'found.pth')
    assert found['type'] == 'mmdet.models.detectors.gfl.GFL'
    assert found['classes'] == CLASSES

    from mmdet.apis import inference_detector

    model = distilled_model(place / 'hint.py', source, 'mmdet')
    model.cfg = Config.fromfile(weights.with_suffix('.py'))
    with DefaultScope.overwrite_default_scope('mmdet'):
        expected = inference_detector(model, str(picture)).pred_instances
    assert len(expected) == 100
    assert torch.equal(found['boxes'], expected.bboxes)
    assert torch.equal(found['scores'], expected.scores)
    assert torch.equal(found['labels'], expected.labels)
    torch.testing.assert_close(found['told'], expected.bboxes)


def test_stock_segmentation_uses_the_pair(seg_run, place, tmp_path):
    source, weights = seg_run / 'iter_4.pth', tmp_path / 'student.pth'
    done = call_tool('export', source, '--out', weights)
    assert done.code == 0, done.err
    picture = place / 'big_disk' / 'digits' / 'val' / '000000.png'
    found = stock_use('seg', weights, picture, tmp_path / 'found.pth')
    assert found['type'] == 'mmseg.models.segmentors.encoder_decoder.EncoderDecoder'
    assert found['classes'] == ['ground', *CLASSES]

    from mmseg.apis import inference_model

    config = seg_run / 'seg_student.py'  # what was trained, as the Runner wrote it
    cfg = Config.fromfile(config)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    cfg.dump(tmp_path / 'trained.py')
    model = distilled_model(tmp_path / 'trained.py', source, 'mmseg')
    model.cfg = Config.fromfile(weights.with_suffix('.py'))
    with DefaultScope.overwrite_default_scope('mmseg'):
        expected = inference_model(model, str(picture))
    assert torch.equal(found['logits'], expected.seg_logits.data)
    assert torch.equal(found['map'], expected.pred_sem_seg.data)
    assert torch.equal(found['told'], expected.pred_sem_seg.data[0])
    assert len(found['map'].unique()) > 1


@pytest.mark.parametrize('run', ['hint_run', 'seg_run'])
def test_the_exported_config_names_nothing_of_mmkd(run, request, tmp_path):
    folder = request.getfixturevalue(run)
    source = folder / (folder / 'last_checkpoint').read_text()
    assert 'mmkd.' in checkpoint(source)['meta']['cfg']
    call_tool('export', source, '--out', tmp_path / 'student.pth')
    text = (tmp_path / 'student.py').read_text()
    assert 'mmkd' not in text
    assert str(folder) not in text
    exported = torch.load(tmp_path / 'student.pth', weights_only=True)
    assert exported['meta']['cfg'] == text
    assert set(exported) == {'meta', 'state_dict'}
    cfg, student = (
        Config.fromfile(tmp_path / 'student.py'),
        folder / 'student_config.py',
    )
    assert cfg.to_dict() == Config.fromfile(student).to_dict()


def test_by_default_the_pair_lies_beside_the_checkpoint(hint_run):
    done = call_tool('export', hint_run / 'epoch_1.pth')
    assert done.code == 0, done.err
    exported = torch.load(hint_run / 'epoch_1_student.pth', weights_only=True)
    trained = checkpoint(hint_run / 'epoch_1.pth')
    assert same(exported['state_dict'], trained['state_dict'])
    assert exported['state_dict']._metadata == trained['state_dict']._metadata
    assert exported['meta']['epoch'] == 1
    assert (hint_run / 'epoch_1_student.py').is_file()


def test_averaged_weights_or_raw_ones(hint_run, place, tmp_path):
    config = place / 'ema.py'
    config.write_text(
        "_base_ = 'hint.py'\n"
        "custom_hooks = [dict(type='EMAHook', momentum=0.1)]\n"
        'train_cfg = dict(max_epochs=1, val_interval=9)\n'
    )
    done = call_tool('train', config, '--seed', 3, '--work-dir', tmp_path)
    assert done.code == 0, done.err
    source = tmp_path / 'epoch_1.pth'
    for name, arguments in (('averaged', []), ('raw', ['--raw'])):
        done = call_tool(
            'export', source, '--out', tmp_path / f'{name}.pth', *arguments
        )
        assert done.code == 0, done.err
    averaged = checkpoint(tmp_path / 'averaged.pth')['state_dict']
    raw = checkpoint(tmp_path / 'raw.pth')['state_dict']
    assert same(averaged, checkpoint(source)['state_dict'])
    # Averaging does not change training, so the raw weights are the other run's.
    assert same(raw, checkpoint(hint_run / 'epoch_1.pth')['state_dict'])
    assert raw._metadata == averaged._metadata
    assert not same(raw, averaged)
