"""Text encoders of open-vocabulary detectors."""

from .bert import BertModel
from .mobilebert import MobileBertModel
from .mobilebert_transfer import MobileBertTransfer

__all__ = ['BertModel', 'MobileBertModel', 'MobileBertTransfer']
