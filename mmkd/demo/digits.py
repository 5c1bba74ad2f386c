"""Writes the digits data set: COCO json, pictures, and label maps."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from .scene import PlacedDigit, Scene, compose_scene, mask_box
from .sources import CLASSES, SPLITS

VERSION = 1  # of what the generator draws; part of the manifest
MANIFEST = 'digits.json'
IGNORE = 255


def make_digits(
    root: str | Path,
    num_train: int = 800,
    num_val: int = 200,
    seed: int = 0,
    size: int = 96,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Make the digits data set, unless the very same one is already there.

    The data set holds handwritten digits on crops of photographs, for detection
    and semantic segmentation::

        root/digits.json                    what it was made with
        root/{train,val}/000000.png         pictures, RGB
        root/labels/{train,val}/000000.png  0 background, 1-10 the digits 0-9, and
                                            255 for the soft rims of the digits
        root/annotations/{train,val}.json   COCO: boxes, masks as RLE, and for each
                                            where it comes from (``scan``, ``photo``,
                                            ``crop``)

    The same arguments give the same bytes, on one set of library versions. Picture
    i of a split depends on ``seed``, ``size`` and i alone. Train and val share
    neither a scanned digit nor a pixel of a photograph. The folder appears as a
    whole or not at all.

    Args:
        root: Folder to make. An older digits data set in it is replaced.
        num_train: Number of training pictures.
        num_val: Number of validation pictures.
        seed: Seed of everything that is random.
        size: Side of the pictures in pixels, at least 48.
        progress: Called with the pictures done and the pictures in all.

    Returns:
        ``root``.

    Raises:
        ValueError: If ``size`` is too small or a number is negative.
        FileExistsError: If ``root`` holds something else than a digits data set.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> root = make_digits(folder + '/digits', num_train=2, num_val=1)
        >>> sorted(path.name for path in root.iterdir())
        ['annotations', 'digits.json', 'labels', 'train', 'val']
    """
    if size < 48 or min(num_train, num_val) < 0:
        raise ValueError(
            'size must be >= 48 and the numbers of pictures >= 0 but are '
            f'size={size}, num_train={num_train}, num_val={num_val}'
        )
    root = Path(root)
    manifest = dict(
        version=VERSION, seed=seed, size=size, num_train=num_train, num_val=num_val
    )
    if _read_manifest(root) == manifest:
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        done = 0
        for split, number in zip(SPLITS, (num_train, num_val), strict=True):
            for _ in _write_split(draft, split, number, seed, size):
                done += 1
                progress(done, num_train + num_val)
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        draft.chmod(0o755)  # mkdtemp makes folders private
        _move_into_place(draft, root, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _read_manifest(root: Path) -> dict | None:
    """The manifest of a data set, None where there is nothing."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    if not (root / MANIFEST).is_file():
        raise FileExistsError(
            f'{root} exists and is no digits data set (it has no '
            f'{MANIFEST}); choose another folder or remove it'
        )
    return json.loads((root / MANIFEST).read_text())


def _move_into_place(draft: Path, root: Path, manifest: dict) -> None:
    if root.is_dir() and any(root.iterdir()):
        # The old set moves inside the draft and goes with it.
        root.rename(draft.with_name(draft.name + '-old'))
    try:
        draft.rename(root)
    except OSError:
        if _read_manifest(root) != manifest:  # else another process was faster
            raise
    finally:
        shutil.rmtree(draft.with_name(draft.name + '-old'), ignore_errors=True)


def _write_split(
    root: Path, split: str, number: int, seed: int, size: int
) -> Iterator[None]:
    """Write a split, yielding after each picture."""
    for folder in (root / split, root / 'labels' / split, root / 'annotations'):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(number):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        scene = compose_scene(rng, split, size)
        name = f'{index:06d}.png'
        cv2.imwrite(str(root / split / name), scene.image[..., ::-1])
        cv2.imwrite(str(root / 'labels' / split / name), label_map(scene))
        images.append(
            dict(
                id=index + 1,
                file_name=name,
                width=size,
                height=size,
                photo=scene.photo,
                crop=scene.crop,
            )
        )
        for digit in scene.digits:
            annotations.append(
                dict(id=len(annotations) + 1, image_id=index + 1, **_annotate(digit))
            )
        yield
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(
        info=dict(description='digits', version=VERSION),
        images=images,
        annotations=annotations,
        categories=categories,
    )
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))


def label_map(scene: Scene) -> np.ndarray:
    """Classes of a scene's pixels, (size, size), uint8: see :func:`make_digits`."""
    labels = np.zeros(scene.undecided.shape, np.uint8)
    labels[scene.undecided] = IGNORE
    for digit in scene.digits:
        labels[digit.mask] = digit.label + 1
    return labels


def _annotate(digit: PlacedDigit) -> dict:
    """Category, tight box, area and RLE of a digit's visible pixels."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(digit.mask.astype(np.uint8)))
    rle['counts'] = rle['counts'].decode()
    return dict(
        category_id=digit.label + 1,
        bbox=mask_box(digit.mask),
        area=int(digit.mask.sum()),
        iscrowd=0,
        segmentation=rle,
        scan=digit.scan,
    )
