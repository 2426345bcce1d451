"""generation_config.json: the ids at which a reply stops, and the source's sampling settings.

settings = generation_settings(Path("HF_DIR"), config)
write_generation_config(SpecialIds(bos=1, eos=2, pad=0, end_of_turn=32006), settings, Path("OUT"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_convert.tensors.tensor import ConvertError
from pretokenizer.files.publish import read_json

GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class SpecialIds:
    """Token ids for config.json and generation_config.json. A reply stops at `end_of_turn`."""

    bos: int | None
    eos: int
    pad: int
    end_of_turn: int

    @property
    def stops(self) -> list[int]:
        """Every id at which generation stops."""
        return list(dict.fromkeys([self.eos, self.end_of_turn]))


def generation_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a folder's generation_config.json, or else the token ids of its config.json.

    Raises ConvertError naming the file.
    """
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: config[name] for name in names if config.get(name) is not None}
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path}: cannot read: {error}; repair or remove it") from None
    if not isinstance(found, dict) or not all(isinstance(i, int) for i in stops_of(found)):
        raise ConvertError(f"{path}: expected a JSON object whose eos_token_id is an id or a list of ids; repair it")
    return found


def stops_of(settings: Mapping[str, Any]) -> list[int]:
    """Return the ids at which generation stops, as a list."""
    found = settings.get("eos_token_id")
    return found if isinstance(found, list) else [] if found is None else [found]


def write_generation_config(ids: SpecialIds | None, settings: Mapping[str, Any], folder: Path) -> None:
    """Write the source's `settings`. A reply stops at the end of text, the end of turn, and the source's stops."""
    own: dict[str, Any] = {}
    if ids is not None:
        bos = {} if ids.bos is None else {"bos_token_id": ids.bos}
        own = {**bos, "eos_token_id": list(dict.fromkeys([*ids.stops, *stops_of(settings)])), "pad_token_id": ids.pad}
    if own or settings:
        text = json.dumps({**settings, **own}, indent=2, ensure_ascii=False)
        (folder / GENERATION_CONFIG).write_text(text + "\n", encoding="utf-8")
