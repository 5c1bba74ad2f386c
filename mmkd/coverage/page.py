"""docs/coverage.md, from the results of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..fileio import replacing
from .families import LIBRARIES, OUT_OF_SCOPE, folders

Result = Mapping[str, Any]
TRAINS = 'trains'
WORKS = 'works'
#: Columns after the tapped module, and what they say.
KINDS = ('logits', 'boxes', 'masks')
_HEAD = """# Coverage: which stock configs can be distilled

Every config folder that MMDetection and MMSegmentation ship, tried: one config per
folder and per detector with its heads. Each is trained alone for three steps, on small
pictures with boxes, masks and label maps, and predicts once. Then the same with a
teacher (the config's own model; the student on ResNet-18 where the config is on a
plain ResNet) and feature imitation on the neck, or on the backbone where there is no
neck: the term must be finite and greater than zero, its gradient must reach the
student, and the checkpoint's keys must be the stock ones. Then a step with every loss
on the heads that fits. That shows what builds and trains, not what is gained: all
weights are random.

The optimizer is the config's with a small rate, clipped gradients and no mixed
precision. To save time there are fewer proposals and narrower layers behind them, text
encoders have two layers, and what pads to full pictures is left out
(`mmkd/coverage/reduce.py`).

This page and the lines behind it, `docs/results/coverage.jsonl`, are written by

```bash
make coverage
```

which has an environment of its own, with the packages that some configs need beside
MMDetection and MMSegmentation (mmpretrain, timm, transformers).
"""
_LEGEND = """
- **tap**: where feature imitation was tried. **logits**, **boxes**, **masks**: losses
  on the heads that work, by their initials; "-" where every one of them is refused with
  a sentence when the model is built, and empty where the model has no such head.
- KD soft target: a softmax over all channels of a position, which on a head of several
  anchors or of sigmoids mixes what CD and WS keep apart. CD classification
  distillation, WS weighted soft cross-entropy (Chen et al.), PW pixel-wise; LD
  localization distillation, BR bounded regression; CWD channel-wise divergence, PA
  pair-wise. "rpn" before a loss: on the region proposal network; "roi": on the box
  heads of the second stage; "sem": on a semantic head.
"""
_SHORT = {
    'SoftTarget': 'KD',
    'ClassificationDistillation': 'CD',
    'WeightedSoftCrossEntropy': 'WS',
    'PixelWise': 'PW',
    'LocalizationDistillation': 'LD',
    'BoundedRegression': 'BR',
    'ChannelWiseDivergence': 'CWD',
    'PairWise': 'PA',
}
_PLACES = {'rpn_head': 'rpn ', 'roi_head.bbox_head': 'roi ', 'semantic_head': 'sem '}


def verdict(result: Result) -> str:
    """One line on a trial."""
    if result['stock'] != TRAINS:
        return f'does not train stock: {last_line(result["stock"])}'
    terms = result['terms'].values()
    failed = [label for label, text in result['terms'].items() if _fails(text)]
    line = f'{result["at"]} {result["trunk"].splitlines()[0]}, '
    line += f'{sum(text == WORKS for text in terms)} of {len(terms)} losses on heads'
    return line + (f', FAILS: {", ".join(failed)}' if failed else '')


def last_line(trace: str) -> str:
    """The error at the end of a traceback."""
    return trace.strip().splitlines()[-1].strip()


def failures(results: Sequence[Result]) -> list[str]:
    """What works stock and neither works here nor is refused with a sentence."""
    found = []
    for result in results:
        if result['stock'] != TRAINS:
            continue
        tried = {f'features at {result["at"]}': result['trunk'], **result['terms']}
        found += [
            f'{result["config"]}, {label}: {last_line(text)}'
            for label, text in tried.items()
            if _fails(text)
        ]
    return found


def latest(results: Sequence[Result]) -> list[Result]:
    """The last result of every config, by name."""
    by_config = {result['config']: result for result in results}
    return [by_config[name] for name in sorted(by_config)]


def write_page(path: Path, results: Sequence[Result]) -> None:
    """Write the page.

    Args:
        path: The file.
        results: Lines of the sweep; of several for one config the last counts.
    """
    results = latest(results)
    parts = [_HEAD, _summary(results), _LEGEND]
    for library in LIBRARIES:
        own = [r for r in results if r['family'].startswith(f'{library}/')]
        parts += [f'\n## {library}\n\n', *_table(own)]
    parts += _not_trained(results)
    parts += _refusals(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(''.join(parts))


def _summary(results: Sequence[Result]) -> str:
    lines = [
        '\n| library | folders | out of scope | train stock | features work | share |\n'
    ]
    lines.append('|---|---|---|---|---|---|\n')
    for library in LIBRARIES:
        out = [name for name in OUT_OF_SCOPE if name.startswith(f'{library}/')]
        own = [r for r in results if r['family'].startswith(f'{library}/')]
        stock = {r['family'] for r in own if r['stock'] == TRAINS}
        good = {r['family'] for r in own if r.get('trunk') == WORKS}
        bad = {r['family'] for r in own if r.get('trunk', WORKS) != WORKS}
        good -= bad
        share = f'{100 * len(good) / max(len(stock), 1):.1f} %'
        lines.append(
            f'| {library} | {len(folders(library))} | {len(out)} | {len(stock)} | '
            f'{len(good)} | {share} |\n'
        )
    trained = [r for r in results if r['stock'] == TRAINS]
    terms = [text for r in trained for text in r['terms'].values()]
    working = sum(text == WORKS for text in terms)
    refused = sum(text.startswith('refused') for text in terms)
    lines.append(
        f'\n{len(results)} configs were tried, {len(trained)} train stock. Of '
        f'{len(terms)} losses on their heads {working} work, {refused} are refused '
        'with a sentence when the model is built, '
        f'{len(terms) - working - refused} fail.\n'
        f'Versions: {"; ".join(sorted({r["versions"] for r in results}))}.\n'
    )
    return ''.join(lines)


def _table(results: Sequence[Result]) -> list[str]:
    lines = ['| folder | model | tap | logits | boxes | masks | note |\n']
    lines.append('|---|---|---|---|---|---|---|\n')
    for result in results:
        if result['stock'] != TRAINS:
            continue
        columns = [_column(result['terms'], kind) for kind in KINDS]
        tap = (
            result['at'] if result['trunk'] == WORKS else f'**{result["trunk"][:60]}**'
        )
        notes = ['student on ResNet-18'] if result['reduced'] else []
        if result['predicts'] is not True:
            notes.append(f'stock prediction: {last_line(result["predicts"])}')
        folder = result['family'].partition('/')[2]
        cells = [folder, ', '.join(result['model']), tap, *columns, '; '.join(notes)]
        lines.append(f'| {" | ".join(cells)} |\n')
    return lines


def _column(terms: Mapping[str, str], kind: str) -> str:
    own = {k: v for k, v in terms.items() if k.startswith(f'{kind}:')}
    working = [_short(label) for label, text in own.items() if text == WORKS]
    failing = [f'**{_short(k)} fails**' for k, text in own.items() if _fails(text)]
    return ', '.join([*working, *failing]) or ('-' if own else '')


def _short(label: str) -> str:
    loss, _, at = label.partition(': ')[2].partition(' at ')
    return f'{_PLACES.get(at, "")}{_SHORT[loss]}'


def _not_trained(results: Sequence[Result]) -> list[str]:
    parts = ['\n## Out of scope\n\n']
    parts += [f'- {name}: {why}\n' for name, why in OUT_OF_SCOPE.items()]
    bad = [result for result in results if result['stock'] != TRAINS]
    if bad:
        parts.append('\n## Do not train stock here\n')
    for result in bad:
        trace = '\n'.join(result['stock'].splitlines()[-8:])
        parts.append(f'\n{result["config"]}\n\n```text\n{trace}\n```\n')
    return parts


def _refusals(results: Sequence[Result]) -> list[str]:
    """Every sentence with which a loss is refused, and where."""
    where: dict[str, list[str]] = {}
    for result in results:
        if result['stock'] != TRAINS:
            continue
        for label, text in result['terms'].items():
            if text.startswith('refused: '):
                sentence = text.removeprefix('refused: ')
                places = where.setdefault(f'{_short(label)}: {sentence}', [])
                folder = result['family'].partition('/')[2]
                if folder not in places:
                    places.append(folder)
    parts = ['\n## Refused, and why\n\n']
    parts += [
        f'- {text} ({", ".join(names)})\n' for text, names in sorted(where.items())
    ]
    return parts


def _fails(text: str) -> bool:
    return text != WORKS and not text.startswith('refused')
