"""Everything that does not fit is said at once."""

import pytest

from mmkd.distill import Distill
from mmkd.problems import SeveralProblems, problems_of


def built(toy_model, **losses):
    return Distill(toy_model(4), teacher=toy_model(8), losses=losses)


HINT = dict(type='mmkd.FeatureImitationLoss', at='neck')


def test_several_terms_and_what_is_wrong_with_each(toy_model):
    with pytest.raises(SeveralProblems) as caught:
        built(
            toy_model,
            loss_path=dict(HINT, at='nekc'),
            loss_good=HINT,
            loss_argument=dict(HINT, nrom='l1'),
            loss_size=dict(HINT, at='neck.lateral', teacher_at='neck.down'),
            loss_both=dict(HINT, at='backbon', teacher_at='hed'),
        )
    found = problems_of(caught.value)
    assert [problem.where for problem in found] == [
        'loss_argument', 'loss_path', 'loss_both', 'loss_both', 'loss_size',
    ]  # fmt: skip
    texts = [str(problem.error) for problem in found]
    assert all(problem.where in text for problem, text in zip(found, texts))
    for text, part in zip(texts, ("'nrom'", "'neck'?", "'backbone'?", "'head'?")):
        assert part in text
    assert 'maps of one size' in texts[-1]
    assert all(text in str(caught.value) for text in texts)


def test_one_problem_keeps_its_type(toy_model):
    with pytest.raises(TypeError, match=r"^loss_a.*'nrom'"):
        built(toy_model, loss_a=dict(HINT, nrom='l1'))


def test_a_teacher_and_a_term(toy_model):
    with pytest.raises(SeveralProblems) as caught:
        Distill(
            toy_model(4), teacher='gone.py', losses=dict(loss_a=dict(HINT, norm='l3'))
        )
    assert [p.where for p in problems_of(caught.value)] == ['loss_a', 'teacher']
    assert "'gone.py' does not exist" in str(caught.value)


def test_found_through_another_error():
    inner, outer = ValueError('x'), RuntimeError('wrapped')
    inner.problems, outer.__context__ = ['mark'], inner
    assert problems_of(outer) == ['mark']
    assert problems_of(ValueError()) == []
