"""GAN Compression: small generators of pictures from pictures."""

from .discriminator import PatchDiscriminator
from .generators import MobileResnetGenerator, ResnetGenerator
from .supernet import SuperMobileResnetGenerator

__all__ = [
    'MobileResnetGenerator',
    'PatchDiscriminator',
    'ResnetGenerator',
    'SuperMobileResnetGenerator',
]
