"""Registry of data sources, from the name of a data set to its class. A new source needs one line here."""

from typing import Any

from pretokenizer.config.yaml_config import ConfigError, suggest
from pretokenizer.forms.turns import ConsecutiveRoles
from pretokenizer.sources.conversations import OrcaChat, Vicuna
from pretokenizer.sources.dolly import Dolly15k, Dolly15kMultilingual
from pretokenizer.sources.instruction import Alpaca, CodeAlpaca, GradeSchoolMath, Megacode2, Megacode3, OaLeet10k
from pretokenizer.sources.messages import Ikala, Messages, PromptResponse, ShareGPT
from pretokenizer.sources.oasst import OasstExport
from pretokenizer.sources.qa import Gsm8k, Joke, WebGPT
from pretokenizer.sources.source import Source
from pretokenizer.sources.translation import TedEnJa, TedZhJa, Wmt2019ZhEn

SOURCES: dict[str, type[Source]] = {
    "alpaca": Alpaca,
    "code_alpaca": CodeAlpaca,
    "dolly15k": Dolly15k,
    "dolly15k_multilingual": Dolly15kMultilingual,
    "grade_school_math_instructions": GradeSchoolMath,
    "gsm8k": Gsm8k,
    "ikala": Ikala,
    "joke": Joke,
    "megacode2": Megacode2,
    "megacode3": Megacode3,
    "messages": Messages,
    "oa_leet10k": OaLeet10k,
    "oasst_export": OasstExport,
    "orca-chat": OrcaChat,
    "prompt_response": PromptResponse,
    "sharegpt": ShareGPT,
    "ted_trans_en-ja": TedEnJa,
    "ted_trans_zh-ja": TedZhJa,
    "vicuna": Vicuna,
    "webgpt": WebGPT,
    "wmt2019_zh-en": Wmt2019ZhEn,
}


def make_source(
    name: str, options: dict[str, Any], val_split: float = 0.2, consecutive_roles: ConsecutiveRoles = "allow"
) -> Source:
    """Return the source that finds and converts the records of the data set `name`.

    `options` are the data set's own options. Raises ConfigError for an unknown option, and for an unknown name, with a
    list of all names.
    """
    if name not in SOURCES:
        raise ConfigError(
            f"datasets: no data set {name!r}{suggest(name, SOURCES)}; choose one of {', '.join(sorted(SOURCES))}"
        )
    return SOURCES[name](name, options, val_split, consecutive_roles)
