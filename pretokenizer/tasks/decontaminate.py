"""Find training documents that contain a test question, for `--decontaminate FILE...`.

A document is contaminated when it shares `decontaminate_ngram` (13) consecutive words with a question. A shorter
question of at least 5 words must occur as a whole. Words are lower-cased runs of letters and digits; in scripts without
spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Myanmar) each character is a word.

A file of questions is a file of records in any supported format, or a .txt file with one question on each line. The
questions of a record are its fields question, prompt, instruction, text, problem, input and turns. A record without any
of these fields gives the texts of all its fields.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretokenizer.chat.conversation import Conversation
from pretokenizer.config.paths import find_file
from pretokenizer.config.settings import PretokenizeConfig
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.records.json_text import Record, RecordError
from pretokenizer.records.reader import read_records

MIN_WORDS = 5
# Ideographs with all extensions, iteration marks and zero; kana, including small, half-width and old forms. No Hangul.
_IDEOGRAPHS = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_KANA = r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"
# Letters, vowels and tone marks of Thai, Lao, Khmer and Myanmar. Digits still form runs.
_THAI_LAO = r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf"
_KHMER_MYANMAR = (
    r"\u1780-\u17d3\u17dc\u17dd\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"
)
_UNSPACED = _IDEOGRAPHS + _KANA + _THAI_LAO + _KHMER_MYANMAR
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_FIELDS = ("question", "prompt", "instruction", "text", "problem", "input", "turns")


class Questions:
    """The runs of consecutive words that mark a document as contaminated: all runs in the test questions.

    `runs` maps a length in words to the runs of this length: `ngram` words, or a whole question that is shorter.
    `num_questions` counts the questions that are long enough.
    """

    def __init__(self, texts: Iterator[str] | list[str], ngram: int) -> None:
        self.runs: dict[int, set[str]] = {}
        self.num_questions = 0
        for text in texts:
            words = words_of(text)
            if len(words) < min(MIN_WORDS, ngram):
                continue
            self.num_questions += 1
            length = min(ngram, len(words))
            self.runs.setdefault(length, set()).update(runs_of(words, length))

    @classmethod
    def load(cls, config: PretokenizeConfig) -> "Questions":
        """Read the test questions in the files that the configuration's `decontaminate` names.

        Raises ConfigError for a missing file, and RecordError when a file cannot be read or no question is long enough.
        """
        questions = cls(
            (text for path in question_files(config) for text in read_questions(path)),
            config.decontaminate_ngram,
        )
        if not questions.num_questions:
            raise RecordError(
                f"--decontaminate {' '.join(config.decontaminate)}: no question of at least {MIN_WORDS} words"
            )
        return questions

    def has_run_of(self, conversation: Conversation) -> bool:
        """Return whether a message of the conversation contains one of the questions' runs of words."""
        for message in conversation.messages:
            words = words_of(message.text)
            for length, known in self.runs.items():
                if any(run in known for run in runs_of(words, length)):
                    return True
        return False


def question_files(config: PretokenizeConfig) -> list[Path]:
    """Return the paths of the configuration's `decontaminate` files. Raises ConfigError for a missing file."""
    paths = [find_file(path) for path in config.decontaminate]
    for path in paths:
        if not path.is_file():
            raise ConfigError(
                f"--decontaminate {path}: no such file; give the path of a file with test questions (.jsonl, .json,"
                " .parquet, .txt), or build without the flag (--no-decontaminate)"
            )
    return paths


def words_of(text: str) -> list[str]:
    """Split a text into lower-cased words.

    >>> words_of("It's 10 o'clock")
    ['it', 's', '10', 'o', 'clock']
    """
    return _WORD.findall(text.lower())


def runs_of(words: list[str], length: int) -> Iterator[str]:
    """Yield every run of `length` consecutive words, joined by spaces."""
    return (" ".join(words[i : i + length]) for i in range(len(words) - length + 1))


def read_questions(path: Path) -> Iterator[str]:
    """Yield the test questions in a file. Raises RecordError when it cannot be read, or is a .txt file not in UTF-8."""
    if path.suffix == ".txt":
        try:
            yield from path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise RecordError(f"--decontaminate {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise RecordError(f"--decontaminate {path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
        return
    for _, record in read_records(path):
        yield from question_texts(record)


def question_texts(record: Record) -> Iterator[str]:
    """Yield the texts in the fields of a record that usually hold questions, or in all its fields if it has none."""
    chosen = [record[name] for name in _FIELDS if record.get(name)]
    for value in chosen or record.values():
        yield from _texts_in(value)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)
