"""Checkpoints that survive a power cut: the old one goes after the new one is safe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from ..fileio import PART_SUFFIX, replacing
from ..registry import HOOKS


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Stock ``CheckpointHook`` with the same arguments, and atomic writes.

    A checkpoint is written to a temporary file in the same folder, flushed to
    disk and renamed; then ``last_checkpoint`` likewise; then outdated files are
    deleted. The stock hook deletes first and writes in place: a run that is
    killed in between is left with nothing. On remote storage it does what the
    stock hook does, and so it does, with a warning, under strategies of
    ``FlexibleRunner`` whose ranks write a checkpoint together (FSDP, DeepSpeed).

    Example:
        >>> hook = AtomicCheckpointHook(interval=1, max_keep_ckpts=2)
        >>> hook.max_keep_ckpts
        2
    """

    file_backend: Any  # set by the stock before_train
    _written_by_all = False

    def before_train(self, runner: Any) -> None:
        """Sweep up what an interrupted run left behind."""
        super().before_train(runner)
        self._written_by_all = _is_written_by_all(runner)
        if self._written_by_all:
            runner.logger.warning(
                f'with {type(runner.strategy).__name__} all ranks write a checkpoint '
                'together, so AtomicCheckpointHook does what the stock CheckpointHook '
                'does: a run that is killed while it saves loses that checkpoint; keep '
                'more than one of them (max_keep_ckpts)'
            )
        if is_main_process() and isinstance(self.file_backend, LocalBackend):
            for folder in {Path(self.out_dir), Path(runner.work_dir)}:
                for left_over in folder.glob(f'.*{PART_SUFFIX}'):
                    left_over.unlink()

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        if self._written_by_all:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        with self._atomic(runner):
            self._retire_outdated(runner, step)
            name = self.filename_tmpl.format(step)
            self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
            runner.message_hub.update_info('last_ckpt', self.last_ckpt)
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                pointer = Path(runner.work_dir) / 'last_checkpoint'
                with replacing(pointer) as temporary:
                    temporary.write_text(self.last_ckpt)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        with self._atomic(runner):
            super()._save_best_checkpoint(runner, metrics)

    def _retire_outdated(self, runner: Any, step: int) -> None:
        """Keep the ids of the newest ``max_keep_ckpts``; the rest is deleted later."""
        # The best checkpoint makes the same step be saved twice.
        if self.max_keep_ckpts <= 0 or step in list(self.keep_ckpt_ids)[-1:]:
            return
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts and is_main_process():
            name = self.filename_tmpl.format(self.keep_ckpt_ids[0])
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
        self.keep_ckpt_ids.append(step)  # a deque of that length: drops the oldest
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    @contextmanager
    def _atomic(self, runner: Any) -> Iterator[None]:
        """Save atomically and delete last, inside the block."""
        backend = self.file_backend
        # Remote, inside another block, or not written by one process.
        if not isinstance(backend, LocalBackend) or self._written_by_all:
            yield
            return
        deferred = _DeferredRemovals(backend)
        save = runner.save_checkpoint

        def save_atomically(
            out_dir: str, filename: str, *args: Any, **kwargs: Any
        ) -> None:
            if not is_main_process():
                return
            path = Path(out_dir) / filename
            with replacing(path) as temporary:
                save(out_dir, temporary.name, *args, **kwargs)
            deferred.keep(str(path))

        self.file_backend, runner.save_checkpoint = deferred, save_atomically
        try:
            yield
        finally:
            self.file_backend = backend
            del runner.save_checkpoint
        deferred.run()


def _is_written_by_all(runner: Any) -> bool:
    """Whether one process alone cannot save, or what it saves is a folder."""
    strategy = getattr(runner, 'strategy', None)
    if strategy is None:  # the stock Runner
        return False
    names = [cls.__name__ for cls in type(strategy).__mro__]
    return 'FSDPStrategy' in names or 'SingleDeviceStrategy' not in names


class _DeferredRemovals:
    """A file backend whose removals wait."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self._pending: list[str] = []

    def remove(self, path: str) -> None:
        self._pending.append(path)

    def keep(self, path: str) -> None:
        """Forget the removal of a file that was replaced (a name without a number)."""
        self._pending = [p for p in self._pending if Path(p) != Path(path)]

    def run(self) -> None:
        for path in self._pending:
            self._backend.remove(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
