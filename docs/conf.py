"""How Sphinx makes the documentation: ``make docs``.

The source folder is the root of the repository, not ``docs/``. The README and the
methods' READMEs in ``configs/`` are pages like the others then, and every relative link
that works on GitHub works in the HTML, too, without being rewritten: to a page, to a
heading, or to a file such as ``requirements.txt``, which becomes a download. What leads
nowhere is a warning, and ``make docs`` takes warnings for errors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mmkd  # noqa: E402

project = 'mmkd'
author = 'the authors of mmkd'
version = release = mmkd.__version__
extensions = ['sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'myst_parser']
root_doc = 'docs/index'
include_patterns = ['*.md', 'docs/**', 'configs/*/README.md']
# Folders without pages are named so that they are not searched.
exclude_patterns = [
    'docs/_build',
    '.*',
    *('build', 'data', 'dist', 'mmkd', 'requirements', 'tests', 'tools', 'work_dirs'),
]

html_theme = 'alabaster'
html_theme_options = dict(
    description='Knowledge distillation for MMDetection and MMSegmentation',
    fixed_sidebar=True,
    page_width='80rem',
    sidebar_width='17rem',
    body_max_width='none',
)
html_sidebars = {'**': ['about.html', 'searchfield.html', 'navigation.html']}
html_copy_source = False
# A page at the root, which leads to docs/index.html.
html_extra_path = ['_root']

myst_heading_anchors = 4  # as GitHub makes them
suppress_warnings = ['myst.strikethrough']

autodoc_member_order = 'bysource'
autodoc_default_options = dict(members=True, **{'show-inheritance': True})
napoleon_numpy_docstring = False
napoleon_use_rtype = False

nitpicky = True
nitpick_ignore_regex = [
    # Types of other libraries. Their inventories would have to be downloaded.
    (r'py:.*', r'(torch|mmengine|mmdet|numpy|rich|collections|pathlib|os)\..*'),
    (r'py:class', r'Tensor|BaseModel|Runner'),
    # Annotations of dataclasses that are texts, which Sphinx splits at commas.
    (r'py:class', r'(dict|tuple)\[.*'),
    # Internal: in a signature, but on no page.
    (
        r'py:class',
        r'mmkd\.(cache\.shards|preflight\.findings|problems|renormalize)\..*',
    ),
    (r'py:class', r'mmkd\.det\.distributional\._AnchorHead'),
]

# What the sidebar lists. docs/index.md itself is a list of links, also on GitHub, which
# would show this as code.
CONTENTS = """
```{toctree}
:hidden:
:caption: Start
../README
quickstart
choosing
install
data
faq
```
```{toctree}
:hidden:
:caption: Using it
check
report
training
cache
errors
migration
```
```{toctree}
:hidden:
:caption: Methods
:glob:
zoo
../configs/*/README
```
```{toctree}
:hidden:
:caption: Measured
results
results/demo
results/demo_seg
results/demo_gan
performance
coverage
```
```{toctree}
:hidden:
:caption: Behind it
design
writing_a_method
api/index
../CONTRIBUTING
../CHANGELOG
```
"""


def add_contents(app: Any, name: str, source: list[str]) -> None:
    """Append the sidebar's list to the first page."""
    if name == root_doc:
        source[0] += CONTENTS


def setup(app: Any) -> None:
    """Connect what settings alone cannot do."""
    app.connect('source-read', add_contents)
    # Comments of attributes are sentences. Napoleon, at priority 500, would take what
    # stands before a colon in them for a type.
    sentences: dict[str, list[str]] = {}

    def keep(
        app: Any, what: str, name: str, obj: Any, options: Any, lines: Any
    ) -> None:
        if what in ('attribute', 'data', 'property'):
            sentences[name] = list(lines)

    def put_back(
        app: Any, what: str, name: str, obj: Any, options: Any, lines: Any
    ) -> None:
        if name in sentences:
            lines[:] = sentences.pop(name)

    app.connect('autodoc-process-docstring', keep, priority=499)
    app.connect('autodoc-process-docstring', put_back, priority=501)
