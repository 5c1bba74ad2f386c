"""What README and docs show exists and works as shown."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
    *sorted((ROOT / 'docs').rglob('*.md')),
    *sorted((ROOT / 'configs').rglob('*.md')),
]
# Installing changes the environment that runs the tests: pip and mim are known by
# their first words only, and so is `ln` (a link to the user's disk).
NOT_RUN = {'pip install', 'pip uninstall', 'pip wheel', 'mim install', 'ln -s'}
# Blocks of Python that are read but not executed, by their first line, with the reason.
PARSED_ONLY = {'import os': 'downloads ImageNet weights'}
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^\1```$', re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\]\(([^)\s]+)\)')
CODE = re.compile(r'`([^`\n]+)`')


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    text = page.read_text(encoding='utf-8')
    return [
        re.sub(rf'^{indent}', '', body, flags=re.MULTILINE)
        for indent, language, body in FENCE.findall(text)
        if language in languages
    ]


def commands() -> list[str]:
    """Every shell command of every page, environment variables stripped."""
    found = []
    for page in PAGES:
        for block in blocks(page, 'bash', 'sh', 'shell', 'console'):
            for line in block.replace('\\\n', ' ').splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
                    del words[0]
                if words:
                    found.append(shlex.join(words))
    return list(dict.fromkeys(found))


@cache
def make_targets() -> set[str]:
    text = (ROOT / 'Makefile').read_text(encoding='utf-8')
    return set(re.search(r'^\.PHONY: (.*)$', text, re.MULTILINE)[1].split())


# One process for all tools: most of the time goes into importing torch.
PRINT_HELP = """
import runpy, sys
for tool in sys.argv[1:]:
    print('=====', tool)
    sys.argv = [tool, '--help']
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as stop:
        assert not stop.code
"""


@cache
def helps() -> dict[str, str]:
    """Help text of every tool that a page names."""
    tools = sorted({shlex.split(c)[1] for c in commands() if c.startswith('python ')})
    output = run_python('-c', PRINT_HELP, *tools, cwd=ROOT)
    pages = output.split('===== ')[1:]
    return dict(page.split('\n', 1) for page in pages)


def run_python(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *arguments],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},  # installed or not
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags_of(tool: str) -> set[str]:
    return set(re.findall(r'(?<![\w-])--?[a-zA-Z][\w-]*', helps()[tool]))


def check_tool(tool: str, arguments: list[str]) -> None:
    assert (ROOT / tool).is_file()
    flags = {word for word in arguments if word.startswith('-')}
    assert flags <= flags_of(tool)
    for word in arguments:
        if word.startswith('configs/'):
            assert (ROOT / word).is_file(), word
        elif '::' in word:
            from mmkd.config import load_config

            assert 'model' in load_config(word)


@pytest.mark.parametrize('command', commands())
def test_commands_exist(command):
    first, *rest = shlex.split(command)
    if first == 'make':
        assert {word for word in rest if '=' not in word} <= make_targets()
    elif first == 'python':
        check_tool(rest[0], rest[1:])
    elif first in ('torchrun', 'srun'):  # their own options are theirs
        tool = next(i for i, word in enumerate(rest) if word.startswith('tools/'))
        check_tool(rest[tool], rest[tool + 1 :])
    else:
        assert f'{first} {rest[0]}' in NOT_RUN


def test_make_targets_have_recipes_and_help():
    text = (ROOT / 'Makefile').read_text(encoding='utf-8')
    described = set(re.findall(r'^([a-z-]+):.*## \S', text, re.MULTILINE))
    assert described == make_targets()


def test_options_named_in_the_text_exist():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    prose = FENCE.sub('', text)
    named = {word for word in CODE.findall(prose) if word.startswith('--')}
    assert len(named) > 5
    assert named <= flags_of('tools/train.py')


RUN_BLOCKS = """
import sys
for number, block in enumerate(sys.argv[1:]):
    exec(compile(block, f'block {number}', 'exec'), {'__name__': '__main__'})
"""
WITH_PYTHON = [page for page in PAGES if blocks(page, 'python')]


@pytest.mark.parametrize('page', WITH_PYTHON, ids=page_id)
def test_python_blocks_run(page, tmp_path):
    runnable = []
    for number, block in enumerate(blocks(page, 'python')):
        if '_base_ =' in block:
            check_config(block, tmp_path / f'config{number}.py')
        elif block.splitlines()[0] in PARSED_ONLY:
            compile(block, f'block {number}', 'exec')
        else:
            runnable.append(block)
    # A process of its own: a block may set a default scope.
    run_python('-c', RUN_BLOCKS, *runnable, cwd=tmp_path)


def check_config(text: str, path: Path) -> None:
    """Build a shown config, with random weights instead of the zoo's."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    import mmkd  # noqa: F401

    path.write_text(text, encoding='utf-8')
    assert len(text.strip().splitlines()) <= 12, 'the README promises a short config'
    cfg = Config.fromfile(path)
    if 'teacher' not in cfg.model:  # wider networks in the place of one
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            assert MODELS.build(cfg.model).netaug.layout.groups
        return
    cfg.model.teacher = dict(
        config=cfg.model.teacher, checkpoint=None, allow_random=True
    )
    model = MODELS.build(cfg.model)
    assert set(model.distiller.losses) == set(cfg.model.losses)


def links() -> list:
    return [
        pytest.param(page, target, id=f'{page_id(page)}-{target}')
        for page in PAGES
        for target in LINK.findall(page.read_text(encoding='utf-8'))
        if '://' not in target
    ]


@pytest.mark.parametrize(('page', 'target'), links())
def test_links_lead_somewhere(page, target):
    path, _, anchor = target.partition('#')
    linked = (page.parent / path).resolve() if path else page
    assert linked.exists()
    if anchor:
        headings = re.findall(r'^#+ (.*)$', linked.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r'[^\w -]', '', h).lower().replace(' ', '-')
                          for h in headings}  # fmt: skip


def test_every_page_of_docs_is_reachable_from_the_index():
    reachable, queue = set(), [ROOT / 'docs' / 'index.md']
    while queue:
        page = queue.pop()
        if page in reachable:
            continue
        reachable.add(page)
        targets = LINK.findall(page.read_text(encoding='utf-8'))
        local = [t.partition('#')[0] for t in targets if '://' not in t]
        paths = [(page.parent / t).resolve() for t in local if t.endswith('.md')]
        queue.extend(path for path in paths if path.is_file())
    assert {p for p in PAGES if p.is_relative_to(ROOT / 'docs')} <= reachable


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_names_of_the_package_and_paths_in_text_exist(page):
    from mmengine.registry import HOOKS, LOG_PROCESSORS, MODELS

    import mmkd  # noqa: F401

    text = page.read_text(encoding='utf-8')
    for word in CODE.findall(FENCE.sub('', text)):
        if match := re.fullmatch(r'mmkd\.([A-Z]\w+)', word):
            name = f'mmkd.{match[1]}'
            known = any(r.get(name) for r in (MODELS, HOOKS, LOG_PROCESSORS))
            assert known or f'class {match[1]}(' in text, name
        elif re.fullmatch(r'(mmkd|tests|tools|configs|docs)/[\w./-]+', word):
            assert (ROOT / word).exists(), word
