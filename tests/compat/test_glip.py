"""GLIP's layers on transformers 5: in any order of imports, and without it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
ROOT = Path(__file__).resolve().parents[2]
SAY = """
layers = sys.modules['mmdet.models.utils.vlfuse_helper']
head = sys.modules['mmdet.models.dense_heads.atss_vlfusion_head']
print(layers.BertConfig is not None, head.BertEncoderLayer is layers.BertEncoderLayer,
      layers.BertEncoderLayer.forward is glip._forward)
"""


def run(code: str, path: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', 'import sys\n' + code],
        capture_output=True,
        text=True,
        cwd=path or ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_imported_after_mmkd():
    pytest.importorskip('transformers')
    code = 'import mmkd, mmdet.models\nfrom mmkd.compat import glip\n' + SAY
    assert run(code) == 'True True True'


def test_imported_before():
    """As with a full mmcv, where mmkd is imported by a config alone."""
    pytest.importorskip('transformers')
    code = (
        'import mmkd\nfrom mmkd.compat import glip\n'
        "named = lambda f: getattr(f, 'name', '') == glip._LAYERS\n"
        'sys.meta_path[:] = [f for f in sys.meta_path if not named(f)]\n'
        'import mmdet.models\nglip.install_glip()\n' + SAY
    )
    assert run(code) == 'True True True'


def test_a_broken_transformers_breaks_nothing_else(tmp_path):
    broken = "raise ImportError('of another version')"
    (tmp_path / 'transformers').mkdir()
    (tmp_path / 'transformers' / '__init__.py').write_text(broken)
    code = (
        f'sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n'
        'import mmkd, mmdet.models\n'
        "print(sys.modules['mmdet.models.utils.vlfuse_helper'].BertConfig)"
    )
    assert run(code, tmp_path) == 'None'
