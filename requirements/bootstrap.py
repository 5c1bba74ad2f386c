"""Build a virtual environment of pinned packages.

``python requirements/bootstrap.py .venv requirements.txt``, or another file of
requirements. Standard library only. A stamp is written last and names everything the
environment was made from, so that a run after an interruption repairs what is
half made and a run after success returns at once.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INPUTS = (
    'requirements/constraints.txt',
    'requirements/bootstrap.py',
    'setup.py',
    'pyproject.toml',
)
PIP = ('-m', 'pip', '--disable-pip-version-check', '--no-input')


def fingerprint(requirements: str) -> str:
    """Hash of everything that decides what the environment contains."""
    digest = hashlib.sha256(platform.python_version().encode())
    digest.update(str(ROOT).encode())  # an editable install points here
    for name in (*with_included(requirements), *INPUTS):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def with_included(requirements: str) -> list[str]:
    """A file of requirements and those that it includes."""
    found = [requirements]
    for line in (ROOT / requirements).read_text().splitlines():
        if line.startswith('-r '):
            included = Path(requirements).parent / line.removeprefix('-r ').strip()
            found += with_included(os.path.normpath(included))
    return found


def runs(python: Path, code: str) -> bool:
    """Whether ``python -c code`` succeeds."""
    return python.exists() and not subprocess.call(
        [python, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def create(venv: Path, python: Path) -> None:
    """Make the bare environment unless a healthy one is there."""
    version = platform.python_version()
    healthy = f'import pip, platform as p; assert p.python_version() == {version!r}'
    if runs(python, healthy):
        return
    if venv.exists() and not (venv / 'pyvenv.cfg').exists() and any(venv.iterdir()):
        sys.exit(f'VENV={venv} exists and is no virtual environment: name another one')
    say(f'creating {venv} with Python {version}')
    if subprocess.call([sys.executable, '-m', 'venv', '--clear', str(venv)]):
        sys.exit(
            f'{sys.executable} -m venv failed: install the venv module '
            '(Debian, Ubuntu: apt install python3-venv) or name another PYTHON='
        )


def forget_broken_packages(venv: Path) -> None:
    """Drop the metadata of packages that an interrupted pip left incomplete.

    Without it pip sees them as absent and installs them again; with it pip
    would call a half-unpacked package satisfied.
    """
    for info in venv.glob('lib/python3*/site-packages/*.dist-info'):
        if not complete(info):
            say(f'repairing {info.name.removesuffix(".dist-info")}')
            shutil.rmtree(info)


def complete(info: Path) -> bool:
    """Whether every file that a package's RECORD lists has the listed size."""
    try:
        with open(info / 'RECORD', newline='', encoding='utf-8') as file:
            rows = [row for row in csv.reader(file) if row and row[2]]
        return all((info.parent / r[0]).stat().st_size == int(r[2]) for r in rows)
    except (OSError, ValueError, IndexError):
        return False


def pip(python: Path, *args: str) -> None:
    """Run pip in the environment, with its progress visible."""
    code = subprocess.call([str(python), *PIP, *args], cwd=ROOT)
    if code:
        sys.exit(
            f'pip failed (exit status {code}); after fixing the cause, '
            'repeat the same command: what is installed already is kept'
        )


def ensure_opencv(python: Path, requirements: str) -> None:
    """Replace OpenCV's files by the headless build where no libGL is installed.

    mmcv and mmengine require the distribution ``opencv-python`` by name, whose
    wheel needs the system's libGL; the headless build has the same modules.
    """
    if runs(python, 'import cv2'):
        return
    say('cv2 does not load (no libGL here?): taking the headless build')
    texts = [(ROOT / name).read_text() for name in with_included(requirements)]
    lines = '\n'.join(texts).splitlines()
    pin = next(line for line in lines if line.startswith('opencv-python=='))
    headless = pin.replace('opencv-python', 'opencv-python-headless')
    options = ('--only-binary=:all:', '--no-deps', '--force-reinstall')
    pip(python, 'install', *options, headless)
    subprocess.check_call([str(python), '-c', 'import cv2'])


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f'[setup] {text}', flush=True)


def build(venv: Path, requirements: str, stamp: Path, wanted: str) -> None:
    """Install everything, then write the stamp."""
    started = time.monotonic()
    python = venv / 'bin' / 'python'
    create(venv, python)
    forget_broken_packages(venv)
    say('installing the pinned packages (3 GB to download, 6 GB on disk)')
    # Only wheels, but for the packages that the file names: nothing is compiled,
    # whatever the machine has.
    # No byte code ahead of time: it costs a minute and most is never imported.
    options = ('--only-binary=:all:', '--no-compile')
    pip(python, 'install', *options, '-r', requirements)
    ensure_opencv(python, requirements)
    say('installing mmkd itself (editable)')
    pip(python, 'install', '--quiet', '--no-build-isolation', '--no-deps', '-e', '.')
    stamp.write_text(wanted)
    say(f'done in {time.monotonic() - started:.0f} s: {venv}')


def main(venv: Path, requirements: str) -> None:
    """Bring the environment up to date; return at once when it is."""
    venv = venv.absolute()
    venv.parent.mkdir(parents=True, exist_ok=True)
    stamp = venv / '.mmkd-setup'
    wanted = fingerprint(requirements)
    # Two make commands started together must not install into one folder.
    with open(f'{venv}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            build(venv, requirements, stamp, wanted)


if __name__ == '__main__':
    os.environ['PIP_REQUIRE_VIRTUALENV'] = '0'
    main(Path(sys.argv[1]), sys.argv[2])
