"""YAML -> frozen dataclasses, with every problem named at once. (SHARED with the trainer.)

    @dataclass(frozen=True)
    class Optimizer:
        lr: float = 1e-5

    config = from_mapping(Optimizer, load_yaml("optimizer.yaml"), "optimizer.yaml")

Values are checked against the field's type and converted where the meaning is plain: PyYAML reads `1e-5` as a string,
and it becomes the float it looks like.
"""

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

ConfigT = TypeVar("ConfigT")


MAX_NODES = 100_000
"""Values in one file, aliases written out."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names source, key, value and remedy."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (plain YAML keeps the last one without a word)."""


def _construct_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, (dict, list)):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping (safe loader). Raises ConfigError naming file and line; an empty file is an empty mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    try:
        loaded = _load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits; endless nesting
        raise ConfigError(f"{path}: not usable YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top, found a {type(loaded).__name__}")
    return loaded


def _load(text: str) -> Any:
    """As yaml.load, but anchors must not multiply to more than MAX_NODES values. Raises ValueError."""
    loader = _UniqueKeyLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > MAX_NODES:
            raise ValueError(f"its anchors stand for more than {MAX_NODES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Values in `node` with every alias written out; `sizes` has those of nodes met before, None of unfinished ones."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = None
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_expanded_size(part, sizes) for part in inner)
    size = sizes[id(node)]
    if size is None:
        raise ValueError("an anchor contains itself")
    return size


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no known word is near."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def from_mapping(cls: type[ConfigT], mapping: dict[str, Any], source: str) -> ConfigT:
    """Build the dataclass `cls` from `mapping`; `source` (a file name) stands in front of every problem.

    Supports nested dataclasses, list[X], tuple[X, ...], dict[str, X], X | None, Literal, Path, Any and the scalars.
    Raises ConfigError with all problems, one a line.
    """
    problems: list[str] = []
    config = _build(cls, mapping, "", problems)
    if problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return config


def _build(cls: type[Any], mapping: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(mapping, dict):
        problems.append(f"{path or 'top level'}: expected a mapping, found {_shown(mapping)}")
        return None
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            problems.append(f"{_join(path, key)}: unknown key{suggest(key, fields)}")
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], _join(path, name), problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{_join(path, name)}: missing")
    if problems:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.extend(str(error).splitlines())
    except ValueError as error:
        problems.append(f"{path or 'top level'}: {error}")
    return None


def _convert(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, path, problems)
    if origin is Literal:
        if value in arguments and not (
            isinstance(value, bool) ^ any(isinstance(a, bool) for a in arguments if a == value)
        ):
            return value
        problems.append(
            f"{path}: {_shown(value)} is not one of {', '.join(map(str, arguments))}{suggest(value, arguments)}"
        )
        return None
    if origin in (list, tuple):
        return _convert_sequence(origin, arguments, value, path, problems)
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"{path}: expected a mapping, found {_shown(value)}")
            return None
        return {key: _convert(arguments[1], item, _join(path, key), problems) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, path, problems)
    return _convert_scalar(hint, value, path, problems)


def _convert_union(arguments: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [argument for argument in arguments if argument is not type(None)]
    for argument in choices:  # an exact type first, so that a str stays a str in `int | str`
        if isinstance(argument, type) and type(value) is argument:
            return value
    if len(choices) == 1:
        return _convert(choices[0], value, path, problems)
    for argument in choices:
        attempt: list[str] = []
        converted = _convert(argument, value, path, attempt)
        if not attempt:
            return converted
    problems.append(f"{path}: {_shown(value)} fits none of {', '.join(_type_name(a) for a in choices)}")
    return None


def _convert_sequence(kind: Any, arguments: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, (list, tuple)):
        problems.append(f"{path}: expected a list, found {_shown(value)}")
        return None
    if kind is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            problems.append(f"{path}: expected {len(arguments)} items, found {len(value)}")
            return None
        hints = list(arguments)
    else:
        hints = [arguments[0] if arguments else Any] * len(value)
    return kind(
        _convert(h, item, f"{path}[{i}]", problems) for i, (h, item) in enumerate(zip(hints, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, path: str, problems: list[str]) -> Any:
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
    elif hint is int and not isinstance(value, bool):
        number = _number(value)
        if number is not None and number == int(number):
            return int(value) if isinstance(value, (int, str)) and _is_int(value) else int(number)
    elif hint is float and not isinstance(value, bool):
        number = _number(value)
        if number is not None:
            return number
    elif hint is str and isinstance(value, str):
        return value
    elif hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    elif hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif isinstance(hint, type) and hint not in (bool, int, float, str, Path) and isinstance(value, hint):
        return value
    problems.append(f"{path}: expected {_type_name(hint)}, found {_shown(value)}")
    return None


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _shown(value: Any) -> str:
    """A value for a message, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # a number of too many digits
        return "a number of too many digits"
    return text if len(text) <= 200 else text[:200] + "..."


def _number(value: Any) -> float | None:
    """The finite number a value stands for, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number - number == 0 else None


def _is_int(value: int | str) -> bool:
    try:
        int(value)
    except ValueError:
        return False
    return True


def _type_name(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
