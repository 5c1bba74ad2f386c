"""How good generated pictures are."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn

from ..registry import METRICS
from .features import (
    Sample,
    build_features,
    entry,
    in_colours,
    torchmetrics,
    torchmetrics_image,
    unit,
)

#: What compares a generated picture with its own target.
PAIRED = ('psnr', 'ssim', 'lpips')
#: What compares all generated pictures with all targets.
OF_KINDS = ('fid', 'kid')
#: Pixels at every edge that the window of SSIM, 11 by 11, does not fit on.
EDGE = 5
#: Targets whose features are kept at most.
_REMEMBERED = 50_000
#: For torchmetrics: one process computes, and to wait for others would be for ever.
ALONE: dict[str, Any] = dict(sync_on_compute=False)


@METRICS.register_module()
class PictureMetrics(BaseMetric):
    r"""Generated pictures, compared with real ones.

    Of each picture and its ``target``, averaged over pictures:

    - ``psnr``: the peak signal-to-noise ratio, in decibels; infinite if any two are
      equal.
    - ``ssim``: the structural similarity, over windows of 11 by 11 pixels that lie
      within the picture, each channel by itself.
    - ``lpips``: the distance of AlexNet's features, whose weights are torchvision's:
      a download.

    Of all pictures and all targets, which need not be pairs:

    - ``fid``: the Fréchet distance of Gaussians that are fitted to features,
      :math:`|\mu - \mu'|^2 + \mathrm{tr}(\Sigma + \Sigma' - 2 (\Sigma
      \Sigma')^{1/2})`. It is biased upwards, the more so the fewer pictures there are:
      compare numbers of equally many ones only, and distrust those of fewer pictures
      than features have dimensions.
    - ``kid``: the squared maximum mean discrepancy of features of dimension D with the
      kernel :math:`(x^\top y / D + 1)^3`, which is unbiased; the mean over 100 subsets
      that a seed of its own draws.

    Every picture counts once, also if it is shown again beside others.

    Both are of Inception's features, so that ``features=None`` needs the package
    torch-fidelity and a download. Of any other network they are logged as
    ``proxy_fid`` and ``proxy_kid``: they can be compared with one another then, and
    not with anybody's FID and KID.

    Reference:
        - Wang et al., Image Quality Assessment: From Error Visibility to Structural
          Similarity, TIP 2004 (SSIM)
        - Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual
          Metric, CVPR 2018, https://arxiv.org/abs/1801.03924 (LPIPS)
        - Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a
          Local Nash Equilibrium, NIPS 2017, https://arxiv.org/abs/1706.08500 (FID)
        - Binkowski et al., Demystifying MMD GANs, ICLR 2018,
          https://arxiv.org/abs/1801.01401 (KID)

    Args:
        metric: Names of some of these five, or one.
        features: ``None`` for those of Inception, or ``dict(model=..., mean=...,
            std=..., size=None)``: see :class:`~mmkd.gan.features.ProxyFeatures`.
        kid_subset_size: Pictures in every subset of ``kid``; by default 1000, or all if
            there are fewer. A subset of all is taken once.
        collect_device: Of the results of several processes.
        prefix: Of the names in the log; by default ``'pictures'``.

    Raises:
        ImportError: If torchmetrics is not installed, or what a metric needs beside it.
        OSError: If weights cannot be downloaded.
        TypeError: If ``features`` is of another type.
        ValueError: If there is no such metric, or an argument of none of them.

    Example:
        >>> metric = PictureMetrics(['psnr'])
        >>> grey = torch.zeros(3, 16, 16)
        >>> metric.process({}, [dict(generated=grey + 0.2, target=grey)])
        >>> print(f"{metric.compute_metrics(metric.results)['psnr']:.2f} dB")
        20.00 dB
    """

    default_prefix = 'pictures'

    def __init__(
        self,
        # Of an evaluator with `metrics` MMEngine thinks that it is a whole Evaluator.
        metric: str | Sequence[str] = ('psnr', 'ssim'),
        features: Any = None,
        kid_subset_size: int | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.metrics = _known(metric)
        of_kinds = any(name in OF_KINDS for name in self.metrics)
        if features is not None and not of_kinds:
            raise ValueError(
                f'features are for fid and kid, but metric is {self.metrics}'
            )
        if kid_subset_size is not None and (
            kid_subset_size < 2 or 'kid' not in self.metrics
        ):
            raise ValueError(
                'kid_subset_size is for kid and must be 2 at least, but is '
                f'{kid_subset_size} with metric={self.metrics}'
            )
        self.kid_subset_size = kid_subset_size
        torchmetrics()
        self.features = build_features(features) if of_kinds else None
        # A search asks for the same targets hundreds of times.
        self._seen: dict[str, Tensor] = {}
        self.lpips = _lpips_network() if 'lpips' in self.metrics else None

    @torch.no_grad()
    def process(self, data_batch: Any, data_samples: Sequence[Sample]) -> None:
        """Keep numbers and features of every picture.

        Args:
            data_batch: Not used.
            data_samples: Of each picture, ``generated`` and ``target``, (C, H, W) from
                -1 to 1, of any floating type.

        Raises:
            ValueError: If one is missing or no such picture, or if the two differ in
                shape, where they are compared, or are too small.
        """
        both = [
            [unit(entry(sample, name)) for sample in data_samples]
            for name in ('generated', 'target')
        ]
        found: list[dict[str, Any]] = [self._paired(*pair) for pair in zip(*both)]
        if self.features is not None:
            vectors = (_one_by_one(self.features, both[0]), self._of_targets(both[1]))
            for one, sample, generated, target in zip(found, data_samples, *vectors):
                one.update(generated=generated, target=target)
                one['names'] = sample.get('name'), sample.get('target_name')
        self.results.extend(found)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Means over pictures, and distances of features.

        Args:
            results: Of every picture, what :meth:`process` has kept.

        Raises:
            ValueError: If there are too few pictures for a distance of features.
        """
        if not results:
            return {}
        found = {}
        for name in self.metrics:
            if self.features is None or name in PAIRED:
                found[name] = float(np.mean([one[name] for one in results]))
                continue
            kinds = [_each_once(results, kind) for kind in ('target', 'generated')]
            value = _fid(*kinds) if name == 'fid' else self._kid(*kinds)
            found[self.features.prefix + name] = value
        return found

    def _paired(self, generated: Tensor, target: Tensor) -> dict[str, float]:
        names = [name for name in self.metrics if name in PAIRED]
        if not names:
            return {}
        if generated.shape != target.shape:
            raise ValueError(
                f'{" and ".join(names)} compare pictures of one shape, but generated '
                f'is {tuple(generated.shape)} and target {tuple(target.shape)}'
            )
        functions = dict(psnr=_psnr, ssim=_ssim, lpips=self._lpips)
        return {name: functions[name](generated[None], target[None]) for name in names}

    def _of_targets(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        """Their vectors; those of pictures that were seen before are remembered."""
        marks = [_mark(picture) for picture in pictures]
        new = {m: x for m, x in zip(marks, pictures) if m not in self._seen}
        if len(self._seen) > _REMEMBERED:  # of a validation that is never the same
            self._seen.clear()
            new = dict(zip(marks, pictures))
        if new:
            vectors = _one_by_one(self.features, list(new.values()))
            self._seen.update(zip(new, vectors))
        return [self._seen[mark] for mark in marks]

    def _lpips(self, generated: Tensor, target: Tensor) -> float:
        network: Any = self.lpips
        pair = [in_colours(x).float() for x in (generated, target)]
        return float(network.to(generated.device)(*pair, normalize=True))

    def _kid(self, target: Tensor, generated: Tensor) -> float:
        count = len(target)
        size = self.kid_subset_size or min(1000, count)
        if size > count or count < 2:
            raise ValueError(
                f'kid needs {max(size, 2)} pictures at least, a subset, but there are '
                f'{count}: have more or set kid_subset_size'
            )
        kid = torchmetrics_image('kid').KernelInceptionDistance
        subsets = 1 if size == count else 100
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings('ignore', message='.*will save all extracted')
            torch.default_generator.manual_seed(0)  # and not those of GPUs
            metric = kid(_AsGiven(target), subsets=subsets, subset_size=size, **ALONE)
            return float(_updated(metric, target, generated).compute()[0])


def _each_once(results: list[dict[str, Any]], kind: str) -> Tensor:
    """Vectors (N, D) of all targets, or of what was made of all sources.

    Where the two are no pairs, those that there are fewer of are shown several times:
    they have names by which they are known again.
    """
    vectors: dict[Any, Tensor] = {}
    for i, one in enumerate(results):
        source, target = one['names']
        name = source if kind == 'generated' and target is not None else target
        vectors[i if name is None else name] = one[kind]
    return torch.stack(list(vectors.values())).double()


class _AsGiven(nn.Module):
    """In the place of the network: what is given are features already."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.num_features = features.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return x


def _mark(picture: Tensor) -> str:
    data = picture.cpu().contiguous()
    shape = str(tuple(data.shape)).encode()
    return hashlib.blake2b(shape + data.numpy().tobytes()).hexdigest()


def _known(metric: str | Sequence[str]) -> list[str]:
    names = [metric] if isinstance(metric, str) else list(metric)
    unknown = [name for name in names if name not in (*PAIRED, *OF_KINDS)]
    if unknown or not names:
        raise ValueError(
            f'metric must be some of {", ".join((*PAIRED, *OF_KINDS))} but are {names}'
        )
    return list(dict.fromkeys(names))


def _one_by_one(features: Any, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Vectors (D,) of pictures, which are a batch if they can be."""
    if len({picture.shape for picture in pictures}) == 1:
        found = features(torch.stack(list(pictures)))
    else:
        found = torch.cat([features(picture[None]) for picture in pictures])
    # A view would be pickled, for another process, with all of its batch.
    return [vector.clone() for vector in found.float().cpu()]


def _psnr(generated: Tensor, target: Tensor) -> float:
    psnr = torchmetrics().image.peak_signal_noise_ratio
    return float(psnr(generated, target, data_range=1.0))


def _ssim(generated: Tensor, target: Tensor) -> float:
    height, width = target.shape[2:]
    if min(height, width) <= 2 * EDGE:
        raise ValueError(
            f'ssim needs pictures of {2 * EDGE + 1} by {2 * EDGE + 1} pixels at least '
            f'but one is {height} by {width}'
        )
    ssim = torchmetrics().image.structural_similarity_index_measure
    # Versions of torchmetrics differ in whether the mean is of what is mirrored, too.
    _, whole = ssim(generated, target, data_range=1.0, return_full_image=True)
    return float(whole[..., EDGE:-EDGE, EDGE:-EDGE].mean())


def _lpips_network() -> nn.Module:
    lpip = torchmetrics_image('lpip')
    try:
        return lpip.LearnedPerceptualImagePatchSimilarity(net_type='alex').net
    except OSError as error:
        raise OSError(
            f"the weights of torchvision's AlexNet, which lpips needs, cannot be "
            f'downloaded ({error}): try again or leave lpips out of metric'
        ) from error


def _fid(target: Tensor, generated: Tensor) -> float:
    if len(target) < 2:
        raise ValueError(f'fid needs 2 pictures at least but there are {len(target)}')
    fid = torchmetrics_image('fid').FrechetInceptionDistance
    return float(_updated(fid(_AsGiven(target), **ALONE), target, generated).compute())


def _updated(metric: Any, target: Tensor, generated: Tensor) -> Any:
    metric.update(target, real=True)
    metric.update(generated, real=False)
    return metric
