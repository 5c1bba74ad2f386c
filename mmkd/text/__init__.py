"""Text encoders of open-vocabulary detectors."""

from .bert import BertModel
from .mobilebert import MobileBertModel

__all__ = ['BertModel', 'MobileBertModel']
