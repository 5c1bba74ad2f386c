"""Vectors of pictures: what distances between kinds of pictures are taken of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .translation import build

Sample = Mapping[str, Any]


class InceptionFeatures:
    """What FID and KID are defined on: Inception, pooled, 2048 numbers a picture.

    The network is that of the package torch-fidelity, whose weights are TensorFlow's
    of 2015, as torchmetrics calls it.

    Raises:
        ImportError: If torchmetrics or torch-fidelity is not installed.
        OSError: If the weights cannot be downloaded.
    """

    #: Before the name of what is computed of such features.
    prefix = ''

    def __init__(self) -> None:
        fid = torchmetrics_image('fid').FrechetInceptionDistance
        other = 'or name any other network with features=dict(model=..., mean=..., '
        try:
            self.network = fid(feature=2048).inception
        except ImportError as error:
            raise ImportError(
                'the Inception network of fid and kid needs torch-fidelity: pip '
                f'install torch-fidelity, {other}std=...)'
            ) from error
        except OSError as error:
            raise OSError(
                'the weights of the Inception network of fid and kid cannot be '
                f'downloaded ({error}): try again, {other}std=...)'
            ) from error

    def __call__(self, pictures: Tensor) -> Tensor:
        """Vectors (N, 2048) of pictures (N, C, H, W) from 0 to 1."""
        self.network.to(pictures.device)
        bytes_ = (in_colours(pictures) * 255).round().byte()
        return self.network(bytes_).flatten(1)


class ProxyFeatures:
    """What a network other than Inception makes of pictures.

    Its last map, averaged over positions. Distances of such features rank generators
    much as those of Inception's do, but are other numbers.

    Args:
        model: Config of the network, whose weights are those of its ``init_cfg``: it
            is random without one, and then differs from run to run. Or the network.
        mean: Of red, green and blue from 0 to 255, subtracted from pictures.
        std: Of the same, which they are divided by then.
        size: Height and width to which pictures are resized before; ``None`` leaves
            them as they are.

    Raises:
        TypeError: If the model is neither a config nor a network.
        ValueError: If ``mean`` or ``std`` are not three numbers, or ``size`` not two.
    """

    prefix = 'proxy_'

    def __init__(
        self,
        model: Any,
        mean: Sequence[float],
        std: Sequence[float],
        size: Sequence[int] | None = None,
    ) -> None:
        for name, given, count in (('mean', mean, 3), ('std', std, 3)):
            if len(given) != count:
                raise ValueError(
                    f'features.{name} must be three numbers, of red, green and blue, '
                    f'but is {list(given)}'
                )
        self.size = checked_size(size, 'features.size')
        self.network = build(model, 'features.model')
        self.network.eval()
        self.mean, self.std = (
            torch.tensor(list(given), dtype=torch.float32).view(3, 1, 1)
            for given in (mean, std)
        )

    def __call__(self, pictures: Tensor) -> Tensor:
        """Vectors (N, D) of pictures (N, C, H, W) from 0 to 1.

        Raises:
            ValueError: If the network gives neither maps nor vectors.
        """
        self.network.to(pictures.device)
        x = in_colours(pictures).float() * 255
        if self.size is not None:
            x = F.interpolate(x, self.size, mode='bilinear', antialias=True)
        found = self.network((x - self.mean.to(x)) / self.std.to(x))
        last = found[-1] if isinstance(found, (list, tuple)) else found
        if not isinstance(last, Tensor) or last.ndim not in (2, 4):
            shape = tuple(last.shape) if isinstance(last, Tensor) else type(last)
            raise ValueError(
                'the network of features must give maps (N, D, H, W) or vectors (N, D) '
                f'but {type(self.network).__name__} gives {shape}'
            )
        return last.flatten(2).mean(2) if last.ndim == 4 else last


def build_features(features: Any) -> InceptionFeatures | ProxyFeatures:
    """The features that a config names.

    Args:
        features: ``None`` for :class:`InceptionFeatures`; else a dict of the arguments
            of :class:`ProxyFeatures`.

    Raises:
        TypeError: If it is of another type.
        ValueError: If it has other entries.
    """
    if features is None:
        return InceptionFeatures()
    rule = 'features must be None or dict(model=..., mean=..., std=..., size=None)'
    if not isinstance(features, Mapping):
        raise TypeError(f'{rule} but is a {type(features).__name__}')
    required = {'model', 'mean', 'std'}
    if not required <= set(features) <= {*required, 'size'}:
        raise ValueError(f'{rule} but has {sorted(features)}')
    return ProxyFeatures(**features)


def torchmetrics_image(name: str) -> Any:
    """A module of ``torchmetrics.image``, imported when it is needed.

    Args:
        name: Such as ``'fid'``.

    Raises:
        ImportError: If torchmetrics is not installed, with what to do.
    """
    import importlib

    torchmetrics()
    return importlib.import_module(f'torchmetrics.image.{name}')


def torchmetrics() -> Any:
    """The library's functions, imported when one is needed.

    Raises:
        ImportError: If it is not installed, with what to do.
    """
    try:
        import torchmetrics.functional as functional
    except ImportError as error:
        raise ImportError(
            f'metrics of pictures need torchmetrics, which cannot be imported ({error}'
            "): pip install 'mmkd[gan]'"
        ) from error
    return functional


def unit(picture: Tensor) -> Tensor:
    """A picture from -1 to 1 as one from 0 to 1.

    In float64: the variances of SSIM are small differences of large numbers, and GPUs
    convolve float32 with ten bits. What is out of range is cut, as in a file.

    Args:
        picture: (C, H, W), of any floating type; C is 3, or 1 for a grey one.

    Raises:
        ValueError: If it is of another type or shape.
    """
    if (
        not picture.is_floating_point()
        or picture.ndim != 3
        or picture.shape[0] not in (1, 3)
    ):
        raise ValueError(
            'pictures must be (3, H, W), or (1, H, W) if grey, from -1 to 1, but one '
            f'is {tuple(picture.shape)} of {picture.dtype}'
        )
    return ((picture.detach().double() + 1) / 2).clamp(0, 1)


def in_colours(pictures: Tensor) -> Tensor:
    """Pictures (N, C, H, W) with three channels, also if they are grey."""
    return pictures.expand(-1, 3, -1, -1)


def checked_size(size: Any, name: str) -> tuple[int, int] | None:
    """Height and width, or ``None``.

    Args:
        size: As given.
        name: Of the argument, for messages.

    Raises:
        ValueError: If it is something else.
    """
    if size is None:
        return None
    found = tuple(size) if isinstance(size, Sequence) else ()
    if len(found) != 2 or not all(isinstance(x, int) and x > 0 for x in found):
        raise ValueError(
            f'{name} must be a height and a width in pixels but is {size!r}'
        )
    return found


def entry(sample: Sample, name: str) -> Tensor:
    """A tensor of a data sample.

    Args:
        sample: What a model says of a picture.
        name: Of the tensor.

    Raises:
        ValueError: If there is none of that name.
    """
    if not isinstance(sample.get(name), Tensor):
        raise ValueError(
            f'every data sample must have the tensor {name!r}, but one has '
            f'{sorted(k for k, v in sample.items() if isinstance(v, Tensor))}'
        )
    return sample[name]
