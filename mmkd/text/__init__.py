"""Text encoders of open-vocabulary detectors."""

from .bert import BertModel
from .linear_probe_hook import LinearProbeHook
from .mobilebert import MobileBertModel
from .mobilebert_transfer import MobileBertTransfer

__all__ = ['BertModel', 'LinearProbeHook', 'MobileBertModel', 'MobileBertTransfer']
