"""A stock model with more to train, that is still an instance of its own class."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

# A mixin at run time, put before a model's class; a module to the type checker.
if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object

#: Children that an extended model has beside the stock ones.
ADDED = ('distiller', 'netaug', 'transfer')


class Extended(_Base):
    """What is added to a stock model for its training, and is no part of it.

    An instance is one of a subclass of *the model's own class*: parameter names,
    checkpoint keys, ``isinstance``, stock hooks, test-time augmentation and
    prediction are the stock model's. ``state_dict()`` holds the stock model alone
    and loads strictly into it; a stock ``state_dict`` loads strictly into this one.
    Extensions can be put on each other.

    A subclass names its child, and says what a training step is.
    """

    #: Name of the child that is added, one of ``ADDED``.
    added: ClassVar[str]

    @classmethod
    def extend(cls, model: Any) -> Any:
        """Make a model one of this kind; its ``__init__`` has to :meth:`add`."""
        model.__class__ = extended_class(cls, type(model))  # type: ignore[arg-type]
        return model

    def add(self, child: nn.Module) -> None:
        """Add the child; the stock ``__init__`` has run."""
        setattr(self, self.added, child)
        self._register_state_dict_hook(_drop_added)

    def training_step(self, run: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
        """The losses of one step.

        Args:
            run: The function of the model below that returns its losses.
            args: Its arguments: inputs, data samples.
            kwargs: Its keyword arguments.
        """
        raise NotImplementedError

    def init_weights(self) -> None:
        """The stock initialisation of the stock model."""
        # An `init_cfg` of the whole model would initialise what is added, too, and
        # by drawing for it change what the model gets.
        with self._without_added():
            super().init_weights()  # type: ignore[misc]

    @contextmanager
    def _without_added(self) -> Iterator[None]:
        modules = self._modules
        added = {name: modules.pop(name) for name in ADDED if name in modules}
        try:
            yield
        finally:
            modules.update(added)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # Both torch's and mmengine's loaders come through here before they descend
        # into the children, so a stock file is complete by then. While `init_weights`
        # loads a checkpoint of the whole model nothing is added.
        for name in ADDED:
            child = self._modules.get(name)
            own = child.state_dict() if child is not None else {}
            state_dict.update({f'{prefix}{name}.{k}': v for k, v in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # A class made at run time cannot be found by name.
        mixins, made = [], type(self)
        while issubclass(made, Extended):
            mixin, made = made.__bases__
            mixins.append(mixin)
        return _empty, (mixins, made), self.__dict__.copy()


@functools.cache
def extended_class(mixin: Any, stock: Any) -> type:
    """The class of an extended model; one per pair, so that types compare equal.

    Args:
        mixin: Subclass of :class:`Extended`.
        stock: Class of the model, that may be extended itself.

    Returns:
        A subclass of both.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = functools.partial(stock.forward, self)
        named = inspect.signature(run).bind(*args, **kwargs).arguments
        if kwargs.get('mode', named.get('mode')) != 'loss':
            return run(*args, **kwargs)
        # `loss` called by it, whatever its arguments are, is the stock one.
        # Not `self.training_step`: extensions on each other have one each.
        return mixin.training_step(self, run, args, kwargs)

    def loss(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        run = functools.partial(stock.loss, self)
        return mixin.training_step(self, run, args, kwargs)

    own: dict[str, Any] = dict(forward=functools.wraps(stock.forward)(forward))
    # A model may call a sub-module `loss`, which a method would hide.
    if hasattr(stock, 'loss'):
        own['loss'] = functools.wraps(stock.loss)(loss)
    name = f'{mixin.__name__}[{stock.__name__}]'
    made = types.new_class(name, (mixin, stock), exec_body=lambda ns: ns.update(own))
    made.__module__ = mixin.__module__
    return made


def stock_class(model_class: type) -> type:
    """The class of the stock model that one is extended from; a stock one itself."""
    while issubclass(model_class, Extended):
        model_class = model_class.__bases__[1]
    return model_class


@contextmanager
def own_pass_alone(model: Any) -> Iterator[None]:
    """Let a model's step be that of no wider network inside a ``with`` block."""
    netaug = model._modules.get('netaug')
    weight = getattr(netaug, 'aug_weight', 0.0)
    try:
        if netaug is not None:
            netaug.aug_weight = 0.0
        yield
    finally:
        if netaug is not None:
            netaug.aug_weight = weight


def build_stock(model: Any, name: str, data_preprocessor: Any) -> nn.Module:
    """The model to be extended.

    Args:
        model: Its config, or the model.
        name: What the argument is called, for messages.
        data_preprocessor: Used where the config has none.

    Raises:
        TypeError: If it is neither a config nor a model.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, Mapping):
        raise TypeError(
            f'{name} must be the config of a model or a model but is a '
            f'{type(model).__name__}'
        )
    cfg: Any = copy.deepcopy(model)
    if data_preprocessor is not None and not cfg.get('data_preprocessor'):
        cfg['data_preprocessor'] = copy.deepcopy(data_preprocessor)
    return ROOT_MODELS.build(cfg)


def _empty(mixins: list[type], stock: type) -> Any:
    for mixin in reversed(mixins):
        stock = extended_class(mixin, stock)  # type: ignore[arg-type]
    return object.__new__(stock)


def _drop_added(
    module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict
) -> None:
    # A plain function: EMA deep-copies the hooks with the model.
    metadata = getattr(state_dict, '_metadata', {})
    for name in ADDED:
        for key in [k for k in state_dict if k.startswith(f'{prefix}{name}.')]:
            del state_dict[key]
        for key in [k for k in metadata if k.startswith(f'{prefix}{name}')]:
            del metadata[key]
