"""`make docs`: the documentation builds, and what leads nowhere is an error."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def is_default_environment() -> bool:
    """Whether `make setup` made it, which installs Sphinx."""
    names = {d.metadata['Name'] for d in importlib.metadata.distributions()}
    return (Path(sys.prefix) / '.mmkd-setup').exists() and 'onedl-mmengine' not in names


pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec('sphinx') is None and not is_default_environment(),
        reason='Sphinx is not installed (the extra "docs"); `make setup` installs it',
    ),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


def sphinx(*arguments: object, recipe: str = 'html') -> subprocess.CompletedProcess:
    """Run what `make docs` runs, on another folder of results."""
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    command = re.search(r'^SPHINX := \$\(PY\) (.*)$', makefile, re.MULTILINE)[1]
    options = re.search(rf'\$\(SPHINX\) (-b {recipe}.*) docs/', makefile)[1]
    return subprocess.run(
        [
            sys.executable,
            *command.split(),
            *options.split(),
            '-q',
            *map(str, arguments),
        ],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('html')
    done = sphinx(folder)
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stderr, done.stderr
    return folder


def test_every_page_is_built(built):
    pages = [
        *ROOT.glob('*.md'),
        *ROOT.glob('configs/*/README.md'),
        *ROOT.glob('docs/**/*.md'),
        *ROOT.glob('docs/api/*.rst'),
    ]
    assert len(pages) > 30
    for page in pages:
        html = built / page.relative_to(ROOT).with_suffix('.html')
        assert html.is_file(), html
    # What a browser opens first leads to the first page.
    assert 'url=docs/index.html' in (built / 'index.html').read_text()


def test_links_out_of_docs_lead_to_pages_and_files(built):
    """What is `../configs/hint/README.md` on GitHub is a page of the HTML, too."""
    first = (built / 'docs' / 'index.html').read_text(encoding='utf-8')
    assert 'href="../CONTRIBUTING.html"' in first
    readme = (built / 'README.html').read_text(encoding='utf-8')
    assert 'href="configs/hint/README.html"' in readme
    methods = (built / 'configs' / 'skds' / 'README.html').read_text(encoding='utf-8')
    assert 'href="../../docs/results.html"' in methods
    install = (built / 'docs' / 'install.html').read_text(encoding='utf-8')
    download = re.search(r'href="\.\./(_downloads/[^"]*requirements\.txt)"', install)[1]
    assert (built / download).read_text() == (ROOT / 'requirements.txt').read_text()


def test_whatever_a_config_can_name_is_in_the_reference(built):
    import mmkd.losses
    from mmkd.registry import DATASETS, HOOKS, HOST_CLASSES, MODELS

    names = set(HOST_CLASSES)
    for registry in (DATASETS, HOOKS, MODELS):
        registry.import_from_location()
        names |= {
            name
            for name, made in registry.module_dict.items()
            if made.__module__.startswith('mmkd.')
        }
    assert {'FGDLoss', 'DistillDetector', 'SeededViews', 'LossBalanceHook'} <= names
    names |= {n for n in mmkd.losses.__all__ if n.islower()}
    names |= {'build_teacher', 'Economy', 'train_config', 'export_student'}

    contents = (built / 'objects.inv').read_bytes()
    header = b''.join(contents.splitlines(keepends=True)[:4])
    lines = zlib.decompress(contents[len(header) :]).decode().splitlines()
    known = {line.split()[0].rpartition('.')[2] for line in lines if ' py:' in line}
    assert names <= known, sorted(names - known)


def test_the_reference_shows_formulas_and_arguments(built):
    page = (built / 'docs' / 'api' / 'losses.html').read_text(encoding='utf-8')
    cwd = page[page.index('id="mmkd.losses.channel_wise_divergence.channel_wise') :]
    cwd = cwd[: cwd.index('id="mmkd.losses.channel_wise_divergence.ChannelWise')]
    assert r'\mathrm{KL}' in cwd
    assert 'Softmax temperature T' in cwd
    assert 'https://arxiv.org/abs/2011.13256' in cwd


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[a page](nowhere.md)', "'nowhere.md'"),
        ('[a heading](other.md#nowhere)', "'nowhere'"),
        ('![a picture](nowhere.png)', 'nowhere.png'),
        ('{py:class}`mmkd.losses.NoSuchLoss`', 'mmkd.losses.NoSuchLoss'),
    ],
)
def test_what_leads_nowhere_is_an_error(tmp_path, text, message):
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'other.md').write_text('---\norphan: true\n---\n# Other\n')
    (source / 'index.md').write_text(f'# Page\n\n{text}, [another](other.md)\n')
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    assert 'SPHINX := $(PY) -m sphinx -n -c docs .\n' in makefile
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-n', '-c', 'docs', source, '-b', 'html', '-W',
         '--keep-going', '-D', 'root_doc=index', '-q', tmp_path / 'html'],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count('WARNING: ') == 1, done.stderr
