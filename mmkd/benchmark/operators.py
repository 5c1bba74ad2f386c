"""The operators that take the time of a step."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from mmengine.registry import DefaultScope
from torch.profiler import ProfilerActivity, profile

from ..config import model_scope
from ..preflight.cost import no_rates
from .inputs import batches_of
from .networks import Networks
from .rows import AUGMENTED, MMKD, STUDENT, build_row
from .setting import Setting

#: Operators in a table.
_ROWS = 15


def top_operators(setting: Setting) -> str:
    """Where a step spends its time: the student's alone and mmkd's, or NetAug's.

    Args:
        setting: What is measured.

    Returns:
        Markdown with a table of torch's profiler for each.
    """
    on_gpu = setting.device.type == 'cuda'
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    key = 'self_cuda_time_total' if on_gpu else 'self_cpu_time_total'
    parts = ['# Where a training step spends its time', '', setting.title, '']
    with (
        tempfile.TemporaryDirectory(prefix='mmkd-benchmark-') as folder,
        DefaultScope.overwrite_default_scope(model_scope(setting.cfg)),
    ):
        networks = Networks(setting, Path(folder))
        batch = batches_of(setting)[0]
        for name in (STUDENT, MMKD if setting.teacher else AUGMENTED):
            row = build_row(name, networks)
            cast = row.trainee.model.data_preprocessor.cast_data
            with no_rates(row.trainee.optim_wrapper):
                row.run(cast(copy.deepcopy(batch)), 0)
                raw = cast(copy.deepcopy(batch))
                with profile(activities=activities) as seen:
                    row.run(raw, 0)
            found = seen.key_averages().table(
                sort_by=key, row_limit=_ROWS, max_name_column_width=48
            )
            parts += [f'## {name}', '', '```', found.strip(), '```', '']
    return '\n'.join(parts)
