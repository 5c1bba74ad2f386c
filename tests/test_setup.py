"""`make setup`: which Python it takes, and how it mends what was interrupted."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'requirements' / 'setup.sh'


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location(
        'bootstrap', ROOT / 'requirements' / 'bootstrap.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dist_info(tmp_path) -> Path:
    """An installed package of one module, with its metadata."""
    site = tmp_path / 'lib' / 'python3.11' / 'site-packages'
    info = site / 'thing-1.0.dist-info'
    info.mkdir(parents=True)
    (site / 'thing.py').write_text('x = 1\n')
    (info / 'METADATA').write_text('Name: thing\n')
    (info / 'RECORD').write_text(
        'thing.py,sha256=abc,6\n'
        'thing-1.0.dist-info/METADATA,sha256=abc,12\n'
        'thing-1.0.dist-info/RECORD,,\n'
    )
    return info


def test_a_whole_package_is_kept(bootstrap, dist_info, tmp_path):
    bootstrap.forget_broken_packages(tmp_path)
    assert (dist_info / 'METADATA').exists()


@pytest.mark.parametrize(
    'damage',
    [
        lambda info: (info / 'RECORD').unlink(),
        lambda info: (info.parent / 'thing.py').unlink(),
        lambda info: (info.parent / 'thing.py').write_text('x = '),
        lambda info: (info / 'RECORD').write_text('thing.py,sha2'),
    ],
    ids=['no record', 'missing file', 'cut file', 'cut record'],
)
def test_a_half_unpacked_package_is_installed_again(
    bootstrap, dist_info, tmp_path, damage, capsys
):
    damage(dist_info)
    bootstrap.forget_broken_packages(tmp_path)
    assert not dist_info.exists()
    assert 'repairing thing-1.0' in capsys.readouterr().out


@pytest.mark.parametrize(
    'changed',
    [
        'requirements/coverage.txt',
        'requirements/core.txt',  # which it includes
        'requirements/constraints.txt',
        'setup.py',
    ],
)
def test_the_stamp_names_what_the_environment_is_made_from(
    bootstrap, tmp_path, monkeypatch, changed
):
    requirements = 'requirements/coverage.txt'
    for name in (requirements, 'requirements/core.txt', *bootstrap.INPUTS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(bootstrap, 'ROOT', tmp_path)
    before = bootstrap.fingerprint(requirements)
    assert bootstrap.fingerprint(requirements) == before
    with open(tmp_path / changed, 'a') as file:
        file.write('# a change\n')
    assert bootstrap.fingerprint(requirements) != before


def test_a_finished_environment_is_left_alone(bootstrap, tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, 'build', lambda *_: pytest.fail('built again'))
    (tmp_path / 'env').mkdir()
    requirements = 'requirements.txt'
    stamp = tmp_path / 'env' / '.mmkd-setup'
    stamp.write_text(bootstrap.fingerprint(requirements))
    bootstrap.main(tmp_path / 'env', requirements)
    # Of other requirements it is another environment.
    with pytest.raises(pytest.fail.Exception, match='built again'):
        bootstrap.main(tmp_path / 'env', 'requirements/onedl.txt')


def test_a_folder_that_is_no_environment_is_not_overwritten(bootstrap, tmp_path):
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(SystemExit, match='is no virtual environment'):
        bootstrap.create(tmp_path, tmp_path / 'bin' / 'python')
    assert (tmp_path / 'thesis.tex').read_text() == 'precious'


def select_python(
    tmp_path: Path, *versions: tuple, **variables: str
) -> subprocess.CompletedProcess:
    """Run the script on interpreters that only pretend to have these versions."""
    names = []
    for version in versions:
        name = tmp_path / f'python{len(names)}'
        names.append(str(name))
        if version is None:  # a version manager's stub for a version not there
            name.write_text('#!/bin/sh\necho "command not found" >&2\nexit 127\n')
        else:
            dotted = '.'.join(map(str, version))
            name.write_text(
                '#!/bin/sh\n'
                'case "$1" in *bootstrap.py) '
                f'echo "started {dotted} $2 $3"; exit;; esac\n'
                f'exec {sys.executable} -c "import sys, platform\n'
                f'sys.version_info = {version}\n'
                f"platform.python_version = lambda: '{dotted}'\n$2\"\n"
            )
        name.chmod(0o755)
    env = {**os.environ, 'PYTHON': ' '.join(names), 'VENV': 'somewhere', **variables}
    return subprocess.run(
        ['sh', str(SCRIPT)], env=env, capture_output=True, text=True, cwd=tmp_path
    )


def test_the_first_python_that_fits_is_taken(tmp_path):
    done = select_python(tmp_path, None, (3, 9, 2), (3, 14, 0), (3, 12, 1), (3, 11, 2))
    assert done.stdout == 'started 3.12.1 somewhere requirements.txt\n'


def test_another_file_of_requirements(tmp_path):
    done = select_python(tmp_path, (3, 12, 1), REQUIREMENTS='requirements/onedl.txt')
    assert done.stdout == 'started 3.12.1 somewhere requirements/onedl.txt\n'


def test_without_a_python_that_fits_the_message_names_what_was_found(tmp_path):
    done = select_python(tmp_path, None, (3, 9, 2))
    assert done.returncode == 1
    assert 'needs Python >= 3.10 and < 3.14' in done.stderr
    assert 'python1 is 3.9.2' in done.stderr
    assert 'make setup PYTHON=' in done.stderr
