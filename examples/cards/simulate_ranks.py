"""One rank of `make simulate`: several training runs in the same processes, so that these start only once.

    torchrun --nproc_per_node 32 -m examples.cards.simulate_ranks + <flags of a run> + <flags of the next>

After the last one the residual dropout rate of every layer, as the built model holds it, is printed.
"""

from __future__ import annotations

import itertools
import sys


def main() -> int:
    from megatron_train.parallel.device import install, quiet_known_warnings

    quiet_known_warnings()
    install()
    from megatron_train.config.flags import parse
    from megatron_train.parallel.distributed import shutdown
    from megatron_train.report.console import say
    from megatron_train.train import train

    runs = [list(words) for plus, words in itertools.groupby(sys.argv[1:], lambda word: word == "+") if not plus]
    try:
        for flags in runs:
            train(parse(flags))
        config = parse(runs[-1]).config
        if config.model.lima_dropout:
            rates = dropout_rates(runs[-1])
            say(f"residual dropout of the {len(rates)} layers: " + " ".join(f"{rate:.5f}" for rate in rates))
    finally:
        shutdown()
    return 0


def dropout_rates(flags: list[str]) -> list[float]:
    """Build the model of a run with these flags, and return the residual dropout rate of each layer in order.

    Every rank must call this, because the rates are collected from all ranks.
    """
    import torch.distributed as dist

    from megatron_train.checkpoint.resume import find_start, load_model_config
    from megatron_train.config.flags import parse
    from megatron_train.model.build import build_model

    config = parse(flags).config
    start = find_start(config)
    chunks = build_model(load_model_config(config, start.folder if start else None), config)
    own = {layer.layer_number: layer.hidden_dropout for chunk in chunks for layer in chunk.decoder.layers}
    everyone: list[dict[int, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    rates = {number: rate for held in everyone for number, rate in held.items()}
    return [rates[number] for number in sorted(rates)]


if __name__ == "__main__":
    sys.exit(main())
