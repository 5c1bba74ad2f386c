"""The page of real runs: its numbers, its structure, and a real browser."""

import contextlib
import html.parser
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import BROWSER, chromium
from digits_detector import stock
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from rich.console import Console
from toy import short_and_repeatable  # noqa: F401

from mmkd.config import distill_config
from mmkd.demo.digits import make_digits
from mmkd.preflight.progress import Stages
from mmkd.report.evaluate import Options
from mmkd.report.page import write_report
from mmkd.report.tables import shown
from mmkd.training import train_config, write_student_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('skimage')
pytest.importorskip('jinja2')
LOSSES = dict(
    loss_hint=dict(type='mmkd.FeatureImitationLoss', at='neck'),
    loss_ld=dict(type='mmkd.LocalizationDistillationLoss'),
)
SEG = {
    'train_cfg.max_iters': 6,
    'train_cfg.val_interval': 3,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.checkpoint.interval': 6,
    'log_level': 'ERROR',
}
MIN_SCORE = 0.05
IMAGES = ('image', 'img', 'graphics-document')
#: Enough to find something; of four iterations each.
EPOCHS = 8


class Reader(html.parser.HTMLParser):
    """What a page is made of."""

    VOID = frozenset(('meta', 'link', 'img', 'br'))

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.headings: list[tuple[int, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._text: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ''
        self.feed(path.read_text(encoding='utf-8'))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == 'table':
            self._rows = []
        if tag == 'tr':
            self._rows.append([])
        if tag in ('caption', 'th', 'td', 'h1', 'h2', 'h3', 'h4'):
            self._text = []

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self._text.append(data)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        text = ' '.join(''.join(self._text).split())
        if tag == 'caption':
            self._caption = text
        elif tag in ('th', 'td'):
            self._rows[-1].append(text)
        elif tag == 'table':
            self.tables[self._caption] = self._rows
        elif tag in ('h1', 'h2', 'h3', 'h4'):
            self.headings.append((int(tag[1]), text))

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]


def train(cfg) -> Path:
    """Run a config; what it prints is of no interest."""
    cfg.visualizer.name = str(cfg.work_dir)
    with contextlib.redirect_stdout(io.StringIO()):
        Runner.from_cfg(cfg).train()
        write_student_config(cfg)
    return Path(cfg.work_dir)


def report(work_dirs, out: Path, **options) -> list[str]:
    options = Options(**{'pictures': 3, 'min_score': MIN_SCORE, **options})
    console = Console(file=io.StringIO())
    return write_report([Path(d) for d in work_dirs], out, options, Stages(console))


@pytest.fixture(scope='module')
def place(tmp_path_factory, short_and_repeatable):  # noqa: F811
    """Digits, and runs on them: a teacher, a student alone, the same distilled."""
    folder = tmp_path_factory.mktemp('report')
    root = make_digits(folder / 'data' / 'digits', num_train=8, num_val=6, size=64)
    short = {
        'train_cfg.max_epochs': EPOCHS,
        'train_cfg.val_interval': EPOCHS // 2,
        'default_hooks.logger.interval': 2,
        'default_hooks.checkpoint.interval': EPOCHS,
        'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=4e-3),
    }
    wide = {
        'model.backbone.base_channels': 16,
        'model.neck.in_channels': [16, 32, 64, 128],
    }
    teacher = train(stock(root, folder / 'teacher', **short, **wide))
    train(stock(root, folder / 'alone', **short))
    cfg = distill_config(
        stock(root, folder / 'distilled', **short),
        str(teacher / f'epoch_{EPOCHS}.pth'),
        LOSSES,
    )
    train(cfg)
    return folder


@pytest.fixture(scope='module')
def page(place):
    """The page of the detectors, and what is not on it."""
    out = place / 'report.html'
    return out, report([place / 'distilled', place / 'alone'], out)


@pytest.fixture(scope='module')
def read(page) -> Reader:
    return Reader(page[0])


def test_everything_is_on_the_page(page, read):
    assert page[1] == []
    assert [text for level, text in read.headings if level == 2] == [
        'Runs', 'Result', 'Where the gap was closed', 'Curves', 'Pictures',
        'Edge distributions', 'Feature maps', 'Config differences', 'Environment',
    ]  # fmt: skip
    charts = {text for level, text in read.headings if level == 3}
    assert {'Metrics', 'Losses of the task', 'Losses of distillation'} <= charts
    text = page[0].read_text()
    for key in ('loss_hint', 'loss_ld', 'loss_cls', 'loss_dfl', 'coco/bbox_mAP_50'):
        assert f'Numbers of {key}' in text
    assert '+distilled.losses.loss_hint.at = &#39;neck&#39;' in text
    assert 'neck (loss_hint)' in text


def test_the_page_asks_for_nothing(read):
    addresses = [
        attrs[name]
        for _, attrs in read.elements
        for name in ('src', 'href', 'srcset', 'data', 'action', 'xlink:href')
        if attrs.get(name)
    ]
    assert len(addresses) > 20
    assert all(a.startswith(('#', 'data:')) for a in addresses)
    assert not read.all('script')
    (policy,) = [m['content'] for m in read.all('meta') if 'http-equiv' in m]
    assert policy.startswith("default-src 'none'")


def test_the_page_is_in_order_for_a_screen_reader(read):
    levels = [level for level, _ in read.headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    assert len(read.all('main')) == 1
    assert all(img['alt'].strip() for img in read.all('img'))
    ids = [attrs['id'] for _, attrs in read.elements if 'id' in attrs]
    assert len(ids) == len(set(ids))
    named = {
        name
        for _, attrs in read.elements
        for name in attrs.get('aria-labelledby', '').split()
    }
    anchors = {a['href'][1:] for a in read.all('a')}
    assert anchors | named <= set(ids)
    assert len(read.all('table')) == len(read.all('caption'))
    assert all(th['scope'] in ('row', 'col') for th in read.all('th'))
    for svg in read.all('svg'):
        assert svg.get('aria-hidden') == 'true' or svg['role'] == 'img'


def ap_of(place: Path, name: str, run: str) -> dict[str, float]:
    """AP by plain pycocotools of what the stock student finds, one by one."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    cfg = train_config(str(place / run / name))
    contents = torch.load(place / run / f'epoch_{EPOCHS}.pth', weights_only=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
        data = DATASETS.build(cfg.val_dataloader.dataset)
    model.load_state_dict(contents['state_dict'])
    truth = COCO(cfg.val_evaluator.ann_file)
    found = []
    for item in data:
        batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        with torch.no_grad():
            (sample,) = model.test_step(batch)
        result = sample.pred_instances
        for box, label, score in zip(result.bboxes, result.labels, result.scores):
            x1, y1, x2, y2 = box.tolist()
            found.append(
                dict(
                    image_id=sample.img_id,
                    category_id=int(label) + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=float(score),
                )
            )
    stats = {}
    results = truth.loadRes(found)
    for category in (None, *range(1, 11)):
        evaluation = COCOeval(truth, results, 'bbox')
        if category:
            evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        if category:
            stats[str(category - 1)] = evaluation.stats[0]
        else:
            sizes = ('all', 'small', 'medium', 'large')
            stats.update(zip(sizes, evaluation.stats[[0, 3, 4, 5]]))
    return stats


@pytest.mark.parametrize(('column', 'run'), [(1, 'alone'), (2, 'distilled')])
def test_ap_is_that_of_pycocotools(place, read, column, run):
    expected = ap_of(place, 'student_config.py', run)
    assert expected['all'] > 0
    found = {}
    for caption in ('AP by size', 'AP by class'):
        header, *rows = read.tables[caption]
        assert header[1:3] == ['alone (baseline)', 'distilled']
        found.update((row[0], row[column]) for row in rows)
    # pycocotools says -1 where there is no object.
    assert found == {k: shown(v if v > -1 else None) for k, v in expected.items()}


def is_metric(key: str, value: float) -> bool:
    return key.startswith('coco/') and value != -1  # -1: there is no such object


def test_what_was_logged_is_in_the_final_table(place, read):
    header, *rows = read.tables['Metrics of the last evaluation, as logged']
    assert header[1:] == [
        'alone (baseline)', 'distilled', 'difference', 'gap closed', 'teacher',
    ]  # fmt: skip
    (log,) = (place / 'distilled').glob('*/vis_data/scalars.json')
    last = json.loads(log.read_text().splitlines()[-1])
    assert {row[0]: row[2] for row in rows} == {
        key: shown(value) for key, value in last.items() if is_metric(key, value)
    }
    (teacher,) = (place / 'teacher').glob('*/vis_data/scalars.json')
    last = json.loads(teacher.read_text().splitlines()[-1])
    # Evaluated for the page, it has what its own training logged.
    assert {row[0]: row[5] for row in rows} == {
        key: shown(value) for key, value in last.items() if is_metric(key, value)
    }


def test_pictures_are_sorted_by_how_much_the_two_differ(read):
    rows = [text for _, text in read.headings if '.png: alone' in text]
    assert len(rows) == 3
    differences = []
    for row in rows:
        scores = [
            float(part.split()[-1]) for part in row.partition(': ')[2].split(', ')
        ]
        differences.append(round(abs(scores[1] - scores[0]), 2))
    assert differences == sorted(differences, reverse=True)
    assert differences[0] > 0
    alts = [img['alt'] for img in read.all('img')]
    titles = [alt.split(', ')[1].partition(':')[0] for alt in alts[:4]]
    assert titles == ['truth', 'alone', 'distilled', 'teacher']
    assert all(img['loading'] == 'lazy' for img in read.all('img'))


def test_logs_alone(place, tmp_path):
    out = tmp_path / 'logs.html'
    dirs = [place / 'alone', place / 'distilled']
    assert report(dirs, out, with_models=False) == []
    read = Reader(out)
    assert not read.all('img')
    headings = [text for level, text in read.headings if level == 2]
    assert 'Pictures' not in headings
    assert 'Curves' in headings


def test_a_part_of_the_pictures_is_not_compared_with_what_was_logged(place, tmp_path):
    out = tmp_path / 'part.html'
    assert report([place / 'alone', place / 'distilled'], out, images=2) == []
    read = Reader(out)
    header = read.tables['Metrics of the last evaluation, as logged'][0]
    assert 'teacher' not in header
    assert 'teacher' in read.tables['AP by size'][0]
    assert 'on 2 of 6 validation pictures' in out.read_text()


def test_what_is_missing_is_said_and_the_rest_is_there(place, tmp_path):
    for name in ('alone', 'distilled'):
        shutil.copytree(place / name, tmp_path / name)
    for file in (tmp_path / 'alone').glob('*.pth'):
        file.unlink()
    (tmp_path / 'alone' / 'last_checkpoint').unlink()
    dirs = [tmp_path / 'alone', tmp_path / 'distilled']
    out = tmp_path / 'new' / 'report.html'
    notes = report(dirs, out, teacher=str(tmp_path / 'none.pth'))
    assert len(notes) == 2
    assert notes[0].startswith('alone has no checkpoint')
    assert "none.pth' does not exist; name another by --teacher" in notes[1]
    read = Reader(out)
    titles = [i['alt'].split(', ')[1].partition(':')[0] for i in read.all('img')]
    assert titles[:2] == ['truth', 'distilled']
    assert read.tables['AP by size'][0] == ['size', 'distilled']
    assert out.read_text().count('<li>alone has no checkpoint') == 1


def test_a_run_alone_and_the_runs_are_left_as_they_were(place, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in (place / 'distilled').rglob('*')}
    assert report([place / 'distilled'], tmp_path / 'one.html') == []
    assert {p: p.stat().st_mtime_ns for p in (place / 'distilled').rglob('*')} == before
    read = Reader(tmp_path / 'one.html')
    assert 'Config differences' not in [text for _, text in read.headings]
    assert 'lowest scores' in (tmp_path / 'one.html').read_text()


def test_other_pictures_are_an_error_and_a_good_report_stays(place, tmp_path):
    root = make_digits(tmp_path / 'other', num_train=4, num_val=3, size=64)
    other = train(stock(root, tmp_path / 'run'))
    out = tmp_path / 'report.html'
    out.write_text('good')
    with pytest.raises(ValueError, match='must be validated on the same pictures'):
        report([place / 'distilled', other], out)
    assert out.read_text() == 'good'
    assert [p.name for p in tmp_path.glob('.*')] == []


@pytest.fixture(scope='module')
def segmented(place):
    """A page about two segmentors; the one that was alone teaches the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_DATA', str(place / 'data'))
        alone = train_config(
            'mmkd::demo/fpn_r18-w8_digits.py',
            options=SEG,
            work_dir=str(place / 'seg_alone'),
        )
        train(alone)
        weights = str(place / 'seg_alone' / 'iter_6.pth')
        options = {**SEG, 'model.teacher': weights}
        name = 'mmkd::demo/cwd_fpn_r18-w8_fpn_r18-w24_digits.py'
        work_dir = str(place / 'seg_distilled')
        train(train_config(name, options=options, work_dir=work_dir))
    out = place / 'seg.html'
    dirs = [place / 'seg_alone', place / 'seg_distilled']
    return out, report(dirs, out)


def test_segmentors(place, segmented):
    out, notes = segmented
    assert notes == []
    read = Reader(out)
    header, *rows = read.tables['IoU by class']
    assert [row[0] for row in rows] == ['background', *'0123456789']
    assert header[:3] == ['class', 'seg_alone (baseline)', 'seg_distilled']
    # The mean over the classes is what MMSegmentation logged.
    (log,) = (place / 'seg_alone').glob('*/vis_data/scalars.json')
    logged = json.loads(log.read_text().splitlines()[-1])['mIoU']
    values = [float(row[1]) for row in rows if row[1] != '–']
    assert np.mean(values) == pytest.approx(logged, abs=0.02)
    final = {
        row[0]: row for row in read.tables['Metrics of the last evaluation, as logged']
    }
    assert final['mIoU'][1] == final['mIoU'][5] == shown(logged)
    alts = [img['alt'] for img in read.all('img')]
    assert alts[0].split(', ')[1].startswith('truth: classes: background')
    assert 'of the pixels right, IoU 0.' in alts[1]
    assert any('decode_head.conv_seg (loss_cwd)' in alt for alt in alts)
    assert 'Edge distributions' not in [text for _, text in read.headings]


def test_tasks_are_not_mixed(place, segmented, tmp_path):
    with pytest.raises(ValueError, match='the runs must be of one library'):
        report([place / 'alone', place / 'seg_alone'], tmp_path / 'x.html')


@pytest.fixture(scope='module')
def browser():
    if BROWSER is None:
        pytest.skip('no chromium on PATH')
    with chromium() as tab:
        yield tab


@pytest.mark.parametrize('width', [360, 1280])
@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('which', ['page', 'segmented'])
def test_a_real_browser_shows_it(browser, width, dark, which, request, tmp_path):
    path = request.getfixturevalue(which)[0]
    browser.open(path, width, dark=dark)
    assert browser.evaluate('innerWidth') == width
    assert browser.evaluate('document.scrollingElement.scrollWidth') <= width
    assert browser.complaints == []
    assert browser.requests == [path.resolve().as_uri()]
    image = browser.screenshot(tmp_path / 'shot.png')
    import cv2

    shot = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert shot.shape[1] == width
    corner = shot[-1, -1].mean()
    assert (corner < 60) if dark else (corner > 200)
    assert shot.std() > 5  # it is not empty


def test_the_keyboard_reaches_what_scrolls(browser, page):
    browser.open(page[0], 360)
    browser.press('Tab')
    assert browser.evaluate('document.activeElement.className') == 'skip'
    assert browser.evaluate('document.activeElement.getBoundingClientRect().left') >= 0
    hidden = """[...document.querySelectorAll('*')].filter(e =>
        e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
        && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)
        && e.tabIndex !== 0).length"""
    assert browser.evaluate(hidden) == 0
    focus = """(() => { const seen = new Set(); return [...document
        .querySelectorAll('a, summary, [tabindex="0"]')].every(e => {
        e.focus({focusVisible: true});
        return document.activeElement !== e
            || getComputedStyle(e).outlineStyle !== 'none'; }) })()"""
    assert browser.evaluate(focus)


def test_a_screen_reader_hears_every_picture_and_chart(browser, page):
    browser.open(page[0], 1280)
    nodes = browser.send('Accessibility.getFullAXTree')['nodes']
    spoken = [
        node
        for node in nodes
        if not node['ignored'] and node['role'].get('value') in IMAGES
    ]
    assert len(spoken) > 20
    assert all(node['name'].get('value', '').strip() for node in spoken)
    roles = {node['role'].get('value') for node in nodes}
    assert {'main', 'navigation', 'banner', 'contentinfo', 'region', 'table'} <= roles
