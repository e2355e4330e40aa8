"""YAML as people write it: where a word is meant it stays as it was written, and elsewhere nothing is rewritten in silence.

YAML 1.1, which PyYAML speaks, makes no of off, 7 of 007, 750 of 12:30 and a date of 2024-01-01. Here numbers and null are those of YAML
1.2's core; yes, no, on and off still are true and false where no word is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

Path = tuple[str | int, ...]
"""Keys and places in lists, from the top."""
Texts = Callable[[Any, Path], bool]
"""Whether words are meant at a place; gets the whole as it reads where none are."""

DEEPEST = 50  # levels; an anchor that holds itself has no end
FREE = "kwargs"  # below it keys are whatever they look like
TAG = "tag:yaml.org,2002:"
BOOL = r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
KINDS = {"bool": BOOL, "int": INT, "float": FLOAT, "null": r"~|null|Null|NULL|", "merge": r"<<"}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # PyYAML's own way


class _Dumper(yaml.SafeDumper):
    pass  # quotes what YAML 1.1 would rewrite, and what we would


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    word = node.value.lower()
    return int(word, 8 if word.startswith("0o") else 16 if word.startswith("0x") else 10)


for _kind, _pattern in KINDS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), None)
_Loader.add_constructor(f"{TAG}int", _int)


def load(text: str, texts: Texts = lambda plain, path: False) -> Any:
    """Plain values; the keys of mappings are always as written.

    Args:
        texts: Where words are meant.

    Raises:
        yaml.YAMLError: It is not YAML, a key stands twice, or it holds what is no plain value.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        plain = _plain(loader, node, (), lambda path: False)
        return _plain(loader, node, (), lambda path: texts(plain, path))
    except RecursionError as err:
        raise yaml.YAMLError("it is nested too deep") from err
    finally:
        loader.dispose()


def dump(plain: Any, **options: Any) -> str:
    """Plain values as YAML that ``load``, and YAML 1.1, read back as they were; ``options`` are ``yaml.dump``'s."""
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options))


def _plain(loader: _Loader, node: yaml.Node, path: Path, is_text: Callable[[Path], bool]) -> Any:
    if len(path) > DEEPEST:
        raise yaml.constructor.ConstructorError(None, None, "it is nested too deep", node.start_mark)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
        return [_plain(loader, entry, (*path, place), is_text) for place, entry in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
        own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != f"{TAG}merge"]
        twice = next((key for key in own if own.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' stands there twice", node.start_mark)
        loader.flatten_mapping(node)
        node.value = list({(key.tag, str(key.value)): (key, value) for key, value in node.value}.values())  # a mapping's own win
        return {(key := _key(loader, key_node, path)): _plain(loader, value, (*path, key), is_text) for key_node, value in node.value}
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None and bool(node.value) and node.tag.startswith(TAG)
    is_nothing = node.tag == f"{TAG}null" and not isinstance(path[-1:] and path[-1], int)  # in a list it is one of the words
    if is_plain and not is_nothing and path and is_text(path):
        return node.value
    return _constructed(loader, node)


def _key(loader: _Loader, node: yaml.Node, path: Path) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key is a word", node.start_mark)
    if path[:1] != (FREE,):
        return node.value
    return _constructed(loader, node)


def _constructed(loader: _Loader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, RecursionError):
        raise
    except Exception as err:  # PyYAML lets those of int, float and date pass: !!int x, 2020-13-45, thousands of digits
        raise yaml.constructor.ConstructorError(None, None, f"it cannot be read: {err}", node.start_mark) from err
