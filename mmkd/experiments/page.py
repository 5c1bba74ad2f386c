"""The page of all measured results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..fileio import replacing
from .plan import Plan
from .plots import draw_results
from .results import plan_report, read_results

_HEAD = """# Results

Measured with `python tools/reproduce.py`, which writes this page. Every number is from
validation data after the last iteration, mean ± standard deviation (n - 1) over
seeds {seeds}. All rows of a table but the teacher's have the same student, data,
schedule and number of iterations. "Gap closed" is the share of the distance from the
student alone to the teacher. Time is that of training on one CPU core, without
evaluation, while another run or tests were on the machine's other core: it is rough.
The runs, one json line each with its command and its last losses, are in
`docs/results/`; see [the demo's](results/demo.md) and that of
[its segmentation](results/demo_seg.md), too. AP is COCO's, as a share; mIoU is in
percent. In the pictures a dot is a seed, a bar the mean, and the dashed lines are the
student alone and the teacher.
"""


def write_page(plans: Sequence[Plan], folder: Path, page: Path) -> None:
    """Write the page and its pictures, each whole or not at all.

    Args:
        plans: The plans in order.
        folder: Where their results are, and the pictures go.
        page: The file.
    """
    seeds = ', '.join(str(seed) for seed in plans[0].seeds)
    parts = [_HEAD.format(seeds=seeds)]
    data = ''
    for plan in plans:
        if plan.data != data:
            data = plan.data
            parts.append(f'## {data}\n')
        results = read_results(folder / f'{plan.name}.jsonl')
        parts.append(plan_report(plan, results))
        picture = folder / f'{plan.name}.png'
        if draw_results(plan, results, picture):
            where = f'{folder.name}/{picture.name}'
            parts.append(f'![{plan.title}: {plan.task.main} of every seed]({where})\n')
    with replacing(page) as temporary:
        temporary.write_text('\n'.join(parts))
