"""Segmentation data as pairs: photos to be made of label maps."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS as ROOT_DATASETS

from ..registry import DATASETS, TRANSFORMS
from .transforms import IGNORED, check_sizes

ENCODINGS = ('palette', 'one_hot')
PIPELINE = (dict(type='mmkd.PaintLabels'), dict(type='mmkd.PackPictures'))


@DATASETS.register_module()
class LabelsToPhotos(BaseDataset):
    """Label maps and photos of a data set of MMSegmentation, as pairs.

    A sample has ``target``, the photo (3, H, W), ``labels`` (1, H, W), both of bytes,
    ``name``, and of its data set ``num_classes`` and ``palette``.

    Args:
        dataset: Its config, such as ``dict(type='CityscapesDataset', data_root=...,
            data_prefix=...)``, without a pipeline. Its classes, ``reduce_zero_label``
            and file backend count.
        pipeline: Transforms; see :mod:`mmkd.gan.transforms` and :class:`PaintLabels`.
        kwargs: See MMEngine's ``BaseDataset``.

    Raises:
        ModuleNotFoundError: If MMSegmentation is not installed.
        ValueError: If the data set has a pipeline or names no classes.
    """

    paired = True

    def __init__(
        self,
        dataset: Mapping[str, Any],
        pipeline: Sequence[Any] = PIPELINE,
        **kwargs: Any,
    ) -> None:
        if 'pipeline' in dataset:
            raise ValueError(
                'the dataset of LabelsToPhotos must have no pipeline: the one of '
                f'LabelsToPhotos counts, but it has {dataset["pipeline"]}'
            )
        self._maps = _label_maps(dataset)
        meta = self._maps.metainfo
        if not meta.get('classes'):
            raise ValueError(
                f'{dataset["type"]} must name its classes, as by metainfo=dict('
                'classes=...), but has none'
            )
        super().__init__(metainfo=dict(meta), pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The pairs, by the names of the photos.

        Raises:
            FileNotFoundError: If there is no photo.
        """
        maps = self._maps
        maps.full_init()
        files, maps.data_list = maps.data_list, []  # kept once
        if not files:
            raise FileNotFoundError(
                f'{type(maps).__name__} must have photos, of names that end in '
                f'{maps.img_suffix!r}, but has none below '
                f'{maps.data_prefix.get("img_path")!r}'
            )
        return [
            dict(name=Path(one['img_path']).stem, paired=True, files=one)
            for one in files
        ]

    def prepare_data(self, idx: int) -> Any:
        """Photo and labels of a place, through the pipeline.

        Raises:
            ValueError: If they have two sizes.
        """
        info = self.get_data_info(idx)
        read = self._maps.pipeline(info.pop('files'))
        photo = torch.from_numpy(read['img'][..., ::-1].copy())  # OpenCV has blue first
        target = photo.permute(2, 0, 1).contiguous()
        labels = torch.from_numpy(read['gt_seg_map'])[None]
        check_sizes(dict(name=info['name'], source=labels, target=target))
        return self.pipeline(
            dict(
                info,
                target=target,
                labels=labels,
                num_classes=len(self.metainfo['classes']),
                palette=self.metainfo['palette'],
            )
        )


@TRANSFORMS.register_module()
class PaintLabels:
    """Makes ``source``, what photos are made of, from ``labels``.

    After what changes the geometry: colours are those of the classes, and no others.

    Args:
        encoding: ``'palette'`` for a picture in the classes' colours, as pix2pix has
            them, or ``'one_hot'`` for a plane of 0 and 255 for each class, for a
            generator with as many ``in_channels``.
        palette: Red, green and blue of each class, from 0 to 255; by default the data
            set's.

    Raises:
        ValueError: If there is no such encoding, or the palette has no such colours.

    Example:
        >>> sample = dict(labels=torch.tensor([[[0, 1, 255]]]), num_classes=2, name='a')
        >>> paint = PaintLabels(palette=[[128, 64, 128], [0, 0, 142]])
        >>> paint(dict(sample))['source'].tolist()
        [[[128, 0, 0]], [[64, 0, 0]], [[128, 142, 0]]]
        >>> PaintLabels('one_hot')(dict(sample))['source'].tolist()
        [[[255, 0, 0]], [[0, 255, 0]]]
    """

    def __init__(
        self,
        encoding: str = 'palette',
        palette: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if encoding not in ENCODINGS:
            raise ValueError(
                f"encoding must be 'palette' or 'one_hot' but is {encoding!r}"
            )
        if palette is not None:
            _colours(palette)
        self.encoding = encoding
        self.palette = palette

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``source``, of bytes: (3, H, W), or (classes, H, W) if ``one_hot``.

        Pixels of no class, with the label 255, are black, or 0 in every plane.

        Args:
            results: With ``labels`` (1, H, W), ``num_classes`` and, where none was
                given, a ``palette``.

        Raises:
            ValueError: If there are no labels, one is no class, or a class has no
                colour.
        """
        if 'labels' not in results:
            raise ValueError(
                'PaintLabels must have labels, as of mmkd.LabelsToPhotos, but '
                f'{results.get("name")} has {sorted(results)}'
            )
        labels = results['labels'].long()
        count = results['num_classes']
        wrong = labels[(labels >= count) & (labels != IGNORED)]
        if len(wrong):
            raise ValueError(
                f'labels must be below {count}, the number of classes, or {IGNORED}, '
                f'but {results["name"]} has {int(wrong.max())}'
            )
        if self.encoding == 'one_hot':
            planes = labels == torch.arange(count)[:, None, None]
            results['source'] = planes.to(torch.uint8) * 255
            return results
        palette = results['palette'] if self.palette is None else self.palette
        table = torch.zeros(IGNORED + 1, 3, dtype=torch.uint8)
        colours = _colours(palette)
        if len(colours) < count:
            raise ValueError(
                f'palette must have a colour for each of {count} classes but has '
                f'{len(colours)}'
            )
        table[:count] = colours[:count]
        results['source'] = table[labels[0]].permute(2, 0, 1).contiguous()
        return results


def _label_maps(dataset: Mapping[str, Any]) -> Any:
    """The data set of MMSegmentation, which finds its files when it is asked."""
    if importlib.util.find_spec('mmseg') is None:
        raise ModuleNotFoundError(
            'LabelsToPhotos reads data sets of MMSegmentation, which is not installed',
            name='mmseg',
        )
    backend = dataset.get('backend_args')
    steps = [
        dict(type='LoadImageFromFile', backend_args=backend),
        dict(type='LoadAnnotations', backend_args=backend),
    ]
    told = dict(pipeline=steps, lazy_init=True, serialize_data=False, _scope_='mmseg')
    return ROOT_DATASETS.build({**dataset, **told})


def _colours(palette: Sequence[Sequence[int]]) -> torch.Tensor:
    """A palette as bytes, (classes, 3)."""
    rows = [list(row) for row in palette]
    if not rows or not all(
        len(row) == 3 and all(0 <= value <= 255 for value in row) for row in rows
    ):
        raise ValueError(
            'palette must have red, green and blue from 0 to 255 for each class but is '
            f'{rows}'
        )
    return torch.tensor(rows, dtype=torch.uint8)
