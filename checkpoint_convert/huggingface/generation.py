"""Read and write generation_config.json: the ids at which a reply stops, and the source's sampling settings.

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
from pretokenizer.files.publish import read_json_object

GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens for config.json and generation_config.json. None = the tokenizer lacks the token.

    `end_of_turn` is the token that ends a reply in a chat. It may be the same as `eos`.
    """

    bos: int | None
    eos: int
    pad: int | None
    end_of_turn: int

    @property
    def stops(self) -> list[int]:
        """Every token id at which generation stops: the end of text and the end of a turn."""
        return list(dict.fromkeys([self.eos, self.end_of_turn]))


def generation_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a folder's generation_config.json, or without it the token ids in `config` (config.json).

    Raises ConvertError naming the file.
    """
    path = folder / GENERATION_CONFIG
    found = read_json_object(path, ConvertError, "; repair or remove it")
    if found is None:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: config[name] for name in names if config.get(name) is not None}
    if not all(isinstance(i, int) for i in stops_of(found)):
        raise ConvertError(f"{path}: eos_token_id is {found['eos_token_id']!r}; expected an id or a list of ids")
    return found


def stops_of(settings: Mapping[str, Any]) -> list[int]:
    """Return eos_token_id of generation_config.json, the ids at which generation stops, always as a list."""
    found = settings.get("eos_token_id")
    return found if isinstance(found, list) else [] if found is None else [found]


def config_ids(ids: SpecialIds | None, settings: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
    """Return bos_token_id, eos_token_id and pad_token_id for config.json and generation_config.json.

    `settings` are the source's generation settings. eos_token_id has the end of text, the end of a turn, and the stop
    ids in `settings`. With `keep`, BOS and pad of `settings` take precedence over those of `ids`. Without `ids`, all
    three come from `settings`. Unknown ids are left out.
    """
    own = {name: settings[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in settings}
    if ids is None:
        return {name: value for name, value in own.items() if value is not None}
    stops = list(dict.fromkeys([*stops_of(own), *ids.stops] if keep else [*ids.stops, *stops_of(own)]))
    found = {"bos_token_id": ids.bos, "pad_token_id": ids.pad, **(own if keep else {})}
    found["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    return {name: found[name] for name in sorted(found) if found[name] is not None}


def write_generation_config(
    ids: SpecialIds | None, settings: Mapping[str, Any], folder: Path, keep: bool = False
) -> None:
    """Write generation_config.json into `folder`: the source's `settings`, with the token ids that config_ids returns.

    `keep` is passed to config_ids. No file is written when there are neither settings nor ids.
    """
    if found := {**settings, **config_ids(ids, settings, keep)}:
        text = json.dumps(found, indent=2, ensure_ascii=False)
        (folder / GENERATION_CONFIG).write_text(text + "\n", encoding="utf-8")
