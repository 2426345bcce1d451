"""Small SentencePiece models with Llama's settings, trained in the test process."""

import io
from pathlib import Path

import sentencepiece

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "def fibonacci(number):\n    if number < 2:\n        return number\n    return fibonacci(number - 1)",
    "Une pomme est tombée; zwölf Äpfel fielen später.  Two  spaces   three    four.",
    "user assistant system context: question and answer, again and again.",
] * 8


def train_spm(path: Path, **options: object) -> Path:
    """Train a SentencePiece model at `path`. `options` override Llama's settings."""
    model = io.BytesIO()
    settings = {
        "vocab_size": 400,
        "byte_fallback": True,
        "character_coverage": 0.99,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "num_threads": 1,
        "minloglevel": 2,
        "hard_vocab_limit": False,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, **{**settings, **options}
    )
    path.write_bytes(model.getvalue())
    return path
