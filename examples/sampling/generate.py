"""Generate continuations of prompts with an exported folder, as a server renders them: with the folder's chat template.

report = sample(Path("my-model"), ["Why is the sky blue?"], CONFIGURATIONS, Options(seed=42))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from examples.sampling.report_file import Report, new_report
from pretokenizer.files.checksums import SHA256SUMS, sha256_file


@dataclass(frozen=True)
class Configuration:
    """One way to generate continuations, such as greedy decoding, by name."""

    name: str
    generate_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of transformers' `generate`."""


_COMMON = {"max_new_tokens": 400, "min_new_tokens": 1, "repetition_penalty": 1.2}
CONFIGURATIONS = (
    Configuration("greedy", {**_COMMON, "do_sample": False, "num_beams": 1}),
    Configuration("nucleus9", {**_COMMON, "do_sample": True, "temperature": 0.8, "top_p": 0.9}),
    Configuration("k50", {**_COMMON, "do_sample": True, "temperature": 1.0, "top_k": 50, "top_p": 0.95}),
)
"""The configurations of the published reports (`noprefix2`)."""


@dataclass(frozen=True)
class Options:
    """Settings of a sampling run. `seed`, `num_samples` and `batch_size` influence the texts."""

    seed: int = 42
    num_samples: int = 2
    """Number of continuations of each prompt in a configuration that samples. Greedy decoding gives one."""
    batch_size: int = 8
    """Number of prompts whose continuations are generated together."""
    progress_path: Path | None = None
    """File of the finished batches; an interrupted run resumes from it."""


def sample(folder: Path, prompts: Sequence[str], configurations: Sequence[Configuration], options: Options) -> Report:
    """Let the model in `folder` continue every prompt in every configuration, and return the sampling report.

    Raises ValueError for an empty list of prompts, and for a folder without a model or a chat template.
    """
    if not prompts:
        raise ValueError("the list of prompts is empty; give at least one")
    model, tokenizer = load(folder)
    batches = [
        (configuration, start)
        for configuration in configurations
        for start in range(0, len(prompts), options.batch_size)
    ]
    key = progress_key(folder, prompts, configurations, options)
    outputs = _finished(options.progress_path, key)
    for number, (configuration, start) in enumerate(tqdm(batches, desc="sampling", unit="batch", disable=None)):
        if number in outputs:
            continue
        texts = generate(model, tokenizer, prompts[start : start + options.batch_size], configuration, options, number)
        outputs[number] = texts
        _record(options.progress_path, key, number, texts)
    results: list[list[dict[str, Any]]] = [[] for _ in prompts]
    for number, (configuration, start) in enumerate(batches):
        for offset, texts in enumerate(outputs[number]):
            results[start + offset].append(
                {
                    "sampling_config": configuration.name,
                    "sampling_params": configuration.generate_args,
                    "outputs": texts,
                }
            )
    arguments = {
        "model_name": str(folder),
        "mode": "chat_template",
        "seed": options.seed,
        "n": len(prompts),
        "num_samples": options.num_samples,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "skip_special_tokens": False,
    }
    entries = [{"prompt": prompt, "results": found} for prompt, found in zip(prompts, results, strict=True)]
    return new_report(folder.name, arguments, entries)


def load(folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer of a folder in transformers, on GPUs that OASST_DEVICE allows, or in fp32 on the CPU.

    Raises ValueError when the folder has no model or no chat template.
    """
    import torch
    import transformers

    from megatron_train.parallel.device import uses_cuda

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: is no Hugging Face folder; export one with python -m checkpoint_convert to-hf")
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise ValueError(f"{folder}: the tokenizer has no chat template, so prompts cannot be rendered")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not uses_cuda():
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer
    if torch.cuda.device_count() > 1 and find_spec("accelerate"):  # one model over all GPUs
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map="auto")
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to("cuda")
    return model.eval(), tokenizer


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[str], configuration: Configuration, options: Options, number: int
) -> list[list[str]]:
    """Return the continuations of each prompt of a batch, each up to and including its end token.

    `number` is the batch's place in the run. It is added to the seed, so that a resumed run gives the same texts.
    """
    import torch

    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        for prompt in prompts
    ]
    inputs = tokenizer(rendered, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    inputs = inputs.to(model.device)
    count = options.num_samples if configuration.generate_args.get("do_sample") else 1
    torch.manual_seed(options.seed + number)
    with torch.no_grad():
        ids = model.generate(
            **inputs, **configuration.generate_args, num_return_sequences=count, pad_token_id=tokenizer.pad_token_id
        )
    ends = end_ids(model, tokenizer)
    texts = [tokenizer.decode(up_to_end(row, ends)) for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]
    return [texts[index * count : (index + 1) * count] for index in range(len(prompts))]


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Return the token ids at which generation stops: those of the generation config, else the tokenizer's EOS."""
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return set(ids) if isinstance(ids, list) else {ids}


def up_to_end(ids: Sequence[int], ends: set[int]) -> list[int]:
    """Return the ids up to and including the first id of `ends`, because padding follows it.

    >>> up_to_end([5, 6, 2, 0, 0], {2})
    [5, 6, 2]
    """
    for place, token_id in enumerate(ids):
        if token_id in ends:
            return list(ids[: place + 1])
    return list(ids)


def progress_key(
    folder: Path, prompts: Sequence[str], configurations: Sequence[Configuration], options: Options
) -> str:
    """Return the text that marks the batches of one run in the progress file.

    It differs between runs whose model, prompts, configurations or options can give other texts.
    """
    sums = folder / SHA256SUMS
    model = [str(folder.resolve()), sha256_file(sums) if sums.is_file() else ""]
    sizes = [options.seed, options.num_samples, options.batch_size]
    return json.dumps([model, list(prompts), [asdict(c) for c in configurations], sizes])


def _finished(path: Path | None, key: str) -> dict[int, list[list[str]]]:
    """Return {batch number: its continuations} for the batches that an interrupted run of the same settings finished.

    `path` is the progress file, or None without one. A last line that the interruption cut off is not counted.
    """
    found: dict[int, list[list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path and path.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["key"] == key:
            found[record["batch"]] = record["outputs"]
    return found


def _record(path: Path | None, key: str, number: int, outputs: list[list[str]]) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "batch": number, "outputs": outputs}) + "\n")
