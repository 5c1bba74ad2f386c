"""What is looked at before hours of training; ``tools/check.py``."""

from .brief import announce
from .check import check

__all__ = ['announce', 'check']
