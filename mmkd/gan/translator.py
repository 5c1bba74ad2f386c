"""A generator alone: what is left of a GAN when it is trained."""

from __future__ import annotations

from typing import Any

from ..registry import MODELS
from .teacher import released
from .translation import Losses, TranslationModel, build


@MODELS.register_module()
class Translator(TranslationModel):
    """A trained generator, to be evaluated or used.

    It takes the checkpoints of all GANs of mmkd, of which it loads the generator, and
    files with a generator's weights alone, such as ``tools/export.py`` writes and as
    the authors of GAN Compression released theirs.

    Args:
        generator: Its config, or the generator.
        data_preprocessor: See :class:`~mmkd.gan.translation.TranslationModel`.
        init_cfg: See there.

    Raises:
        TypeError: If the generator is neither a config nor a network.

    Example:
        >>> from mmkd.gan import MobileResnetGenerator
        >>> weights = MobileResnetGenerator(ngf=8, num_blocks=3).state_dict()
        >>> translator = Translator(MobileResnetGenerator(ngf=8, num_blocks=3))
        >>> translator.load_state_dict(weights)
        <All keys matched successfully>
    """

    def __init__(
        self, generator: Any, data_preprocessor: Any = None, init_cfg: Any = None
    ) -> None:
        super().__init__('hinge', data_preprocessor, init_cfg)
        self.generator = build(generator, 'generator')

    def train_step(self, data: Any, optim_wrapper: Any) -> Losses:
        """Refused: nothing judges what it makes.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            'a mmkd.Translator is a generator that was trained before; to train one '
            'take a mmkd.Pix2Pix, a mmkd.CycleGAN or a mmkd.GANCompression'
        )

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = f'{prefix}generator.'
        of_a_run = any(key.startswith(own) for key in state_dict)
        given = [key for key in state_dict if key.startswith(prefix)]
        if of_a_run:
            for key in given:
                if not key.startswith(own):  # discriminators, adapters, the way back
                    del state_dict[key]
        else:
            bare = {key[len(prefix) :]: state_dict.pop(key) for key in given}
            state_dict.update({own + k: v for k, v in released(bare).items()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
