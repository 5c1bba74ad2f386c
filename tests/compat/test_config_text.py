"""Config text is read as data: what stock configs write, and nothing else."""

import math

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from mmkd.compat.config_text import parse_config_text


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3),
        ('-3', -3),
        ('1e-3', 0.001),
        ('2j', 2j),
        ('True', True),
        ('None', None),
        ('\'a\' "b"', 'ab'),
        ("r'\\d'", '\\d'),
        ("b'x'", b'x'),
        ("'''x\ny'''", 'x\ny'),
        ('()', ()),
        ('(1)', 1),
        ('(1,)', (1,)),
        ('1,', (1,)),
        ('1, 2', (1, 2)),
        ('[1, [2], ]', [1, [2]]),
        ('{}', {}),
        ('{1, 2}', {1, 2}),
        ('set()', set()),
        ("{'a': 1, 2: None}", {'a': 1, 2: None}),
        ("{**{'a': 1}, 'b': 2}", {'a': 1, 'b': 2}),
        ('dict()', {}),
        ('dict(a=1, b=dict(c=(1, 2)))', {'a': 1, 'b': {'c': (1, 2)}}),
        ("dict({'a.b': 1})", {'a.b': 1}),
        ("dict(a=1, **{'b c': 2})", {'a': 1, 'b c': 2}),
        ("float('-inf')", -math.inf),
        ('-inf', -math.inf),
        ('[\n    1,  # one\n    2,\n]', [1, 2]),
    ],
)
def test_literals(text, value):
    parsed = parse_config_text(f'x = {text}\n')['x']
    assert parsed == value
    assert type(parsed) is type(value)


def test_nan_is_a_number():
    assert math.isnan(parse_config_text('x = nan')['x'])
    assert math.isnan(parse_config_text("x = float('nan')")['x'])


def test_order_and_repetition_of_names():
    parsed = parse_config_text('b = 1\n\n# comment\na = 2\nb = 3')
    assert list(parsed.items()) == [('b', 3), ('a', 2)]


@pytest.mark.parametrize(
    ('text', 'construct'),
    [
        ('a = 1\nimport os', "line 2: 'import'"),
        ('from os import path', "line 1: 'from'"),
        ('def f(): pass', "line 1: 'def'"),
        ("'a docstring'", 'line 1: "\'a docstring\'"'),
        ('a = [\n    1,\n    os.system,\n]', 'line 3: attribute access of os'),
        ("a = __import__('os')", 'line 1: a call of __import__'),
        ("a = 'x'.upper()", 'line 1: attribute access'),
        ("a = {'b': 1}['b']", 'line 1: a subscript'),
        ('a.b = 1', 'line 1: attribute access of a'),
        ('a[0] = 1', 'line 1: a subscript of a'),
        ('print(1)', 'line 1: a call of print'),
        ('a = b', 'line 1: the name b'),
        ('a = b = 1', 'line 1: operator = on b'),
        ('a += 1', 'line 1: operator \\+= on a'),
        ('a = b + 1', 'line 1: operator \\+ on b'),
        ('a = 1 + 1', "line 1: '\\+' after a value"),
        ('a = --1', 'line 1: operator -'),
        ("a = -'x'", 'line 1: operator -'),
        ('a = not True', "line 1: 'not'"),
        ('a = lambda: 0', "line 1: 'lambda'"),
        ('a = [1 for _ in (1, 2)]', 'line 1: a comprehension'),
        ('a = {1: 2 for _ in ()}', 'line 1: a comprehension'),
        ('a = 1 if True else 2', 'line 1: a conditional expression'),
        ('a = (b := 1)', 'line 1: an assignment expression'),
        ("a = f'{print(1)}'", 'line 1: an f-string'),
        ("a = 'b' f'{print(1)}'", 'line 1: an f-string'),
        ('a = 1; b = 2', 'line 1: several statements'),
        ('a = [*b]', "line 1: '\\*'"),
        ('a = dict(**b)', 'line 1: the name b'),
        ('a = dict(**1)', 'line 1: \\*\\* before'),
        ('a = dict([(1, 2)])', 'line 1: .* argument of dict'),
        ('a = dict(b=1, b=2)', "line 1: a repeated argument 'b'"),
        ('a = {[]: 1}', 'line 1: a list as a key'),
        ('a = {1, **{}}', 'line 1: a dict with members'),
        ("a = float('1')", 'line 1: a call of float'),
        ('a = set([1])', 'line 1: a call of set'),
        ('a = None()', 'line 1: a call of None'),
        ("a = b'x' 'y'", 'line 1: a mix of bytes and str'),
        ('a = ...', "line 1: '...'"),
        ('a = 1 2', "line 1: '2' after a value"),
        ('  a = 1', 'line 1: '),
    ],
)
def test_everything_else_names_line_and_construct(text, construct):
    with pytest.raises(ValueError, match=f'^{construct}.* only literals'):
        parse_config_text(text)


@pytest.mark.parametrize(
    'text',
    [
        'a = ' + '[' * 100_000,
        'a = ' + '-' * 100_000 + '1',
        'a = ' + '+'.join(['1'] * 100_000),
        'a = b' + '.c' * 100_000,
        'a = ' + 'f(' * 100_000,
        'a = ' + 'not ' * 100_000,
        'a = ' + 'dict(a=' * 101 + '1' + ')' * 101,
        'a = (1',
        "a = 'x",
        "a = 'x\\",
        'a = \0',
        'a = $',
        'a =\udc80',
    ],
)
def test_damaged_or_excessive_text_is_a_value_error(text):
    with pytest.raises(ValueError, match='line|not Python'):
        parse_config_text(text)


def test_a_hundred_levels_are_enough_for_configs():
    text = 'a = ' + '[' * 100 + ']' * 100
    value = parse_config_text(text)['a']
    for _ in range(99):
        (value,) = value
    assert value == []


def test_type_of_text():
    with pytest.raises(TypeError, match='text must be a str but is bytes'):
        parse_config_text(b'a = 1')


def test_nothing_is_executed(tmp_path):
    target = tmp_path / 'ran'
    for text in (
        f"a = open({str(target)!r}, 'w')",
        f'a = dict(b=open({str(target)!r}, "w"))',
        f'a = f\'{{open({str(target)!r}, "w")}}\'',
        f"custom_imports = dict(imports='os')\nopen({str(target)!r}, 'w')",
    ):
        with pytest.raises(ValueError, match='line'):
            parse_config_text(text)
    assert not target.exists()


def test_keys_that_are_no_identifiers_survive_pretty_text():
    cfg = Config(
        dict(
            optim=dict(custom_keys={'backbone.x': dict(lr_mult=0.1), 'bias': dict()}),
            numbers=[1e-5, -1.5, float('inf'), 10**20],
            nested=[[(1, 'a')], dict(b={1: 2}), {'c d': None}],
        )
    )
    assert parse_config_text(cfg.pretty_text) == cfg.to_dict()


STOCK = [
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mmdet::objects365/retinanet_r50-syncbn_fpn_1350k_objects365v1.py',
    'mmdet::yolox/yolox_nano_8xb8-300e_coco.py',
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
]


@pytest.mark.parametrize('name', STOCK)
def test_stock_configs_survive_their_text(name):
    pytest.importorskip(name.split('::')[0])
    cfg = get_config(name)
    # yapf takes a second per config and changes the layout only.
    cfg._format_python_code = False
    assert parse_config_text(cfg.pretty_text) == cfg.to_dict()


def test_a_formatted_stock_config_survives_its_text():
    pytest.importorskip('mmdet')
    cfg = get_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py')
    assert parse_config_text(cfg.pretty_text) == cfg.to_dict()
