"""Resuming a run with other losses than those its checkpoint was written with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.optim import OptimWrapperDict
from torch import nn
from torch.optim import Optimizer


def parameter_names(runner: Any, model: nn.Module) -> dict[str, list[list[str]]]:
    """Names of the parameters of every optimizer, group by group.

    Args:
        runner: Whose optimizer is built already.
        model: Its model, unwrapped.

    Returns:
        Name of the optimizer (empty for the only one) -> names of each group.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        key: [[names.get(id(p), '') for p in g['params']] for g in o.param_groups]
        for key, o in _optimizers(runner).items()
    }


def fit_state(
    state: Mapping[str, Any], written_with: Sequence[str] | None, distiller: nn.Module
) -> tuple[dict[str, Any], list[str], list[str]]:
    """What a distiller of other terms can load.

    Args:
        state: The state that was written.
        written_with: Terms it was written with, if known.
        distiller: Has the terms of now.

    Returns:
        Its state for the terms of now, where new ones are as they are; the new
        terms; those that are gone.
    """
    current = list(distiller.losses)  # type: ignore[arg-type]
    own = distiller.state_dict()
    if written_with is None:  # only those with a state are known
        stateless = set(current) - {_term(key) for key in own}
        written_with = list(dict.fromkeys([*map(_term, state), *stateless]))
    new = [name for name in current if name not in written_with]
    gone = [name for name in written_with if name not in current]
    kept = {key: value for key, value in state.items() if _term(key) not in gone}
    kept.update({key: value for key, value in own.items() if _term(key) in new})
    return kept, new, gone


def sentence(new: Sequence[str], gone: Sequence[str]) -> str:
    """Tell in one sentence what other losses mean for a resumed run."""
    parts = []
    if new:
        parts.append(f'{", ".join(new)} start untrained')
    if gone:
        parts.append(f'{", ".join(gone)} and what they had learnt are gone')
    return (
        'the run is resumed with other losses than its checkpoint was written with: '
        + '; '.join([*parts, 'student, optimizer and schedules go on as they were'])
    )


def fit_optimizers(
    checkpoint: dict,
    written: Mapping[str, list[list[str]]] | None,
    runner: Any,
    model: nn.Module,
) -> None:
    """Let the optimizers and their schedules go on with other parameters.

    Args:
        checkpoint: Changed in place, before the runner loads it.
        written: What :func:`parameter_names` gave when it was written.
        runner: The runner that resumes.
        model: Its model, unwrapped.

    Raises:
        RuntimeError: If the checkpoint does not say whose moments it holds.
    """
    now = parameter_names(runner, model)
    if written == now or 'optimizer' not in checkpoint:
        return
    if written is None or written.keys() != now.keys():
        raise RuntimeError(
            'the checkpoint does not name the parameters that its optimizer holds, so '
            'it can only be resumed with the losses it was written with'
        )
    several = isinstance(runner.optim_wrapper, OptimWrapperDict)
    schedulers = checkpoint.get('param_schedulers')
    for key, optimizer in _optimizers(runner).items():
        states = checkpoint['optimizer'] if several else checkpoint
        name = key if several else 'optimizer'
        states[name], origin = _fitted(states[name], written[key], optimizer, now[key])
        if schedulers:
            fit = schedulers[key] if isinstance(schedulers, dict) else schedulers
            for state in fit:
                groups = states[name]['param_groups']
                _fit_schedule(state, origin, groups, len(written[key]))


def forget_logs(checkpoint: dict, gone: Iterable[str]) -> None:
    """Drop the log values of terms that are gone, which would be shown on and on."""
    scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
    for term in gone:
        prefix = f'train/{term.replace("loss", "").strip("_")}_'
        for key in list(scalars):
            shown_beside = key.startswith(prefix) and 'loss' not in key
            if key in ('train/data_time', 'train/grad_norm'):  # of the run
                continue
            if key == f'train/{term}' or shown_beside:
                del scalars[key]


def _term(key: str) -> str:
    """The log name in a key of the distiller's state: ``losses.<name>...``."""
    return key.split('.')[1]


def _optimizers(runner: Any) -> dict[str, Optimizer]:
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return {key: one.optimizer for key, one in wrapper.items()}
    return {'': wrapper.optimizer} if hasattr(wrapper, 'optimizer') else {}


def _fitted(
    state: Mapping[str, Any],
    written: list[list[str]],
    optimizer: Optimizer,
    names: list[list[str]],
) -> tuple[dict[str, Any], list[int | None]]:
    """An optimizer's state for other parameters; which old group each one was."""
    index = {
        name: number
        for group, group_names in zip(state['param_groups'], written)
        for name, number in zip(group_names, group['params'])
    }
    groups: list[dict] = []
    origin: list[int | None] = []
    moments = {}
    first = state['param_groups'][0]
    decayed = first['lr'] / first['initial_lr'] if first.get('initial_lr') else 1.0
    for group, group_names in zip(optimizer.state_dict()['param_groups'], names):
        known = set(group_names)
        old = next((i for i, n in enumerate(written) if known & set(n)), None)
        origin.append(old)
        if old is None:  # as far down its schedule as the others
            groups.append({**group, 'lr': group['lr'] * decayed})
        else:
            own = {k: group[k] for k in ('params', 'param_names') if k in group}
            groups.append({**state['param_groups'][old], **own})
        for name, number in zip(group_names, group['params']):
            if index.get(name) in state['state']:
                moments[number] = state['state'][index[name]]
    return {**state, 'state': moments, 'param_groups': groups}, origin


def _fit_schedule(
    state: dict, origin: list[int | None], groups: list[dict], held: int
) -> None:
    """One value per parameter group, of which there were ``held``."""
    name = state.get('param_name', 'lr')
    for key, initial in (('base_values', f'initial_{name}'), ('_last_value', name)):
        if key in state:
            own = [group.get(initial, group.get(name)) for group in groups]
            values = state[key]
            state[key] = [
                mine if old is None else values[old] for old, mine in zip(origin, own)
            ]
            # With paramwise_cfg MMEngine keeps one more, the plain setting.
            state[key] += values[held:]
