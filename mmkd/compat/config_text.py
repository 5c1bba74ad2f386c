"""Config text as data: literal assignments, read and never executed."""

from __future__ import annotations

import ast
import io
import keyword
import math
import tokenize
from collections.abc import Callable, Iterator
from tokenize import TokenInfo
from typing import Any, NoReturn

__all__ = ['parse_config_text']

#: Deeper than any config, and far from Python's recursion limit.
_MAX_DEPTH = 100
# What `pretty_text` writes for floats without a literal.
_NAMES = {
    'None': None,
    'True': True,
    'False': False,
    'inf': math.inf,
    'nan': math.nan,
}
_SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING}
_CLOSING = {'(': ')', '[': ']', '{': '}'}
_AFTER_VALUE = {
    '(': 'a call',
    '.': 'attribute access',
    '[': 'a subscript',
    'for': 'a comprehension',
    'async': 'a comprehension',
    'if': 'a conditional expression',
    ':=': 'an assignment expression',
    ';': 'several statements in one line',
}


def parse_config_text(text: str) -> dict[str, Any]:
    """Read a config text that consists of literal assignments.

    That is what :attr:`mmengine.config.Config.pretty_text` writes and checkpoints
    carry: ``name = value`` with numbers, strings, ``None``, booleans, lists,
    tuples, dicts, sets and ``dict(key=value)``. ``inf`` and ``nan`` are numbers,
    bare or as ``float('inf')``. Nothing is evaluated or imported: the text is
    read token by token.

    Args:
        text: Python source.

    Returns:
        Values by name, in the order of the text; the last of equal names counts.

    Raises:
        TypeError: If ``text`` is not a string.
        ValueError: Naming the line and the construct that is not a literal.

    Example:
        >>> parse_config_text("model = dict(type='GFL', depth=50)")
        {'model': {'type': 'GFL', 'depth': 50}}
        >>> parse_config_text("seed = __import__('os').getpid()")
        Traceback (most recent call last):
        ValueError: line 1: a call of __import__, where only literals are accepted
    """
    if not isinstance(text, str):
        raise TypeError(f'text must be a str but is {type(text).__name__}')
    try:
        return _Parser(text).config()
    except (tokenize.TokenError, SyntaxError, UnicodeError) as error:
        raise ValueError(f'the text is not Python: {error}') from None
    except (RecursionError, MemoryError) as error:
        raise ValueError(f'the text is too large: {type(error).__name__}') from None


class _Parser:
    """Recursive descent over the tokens of one text."""

    # Not `ast.parse`: deep or long expressions can crash the interpreter in it.

    def __init__(self, text: str) -> None:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self._tokens: Iterator[TokenInfo] = (
            token for token in tokens if token.type not in _SKIPPED
        )
        self._depth = 0
        self._token = next(self._tokens)

    def config(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while self._token.type != tokenize.ENDMARKER:
            if self._token.type != tokenize.NAME or self._is_keyword():
                self._fail(f'{self._shown()} at the start of a statement')
            name = self._target()
            result[name] = self._tuple_or_value()
            if self._token.type not in (tokenize.NEWLINE, tokenize.ENDMARKER):
                self._fail_after_value()
            if self._token.type == tokenize.NEWLINE:
                self._advance()
        return result

    def _target(self) -> str:
        name = self._advance()
        if self._token.string != '=':
            self._fail_name(name)
        self._advance()
        return name.string

    def _tuple_or_value(self) -> Any:
        first = self._value()
        if self._token.string != ',':
            return first
        values = [first]
        while self._token.string == ',':
            self._advance()
            if self._token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
                break
            values.append(self._value())
        return tuple(values)

    def _value(self) -> Any:
        kind, string = self._token.type, self._token.string
        if kind == tokenize.NUMBER:
            return self._literal(self._advance().string)
        if kind == tokenize.STRING:
            return self._strings()
        if string in _CLOSING:
            return self._nested(
                {'(': self._round, '[': self._square, '{': self._curly}[string]
            )
        if string in ('-', '+'):
            return self._signed()
        if kind == tokenize.NAME:
            return self._name()
        return self._fail(self._shown())

    def _signed(self) -> Any:
        sign = self._advance().string
        plain = self._token.type == tokenize.NUMBER
        if not plain and self._token.string not in ('inf', 'nan', 'float'):
            self._fail(f'operator {sign}')
        value = self._value()
        return -value if sign == '-' else value

    def _strings(self) -> str | bytes:
        parts = []
        while self._token.type == tokenize.STRING:
            string = self._token.string
            if 'f' in string[: string.index(string[-1])].lower():
                self._fail('an f-string')
            parts.append(self._literal(self._advance().string))
        if len({type(part) for part in parts}) > 1:
            self._fail('a mix of bytes and str')
        return type(parts[0])().join(parts)

    def _name(self) -> Any:
        name = self._advance()
        called = {'dict': self._dict, 'float': self._float, 'set': self._set}
        if self._token.string == '(' and name.string in called:
            return self._nested(called[name.string])
        if name.string in _NAMES and self._token.string not in ('(', '.', '['):
            return _NAMES[name.string]
        return self._fail_name(name)

    def _nested(self, read: Callable[[], Any]) -> Any:
        if self._depth == _MAX_DEPTH:
            self._fail(f'more than {_MAX_DEPTH} nested brackets')
        self._depth += 1
        self._advance()
        value = read()
        self._depth -= 1
        return value

    def _items(self, closing: str, read: Callable[[], Any]) -> list[Any]:
        items = []
        while self._token.string != closing:
            items.append(read())
            if self._token.string != ',':
                break
            self._advance()
        self._expect(closing)
        return items

    def _square(self) -> list[Any]:
        return self._items(']', self._value)

    def _round(self) -> Any:
        if self._token.string == ')':
            self._advance()
            return ()
        first = self._value()
        if self._token.string == ')':
            self._advance()
            return first
        self._expect(',')
        return (first, *self._items(')', self._value))

    def _curly(self) -> dict | set:
        if self._token.string == '}':
            self._advance()
            return {}
        return self._merged(self._items('}', self._pair_or_member))

    def _pair_or_member(self) -> tuple[Any, ...]:
        if self._token.string == '**':
            return self._unpacked()
        key = self._hashable(self._value())
        if self._token.string != ':':
            return (key,)
        self._advance()
        return key, self._value()

    def _merged(self, items: list[tuple[Any, ...]]) -> dict | set:
        if all(len(item) == 1 for item in items):
            return {item[0] for item in items}
        if any(len(item) == 1 for item in items):
            self._fail('a dict with members that have no value')
        result: dict[Any, Any] = {}
        for key, value in items:
            if key is _UNPACKED:
                result.update(value)
            else:
                result[key] = value
        return result

    def _dict(self) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, value in self._items(')', self._argument):
            new = value if key is _UNPACKED else {key: value}
            if set(new) & set(result):
                self._fail(f'a repeated argument {next(iter(new))!r}')
            result.update(new)
        return result

    def _argument(self) -> tuple[Any, Any]:
        # `dict({...})` is how `pretty_text` writes keys that are no identifiers.
        if self._token.string in ('**', '{'):
            return self._unpacked()
        if self._token.type != tokenize.NAME or self._is_keyword():
            self._fail(f'{self._shown()} as an argument of dict')
        return self._target(), self._value()

    def _unpacked(self) -> tuple[Any, Any]:
        if self._token.string == '**':
            self._advance()
        value = self._value()
        if not isinstance(value, dict):
            self._fail('** before something that is no dict')
        return _UNPACKED, value

    def _float(self) -> float:
        value = self._strings() if self._token.type == tokenize.STRING else None
        if not isinstance(value, str) or value.lstrip('+-') not in ('inf', 'nan'):
            self._fail("a call of float with anything but 'inf' or 'nan'")
        self._expect(')')
        return float(str(value))

    def _set(self) -> set[Any]:
        # The empty set has no display.
        if self._token.string != ')':
            self._fail('a call of set with arguments')
        self._advance()
        return set()

    def _hashable(self, key: Any) -> Any:
        try:
            hash(key)
        except TypeError:
            self._fail(f'a {type(key).__name__} as a key')
        return key

    def _literal(self, string: str) -> Any:
        try:
            return ast.literal_eval(string)
        except (ValueError, SyntaxError):
            return self._fail(repr(string[:40]))

    def _advance(self) -> TokenInfo:
        consumed, self._token = self._token, next(self._tokens)
        return consumed

    def _expect(self, string: str) -> None:
        if self._token.string != string:
            self._fail_after_value()
        self._advance()

    def _is_keyword(self) -> bool:
        return keyword.iskeyword(self._token.string)

    def _shown(self) -> str:
        # Since Python 3.12 an f-string is several tokens.
        if tokenize.tok_name[self._token.type] in ('FSTRING_START', 'TSTRING_START'):
            return 'an f-string'
        return repr(self._token.string[:40]) if self._token.string else 'the end'

    def _fail_name(self, name: TokenInfo) -> NoReturn:
        after = _AFTER_VALUE.get(self._token.string)
        if keyword.iskeyword(name.string) and name.string not in _NAMES:
            construct = repr(name.string)
        elif after:
            construct = f'{after} of {name.string}'
        elif self._token.type == tokenize.OP and self._token.string not in ',)]}':
            construct = f'operator {self._token.string} on {name.string}'
        else:
            construct = f'the name {name.string}'
        self._fail(construct, name)

    def _fail_after_value(self) -> NoReturn:
        construct = _AFTER_VALUE.get(self._token.string)
        self._fail(construct or f'{self._shown()} after a value')

    def _fail(self, construct: str, token: TokenInfo | None = None) -> NoReturn:
        line = (token or self._token).start[0]
        raise ValueError(f'line {line}: {construct}, where only literals are accepted')


_UNPACKED = object()
