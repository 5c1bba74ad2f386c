"""Texts as a data set of MMEngine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_local_rank
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset

from ..registry import DATASETS, FUNCTIONS
from . import sources
from .hub import from_hub, transformers
from .token_store import TokenStore, key_of, write

#: Of what is kept; another number makes what was kept before unknown.
_FORMAT = 1


@DATASETS.register_module()
class TextDataset(Dataset):
    """Texts, tokenized once and kept on disk.

    Args:
        name: Folder or name of the hub whose tokenizer is used.
        file: File of lines, or of captions if it ends with ``.json``.
        column: Of a file whose lines are split by tabs.
        classes: In place of a file: names of classes, of which prompts are made; see
            :func:`~mmkd.text.sources.class_names`.
        prompts: Number of prompts.
        longest_prompt: Classes in a prompt at most; all if ``None``.
        seed: Of the prompts.
        max_tokens: Of a text, with [CLS] and [SEP]; longer ones become several.
        part: Share of the texts that is used, such as ``(0.0, 0.9)`` to train and
            ``(0.9, 1.0)`` to validate.
        cache_dir: Where tokens are kept.

    Raises:
        FileNotFoundError: If there is no such file, folder or name.
        ValueError: If there is no text, or what is said is contradictory.
    """

    #: Asked for by Runner's loops.
    metainfo: Mapping[str, Any] = {}

    def __init__(
        self,
        name: str,
        file: str | None = None,
        column: int | None = None,
        classes: str | Sequence[str] | None = None,
        prompts: int = 10000,
        longest_prompt: int | None = None,
        seed: int = 0,
        max_tokens: int = 128,
        part: Sequence[float] = (0.0, 1.0),
        cache_dir: str = 'work_dirs/tokens',
    ) -> None:
        if (file is None) == (classes is None):
            raise ValueError('TextDataset must have either a file or classes')
        if not 0 <= part[0] < part[1] <= 1:
            raise ValueError(f'part must be of 0 <= from < to <= 1 but is {part}')
        if max_tokens < 3:
            raise ValueError(f'max_tokens must be at least 3 but is {max_tokens}')
        path = Path(file).expanduser() if file else None
        if path is not None and not path.is_file():
            raise FileNotFoundError(f'file of texts {str(path)!r} does not exist')
        names = None if classes is None else sources.class_names(classes)
        tokenizer = from_hub(
            transformers().AutoTokenizer.from_pretrained, name, 'a tokenizer'
        )
        suffix = path.suffix if path else ''
        told = [names, prompts, longest_prompt, seed] if names else [column, suffix]
        files = [path] if path else []
        key = key_of([_FORMAT, told, max_tokens], files, tokenizer)
        folder = Path(cache_dir).expanduser() / key
        # One process of every machine writes; the folder may be its own.
        failure = None
        if get_local_rank() == 0 and not folder.is_dir():
            if names:
                texts = sources.class_prompts(names, prompts, seed, longest_prompt)
            elif path is not None and path.suffix == '.json':
                texts = sources.captions(path)
            else:
                texts = sources.lines(path, column)  # type: ignore[arg-type]
            try:
                write(folder, texts, tokenizer, max_tokens - 2)
            except Exception as error:  # all processes end, instead of waiting
                failure = error
            print_log(f'mmkd: tokens are kept in {folder}', logger='current')
        others = [reason for reason in all_gather_object(str(failure or '')) if reason]
        if others:
            raise failure or RuntimeError(others[0])
        self._store = TokenStore(folder)
        self._first, self._last = (round(share * len(self._store)) for share in part)
        if self._first == self._last:
            raise ValueError(
                f'{file or "classes"} must have texts but has none in {part}'
            )
        self._ends = tokenizer.cls_token_id, tokenizer.sep_token_id

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, last = self._ends
        ids = [first, *self._store[self._first + index].tolist(), last]
        return dict(input_ids=torch.tensor(ids))


@FUNCTIONS.register_module()
def pad_tokens(
    items: Sequence[Mapping[str, Tensor]], pad_id: int = 0
) -> dict[str, dict[str, Tensor]]:
    """A batch of texts, padded to the longest.

    Args:
        items: Each with ``input_ids`` (T,).
        pad_id: Of [PAD].

    Returns:
        ``captions``: ``input_ids`` and ``attention_mask``, each (B, T).

    Example:
        >>> a, b = torch.tensor([2, 5, 3]), torch.tensor([2, 3])
        >>> pad_tokens([dict(input_ids=a), dict(input_ids=b)])['captions']['input_ids']
        tensor([[2, 5, 3],
                [2, 3, 0]])
    """
    ids = [item['input_ids'] for item in items]
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad(ids, batch_first=True, padding_value=pad_id)
    mask = pad([torch.ones_like(one) for one in ids], batch_first=True)
    return dict(captions=dict(input_ids=padded, attention_mask=mask))
