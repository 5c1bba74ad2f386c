"""Distillation losses: one file per method, a function under a thin class."""

from .base import DistillLoss
from .bounded_regression import (
    BoundedRegressionLoss,
    BoxImitationLoss,
    bounded_regression_loss,
)
from .channel_wise_divergence import ChannelWiseDivergenceLoss, channel_wise_divergence
from .classification_distillation import (
    ClassificationDistillationLoss,
    classification_distillation_loss,
)
from .cross_kd import CrossKDLoss, quality_focal_distillation_loss
from .dist import DISTLoss, dist_loss
from .dkd import DKDLoss, dkd_loss
from .feature_imitation import FeatureImitationLoss, feature_imitation_loss
from .fgd import FGDLoss, fgd_loss
from .gan import discriminator_loss, generator_loss
from .holistic import HolisticLoss, gradient_penalty
from .layer_transfer import (
    attention_transfer,
    feature_map_transfer,
    mean_transfer,
    variance_transfer,
)
from .localization_distillation import (
    LocalizationDistillationLoss,
    localization_distillation_loss,
)
from .mgd import MGDLoss, mgd_loss
from .pair_wise import PairWiseLoss, pair_wise_loss
from .pixel_wise import PixelWiseLoss, pixel_wise_loss
from .pkd import PKDLoss, pkd_loss
from .soft_target import SoftTargetLoss, soft_target_loss
from .valuable_localization_region import valuable_localization_region
from .weighted_soft_cross_entropy import (
    WeightedSoftCrossEntropyLoss,
    weighted_soft_binary_cross_entropy,
    weighted_soft_cross_entropy,
)

__all__ = [
    'BoundedRegressionLoss',
    'BoxImitationLoss',
    'ChannelWiseDivergenceLoss',
    'ClassificationDistillationLoss',
    'CrossKDLoss',
    'DISTLoss',
    'DKDLoss',
    'DistillLoss',
    'FGDLoss',
    'FeatureImitationLoss',
    'HolisticLoss',
    'LocalizationDistillationLoss',
    'MGDLoss',
    'PKDLoss',
    'PairWiseLoss',
    'PixelWiseLoss',
    'SoftTargetLoss',
    'WeightedSoftCrossEntropyLoss',
    'attention_transfer',
    'bounded_regression_loss',
    'channel_wise_divergence',
    'classification_distillation_loss',
    'dist_loss',
    'discriminator_loss',
    'dkd_loss',
    'feature_imitation_loss',
    'feature_map_transfer',
    'fgd_loss',
    'generator_loss',
    'gradient_penalty',
    'localization_distillation_loss',
    'mean_transfer',
    'mgd_loss',
    'pair_wise_loss',
    'pixel_wise_loss',
    'pkd_loss',
    'quality_focal_distillation_loss',
    'soft_target_loss',
    'valuable_localization_region',
    'variance_transfer',
    'weighted_soft_binary_cross_entropy',
    'weighted_soft_cross_entropy',
]
