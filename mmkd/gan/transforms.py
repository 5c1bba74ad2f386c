"""Reading and changing pictures, alone or in pairs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.fileio import get
from torch import Tensor

from ..registry import TRANSFORMS

#: Label of pixels of no class, in all data sets of MMSegmentation.
IGNORED = 255
#: What a sample is made of, in the order in which it is changed.
SIDES = ('source', 'target')


@TRANSFORMS.register_module()
class LoadPictures:
    """Reads the pictures of a sample, whole files or halves of one.

    Args:
        channels: Of the pictures: 3, or 1 for grey ones.

    Raises:
        ValueError: If it is another number.
    """

    def __init__(self, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise ValueError(f'channels must be 1 or 3 but are {channels}')
        self.channels = channels

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``source`` and ``target``, (C, H, W) from 0 to 255.

        Args:
            results: With ``source_path`` and ``target_path``, and ``halves``: which
                half of the file each is, if they are in one.

        Raises:
            ValueError: If a file is no picture, or cannot be halved, or if pictures
                of a pair have two sizes.
        """
        halves = results.get('halves')
        if halves is None:
            for side in SIDES:
                results[side] = read(results[f'{side}_path'], self.channels)
            if results.get('paired'):  # before a transform makes them alike
                check_sizes(results)
            return results
        whole = read(results['source_path'], self.channels)
        if whole.shape[-1] % 2:
            raise ValueError(
                f'{results["source_path"]} must be of even width, two pictures side by '
                f'side, but is {whole.shape[-1]} wide'
            )
        pair = dict(zip(('left', 'right'), whole.chunk(2, -1)))
        for side, half in zip(SIDES, halves):
            results[side] = pair[half].contiguous()
        return results


@TRANSFORMS.register_module()
class ChangePictures:
    """Transforms of torchvision, the same ones for both pictures of a pair.

    ``labels``, where there are some, are changed with them: without mixing classes,
    and not by what changes colours. What a step adds around them has no class.

    Args:
        steps: Configs of ``torchvision.transforms.v2``, such as
            ``dict(type='Resize', size=(286, 286))``.

    Raises:
        TypeError: If a step has an argument that does not exist.
        ValueError: If there is no such step.

    Example:
        >>> change = ChangePictures([dict(type='RandomCrop', size=2),
        ...                          dict(type='RandomHorizontalFlip')])
        >>> x = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
        >>> found = change(dict(source=x, target=x + 100, paired=True))
        >>> (found['target'] - found['source']).unique().tolist()
        [100]
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]]) -> None:
        from torchvision.transforms import v2
        from torchvision.tv_tensors import Mask

        made = []
        for step in steps:
            told = dict(step)
            kind = getattr(v2, str(told.pop('type', None)), None)
            if kind is None:
                raise ValueError(
                    'a step must have the type of one of torchvision.transforms.v2 but '
                    f'is {dict(step)}'
                )
            if 'fill' in inspect.signature(kind).parameters:
                told['fill'] = {Mask: IGNORED, 'others': told.get('fill', 0)}
            made.append(kind(**told))
        self.change = v2.Compose(made) if made else None

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``source`` and ``target``, with one draw if they are ``paired``.

        Args:
            results: With either or both, (C, H, W), and ``labels`` (1, H, W) if there
                are some.
        """
        from torchvision.tv_tensors import Image, Mask

        if self.change is None:
            return results
        given = {side: Image(results[side]) for side in SIDES if side in results}
        if 'labels' in results:
            given['labels'] = Mask(results['labels'])
        if results['paired']:
            changed = self.change(given)
        else:
            changed = {side: self.change(picture) for side, picture in given.items()}
        for side, picture in changed.items():
            results[side] = picture.as_subclass(Tensor)
        return results


@TRANSFORMS.register_module()
class PackPictures:
    """What a model is given: ``inputs`` and, of each picture, its name and labels.

    Raises:
        ValueError: If a picture is missing or not of bytes, the pictures of a pair have
            two sizes, or sides of one are no multiples of 4.
    """

    def __call__(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """``inputs`` with ``source`` and ``target``, and ``data_samples``.

        Those have the ``name``, whether source and target are ``paired``, of a target
        that is not the ``target_name``, and the ``labels`` (H, W) where there are some.
        """
        name = results['name']
        missing = [side for side in SIDES if side not in results]
        if missing:
            raise ValueError(
                f'a sample must have a source and a target, but {name} has no '
                f'{missing[0]}: mmkd.LoadPictures, or mmkd.PaintLabels for labels, '
                'must come before mmkd.PackPictures'
            )
        source, target = (results[side] for side in SIDES)
        if results['paired']:
            check_sizes(results)
        for picture in (source, target):
            if picture.dtype != torch.uint8:
                raise ValueError(
                    f'pictures must be of bytes, from 0 to 255, but {name} is of '
                    f'{picture.dtype}: leave out what changes that, the model scales'
                )
            if picture.shape[1] % 4 or picture.shape[2] % 4:
                raise ValueError(
                    f'sides of pictures must be multiples of 4 but {name} has '
                    f'{tuple(picture.shape[1:])}: resize or crop it in the pipeline'
                )
        known = ('name', 'paired', 'target_name')
        told = {k: results[k] for k in known if k in results}
        if 'labels' in results:
            told['labels'] = results['labels'][0]
        return dict(inputs=dict(source=source, target=target), data_samples=told)


def check_sizes(results: Mapping[str, Any]) -> None:
    """Insist that both pictures of a pair have one size.

    Args:
        results: With ``name``, ``source`` and ``target``, (C, H, W).

    Raises:
        ValueError: If they have two.
    """
    source, target = (tuple(results[side].shape[1:]) for side in SIDES)
    if source != target:
        raise ValueError(
            f'pictures of a pair must have one size, but {results["name"]} has '
            f'{source} and {target}'
        )


def read(path: str, channels: int) -> Tensor:
    """A picture file, (C, H, W) from 0 to 255, in the order red, green, blue.

    Args:
        path: On any backend of MMEngine's file system.
        channels: 1 or 3.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture.
    """
    from torchvision.io import ImageReadMode, decode_image

    contents = bytearray(get(path))
    if not contents:
        raise ValueError(f'{path} cannot be read as a picture: it is empty')
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    try:
        picture = decode_image(torch.frombuffer(contents, dtype=torch.uint8), mode)
    except RuntimeError as error:
        # After the place in torchvision's own source, if it tells one.
        reason = re.sub(r'^.*\.cpp:\d+\W*', '', str(error)).splitlines()[0]
        raise ValueError(f'{path} cannot be read as a picture: {reason}') from error
    if picture.dtype == torch.uint16:
        picture = (picture.int() >> 8).byte()
    return picture
