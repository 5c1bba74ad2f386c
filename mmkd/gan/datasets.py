"""Pictures to be made of pictures: pairs, two folders, labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import join_path, list_dir_or_file

from ..registry import DATASETS

#: Endings of pictures, in any case.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
PIPELINE = (dict(type='mmkd.LoadPictures'), dict(type='mmkd.PackPictures'))


@DATASETS.register_module()
class PairedPictures(BaseDataset):
    """Pairs of pictures: two halves of each file, or files of two folders.

    Args:
        data_root: Folder that holds the others.
        folder: Of files that are two pictures side by side, as pix2pix has them.
        source: Which half is what pictures are made of, ``'left'`` or ``'right'``.
        source_folder: In place of ``folder``: of what pictures are made of.
        target_folder: Of what is to be made, under the same names.
        pipeline: Transforms; see :mod:`mmkd.gan.transforms`.
        kwargs: See MMEngine's ``BaseDataset``.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If pictures are missing on one side, or it is not said where pairs
            are.
    """

    paired = True

    def __init__(
        self,
        data_root: str = '',
        folder: str | None = None,
        source: str = 'left',
        source_folder: str | None = None,
        target_folder: str | None = None,
        pipeline: Sequence[Any] = PIPELINE,
        **kwargs: Any,
    ) -> None:
        both = source_folder is not None and target_folder is not None
        if (folder is None) != both:
            raise ValueError(
                'PairedPictures must have either a folder or a source_folder and a '
                f'target_folder, but has {folder}, {source_folder}, {target_folder}'
            )
        if source not in ('left', 'right'):
            raise ValueError(f"source must be 'left' or 'right' but is {source!r}")
        self._halves = (source, 'left' if source == 'right' else 'right')
        self._folders = (
            [folder] if folder is not None else [source_folder, target_folder]
        )
        super().__init__(data_root=data_root, pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The pairs, by name."""
        files = [pictures_in(_below(self.data_root, f)) for f in self._folders]
        if len(files) == 1:
            return [
                dict(
                    name=name,
                    source_path=path,
                    target_path=path,
                    halves=self._halves,
                    paired=True,
                )
                for name, path in files[0].items()
            ]
        sources, targets = files
        alone = sorted(sources.keys() ^ targets.keys())
        if alone:
            raise ValueError(
                f'every picture of {self._folders[0]} must have one of the same name '
                f'in {self._folders[1]}, but {len(alone)} have none, such as {alone[0]}'
            )
        return [
            dict(name=n, source_path=sources[n], target_path=targets[n], paired=True)
            for n in sources
        ]


@DATASETS.register_module()
class UnpairedPictures(BaseDataset):
    """Pictures of two kinds that have nothing to do with each other.

    In training each is shown with a random one of the other kind; in ``test_mode`` with
    that in the same place. MMEngine gives workers that are started anew the same random
    numbers in every epoch, and so the same partners: ``persistent_workers=True``.

    Args:
        data_root: Folder that holds the others.
        source_folder: Of what pictures are made of.
        target_folder: Of the kind that is to be made.
        pipeline: Transforms; see :mod:`mmkd.gan.transforms`.
        kwargs: See MMEngine's ``BaseDataset``.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
    """

    def __init__(
        self,
        source_folder: str,
        target_folder: str,
        data_root: str = '',
        pipeline: Sequence[Any] = PIPELINE,
        **kwargs: Any,
    ) -> None:
        self._folders = [source_folder, target_folder]
        self._targets: list[str] = []
        super().__init__(data_root=data_root, pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The pictures of both kinds, as many as of the larger one."""
        sources, targets = (
            list(pictures_in(_below(self.data_root, f)).items()) for f in self._folders
        )
        self._targets = [path for _, path in targets]
        found = []
        for i in range(max(len(sources), len(targets))):
            name, path = sources[i % len(sources)]
            target = self._targets[i % len(targets)]
            found.append(
                dict(name=name, source_path=path, target_path=target, paired=False)
            )
        return found

    def prepare_data(self, idx: int) -> Any:
        """A picture and one of the other kind."""
        info = self.get_data_info(idx)
        if not self.test_mode:
            info['target_path'] = self._targets[np.random.randint(len(self._targets))]
        info['target_name'] = Path(info['target_path']).stem
        return self.pipeline(info)


def pictures_in(folder: str) -> dict[str, str]:
    """Name without its ending -> path, of the pictures of a folder.

    Args:
        folder: On any backend of MMEngine's file system.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If two have one name.
    """
    try:
        files = list_dir_or_file(folder, list_dir=False)
        names = sorted(name for name in files if name.lower().endswith(SUFFIXES))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f'folder of pictures {folder!r} does not exist'
        ) from error
    if not names:
        raise FileNotFoundError(
            f'folder {folder!r} must have pictures, {", ".join(SUFFIXES)}, but has none'
        )
    found: dict[str, str] = {}
    for name in names:
        stem = Path(name).stem
        if stem in found:
            raise ValueError(
                f'pictures of {folder} must have names of their own, but {name} and '
                f'{Path(found[stem]).name} differ in their ending alone'
            )
        found[stem] = join_path(folder, name)
    return found


def _below(root: str | None, folder: str | None) -> str:
    return join_path(root, folder) if root and folder else root or folder or '.'
