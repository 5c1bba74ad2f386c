"""MMEngine hooks; all of them belong into ``default_hooks``, a dict that merges."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .distill_schedule_hook import DistillScheduleHook
from .distill_visualization_hook import DistillVisualizationHook
from .distiller_state_hook import DistillerStateHook
from .loss_balance_hook import LossBalanceHook
from .recalibrate_hook import RecalibrateHook
from .sort_channels_hook import SortChannelsHook
from .transfer_hook import TransferHook

__all__ = [
    'AtomicCheckpointHook',
    'DistillScheduleHook',
    'DistillVisualizationHook',
    'DistillerStateHook',
    'LossBalanceHook',
    'RecalibrateHook',
    'SortChannelsHook',
    'TransferHook',
]
