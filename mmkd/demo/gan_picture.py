"""The GAN demo's picture: what three generators make of edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .runs import ALONE, DISTILLED, TEACHER, DemoRun


def draw_gan_demo(runs: Mapping[str, DemoRun], data_root: Path, path: Path) -> Path:
    """Draw edges, what is made of them, and what they are of, side by side.

    Args:
        runs: Name -> run that is done.
        data_root: Not used: the runs' configs name the data.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    from ..gan.chain import Trained
    from ..gan.chain_report import draw, translator_of
    from ..gan.sub_networks import Validation

    names = {ALONE: ALONE, DISTILLED: 'distilled', TEACHER: TEACHER}
    models = {
        shown: translator_of(Trained(runs[name].cfg, runs[name].checkpoint))
        for name, shown in names.items()
    }
    return draw(models, Validation(runs[ALONE].cfg), path)
