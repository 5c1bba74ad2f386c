"""Parts of the page that show pictures: side by side, edges, features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .data import Data
from .drawing import heat, jpeg
from .looks import activation_maps, edge_rows, tap_paths
from .outcome import Judge, Outcome
from .run import Run
from .svg import edge_chart, number

EDGES = ('left', 'top', 'right', 'bottom')


def ranked(
    indices: Sequence[int], first: Outcome | None, second: Outcome | None
) -> list[int]:
    """Pictures in the order in which two networks differ, most first.

    Args:
        indices: The pictures.
        first: Of the student alone, or ``None``.
        second: Of the distilled one.

    Returns:
        The pictures by the difference of their scores, whichever is better; of one
        network alone, by its score, worst first. Ties stay in order.
    """
    if second is None:
        return list(indices)
    if first is None:
        return sorted(indices, key=lambda i: second.scores.get(i, 1.0))
    return sorted(
        indices, key=lambda i: -abs(second.scores.get(i, 0) - first.scores.get(i, 0))
    )


def picture_row(
    index: int, data: Data, judge: Judge, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """One picture: its truth and what each network found.

    Args:
        index: The picture.
        data: Where it is.
        judge: Draws it.
        outcomes: Name of a network -> what it found on all pictures.

    Returns:
        ``name``, ``scores`` in words, and ``cells`` with title, picture and text.
    """
    picture, text = judge.draw_truth(index)
    cells = [dict(title='truth', image=jpeg(picture), text=text)]
    for who, outcome in outcomes.items():
        picture, text = judge.draw(index, outcome)
        score = outcome.scores[index]
        text = f'{text}, {judge.score.split()[0]} {score:.2f}'
        cells.append(dict(title=who, image=jpeg(picture), text=text))
    scores = ', '.join(f'{w} {o.scores[index]:.2f}' for w, o in outcomes.items())
    for cell in cells:
        cell['height'], cell['width'] = picture.shape[:2]
    return dict(name=data.name(index), scores=scores, cells=cells)


def edge_section(
    networks: Mapping[str, Any],
    roles: Mapping[str, str],
    chooser: str,
    data: Data,
    judge: Judge,
    indices: Sequence[int],
) -> dict[str, Any] | None:
    """Distributions of the edges on the first picture where there are some.

    Args:
        networks: Name -> detector.
        roles: Name -> ``'student'``, ``'distilled'`` or ``'teacher'``.
        chooser: Name of the one whose objects are shown.
        data: The pictures.
        judge: Knows the objects.
        indices: Pictures, in order of preference.

    Returns:
        ``name`` of the picture, ``who`` is shown, and ``objects`` with charts;
        ``None`` if no head predicts distributions, or no object is found.
    """
    for index in indices:
        objects = edge_rows(networks, chooser, data, judge, index)
        if not objects:
            continue
        shown = [
            dict(
                title=f'{data.classes[one["label"]]}, score {one["score"]:.2f}',
                charts=[
                    _edge_chart(f'e{place}{edge}', name, one, roles, edge)
                    for edge, name in enumerate(EDGES)
                ],
            )
            for place, one in enumerate(objects)
        ]
        who = [(roles[name], name) for name in networks if name in objects[0]['pixels']]
        return dict(name=data.name(index), who=who, objects=shown)
    return None


def _edge_chart(
    identity: str, name: str, one: dict[str, Any], roles: Mapping[str, str], edge: int
) -> dict[str, str]:
    truth = one['truth'][edge]
    expected = {
        who: sum(p * x for p, x in zip(chances[edge], one['pixels'][who]))
        for who, chances in one['chances'].items()
    }
    text = (
        f'truth at {number(round(truth, 1))} pixels from the centre; expected by '
        + (', '.join(f'{who} {value:.1f}' for who, value in expected.items()))
    )
    svg = edge_chart(
        identity,
        f'{name} edge',
        text,
        {roles[who]: pixels for who, pixels in one['pixels'].items()},
        {roles[who]: chances[edge] for who, chances in one['chances'].items()},
        truth,
    )
    return dict(name=name, svg=svg, text=text)


def feature_section(
    networks: Mapping[str, Any],
    roles: Mapping[str, str],
    run: Run,
    data: Data,
    indices: Sequence[int],
) -> list[dict[str, Any]]:
    """Activation maps where the losses tap, a common scale for each level.

    Args:
        networks: Name -> network.
        roles: Name -> ``'student'``, ``'distilled'`` or ``'teacher'``.
        run: The distilled run.
        data: The pictures.
        indices: Which ones.

    Returns:
        For each tap and picture ``title`` and ``levels`` with ``cells``.
    """
    sections = []
    for title, (ours, theirs) in tap_paths(run, networks[run.name]).items():
        at = {
            name: (network, theirs if roles[name] == 'teacher' else ours)
            for name, network in networks.items()
        }
        for index in indices:
            maps = activation_maps(at, data, index)
            if maps:
                name = f'{title}, {data.name(index)}'
                sections.append(dict(title=name, levels=_levels(maps)))
    return sections


def _levels(maps: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    levels = []
    for level in range(max(len(found) for found in maps.values())):
        here = {who: found[level] for who, found in maps.items() if level < len(found)}
        top = max(float(values.max()) for values in here.values())
        cells = [
            dict(
                title=who,
                image=heat(values, 0, top),
                text=f'{values.shape[0]}×{values.shape[1]} places, '
                f'mean {number(float(values.mean()))}, '
                f'highest {number(float(values.max()))}',
            )
            for who, values in here.items()
        ]
        levels.append(dict(top=number(top), cells=cells))
    return levels
