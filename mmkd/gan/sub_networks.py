"""Sub-networks of a trained supernet: what they cost and how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS
from mmengine.runner import Runner

from ..compat.checkpoint import load_file
from ..config import student_config
from ..teacher_loading import load_contents_strictly
from .cost import Cost, cost_of
from .supernet import SuperMobileResnetGenerator
from .translation import TranslationModel
from .widths import Widths, macs


class Validation:
    """The pictures and metrics of a config's validation.

    The pictures are kept in memory: they are used for every sub-network.

    Args:
        cfg: With ``val_dataloader`` and ``val_evaluator``.

    Raises:
        ValueError: If it has none.
    """

    def __init__(self, cfg: Config) -> None:
        if not cfg.get('val_dataloader') or not cfg.get('val_evaluator'):
            raise ValueError(
                'the config must have a val_dataloader and a val_evaluator, by which '
                'sub-networks are judged'
            )
        loader = Runner.build_dataloader(cfg.val_dataloader, seed=0)
        self.metainfo = getattr(loader.dataset, 'metainfo', {})
        self.pictures = len(loader.dataset)
        self.batches = list(loader)
        self.evaluator = Evaluator(cfg.val_evaluator)
        self.evaluator.dataset_meta = self.metainfo

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first picture."""
        first = self.batches[0]['inputs']['source'][0]
        return tuple(first.shape[-2:])  # type: ignore[return-value]

    @torch.no_grad()
    def metrics(self, model: TranslationModel) -> dict[str, float]:
        """What the evaluator says of a model, in evaluation mode meanwhile."""
        mode = model.training
        model.eval()
        for batch in self.batches:
            self.evaluator.process(model.val_step(batch), batch)
        model.train(mode)
        return self.evaluator.evaluate(self.pictures)


class SubNetworks:
    """Sub-networks of a supernet, judged without being trained.

    Args:
        cfg: Config of the supernet's run.
        contents: Of its checkpoint.
        source: The checkpoint's name, for messages.

    Raises:
        ValueError: If the generator is no supernet, the weights are of another one, or
            nothing judges.
    """

    def __init__(self, cfg: Config, contents: Mapping[str, Any], source: str) -> None:
        self.model: Any = MODELS.build(student_config(cfg).model)
        if not isinstance(self.supernet, SuperMobileResnetGenerator):
            raise ValueError(
                'the generator must be a mmkd.SuperMobileResnetGenerator but is a '
                f'{type(self.supernet).__name__}'
            )
        load_contents_strictly(self.model, contents, source)
        self.model.to(get_device()).eval()
        self.validation = Validation(cfg)

    @property
    def supernet(self) -> SuperMobileResnetGenerator:
        """The supernet."""
        return self.model.generator

    def metrics(self, channels: Sequence[int]) -> dict[str, float]:
        """How good a sub-network is."""
        with self.supernet.narrowed(channels):
            return self.validation.metrics(self.model)

    def macs(self, channels: Sequence[int]) -> float:
        """Multiply-adds of a sub-network for a picture."""
        g = self.supernet
        widths = Widths.of(channels, g.num_blocks)
        return macs(widths, self.validation.size, g.in_channels, g.out_channels)

    def milliseconds(self, channels: Sequence[int]) -> float:
        """Median time of a pass of a sub-network by itself."""
        return float(self.cost(channels, repeats=10).milliseconds or 0)

    def cost(self, channels: Sequence[int], repeats: int = 0) -> Cost:
        """What a sub-network costs by itself."""
        alone = self.supernet.extracted(channels)
        return cost_of(alone, self.validation.size, repeats)


def read_run(config: Config, checkpoint: str | Path, trust: bool = False) -> Any:
    """Contents of a checkpoint of a run, with the config in it.

    Args:
        config: Of the run; taken where the checkpoint holds none.
        checkpoint: The file.
        trust: Allow it to run code while it is loaded.
    """
    contents = load_file(Path(checkpoint), map_location='cpu', trust=trust)
    meta = dict(contents.get('meta') or {})
    meta.setdefault('cfg', config.pretty_text)
    return {**contents, 'meta': meta}
