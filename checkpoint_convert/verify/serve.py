"""Report the stop ids, chat template and prompt ids that each serving program takes from an exported folder.

    outcome = serve(Path("HF_DIR"), Path("CKPT_DIR/iter_0000500"));  print("\\n".join(outcome.lines()))

A model that was trained to end its turns is only useful if the server stops there and shows it the prompts that it was
trained on. The programs take both from different files:

* transformers: `generate` stops at eos_token_id of generation_config.json, or of config.json without that file
  (GenerationConfig.from_pretrained). apply_chat_template adds no BOS.
* vLLM: the tokenizer's EOS, and eos_token_id of generation_config.json (SamplingParams.update_from_generation_config).
  The chat endpoint tokenizes the rendered text with add_special_tokens=False.
* TGI: a list of eos_token_id in generation_config.json, else the tokenizer's EOS (FlashCausalLM). The router reads the
  template of tokenizer_config.json (HubTokenizerConfig) and adds no BOS to it.
* llama.cpp: eos_token of tokenizer_config.json, else an integer eos_token_id of config.json (gguf.SpecialVocab), and
  tokens with well-known names (llama-vocab.cpp, special_eog_ids). The chat endpoint puts BOS in front of the rendered
  text if add_bos_token says so, by default for SentencePiece.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from checkpoint_convert.huggingface.generation import generation_settings, stops_of
from checkpoint_convert.huggingface.source_files import TOKENIZER_CONFIG, templates_in
from checkpoint_convert.huggingface.tokenizer_files import TokenizerExport, checkpoint_tokenizer
from checkpoint_convert.verify.chat import conversation_for, messages_of
from checkpoint_convert.verify.logits import quiet_transformers
from megatron_train.checkpoint.folder import TOKENIZER_DIR
from pretokenizer.chat.formats import TEMPLATE_NAME
from pretokenizer.files.limits import bounded
from pretokenizer.files.publish import read_json

LLAMA_CPP_STOPS = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "<|end_of_text|>",
    "<end_of_utterance>",
}
"""Tokens at which llama.cpp stops because of their names."""
MAX_NEW_TOKENS = 64
SHOWN_CHARACTERS = 80
QUESTION = "Why is the sky blue?"


@dataclass(frozen=True)
class Server:
    """The stop ids, chat template and prompt ids that one serving program takes from a folder."""

    name: str
    stop_ids: list[int]
    template: str
    """Name of the file that holds the chat template, or an empty string without one."""
    prompt_ids: list[int]
    """Token ids that the program gives to the test conversation, or an empty list without a template."""

    def problems(self, end_of_turn: int, expected: list[int]) -> list[str]:
        """Return differences from training as lines of text, or [] if there are none.

        They are a missing stop at the id `end_of_turn`, a missing chat template, and prompt ids that differ from the
        `expected` ids of the test conversation.
        """
        found = []
        if end_of_turn not in self.stop_ids:
            found.append(f"{self.name} does not stop at {end_of_turn}, where a turn ends, but at {self.stop_ids}")
        if not self.template:
            found.append(f"{self.name} finds no chat template")
        elif self.prompt_ids != expected:
            first = next((i for i, (a, b) in enumerate(zip(self.prompt_ids, expected, strict=False)) if a != b), 0)
            found.append(f"{self.name} sees other ids than the pretokenizer writes, from token {first} on")
        return found

    def describe(self) -> str:
        """Return stop ids, template and number of prompt ids as one line of text."""
        where = f"template of {self.template}, {len(self.prompt_ids)} ids" if self.template else "no chat template"
        return f"{self.name} stops at {', '.join(map(str, self.stop_ids)) or 'nothing'}, {where}"


@dataclass(frozen=True)
class ServeOutcome:
    """The result of serve: one Server for each program, a generated reply, and all problems."""

    servers: list[Server]
    reply: str
    problems: list[str]

    def lines(self) -> list[str]:
        """Return the result as lines of text to print."""
        return [
            *(f"serve: {server.describe()}" for server in self.servers),
            *([f"serve: {self.reply}"] if self.reply else []),
            *(f"serve: WRONG: {problem}" for problem in self.problems),
        ]


def serve(hf_dir: Path, checkpoint: Path) -> ServeOutcome:
    """Check that each serving program would stop the model at the end of a turn and give it prompts as in training.

    The programs are not run: their rules are applied to the files of the folder. transformers also generates a reply. A
    checkpoint without a tokenizer is a problem. Without a chat format, only the servers are described. Raises
    ConvertError or TokenizerError naming a file that cannot be used.
    """
    folder = checkpoint / TOKENIZER_DIR
    if not folder.is_dir():
        return ServeOutcome([], "", [f"{checkpoint} has no {TOKENIZER_DIR}/ folder"])
    export = checkpoint_tokenizer(folder)
    with quiet_transformers() as transformers:
        loaded = transformers.AutoTokenizer.from_pretrained(hf_dir, local_files_only=True, trust_remote_code=False)
        conversation = conversation_for(export.chat_format)
        servers = describe_servers(hf_dir, export, loaded, messages_of(conversation))
        end_of_turn = export.special_ids().end_of_turn
        if export.chat_format is None:
            return ServeOutcome(servers, "", [])
        if export.is_source:
            expected = servers[0].prompt_ids
        else:
            expected = export.tokenizer.encode(export.chat_format.render(conversation).text)
        reply = generate(transformers, loaded, hf_dir, end_of_turn)
    return ServeOutcome(servers, reply, [p for server in servers for p in server.problems(end_of_turn, expected)])


def describe_servers(
    hf_dir: Path, export: TokenizerExport, loaded: Any, messages: list[dict[str, str]]
) -> list[Server]:
    """Return the stop ids, chat template and prompt ids of each serving program. The module's docstring has the rules.

    `loaded` is the folder's tokenizer in transformers, `export` the checkpoint's, and `messages` the test conversation.
    """
    settings = read_json(hf_dir / TOKENIZER_CONFIG) if (hf_dir / TOKENIZER_CONFIG).is_file() else {}
    config = read_json(hf_dir / "config.json")
    stops = stops_of(generation_settings(hf_dir, config))
    own = [] if loaded.eos_token_id is None else [loaded.eos_token_id]
    template = template_file(hf_dir, settings)
    rendered = render(loaded, messages, templates_in(hf_dir).get("default"))
    plain = loaded(rendered, add_special_tokens=False)["input_ids"] if rendered else []
    in_config = template_of_config(settings)
    routed = render(loaded, messages, in_config)
    router_ids = loaded(routed, add_special_tokens=False)["input_ids"] if routed else []
    return [
        Server("transformers", stops, template, applied_ids(loaded, messages, template)),
        Server("vLLM", list(dict.fromkeys([*own, *stops])), template, plain),
        Server("TGI", stops if len(stops) > 1 else own, TOKENIZER_CONFIG if in_config else "", router_ids),
        llama_cpp(hf_dir, export, settings, config, plain),
    ]


def llama_cpp(
    hf_dir: Path, export: TokenizerExport, settings: Mapping[str, Any], config: Mapping[str, Any], plain: list[int]
) -> Server:
    """Return the stop ids, chat template and prompt ids that llama.cpp takes from a GGUF file of the folder.

    `plain` has the prompt ids without BOS. If the package `gguf` is installed, it reads the special tokens.
    """
    tokenizer = export.tokenizer
    special = {name: _id_of(tokenizer, settings.get(f"{name}_token")) for name in ("bos", "eos")}
    special = {
        name: config.get(f"{name}_token_id") if token_id is None else token_id for name, token_id in special.items()
    }
    adds_bos = settings.get("add_bos_token", tokenizer.kind == "sentencepiece")
    name = "llama.cpp"
    if importlib.util.find_spec("gguf"):
        import gguf

        vocabulary = gguf.SpecialVocab(hf_dir, n_vocab=tokenizer.vocab_size)
        special |= {name: vocabulary.special_token_ids.get(name) for name in special}
        adds_bos = vocabulary.add_special_token.get("bos", adds_bos)
        name = "llama.cpp (gguf)"
    known = (i for i, token in enumerate(tokenizer.tokens) if token in LLAMA_CPP_STOPS)
    stops = sorted({*known, *(i for i in (special["eos"],) if isinstance(i, int))})
    bos = special["bos"]
    ids = [bos, *plain] if adds_bos and isinstance(bos, int) and plain else plain
    return Server(name, stops, template_file(hf_dir, settings), ids)


def template_file(hf_dir: Path, settings: Mapping[str, Any]) -> str:
    """Return the name of the file that holds the folder's default chat template, or an empty string."""
    if (hf_dir / TEMPLATE_NAME).is_file():
        return TEMPLATE_NAME
    return TOKENIZER_CONFIG if template_of_config(settings) else ""


def template_of_config(settings: Mapping[str, Any]) -> str | None:
    """Return the default chat template in tokenizer_config.json (`settings`), or None."""
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def render(loaded: Any, messages: list[dict[str, str]], template: str | None) -> str:
    """Return the text of a conversation under a chat template, or an empty string when `template` is None.

    `loaded` is a tokenizer of transformers.
    """
    if template is None:
        return ""
    with bounded("the chat template"):
        return str(loaded.apply_chat_template(messages, chat_template=template, tokenize=False))


def applied_ids(loaded: Any, messages: list[dict[str, str]], template: str) -> list[int]:
    """Return the ids that apply_chat_template of the tokenizer `loaded` gives to a conversation.

    Return an empty list when `template`, the name of the template's file, is empty.
    """
    if not template:
        return []
    with bounded("the chat template"):
        return list(loaded.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])


@torch.no_grad()
def generate(transformers: Any, loaded: Any, hf_dir: Path, end_of_turn: int) -> str:
    """Generate a reply from the folder with greedy decoding, and return as one line how it ended."""
    model = transformers.AutoModelForCausalLM.from_pretrained(hf_dir, local_files_only=True).eval()
    question = [{"role": "user", "content": QUESTION}]
    with bounded("the chat template"):
        inputs = loaded.apply_chat_template(
            question, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    size = inputs["input_ids"].shape[1]
    positions = getattr(model.config, "max_position_embeddings", size + MAX_NEW_TOKENS)
    room = min(MAX_NEW_TOKENS, positions - size)
    if room <= 0:
        return f"no reply generated: the prompt takes {size} of {positions} positions"
    found = model.generate(**inputs, do_sample=False, max_new_tokens=room)[0, size:].tolist()
    shown = json.dumps(loaded.decode(found, skip_special_tokens=True)[:SHOWN_CHARACTERS], ensure_ascii=False)
    if found and found[-1] == end_of_turn:
        return f"transformers stopped at the end of the turn, after {len(found)} tokens: {shown}"
    return f"transformers reached no end of turn in {len(found)} tokens, as untrained models do: {shown}"


def _id_of(tokenizer: Any, token: Any) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    found: int | None = tokenizer.token_to_id(content) if isinstance(content, str) else None
    return found
