"""Distillation losses: one file per method, a function under a thin class."""

from .base import DistillLoss
from .channel_wise_divergence import ChannelWiseDivergenceLoss, channel_wise_divergence
from .feature_imitation import FeatureImitationLoss, feature_imitation_loss
from .soft_target import SoftTargetLoss, soft_target_loss

__all__ = [
    'ChannelWiseDivergenceLoss',
    'DistillLoss',
    'FeatureImitationLoss',
    'SoftTargetLoss',
    'channel_wise_divergence',
    'feature_imitation_loss',
    'soft_target_loss',
]
