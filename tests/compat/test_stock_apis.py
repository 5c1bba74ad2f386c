"""``init_detector`` and ``init_model`` take a distillation config."""

import subprocess
import sys

import pytest

CONFIGS = {
    'mmdet': ('init_detector', 'hint/hint_gfl_mbv2-025_gfl_mbv2_bccd.py', 'GFL'),
    'mmseg': (
        'init_model',
        'demo/cwd_fcn_r18-w8_fcn_r18-w32_digits.py',
        'EncoderDecoder',
    ),
}
ORDERS = [
    'import mmkd\nfrom {library}.apis import {function}',
    # Without compiled operators mmdet cannot be imported before mmkd.
    'import mmkd\nimport {library}.apis\nmmkd.compat.install()\n'
    'from {library}.apis.inference import {function}',
]


@pytest.mark.parametrize('order', ORDERS)
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
