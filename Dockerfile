# The three packages on NVIDIA's PyTorch, which brings CUDA, NCCL, Transformer Engine and Apex.
#
#     docker build --build-arg BASE=nvcr.io/nvidia/pytorch:26.06-py3 --tag oasst-megatron .
#     docker run --gpus all --ipc=host --ulimit memlock=-1 -v "$PWD/output:/app/output" -v "$PWD/checkpoints:/app/checkpoints" \
#         oasst-megatron torchrun --nproc_per_node 8 -m megatron_train --config configs/train/falcon-7b-sft-top1-696_packed.yaml
#
# Take a base whose torch is 2.13: the build stops at once otherwise. Not built in CI.
ARG BASE=nvcr.io/nvidia/pytorch:26.06-py3
FROM ${BASE}

RUN python -c "import torch; found = torch.__version__; assert found.startswith('2.13'), f'torch {found}, 2.13 is needed'"

WORKDIR /app
COPY pyproject.toml setup.py README.md LICENSE ./
COPY pretokenizer pretokenizer
COPY megatron_train megatron_train
COPY checkpoint_convert checkpoint_convert
COPY configs configs
COPY examples examples

# The base's own torch stays: pip is told that it is there, and everything else is installed beside it.
RUN python -c "import torch; print('torch==' + torch.__version__)" > constraint.txt \
    && PIP_CONSTRAINT=constraint.txt pip install --no-cache-dir --editable ".[hub,wandb]" \
    && useradd --create-home --uid 10001 trainer \
    && mkdir -p output checkpoints data \
    && chown trainer output checkpoints data
USER 10001
CMD ["python", "-m", "megatron_train", "--help"]
