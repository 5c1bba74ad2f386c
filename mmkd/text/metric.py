"""How near a text encoder is to its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from ..registry import METRICS


@METRICS.register_module()
class TransferMetric(BaseMetric):
    """Averages over texts of what ``mmkd.MobileBertTransfer`` says of each.

    ``cosine`` and ``relative_error`` of the embedded tokens, and ``layer_1`` and so on,
    the term of the normalised features of every layer; without a teacher ``masked_lm``,
    the cross-entropy of masked words, and ``masked_accuracy``.

    Args:
        collect_device: Of the results of several processes.
        prefix: Of the names in the log.

    Example:
        >>> metric = TransferMetric()
        >>> metric.process({}, [dict(cosine=0.5, layers=[1.0]), dict(cosine=1.0,
        ...                                                          layers=[0.0])])
        >>> metric.compute_metrics(metric.results)
        {'cosine': 0.75, 'layer_1': 0.5}
    """

    default_prefix = 'transfer'

    def process(
        self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep what is said of every text."""
        for sample in data_samples:
            layers = sample.get('layers', ())
            layers = {f'layer_{i}': x for i, x in enumerate(layers, 1)}
            rest = {k: v for k, v in sample.items() if k != 'layers'}
            self.results.append({**rest, **layers})

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Their means."""
        keys = results[0] if results else {}
        # In a short text no word may be masked.
        return {key: float(np.nanmean([r[key] for r in results])) for key in keys}
