"""Terms go on and off on time, and the teacher rests while none is on."""

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toy import (
    CWD,
    HINT,
    by_iteration,
    differences,
    distilled,
    make_runner,
    recorded,
    short_and_repeatable,  # noqa: F401  (a fixture)
    student,
    train,
    training_state,
)

from mmkd.hooks import DistillScheduleHook
from mmkd.hooks.distill_schedule_hook import Schedule

BOTH = dict(loss_hint=HINT, loss_cwd=CWD)
# Nothing moves: a value depends on the batch alone, and on the factor.
FROZEN = {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.0)}


@HOOKS.register_module(force=True)
class TeacherCalls(Hook):
    """Iterations in which the teacher's backbone ran."""

    priority = 'HIGHEST'

    def before_train(self, runner):
        self.iterations = []
        self.handle = (
            runner.model.distiller.teacher.model.backbone.register_forward_hook(
                lambda *_: self.iterations.append(runner.iter)
            )
        )


def schedule(**losses) -> dict:
    return {
        'default_hooks.schedule': dict(type='mmkd.DistillScheduleHook', losses=losses),
        'default_hooks.calls': dict(type='TeacherCalls'),
    }


def teacher_calls(runner) -> list[int]:
    return next(h for h in runner.hooks if isinstance(h, TeacherCalls)).iterations


@pytest.fixture(scope='module')
def unscheduled(tmp_path_factory):
    """Values of all terms with factor 1, eight iterations."""
    return recorded(train(distilled(BOTH), tmp_path_factory.mktemp('on'), **FROZEN))


EPOCHS = {  # four iterations are an epoch
    'loss_hint': (dict(begin=0, end=1), [1, 1, 1, 1, 0, 0, 0, 0]),
    'loss_cwd': (dict(begin=1, ramp=1), [0, 0, 0, 0, 0, 0.25, 0.5, 0.75]),
}
ITERATIONS = {
    'loss_hint': (dict(by_epoch=False, begin=2, end=7), [0, 0, 1, 1, 1, 1, 1, 0]),
    'loss_cwd': (dict(by_epoch=False, ramp=4), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]),
}


@pytest.mark.parametrize('plan', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations'])
def test_scales_every_term_by_its_factor(plan, unscheduled, tmp_path):
    hooks = schedule(**{name: arguments for name, (arguments, _) in plan.items()})
    steps = recorded(train(distilled(BOTH), tmp_path, **FROZEN, **hooks))
    for name, (_, factors) in plan.items():
        for step, full, factor in zip(steps, unscheduled, factors, strict=True):
            assert full[name] > 0
            assert step[name] == pytest.approx(factor * full[name], rel=1e-6)
            assert step['loss_cls'] == full['loss_cls']


def test_epochs_of_an_iteration_based_run(unscheduled, tmp_path):
    changes = by_iteration(**schedule(loss_hint=dict(begin=0.5, end=1.5)))
    steps = recorded(train(distilled(), tmp_path, **changes))
    assert [step['loss_hint'] > 0 for step in steps] == [False] * 2 + [True] * 4 + [
        False
    ] * 2


def test_fractions_of_an_epoch_after_resuming_with_another_batch_size(tmp_path):
    train(distilled(), tmp_path, **{'train_cfg.max_epochs': 1})
    changes = {'train_dataloader.batch_size': 6, 'train_dataloader.drop_last': True}
    changes.update(schedule(loss_hint=dict(begin=1.5)))
    again = train(distilled(), tmp_path, resume=True, **changes)
    # Two batches of six, from iteration 4 on; half an epoch is one.
    assert [step['loss_hint'] > 0 for step in recorded(again)] == [False, True]


def test_the_teacher_rests_while_no_term_is_on(tmp_path):
    hooks = schedule(
        loss_hint=dict(by_epoch=False, begin=2, end=4),
        loss_cwd=dict(by_epoch=False, begin=3, end=6),
    )
    run = train(distilled(BOTH), tmp_path, **hooks)
    assert teacher_calls(run) == [2, 3, 4, 5]


def test_terms_without_a_schedule_stay_on(tmp_path):
    run = train(distilled(BOTH), tmp_path, **schedule(loss_hint=dict(end=1)))
    assert teacher_calls(run) == list(range(8))
    assert all(step['loss_cwd'] > 0 for step in recorded(run))
    assert [step['loss_hint'] > 0 for step in recorded(run)] == [True] * 4 + [False] * 4


def test_training_after_the_end_is_stock_training(tmp_path):
    """Beginning after the run: every step is the stock one, bit for bit."""
    run = train(distilled(), tmp_path / 'a', **schedule(loss_hint=dict(begin=9)))
    stock = train(student(), tmp_path / 'b')
    assert teacher_calls(run) == []
    for ours, theirs in zip(recorded(run), recorded(stock), strict=True):
        assert {name: ours[name] for name in theirs} == theirs
    assert differences(run.model.state_dict(), stock.model.state_dict()) == []


def test_resuming_keeps_the_schedule(tmp_path):
    hooks = schedule(
        loss_hint=dict(begin=0.5, end=2.25, ramp=1.25), loss_cwd=dict(end=1.5)
    )
    changes = {'train_cfg.max_epochs': 3, **hooks}
    straight = train(distilled(BOTH), tmp_path / 'a', **changes)
    first = str(tmp_path / 'a' / 'epoch_1.pth')
    again = train(
        distilled(BOTH), tmp_path / 'b', resume=True, load_from=first, **changes
    )
    assert recorded(again) == recorded(straight)[4:]
    assert differences(training_state(again), training_state(straight)) == []
    assert teacher_calls(again) == [4, 5, 6, 7, 8]


@pytest.mark.parametrize('model', [distilled(), student()], ids=['distilled', 'stock'])
def test_an_unknown_name_is_an_error_before_training(model, tmp_path):
    hooks = schedule(loss_hnit=dict(end=1))
    del hooks['default_hooks.calls']
    runner = make_runner(model, tmp_path, **hooks)
    with pytest.raises(ValueError, match=r"names \['loss_hnit'\] but .* distils \["):
        runner.train()
    assert recorded(runner) == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(begin=-1), 'begin and ramp must be >= 0 but are -1 and 0'),
        (dict(ramp=-0.5), 'begin and ramp must be >= 0 but are 0 and -0.5'),
        (dict(begin=3, end=3), 'end must be after begin but they are 3 and 3'),
        (dict(start=1), "schedule of loss_x .*'start'"),
    ],
)
def test_contradictions_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        DistillScheduleHook(losses=dict(loss_x=arguments))


def test_factor():
    ramped = Schedule(begin=1, end=5, ramp=2)
    times = (0, 0.99, 1, 1.5, 2, 3, 4.99, 5, 100)
    assert [ramped.factor(t) for t in times] == [0, 0, 0, 0.25, 0.5, 1, 1, 0, 0]
    assert [Schedule().factor(t) for t in (0, 7, 1e9)] == [1, 1, 1]
    assert [Schedule(begin=3).factor(t) for t in (2.9, 3)] == [0, 1]
