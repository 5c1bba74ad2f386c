"""MMDetection's GLIP on version 5 of transformers."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .when_imported import when_imported

#: The module of GLIP's layers of BERT, made of those of transformers.
_LAYERS = 'mmdet.models.utils.vlfuse_helper'


def install_glip() -> None:
    """Let GLIP's head be built and run; safe to call again.

    Its layers import a function from where version 5 has it no more, and call those of
    transformers with arguments that they have no more.
    """
    module = sys.modules.get(_LAYERS)
    if module is None:
        when_imported(_LAYERS, _with_present_names)
    elif module.BertConfig is None and importlib.util.find_spec('transformers'):
        # Imported before mmkd: once more, and what took its classes over.
        with _with_present_names(module):
            importlib.reload(module)
        head: Any = sys.modules.get('mmdet.models.dense_heads.atss_vlfusion_head')
        for name in ('BertEncoderLayer', 'VLFuse'):
            if head is not None and hasattr(head, name):
                setattr(head, name, getattr(module, name))


@contextmanager
def _with_present_names(module: types.ModuleType) -> Iterator[None]:
    try:
        from transformers import modeling_utils, pytorch_utils
    except Exception:  # absent, or of no use here: stock code does without
        yield
        return
    if not hasattr(modeling_utils, 'apply_chunking_to_forward'):
        function = pytorch_utils.apply_chunking_to_forward
        modeling_utils.apply_chunking_to_forward = function  # type: ignore[attr-defined]
    yield
    if module.BertConfig is not None:
        module.BertEncoderLayer.forward = _forward  # type: ignore[attr-defined]


def _forward(self: Any, inputs: Any) -> dict[str, Any]:
    """The stock pass of a layer, which calls its parts and not what is above them."""
    text = inputs['lang']
    hidden, mask = text['hidden'], text['masks']
    seen = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
    lowest = torch.finfo(hidden.dtype).min  # as in version 4
    added = hidden.new_zeros(seen.shape).masked_fill(~seen.bool(), lowest)
    attended = self.attention.self(hidden, added)[0]
    attended = self.attention.output(attended, hidden)
    text['hidden'] = self.feed_forward_chunk(attended)
    return dict(visual=inputs['visual'], lang=text)
