"""In what units a head predicts its boxes."""

from __future__ import annotations

from typing import Any

from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

#: Means and standard deviations of the deltas of centre and size.
BoxUnits = tuple[tuple[float, ...], tuple[float, ...]]


def units_of(coder: Any) -> BoxUnits | None:
    """Means and standard deviations of a coder's deltas; ``None`` for other coders."""
    if not isinstance(coder, DeltaXYWHBBoxCoder):
        return None
    return tuple(map(float, coder.means)), tuple(map(float, coder.stds))
