"""Notices a run that was resumed without what its losses had learnt."""

from __future__ import annotations

from collections.abc import Callable

from mmengine.logging import MessageHub

#: Where a checkpoint has what was learnt beside the model's weights.
STATE_KEY = 'distiller'
#: The remedy, for messages.
ADD_THE_HOOK = (
    "write it with default_hooks=dict(distiller_state=dict(type='mmkd."
    "DistillerStateHook')) in the config, or start anew with load_from and "
    'resume=False'
)


class ResumeCheck:
    """Whether what has weights beside the model's may go on in a resumed run.

    Without ``mmkd.DistillerStateHook`` nobody tells the model that its run was
    resumed. But a Runner counts iterations in its message hub, which is new when
    it builds the model: a first training step that is not the first iteration
    there comes from a resume. Where the model was built or is stepped outside of
    that Runner nothing is concluded.

    Attributes:
        is_restored: Set by whoever restored that state.
    """

    def __init__(self) -> None:
        hub = MessageHub.get_current_instance()
        self._hub = None if 'iter' in hub.runtime_info else hub.instance_name
        self.is_restored = False

    def first_step(self, what: str, has_state: Callable[[], bool]) -> None:
        """Check once, before the first training step.

        Args:
            what: What may have been lost, for the message.
            has_state: Whether there is any of it.

        Raises:
            RuntimeError: If it was lost.
        """
        if self._hub is None:
            return
        hub = MessageHub.get_current_instance()
        iteration = hub.runtime_info.get('iter', 0)
        resumed = hub.instance_name == self._hub and iteration > 0
        if resumed and not self.is_restored and has_state():
            raise RuntimeError(
                f'the run was resumed at iteration {iteration} without {what}, which '
                'the checkpoint lacks or nobody restored; ' + ADD_THE_HOOK
            )
        self._hub = None
