"""What is installed works outside the tree, configs included."""

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    'mmkd',
    'configs',
    'setup.py',
    'pyproject.toml',
    'MANIFEST.in',
    'README.md',
    'LICENSE',
)
BASE = "model = dict(type='Base', depth=18)\n"
# mmengine would give both uses the scope of their prefix, in which the types of
# the host libraries are unknown.
USER = """
_base_ = 'mmkd::packaging/base.py'
model = dict(width=8, student={{_base_.model}})
"""
READ = """
import sys
import mmkd
from mmengine.config import Config
model = Config.fromfile(sys.argv[1]).model
print(mmkd.__file__)
print(sorted(model.items()))
"""

needs_build_tools = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ('pip', 'setuptools'))),
    reason='building needs pip and setuptools',
)


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: object) -> str:
    return run(sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments)


def installs_offline(kind: str, *arguments: object) -> str:
    return pip(kind, '--quiet', '--no-deps', '--no-build-isolation', *arguments)


@pytest.fixture(scope='module')
def tree(tmp_path_factory) -> Path:
    """A copy of the source tree with one config more, to tell it from the real one."""
    copy = tmp_path_factory.mktemp('source') / 'mmkd-tree'
    copy.mkdir()
    ignore = shutil.ignore_patterns('__pycache__')
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(ROOT / name, copy / name)
    (copy / 'configs' / 'packaging').mkdir(parents=True)
    (copy / 'configs' / 'packaging' / 'base.py').write_text(BASE)
    return copy


@pytest.fixture(scope='module')
def wheel(tree, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    installs_offline('wheel', '--wheel-dir', folder, tree)
    (path,) = folder.glob('mmkd-*.whl')
    return path


def read_config(folder: Path, python: object = sys.executable, path: str = '') -> tuple:
    """Load a config based on `mmkd::...` in a new process, away from the tree."""
    (folder / 'user.py').write_text(USER)
    env = {**os.environ, 'PYTHONPATH': path}
    output = run(python, '-W', 'ignore', '-c', READ, 'user.py', cwd=folder, env=env)
    package, model = output.splitlines()[-2:]
    return Path(package), model


EXPECTED = (
    "[('depth', 18), ('student', {'type': 'Base', 'depth': 18}), "
    "('type', 'Base'), ('width', 8)]"
)


@needs_build_tools
def test_a_wheel_resolves_its_configs_outside_the_tree(wheel, tmp_path):
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    package, model = read_config(tmp_path, path=str(site))
    assert package == site / 'mmkd' / '__init__.py'
    assert model == EXPECTED


def test_a_checkout_resolves_its_configs(tree, tmp_path):
    package, model = read_config(tmp_path, path=str(tree))
    assert package == tree / 'mmkd' / '__init__.py'
    assert model == EXPECTED


@needs_build_tools
def test_an_editable_installation_resolves_its_configs(tree, tmp_path):
    # pip's metadata of an editable installation lies apart from the package,
    # where mmengine's own look-up expects the two together.
    venv.create(tmp_path / 'env', with_pip=False, symlinks=True)
    python = tmp_path / 'env' / 'bin' / 'python'
    site = run(python, '-c', 'import site; print(site.getsitepackages()[0])').strip()
    # The host libraries of this environment, after the new one's own packages.
    others = [p for p in sys.path if p.rstrip('/').endswith('-packages')]
    (Path(site) / 'zz_hosts.pth').write_text('\n'.join(others) + '\n')
    pip('--python', python, 'install', '--quiet', '--no-deps',
        '--no-build-isolation', '--ignore-installed', '--editable', tree)  # fmt: skip
    package, model = read_config(tmp_path, python)
    assert package == tree / 'mmkd' / '__init__.py'
    assert model == EXPECTED


@needs_build_tools
def test_the_wheel_holds_every_module_and_config_and_nothing_else(tree, wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if '.dist-info/' not in n}
    modules = {
        str(p.relative_to(tree))
        for p in (tree / 'mmkd').rglob('*.py')
        if '.mim' not in p.parts
    }
    configs = {
        f'mmkd/.mim/{p.relative_to(tree)}'
        for p in (tree / 'configs').rglob('*')
        if p.suffix in ('.py', '.md')
    }
    assert packed == modules | configs | {
        'mmkd/.mim/model-index.yml',
        'mmkd/report/page.html.j2',
    }


@needs_build_tools
def test_installing_touches_neither_torch_nor_the_host_libraries(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('/METADATA'))
        meta = email.message_from_bytes(archive.read(name))
    always = [r for r in meta.get_all('Requires-Dist') if 'extra' not in r]
    assert sorted(always) == ['numpy', 'torch>=2.1']
    assert meta['License'] == 'Apache-2.0'
    assert set(meta['Requires-Python'].split(',')) == {'>=3.10', '<3.14'}


def pins(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding='utf-8')
    found = []
    for line in (line.partition('#')[0].strip() for line in text.splitlines()):
        if line.startswith('-r '):
            included = Path(name).parent / line.removeprefix('-r ')
            found += pins(str(included))
        elif line and not line.startswith('-'):
            found.append(line)
    return found


@pytest.mark.parametrize(
    'name',
    ['requirements.txt', 'requirements/onedl.txt', 'requirements/constraints.txt'],
)
@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
def test_every_requirement_is_pinned_once_per_python(name, python):
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in pins(name)]
    active = [
        r for r in requirements
        if r.marker is None or r.marker.evaluate({'python_version': python})
    ]  # fmt: skip
    assert len({r.name for r in active}) == len(active) > 15
    assert all(re.fullmatch(r'==[\w.]+', str(r.specifier)) for r in active)


def test_the_second_stack_differs_in_the_host_libraries_and_what_they_need():
    first, second = (
        {(re.split(r'[=;]', line)[0], line.partition(';')[2]): line for line in lines}
        for lines in (pins('requirements.txt'), pins('requirements/onedl.txt'))
    )
    shared = first.keys() & second.keys()
    others = {name for name, _ in shared if first[name, _] != second[name, _]}
    assert {('torch', ''), ('torchvision', ''), ('pytest', '')} <= shared
    text_encoders = {'transformers', 'tokenizers', 'huggingface-hub'}
    assert others == {'opencv-python', *text_encoders}


@pytest.mark.parametrize(
    ('command', 'name'),
    [('make test', 'requirements.txt'), ('make test-onedl', 'requirements/onedl.txt')],
)
def test_the_table_of_tested_versions_names_the_pinned_ones(command, name):
    text = (ROOT / 'docs' / 'install.md').read_text(encoding='utf-8')
    rows = [line for line in text.splitlines() if f'| `{command}`,' in line]
    pinned = dict(line.partition(';')[0].split('==') for line in pins(name))
    hosts = ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation')
    expected = [
        version
        for package, version in pinned.items()
        if package in ('torch', 'torchvision', 'numpy')
        or any(host in package for host in hosts)
    ]
    assert len(rows) == 1
    assert len(expected) == 7
    named = re.findall(r'\d[\d.]+\d', rows[0])
    assert sorted(named) == sorted(['3.11', *expected])


def test_continuous_integration_runs_what_the_readme_names():
    script = (ROOT / '.ci' / 'run').read_text(encoding='utf-8')
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    commands = re.findall(r'^(?:exec )?(make [\w-]+)', script, re.MULTILINE)
    assert commands == ['make test', 'make test-onedl']
    assert 'make test\n' in readme
    assert '`make test-onedl`' in readme


def test_the_pinned_set_holds_all_that_the_extras_ask_for():
    pinned = {re.split(r'[=;]', line)[0] for line in pins('requirements.txt')}
    source = (ROOT / 'setup.py').read_text(encoding='utf-8')
    for group in ('HOSTS', 'DEMO', 'REPORT', 'GAN', 'TEXT', 'TESTS'):
        body = re.search(rf'^{group} = \[(.*?)\]', source, re.DOTALL | re.MULTILINE)[1]
        names = re.findall(r"'([\w.-]+)", body)
        assert names
        assert set(names) <= pinned
