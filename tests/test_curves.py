"""Curves show what runs logged."""

import json

import pytest

from mmkd.experiments.curves import curves_of, draw_curves

plt = pytest.importorskip('matplotlib.pyplot')


def run(folder, name, values, active):
    """A work directory with a log as MMEngine writes it."""
    lines = [
        dict(loss=v, bound_rcn_active=a, lr=0.1, time=1.0, iter=10 * i, step=10 * i)
        for i, (v, a) in enumerate(zip(values, active), 1)
    ]
    lines.append({'coco/bbox_mAP': 0.25, 'data_time': 0.1, 'step': 1})
    file = folder / name / '20260101' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, lines)))
    return folder / name


@pytest.fixture
def runs(tmp_path):
    return [
        run(tmp_path, 'alone', [3.0, 2.0, float('nan')], [1.0, 0.5, 0.25]),
        run(tmp_path, 'distilled', [2.0, 1.0, 0.5], [0.5, 0.25, 0.125]),
    ]


def test_curves_are_what_was_logged(runs):
    curves = curves_of(runs[0])
    assert curves == {
        'loss': [(10, 3.0), (20, 2.0)],  # a NaN has no place
        'bound_rcn_active': [(10, 1.0), (20, 0.5), (30, 0.25)],
        'coco/bbox_mAP': [(1, 0.25)],
    }


def test_a_resumed_run_goes_on_and_one_that_runs_may_be_looked_at(tmp_path):
    run(tmp_path, 'run', [3.0, 2.0, 1.0], [1.0, 1.0, 1.0])
    again = tmp_path / 'run' / '20260102' / 'vis_data' / 'scalars.json'
    again.parent.mkdir(parents=True)
    lines = [dict(loss=v, iter=i, step=i) for i, v in ((30, 0.5), (40, 0.25))]
    again.write_text('\n'.join(map(json.dumps, lines)) + '\n{"loss": 0.1')
    curves = curves_of(tmp_path / 'run')
    assert curves['loss'] == [(10, 3.0), (20, 2.0), (30, 0.5), (40, 0.25)]


def test_a_panel_per_value_and_a_line_per_run(runs, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, 'close', figures.append)
    path = draw_curves(runs, tmp_path / 'curves.png')
    assert plt.imread(path).shape[2] == 4
    (figure,) = figures
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert set(panels) == {'loss', 'bound_rcn_active', 'coco/bbox_mAP'}
    lines = panels['bound_rcn_active'].get_lines()
    assert [line.get_label() for line in lines] == ['alone', 'distilled']
    assert list(lines[1].get_ydata()) == [0.5, 0.25, 0.125]
    assert len({line.get_color() for line in lines}) == 2


def test_chosen_keys(runs, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, 'close', figures.append)
    draw_curves(runs, tmp_path / 'curves.svg', ['loss'])
    assert [axes.get_title() for axes in figures[0].axes] == ['loss']
    assert (tmp_path / 'curves.svg').read_text().startswith('<?xml')


def test_what_is_not_there_is_an_error_and_overwrites_nothing(runs, tmp_path):
    path = tmp_path / 'curves.png'
    path.write_text('good')
    with pytest.raises(ValueError, match=r"keys must be among \['loss'.* \['lr'\]"):
        draw_curves(runs, path, ['lr'])
    with pytest.raises(FileNotFoundError, match='holds no log'):
        draw_curves([tmp_path / 'nothing'], path)
    assert path.read_text() == 'good'
