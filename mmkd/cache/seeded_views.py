"""A fixed number of random views of every image, the same in every run."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..registry import DATASETS
from ..rng import preserved_rng
from .names import SEEDED


@DATASETS.register_module()
class SeededViews(Dataset):
    """Draws every image ``views`` times, each time with numbers of its own.

    As long as ``views`` epochs of the data set. What item ``number * images + image``
    is follows from the seed, its number and its image alone, whoever loads it and
    whatever was loaded before; so a random pipeline has as many views as it can be
    cached for. Transforms must draw from the global generators of Python, NumPy and
    torch and keep nothing from one image to the next.

    Args:
        dataset: Config of the data set, or the data set.
        views: Views of every image.
        seed: Seed of all of them.

    Raises:
        ValueError: If ``views`` is not positive.

    Example:
        >>> class Noise(Dataset):
        ...     metainfo = {}
        ...     def __len__(self):
        ...         return 2
        ...     def __getitem__(self, index):
        ...         return dict(inputs=torch.rand(1).item())
        >>> one, other = (SeededViews(Noise(), views=3) for _ in range(2))
        >>> len(one), one[5] == other[5], one[5] == one[3]
        (6, True, False)
    """

    def __init__(self, dataset: Any, views: int, seed: int = 0) -> None:
        if not isinstance(views, int) or views < 1:
            raise ValueError(f'views must be a positive integer but is {views!r}')
        self.dataset = (
            DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        )
        self.per_image = views
        self.seed = seed

    @property
    def metainfo(self) -> Any:
        """Of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations, where the data set has not done so."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset) * self.per_image

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.dataset)

    def get_data_info(self, index: int) -> Mapping[str, Any]:
        """What the data set knows of the image of an item."""
        inner = self.dataset
        while not hasattr(inner, 'get_data_info'):  # MultiImageMixDataset
            inner = inner.dataset
        return inner.get_data_info(index % self.images)

    def __getitem__(self, index: int) -> Any:
        number, image = divmod(index, self.images)
        with preserved_rng():
            _seed(f'{self.seed},{number},{image}')
            sample = self.dataset[image]
        samples: Any = sample.get('data_samples') if isinstance(sample, Mapping) else 0
        if hasattr(samples, 'set_metainfo'):
            samples.set_metainfo({SEEDED: (image, number)})
        return sample

    def name(self, image: int, roots: Any) -> str:
        """Name of an image in a cache; others are mixed into its views."""
        return f'#{image}'

    def info(self, image: int) -> Mapping[str, Any]:
        """What the data set knows of an image."""
        return self.get_data_info(image)

    def samples(self, image: int) -> Iterator[Any]:
        """The views of an image."""
        for number in range(self.per_image):
            yield self[number * self.images + image]

    def check(self) -> None:
        """Raise ``ValueError`` if items depend on what was loaded before."""
        few = range(min(len(self), 4))
        first = [_digest(self[index]) for index in few]
        if first != [_digest(self[index]) for index in reversed(few)][::-1]:
            raise ValueError(
                'the pipeline within SeededViews does not give the same view twice: a '
                'transform keeps images (CachedMosaic, CachedMixUp) or draws from a '
                'generator of its own (Albu); take another one'
            )


def _seed(text: str) -> None:
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big')
    random.seed(number)
    np.random.seed(number)
    # Not torch.manual_seed, which would seed the GPUs, too.
    torch.default_generator.manual_seed(number)


def _digest(sample: Any) -> str:
    inputs = torch.as_tensor(sample['inputs'])
    return hashlib.sha256(inputs.contiguous().numpy().tobytes()).hexdigest()
