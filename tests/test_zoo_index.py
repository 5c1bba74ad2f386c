"""The index says what configs and READMEs say, and is up to date."""

from pathlib import Path

import pytest
import yaml
from tiny_models import is_classifier

from mmkd.config import config_root, is_distilled, load_config
from mmkd.zoo_index import metafile, model_index, read_methods, write_index, zoo_page

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'


@pytest.fixture(scope='module')
def methods():
    return read_methods(CONFIGS)


def test_what_is_committed_is_what_would_be_written(methods):
    remedy = 'run python tools/zoo.py'
    page = (ROOT / 'docs' / 'zoo.md').read_text(encoding='utf-8')
    assert page == zoo_page(methods), remedy
    index = (ROOT / 'model-index.yml').read_text(encoding='utf-8')
    assert index == model_index(methods), remedy
    for method in methods:
        path = CONFIGS / method.folder / 'metafile.yml'
        assert path.read_text(encoding='utf-8') == metafile(method, CONFIGS), remedy


def test_every_recipe_is_in_it_once(methods):
    listed = [recipe.config for method in methods for recipe in method.recipes]
    assert len(listed) == len(set(listed))
    distilled = {
        path.relative_to(CONFIGS)
        for path in CONFIGS.glob('[!_]*/*.py')
        if path.parent.name != 'demo'
        and not is_classifier(path)
        and is_distilled(load_config(str(path)))
    }
    assert distilled <= set(listed)
    assert len(distilled) > 25


def test_rows_have_the_three_figures_and_a_command(methods):
    page = zoo_page(methods)
    for method in methods:
        assert method.url.startswith('https://')
        for recipe in method.recipes:
            assert recipe.row['published']
            assert recipe.row['stock student']
            assert recipe.row['distilled']
            assert f'\n{recipe.command}\n' in page
            assert (CONFIGS / recipe.config).is_file()


def test_metafiles_follow_the_index(methods):
    index = yaml.safe_load(model_index(methods))
    for path in index['Import']:
        found = yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))
        (collection,) = found['Collections']
        assert (ROOT / collection['README']).is_file()
        for model in found['Models']:
            assert model['In Collection'] == collection['Name']
            assert (ROOT / model['Config']).is_file()
    ld = next(method for method in methods if method.folder == 'ld')
    first = yaml.safe_load(metafile(ld, config_root()))['Models'][0]
    assert first['Metadata']['Teacher'] == 'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'
    assert 'mmkd.LocalizationDistillationLoss' in first['Metadata']['Losses']


README = """# A method

> Someone, *A paper*, 2020, <https://example.org/paper>

| config | student | teacher | published | stock student | distilled |
|---|---|---|---|---|---|
| `{name}` | A | B | 1 → 2 | 1 | not run here |
"""


def folder_with(root: Path, readme: str) -> Path:
    (root / 'configs' / 'new').mkdir(parents=True)
    (root / 'docs').mkdir()
    config = (CONFIGS / 'hint' / 'hint_gfl_r50_gfl_r101_1x_coco.py').read_text()
    (root / 'configs' / 'new' / 'recipe.py').write_text(config)
    (root / 'configs' / 'new' / 'README.md').write_text(readme)
    return root


def test_a_new_method(tmp_path):
    folder_with(tmp_path, README.format(name='recipe.py'))
    paths = write_index(tmp_path)
    assert all(path.is_file() for path in paths)
    page = (tmp_path / 'docs' / 'zoo.md').read_text(encoding='utf-8')
    assert '[A paper](https://example.org/paper)' in page
    assert '| [recipe](../configs/new/recipe.py) | A | B | 1 → 2 | 1 | not run' in page
    assert 'python tools/train.py configs/new/recipe.py' in page


@pytest.mark.parametrize(
    ('readme', 'message'),
    [
        (README.format(name='other.py'), r"differs in \['other.py', 'recipe.py'\]"),
        (
            README.format(name='recipe.py').replace('published', 'paper'),
            r"lacks \['published'\]",
        ),
        (
            README.format(name='recipe.py').replace('<https://example.org/paper>', ''),
            'a heading, a paper and its address',
        ),
    ],
)
def test_a_readme_that_does_not_fit_is_an_error(tmp_path, readme, message):
    folder_with(tmp_path, readme)
    with pytest.raises(ValueError, match=message):
        read_methods(tmp_path / 'configs')
