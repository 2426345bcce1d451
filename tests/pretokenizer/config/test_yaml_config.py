"""YAML values become fields of a dataclass, and all problems are reported at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pretokenizer.config.yaml_config import ConfigError, from_mapping, load_yaml


@dataclass(frozen=True)
class Inner:
    lr: float = 1.0
    steps: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    sizes: list[int] = field(default_factory=list)
    pair: tuple[int, ...] = ()
    style: Literal["cosine", "linear"] = "cosine"
    limit: int | None = None
    flag: bool = False


def test_plain_scientific_notation_becomes_a_float(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: n\ninner: {lr: 1e-5, steps: 3}\nsizes: [1, 2]\npair: [3]\nlimit: null\nflag: yes\n"
    )
    config = from_mapping(Outer, load_yaml(tmp_path / "a.yaml"), "a.yaml")
    assert config == Outer("n", Inner(1e-5, 3), [1, 2], (3,), "cosine", None, True)
    assert isinstance(config.inner.lr, float)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        from_mapping(
            Outer, {"nam": "x", "inner": {"steps": 1.5}, "sizes": [1, "b"], "style": "cosin", "flag": 2}, "f.yaml"
        )
    assert str(error.value).splitlines() == [
        "f.yaml: nam: unknown key (did you mean 'name'?); valid keys: flag, inner, limit, name, pair, sizes, style",
        "f.yaml: name: missing",
        "f.yaml: inner.steps: expected a whole number, found 1.5",
        "f.yaml: sizes[1]: expected a whole number, found 'b'",
        "f.yaml: style: 'cosin' is not one of cosine, linear (did you mean 'cosine'?)",
        "f.yaml: flag: expected true or false, found 2",
    ]


@pytest.mark.parametrize("value", [True, "nan", "inf", "1.5", [1], None])
def test_values_that_are_no_whole_number(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"steps: expected a whole number"):
        from_mapping(Inner, {"steps": value}, "f")


def test_large_whole_numbers_keep_every_digit() -> None:
    assert from_mapping(Inner, {"steps": "287631038922123456789"}, "f").steps == 287631038922123456789


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "a.yaml:2: not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3: not valid YAML: key 'a' is given twice"),
        ("- 1\n", "a.yaml: expected `key: value` lines at the top, found a list"),
        ("a: !!python/object/apply:os.system [x]\n", "a.yaml:1: not valid YAML: could not determine a constructor"),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_yaml(tmp_path / "a.yaml")
    assert message in str(error.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read: No such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}


def test_problems_that_a_dataclass_raises_are_collected() -> None:
    @dataclass(frozen=True)
    class Checked:
        size: int

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ConfigError("size: must be at least 1")

    with pytest.raises(ConfigError, match=r"^f: size: must be at least 1$"):
        from_mapping(Checked, {"size": 0}, "f")
