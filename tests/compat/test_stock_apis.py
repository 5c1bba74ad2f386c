"""``init_detector`` and ``init_model`` take a distillation config."""

import subprocess
import sys

import pytest

CONFIGS = {
    'mmdet': ('init_detector', 'hint/hint_gfl_mbv2-025_gfl_mbv2_bccd.py', 'GFL'),
    'mmseg': (
        'init_model',
        'demo/cwd_fpn_r18-w8_fpn_r18-w24_digits.py',
        'EncoderDecoder',
    ),
}
BEFORE = 'import mmkd\nfrom {library}.apis import {function}'
# mmkd imported last, where compiled operators let the host library come first: stock
# functions stand in both places when mmkd takes them over.
AFTER = """
import mmkd
import {library}.apis as apis
from {library}.apis import inference
from mmkd.compat.stock_loading import _take_distilled
apis.{function} = inference.{function} = apis.{function}.__wrapped__
_take_distilled(inference)
assert apis.{function} is inference.{function}
from {library}.apis import {function}
"""


@pytest.mark.parametrize('order', [BEFORE, AFTER], ids=['before', 'after'])
@pytest.mark.parametrize('library', CONFIGS)
def test_builds_the_student_alone(library, order):
    pytest.importorskip(library)
    function, config, expected = CONFIGS[library]
    code = (
        order.format(library=library, function=function)
        + '\nfrom mmkd.config import config_root\n'
        + f'model = {function}(str(config_root() / {config!r}), device="cpu")\n'
        + 'print(type(model).__name__, hasattr(model, "distiller"))\n'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'{expected} False'
