"""Real gloo processes for tests; their code is the trainer's, which runs its parity certificate in them."""

from megatron_train.certificate.local_ranks import run_distributed

__all__ = ["run_distributed"]
