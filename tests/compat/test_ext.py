"""The stand-in for mmcv._ext, in fresh processes where imports matter."""

import os
import subprocess
import sys
import textwrap

import pytest

from mmkd.compat.ext import OpNotAvailableError, install_ops
from mmkd.compat.ops import OPS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(code, path=()):
    """Run code in a fresh interpreter; return what it printed."""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([*map(str, path), ROOT])}
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def test_installing_imports_nothing_and_claims_no_mmcv_where_there_is_none():
    code = """
        import importlib, sys
        import mmengine.runner  # which takes optimizers from transformers
        before = set(sys.modules)
        from mmkd.compat.ext import install_ops
        install_ops()
        install_ops()
        heavy = ('mmcv', 'mmdet', 'mmseg', 'torchvision', 'transformers')
        print([name for name in heavy if name in sys.modules.keys() - before])
        print([name for name in sys.modules if name.startswith('mmkd.compat.ops.')])
        print(len([f for f in sys.meta_path if f.__class__.__module__ ==
                   'mmkd.compat.ext']))

        class NoMmcv:
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] == 'mmcv':
                    raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        sys.meta_path.insert(0, NoMmcv())
        try:
            importlib.import_module('mmcv._ext')
        except ModuleNotFoundError as error:
            print(error.name)
    """
    assert run(code) == ['[]', '[]', '1', 'mmcv']


def test_stock_models_import_and_mmcv_counts_as_full():
    code = """
        from mmkd.compat.ext import install_ops
        install_ops()
        import mmcv.ops
        from mmengine.utils.dl_utils import mmcv_full_available
        from mmcv.utils.ext_loader import check_ops_exist
        import mmdet.models, mmseg.models
        from mmengine.registry import MODELS
        print(mmcv_full_available(), check_ops_exist())
        print([n for n in ('DCN', 'DCNv2', 'carafe', 'MMSyncBN')
               if MODELS.get(n) is None])
    """
    assert run(code)[-2:] == ['True True', '[]']


def test_a_compiled_extension_is_left_alone(tmp_path):
    """With a mmcv that brings its own _ext, that one is imported."""
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / '_ext.py').write_text('def nms():\n    return "compiled"\n')
    code = """
        import importlib
        from mmkd.compat.ext import install_ops
        install_ops()
        ext = importlib.import_module('mmcv._ext')
        install_ops()
        print(ext.nms(), ext.__file__.endswith('_ext.py'))
        print(importlib.import_module('mmcv._ext') is ext)
        print(hasattr(ext, 'softnms'))
    """
    assert run(code, [tmp_path]) == ['compiled True', 'True', 'False']


@pytest.fixture(scope='module')
def ext():
    install_ops()
    return pytest.importorskip('mmcv._ext')


def test_every_operator_of_the_table_exists_under_its_name(ext):
    for name in OPS:
        assert getattr(ext, name).__name__ == name
    assert set(OPS) <= set(dir(ext))


def test_unknown_operator_raises_when_called_and_not_before(ext):
    op = ext.box_iou_rotated
    with pytest.raises(
        OpNotAvailableError, match=r"'box_iou_rotated'.*mmcv >= 2\.1.*https://"
    ):
        op(1, key=2)
    assert issubclass(OpNotAvailableError, NotImplementedError)


def test_private_names_are_absent(ext):
    for name in ('__path__', '__wrapped__', '_ipython_display_', '__file__'):
        assert not hasattr(ext, name)
    assert ext.__spec__.name == 'mmcv._ext'


def test_environment_report_works(ext):
    from mmengine.utils.dl_utils import collect_env

    assert 'mmkd' in ext.get_compiler_version()
    assert 'mmkd' in ext.get_compiling_cuda_version()
    assert collect_env()['PyTorch']
