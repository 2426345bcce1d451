"""The command `evaluate`: evaluate a checkpoint without training.

    megatron-train evaluate --load CHECKPOINT --valid_data_path PREFIX ...
    torchrun --nproc_per_node 4 -m megatron_train evaluate --tensor_model_parallel_size 4 --load CHECKPOINT ...

It takes the flags of training. Those that only training needs have no effect.
"""

from __future__ import annotations

from dataclasses import replace

from megatron_train.checkpoint.resume import find_start, load_model_config
from megatron_train.checkpoint.save_load import load_weights
from megatron_train.config.flags import CommandLine
from megatron_train.config.parallel_layout import ParallelLayout
from megatron_train.config.validate import validate, validate_model
from megatron_train.data.loader import BatchMaker
from megatron_train.evaluate import EvaluationBatches, EvaluationSets, evaluate
from megatron_train.model.build import build_model
from megatron_train.optim.optimizer import wrap_model
from megatron_train.parallel.distributed import init_distributed, world_size
from megatron_train.preflight import check_shards, check_vocabulary, load_manifest
from megatron_train.report.console import say
from pretokenizer.config.yaml_config import ConfigError


def evaluate_checkpoint(command: CommandLine) -> int:
    """Print the loss, perplexity and token accuracy of the checkpoint --load on each validation and test set. Return 0.

    Raises ConfigError, CheckpointError or ShardError for settings and files that cannot be used.
    """
    config, data = command.config, command.config.data
    if not config.checkpoint.load or not (data.valid_data_path or data.test_data_path or data.data_path):
        raise ConfigError("evaluate needs --load CHECKPOINT and --valid_data_path PREFIX")
    validate(command, ParallelLayout.planned(config.parallel, world_size()), is_training=False)
    layout = init_distributed(config.parallel, config.batch.seed)
    start = find_start(replace(config, checkpoint=replace(config.checkpoint, save=None, finetune=True)))
    assert start is not None  # --load is given
    model_config = load_model_config(config, start.folder)
    validate_model(command, model_config, layout)
    manifest, _ = load_manifest(data)
    check_shards(data)
    check_vocabulary(manifest, model_config, start.folder)

    sets = EvaluationSets.of(data, config.batch.seed).by_name()
    make_batch = BatchMaker(data, manifest.pad_token_id if manifest else 0, model_config.vocab_size)
    chunks = wrap_model(build_model(model_config, config, random_weights=False), config)
    load_weights(start.folder, chunks)
    say(f"evaluating {start.folder}")
    for name, result in evaluate(chunks, sets, EvaluationBatches(config, layout, make_batch)).items():
        say(
            f"{name} | loss {result['loss']:.4f} | ppl {result['ppl']:.3f} | token accuracy "
            f"{result['token_accuracy']:.1%} | {result['num_target_tokens']:,} target tokens"
        )
    return 0
