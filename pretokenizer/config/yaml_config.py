"""Build frozen dataclasses from YAML, and report every problem at once. (SHARED)

    @dataclass(frozen=True)
    class Optimizer:
        lr: float = 1e-5

    config = from_mapping(Optimizer, load_yaml("optimizer.yaml"), "optimizer.yaml")

A value must have the type of its field. It is converted where its meaning is clear: PyYAML reads `1e-5` as a string,
and a float field turns it into a float.
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
"""Largest number of values in one YAML file after its aliases (`*name`) are expanded."""


class ConfigError(ValueError):
    """An unusable configuration. The message names the file, the key, the value and the remedy."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a repeated key, where plain YAML silently keeps the last one."""


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
    """Return the mapping in a YAML file. An empty file gives an empty mapping.

    Raises ConfigError naming the file, and the line if the file is not valid YAML.
    """
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
    except (ValueError, RecursionError) as error:  # a number with too many digits; endless nesting
        raise ConfigError(f"{path}: not usable YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top, found a {type(loaded).__name__}")
    return loaded


def _load(text: str) -> Any:
    """Return the value of YAML text. Raises ValueError when its aliases expand to more than MAX_NODES values."""
    loader = _UniqueKeyLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > MAX_NODES:
            raise ValueError(f"its aliases expand to more than {MAX_NODES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Return the number of values in a YAML node after its aliases are expanded.

    `sizes` caches the count of each node by identity; it holds None while a node is being counted. Raises ValueError
    for a node that contains itself.
    """
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
    """Return the text ` (did you mean 'x'?)` with the known word closest to `word`, or "" when none is close."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def from_mapping(cls: type[ConfigT], mapping: dict[str, Any], source: str) -> ConfigT:
    """Return an instance of the dataclass `cls` with the values in `mapping`.

    `source`, such as a file name, starts every line of an error message. Fields may be dataclasses, list[X],
    tuple[X, ...], dict[str, X], X | None, Literal, Any and scalars. Raises ConfigError with one line for each problem.
    """
    problems: list[str] = []
    config = _build(cls, mapping, "", problems)
    if problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return config


def _build(cls: type[Any], mapping: Any, path: str, problems: list[str]) -> Any:
    """Return an instance of the dataclass `cls`, or None after adding what is wrong to `problems`.

    `path` is the key under which `mapping` stands, such as `model.layers`, or "" for the whole file.
    """
    if not isinstance(mapping, dict):
        problems.append(f"{path or 'top level'}: expected a mapping, found {_shown(mapping)}")
        return None
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            problems.append(
                f"{_join(path, key)}: unknown key{suggest(key, fields)}; valid keys: {', '.join(sorted(fields))}"
            )
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
    """Return the value of the key `path`, converted to the type `hint`.

    Return None and add a line to `problems` when the value does not have this type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _convert(inner, value, path, problems)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        problems.append(
            f"{path}: {_shown(value)} is not one of {', '.join(map(str, arguments))}{suggest(value, arguments)}"
        )
        return None
    if origin in (list, tuple):
        if isinstance(value, (list, tuple)):
            return origin(_convert(arguments[0], item, f"{path}[{i}]", problems) for i, item in enumerate(value))
        problems.append(f"{path}: expected a list, found {_shown(value)}")
        return None
    if origin is dict:
        if isinstance(value, dict):
            return {key: _convert(arguments[1], item, _join(path, key), problems) for key, item in value.items()}
        problems.append(f"{path}: expected a mapping, found {_shown(value)}")
        return None
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, path, problems)
    return _convert_scalar(hint, value, path, problems)


def _convert_scalar(hint: type[Any], value: Any, path: str, problems: list[str]) -> Any:
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
    elif isinstance(value, bool):
        pass
    elif hint is int:
        number = _number(value)
        if number is not None and number == int(number):
            return int(value) if isinstance(value, (int, str)) and _is_int(value) else int(number)
    elif hint is float:
        number = _number(value)
        if number is not None:
            return number
    elif hint is str and isinstance(value, (str, int, float)):
        return str(value)
    problems.append(f"{path}: expected {_TYPE_NAMES[hint]}, found {_shown(value)}")
    return None


_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _shown(value: Any) -> str:
    """Return the text of a value for an error message, cut after 200 characters."""
    try:
        text = repr(value)
    except ValueError:
        return "a number with too many digits"
    return text if len(text) <= 200 else text[:200] + "..."


def _number(value: Any) -> float | None:
    """Return the finite number that a value represents, or None when it represents none."""
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


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
