"""A card in miniature, offline: a tokenizer of its kind, a few layers of its architecture, its data on examples/data.

    miniature = Miniature(load_card("falcon-7b-sft-top1-696"), Path("output/cards/falcon-7b-sft-top1-696"))
    miniature.prepare("stage1"); miniature.train("stage1", processes=2)

The commands that a user types make everything below one folder. Existing results are reused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from examples.cards.card import Card
from examples.cards.commands import launch, module, run
from megatron_train.config.model_config import ModelConfig
from pretokenizer.config.yaml_config import ConfigError
from pretokenizer.tokenizer.load import load_tokenizer

SAMPLES = Path("examples/data")
SAMPLE_MODEL = SAMPLES / "tokenizer" / "sample.model"
BYTE_LEVEL_VOCABULARY = 2000
LAYERS = 4
SETTINGS = {
    "seq_length": 512,
    "micro_batch_size": 2,
    "global_batch_size": 8,
    "lr": 1e-3,
    "lr_warmup_iters": 2,
    "log_interval": 1,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
}
"""Training settings that a miniature changes in its card's configuration, besides the parallel layout."""


@dataclass(frozen=True)
class Miniature:
    """A published model with few and narrow layers, trained on the sample data. All results are below `folder`."""

    card: Card
    folder: Path
    layers: int = LAYERS
    sizes: dict[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig that replace the ones that `shrink` chooses."""

    def prepare(self, stage: str) -> None:
        """Write the tokenizer, the shards of the stage and the random base model, each only if it is missing."""
        if not self.vocabulary.is_file():
            train_byte_level(self.vocabulary)
        if not (self.data(stage) / "manifest.json").is_file():
            sections, out = self.card.sections(self.card.stage(stage)), self.data(stage)
            flags = ["--vocab_file", self.vocabulary, "--data_dir", SAMPLES, "--output_dir", out]
            run(module("pretokenizer", "build", "--configs", *sections, *flags, "--output_dir_suffix", ""))
        if not (self.folder / "base" / "release").is_dir():
            self._base_model()

    def train(self, stage: str, processes: int, iterations: int = 20, extra: tuple[str, ...] = ()) -> None:
        """Train a stage for some iterations on this machine, with the card's configuration and the flags `extra`.

        Raises ConfigError when the checkpoint to start from does not exist.
        """
        source = self.source(stage)
        if not source.is_dir():
            raise ConfigError(f"{source} is not there: run stage1 of {self.card.name} first")
        run(launch(processes, "megatron_train", *self.flags(stage, processes, iterations), *extra))

    def flags(self, stage: str, processes: int, iterations: int) -> list[str]:
        """Return the trainer's flags for a stage: the card's configuration file, and what the miniature changes."""
        prefix = self.data(stage) / self.card.stage(stage).prefix
        shards = ["--train_data_path", f"{prefix}-train", "--valid_data_path", f"{prefix}-val"]
        if self.card.uses_sentencepiece:  # as printed: one shard, split again
            shards = ["--data_path", f"{prefix}-train"]
        flags = ["--config", self.card.stage(stage).config, "--load", str(self.source(stage)), *shards]
        flags += ["--save", str(self.folder / stage), "--use_checkpoint_args", "--train_iters", str(iterations)]
        flags += ["--tensorboard_dir", str(self.folder / stage / "logging"), "--wandb_logger", "false"]
        for name, value in (SETTINGS | layout_settings(self.card.model, processes)).items():
            flags += [] if value is None else [f"--{name}", str(value).lower()]
        return flags

    def export(self, stage: str) -> Path:
        """Export the newest checkpoint of `stage` to a Hugging Face folder, and return that folder."""
        hf = self.folder / "hf"
        run(module("checkpoint_convert", "to-hf", self.folder / stage, hf))
        return hf

    def source(self, stage: str) -> Path:
        return self.folder / ("base" if stage == "stage1" else "stage1")

    def data(self, stage: str) -> Path:
        return self.folder / f"data_{stage}"

    @property
    def vocabulary(self) -> Path:
        return SAMPLE_MODEL if self.card.uses_sentencepiece else self.folder / "tokenizer.json"

    def _base_model(self) -> None:
        hf = self.folder / "base_hf"
        if not hf.is_dir():
            small = replace(shrink(self.card.model, self.layers, self.vocabulary), **self.sizes)
            make_base(small, self.vocabulary, hf)
            print(f"\nwrote {hf}: {small.num_layers} layers of {self.card.architecture}, random weights", flush=True)
        tokens = ",".join(self.card.extra_tokens)
        run(module("checkpoint_convert", "from-hf", hf, self.folder / "base", "--vocab_extra_ids_list", tokens))


def layout_settings(model: ModelConfig, processes: int) -> dict[str, object]:
    """Return the trainer's settings of the parallel layout for this number of processes.

    They are TP2, then PP2, as far as the architecture and the number allow. The remaining factor is data parallel.
    """
    tp = 2 if processes % 2 == 0 and model.query_groups % 2 == 0 else 1
    pp = 2 if processes % 4 == 0 and tp == 2 else 1
    return {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp, "sequence_parallel": tp > 1}


def shrink(model: ModelConfig, layers: int, vocabulary: Path) -> ModelConfig:
    """Return the architecture with `layers` layers, hidden size 64, and four heads of 16 channels.

    Key/value heads shrink in proportion. The vocabulary has the size of the tokenizer file `vocabulary`.
    """
    grouped = model.query_groups < model.num_attention_heads
    return replace(
        model,
        num_layers=layers,
        hidden_size=64,
        ffn_hidden_size=192 if model.gated_linear_unit else 256,
        num_attention_heads=4,
        num_query_groups=(1 if model.query_groups == 1 else 2) if grouped else 4,
        kv_channels=16,
        vocab_size=load_tokenizer(vocabulary, (), new_tokens=False).vocab_size,
        padded_vocab_size=None,
    )


def make_base(model: ModelConfig, vocabulary: Path, folder: Path) -> None:
    """Write a model with random weights and the tokenizer file `vocabulary` as a Hugging Face folder."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from checkpoint_convert.families import FAMILIES

    logging.disable_progress_bar()
    tokenizer = load_tokenizer(vocabulary, (), new_tokens=False)
    values = FAMILIES[model.family].to_hf_config(model) | {"vocab_size": model.vocab_size}
    values |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(1234)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    shutil.copyfile(vocabulary, folder / vocabulary.name.replace("sample.model", "tokenizer.model"))


def train_byte_level(path: Path) -> None:
    """Train a byte-level BPE tokenizer of GPT-NeoX's kind on the sample conversations, and write it to `path`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_LEVEL_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_texts(), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    print(f"\nwrote {path}: {tokenizer.get_vocab_size():,} tokens, learnt from examples/data", flush=True)


def sample_texts() -> Iterator[str]:
    """Yield every string value in the JSON-lines files of examples/data, at any depth."""
    for path in sorted(SAMPLES.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from _strings(json.loads(line))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
