"""The index of all recipes: a page for people, and metafiles for ``mim``.

What is said of a recipe is what the README beside its config says, and what the config
itself does; nothing is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from .config import is_distilled, load_config, teacher_options
from .fileio import replacing

#: Columns that the table of a README must have.
PUBLISHED, STOCK, OURS = 'published', 'stock student', 'distilled'
COLUMNS = ('config', 'student', 'teacher', PUBLISHED, STOCK, OURS)
_HEAD = """# Model zoo

Every recipe that comes with mmkd, written by `python tools/zoo.py` from the READMEs and
configs of `configs/`. *Published* is what the paper reports, from the student alone to
the distilled one, *stock student* what the zoo of MMDetection or MMSegmentation reports
for the student without a teacher, *distilled* what was measured with mmkd. Detectors:
box AP in percent; segmentors: mIoU in percent. Teachers are downloaded from the zoo by
name. Measured on small data: [results](results.md).
"""


@dataclass(frozen=True)
class Recipe:
    """A config and what its README says of it.

    Args:
        config: Its path below the folder of the configs.
        row: Column -> text of the README's row.
    """

    config: Path
    row: dict[str, str]

    @property
    def command(self) -> str:
        """What trains it."""
        return f'python tools/train.py configs/{self.config.as_posix()}'


@dataclass(frozen=True)
class Method:
    """A folder of recipes.

    Args:
        folder: Its name.
        title: Heading of its README.
        paper: Title of the paper.
        url: Where it is.
        recipes: Its recipes, in the README's order.
    """

    folder: str
    title: str
    paper: str
    url: str
    recipes: Sequence[Recipe]


def read_methods(root: Path) -> list[Method]:
    """All methods with recipes.

    Args:
        root: Folder of the configs.

    Raises:
        ValueError: If a recipe is in no table, or a table lacks a column.
    """
    return [
        _method(readme)
        for readme in sorted(root.glob('[!_]*/README.md'))
        if _tables(readme.read_text(encoding='utf-8'))
    ]


def _method(readme: Path) -> Method:
    text = readme.read_text(encoding='utf-8')
    folder = readme.parent
    recipes = []
    for row in _tables(text):
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise ValueError(f'{readme}: the table of configs lacks {missing}')
        for name in re.findall(r'`([^`]+\.py)`', row['config']):
            recipes.append(Recipe(Path(folder.name) / name, row))
    listed = {recipe.config.name for recipe in recipes}
    files = {path.name: path for path in folder.glob('*.py')}
    wrong = sorted(listed - files.keys())
    # Students and teachers for other recipes need no row.
    wrong += [
        name
        for name, path in sorted(files.items())
        if name not in listed and _teaching(path)
    ]
    if wrong:
        raise ValueError(
            f'{readme}: its table must have the recipes that lie beside it, and no '
            f'others, but differs in {wrong}'
        )
    title = re.search(r'^# (.+)$', text, re.MULTILINE)
    paper = re.search(r'\*([^*]+)\*', text)
    url = re.search(r'<(https?://[^>]+)>', text)
    if not (title and paper and url):
        raise ValueError(f'{readme} must have a heading, a paper and its address')
    name = ' '.join(paper[1].replace('\n> ', ' ').split())
    return Method(folder.name, title[1], name, url[1], recipes)


def _teaching(path: Path) -> Config | None:
    """A config with a teacher; ``None`` if it has none.

    Nor do those of a library that is not installed: a page must not depend on it.
    """
    try:
        cfg = load_config(str(path))
    except ValueError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            return None
        raise
    return cfg if is_distilled(cfg) else None


def _tables(text: str) -> list[dict[str, str]]:
    """Rows of the tables whose first column is ``config`` and that name a teacher."""
    rows = []
    header: list[str] = []
    for line in text.splitlines():
        if not line.startswith('|'):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if not header:
            header = cells
        elif header[:1] == ['config'] and 'teacher' in header and '`' in cells[0]:
            rows.append(dict(zip(header, cells)))
    return rows


def zoo_page(methods: Sequence[Method]) -> str:
    """The page, in Markdown, to lie in ``docs/``."""
    parts = [_HEAD]
    for method in methods:
        parts.append(
            f'## {method.title}\n\n'
            f'[{method.paper}]({method.url}); [the method](../configs/{method.folder}'
            '/README.md)\n'
        )
        lines = ['| recipe | ' + ' | '.join(COLUMNS[1:]) + ' |']
        lines.append('|---' * len(COLUMNS) + '|')
        for recipe in method.recipes:
            link = f'[{recipe.config.stem}](../configs/{recipe.config.as_posix()})'
            # Links in a README are relative to its folder.
            cells = [recipe.row[c].replace('../../docs/', '') for c in COLUMNS[1:]]
            lines.append(f'| {link} | ' + ' | '.join(cells) + ' |')
        commands = '\n'.join(recipe.command for recipe in method.recipes)
        parts.append('\n'.join(lines) + f'\n\n```bash\n{commands}\n```\n')
    return '\n'.join(parts)


def metafile(method: Method, root: Path) -> str:
    """A method's ``metafile.yml``, as OpenMMLab's ``mim`` reads it.

    Args:
        method: The method.
        root: Folder of the configs.
    """
    models = []
    for recipe in method.recipes:
        cfg = _teaching(root / recipe.config)
        metadata: dict[str, Any] = dict(Student=_plain(recipe.row['student']))
        if cfg:
            metadata['Teacher'] = str(teacher_options(cfg.model.teacher)['config'])
            metadata['Losses'] = sorted(
                {loss['type'] for loss in cfg.model.losses.values() if loss}
            )
        entry: dict[str, Any] = {
            'Name': recipe.config.stem,
            'In Collection': method.title,
            'Config': f'configs/{recipe.config.as_posix()}',
            'Metadata': metadata,
        }
        models.append(entry)
    collection = {
        'Name': method.title,
        'Paper': {'URL': method.url, 'Title': method.paper},
        'README': f'configs/{method.folder}/README.md',
    }
    return _yaml(dict(Collections=[collection], Models=models))


def model_index(methods: Sequence[Method]) -> str:
    """``model-index.yml``: where the metafiles are."""
    return _yaml(dict(Import=[f'configs/{m.folder}/metafile.yml' for m in methods]))


def _plain(text: str) -> str:
    return re.sub(r'\[([^\]]+)\]\([^)]*\)', r'\1', text)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88)


def write_index(repository: Path) -> list[Path]:
    """Write page, metafiles and index; the same bytes for the same configs.

    Args:
        repository: Folder that has ``configs`` and ``docs``.

    Returns:
        The files.
    """
    root = repository / 'configs'
    methods = read_methods(root)
    texts = {repository / 'docs' / 'zoo.md': zoo_page(methods)}
    for method in methods:
        texts[root / method.folder / 'metafile.yml'] = metafile(method, root)
    texts[repository / 'model-index.yml'] = model_index(methods)
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding='utf-8')
    return list(texts)
