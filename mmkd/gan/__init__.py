"""GAN Compression: small generators of pictures from pictures."""

from .compression import GANCompression
from .cyclegan import CycleGAN
from .discriminator import PatchDiscriminator
from .generators import MobileResnetGenerator, ResnetGenerator
from .pix2pix import Pix2Pix
from .supernet import SuperMobileResnetGenerator
from .translation import PicturePreprocessor
from .translator import Translator

__all__ = [
    'CycleGAN',
    'GANCompression',
    'MobileResnetGenerator',
    'PatchDiscriminator',
    'PicturePreprocessor',
    'Pix2Pix',
    'ResnetGenerator',
    'SuperMobileResnetGenerator',
    'Translator',
]
