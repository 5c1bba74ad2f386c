"""Who may import whom: read from the source, without importing anything."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmkd'
# Applications of all the others.
APPLICATIONS = {'benchmark', 'coverage', 'demo', 'report'}
LEAVES = APPLICATIONS | {'det', 'gan', 'netaug', 'seg', 'text'}
# What losses, taps and adapters may know of: never a teacher or a runner.
FOUNDATION = {
    'adapters',
    'batch',
    'compat',
    'losses',
    'nested',
    'recording',
    'registry',
    'rng',
    'taps',
}
# matplotlib, OpenCV, rich and yaml are requirements of mmengine.
CORE_LIBRARIES = {
    'cv2',
    'matplotlib',
    'mmengine',
    'numpy',
    'rich',
    'torch',
    'torchvision',
    'yaml',
}
HOST_OF_LEAF = {
    'det': {'mmdet', 'mmcv'},
    'seg': {'mmseg', 'mmcv'},
    'text': {'transformers'},
}
HOSTS = {'mmcv', 'mmdet', 'mmseg', 'transformers'}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def sources() -> dict[str, Path]:
    paths = (p for p in PACKAGE.rglob('*.py') if '.mim' not in p.parts)
    return {module_name(path): path for path in paths}


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """Every imported name, at any depth of the file: modules of ours in full."""
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: len(package.split('.')) - node.level + 1]
            base = '.'.join(
                [*(above if node.level else []), *filter(None, [node.module])]
            )
            for alias in node.names:
                full = f'{base}.{alias.name}'
                found.add(full if full in modules else base)
    return found


def graph() -> dict[str, set[str]]:
    modules = sources()
    return {name: imports_of(name, path, modules) for name, path in modules.items()}


def part(module: str) -> str:
    """``mmkd.losses.base`` -> ``losses``; the package itself -> ``''``."""
    return (module.split('.') + [''])[1]


def allowed_parts(of: str, parts: set[str]) -> set[str]:
    """Parts of the package that one part may import, besides itself."""
    if of == '':
        return {'compat', 'config_path', 'registry'}
    if of in ('batch', 'compat', 'config_path', 'recording', 'registry', 'rng'):
        return set()
    if of in ('losses', 'taps', 'adapters'):
        return FOUNDATION
    if of in APPLICATIONS:
        return parts - {''}
    core = parts - LEAVES - {''}
    return core if of in LEAVES | {'hooks'} else core - {'hooks'}


def test_the_reader_sees_relative_and_nested_imports(tmp_path):
    file = tmp_path / 'views.py'
    file.write_text(
        'import mmcv.ops\n'
        'from ..taps import Tap\n'
        'def f():\n    from . import helper\n    from .helper import g\n'
    )
    modules = {'mmkd.taps': file, 'mmkd.det.helper': file}
    found = imports_of('mmkd.det.views', file, modules)
    assert found == {'mmcv.ops', 'mmkd.taps', 'mmkd.det.helper'}


def test_parts_import_only_downwards():
    edges = graph()
    parts = {part(name) for name in edges}
    wrong = [
        f'{name} imports {target}'
        for name, targets in edges.items()
        for target in targets
        if target.split('.')[0] == 'mmkd'
        and part(target) not in allowed_parts(part(name), parts) | {part(name)}
    ]
    assert not wrong


def test_no_import_cycles():
    edges = graph()
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, ' -> '.join([*trail[trail.index(name) :], name])
        if name in edges and name not in done:
            for target in sorted(edges[name]):
                visit(target, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_the_core_knows_torch_and_mmengine_only():
    allowed = CORE_LIBRARIES | set(sys.stdlib_module_names) | {'mmkd'}
    wrong = [
        f'{name} imports {target}'
        for name, targets in graph().items()
        for target in targets
        if part(name) not in LEAVES
        and target.split('.')[0] not in allowed
        and not (
            part(name) == 'compat' and target.split('.')[0] in ('mmcv', 'transformers')
        )
        and not (part(name) == 'cache' and target.split('.')[0] == 'safetensors')
        and not (part(name) == 'experiments' and target.split('.')[0] == 'optuna')
    ]
    assert not wrong


@pytest.mark.parametrize('leaf', sorted(HOST_OF_LEAF))
def test_a_leaf_imports_its_own_host_library_only(leaf):
    hosts = {
        target.split('.')[0]
        for name, targets in graph().items()
        for target in targets
        if part(name) == leaf
    } & HOSTS
    assert hosts <= HOST_OF_LEAF[leaf]


def test_nothing_imports_tools_configs_or_tests():
    tops = {target.split('.')[0] for targets in graph().values() for target in targets}
    assert not tops & {'tools', 'configs', 'tests'}


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_mmkd_is_light():
    code = (
        # mmengine itself takes its optimizers from transformers, where that is.
        'import sys, mmengine.runner\n'
        'before = set(sys.modules)\n'
        'import mmkd\n'
        "heavy = ('mmdet', 'mmseg', 'transformers', 'sklearn', 'skimage')\n"
        'print([name for name in heavy if name in sys.modules.keys() - before])'
    )
    assert run_python(code) == '[]'


NAMES = [
    'DistillDetector',
    'DistillSegmentor',
    'Distill',
    'FeatureImitationLoss',
    'FeatureImitationNeck',
    'ChannelWiseDivergenceLoss',
    'SoftTargetLoss',
]
HOOK_NAMES = ['DistillScheduleHook', 'DistillerStateHook', 'AtomicCheckpointHook']
BLOCKED = """
import sys
for name in {missing!r}:
    sys.modules[name] = None  # what `import` makes of a package that is not there
import mmkd
from mmengine.registry import HOOKS, MODELS
print(all(MODELS.get('mmkd.' + name) for name in {names!r}),
      all(HOOKS.get('mmkd.' + name) for name in {hooks!r}))
import {present}
"""


@pytest.mark.parametrize(
    ('missing', 'present'),
    [
        (['mmseg', 'transformers'], 'mmkd.det.views'),
        (['mmdet', 'transformers'], 'mmkd.seg.views'),
        (['mmdet', 'mmseg', 'transformers'], 'mmkd.losses'),
    ],
)
def test_every_name_resolves_where_host_libraries_are_missing(missing, present):
    code = BLOCKED.format(
        missing=missing, present=present, names=NAMES, hooks=HOOK_NAMES
    )
    assert run_python(code) == 'True True'
