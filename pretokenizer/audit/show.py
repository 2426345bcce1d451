"""Print the loss audit: a table of the tokens with loss under each rule, and conversations in which the rules disagree.

python -m pretokenizer audit --configs oasst_top1 llama2 --num 20
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from pretokenizer.audit.loss_rules import RULES, Audited, LossAudit
from pretokenizer.chat.conversation import Conversation
from pretokenizer.chat.formats import ChatFormatError
from pretokenizer.config.settings import PretokenizeConfig, RunOptions
from pretokenizer.records.file_names import stem_of
from pretokenizer.records.json_text import RecordError
from pretokenizer.records.reader import read_records
from pretokenizer.reports.render import escape_controls
from pretokenizer.sources.source import InputRecord, Source, wrong_text
from pretokenizer.tasks.context import BuildContext
from pretokenizer.tasks.plan import make_plan

MAX_SHOWN = 5
"""Maximum number of conversations that the audit prints in full."""
_NAMES = {
    "build": "this build",
    "marks": "{% generation %} marks",
    "trl": "TRL, assistant_only_loss",
    "prefix": "after the served prompt",
}


def audit(config: PretokenizeConfig, num: int, plain: bool) -> Iterator[str]:
    """Yield the lines of the loss audit for a sample of `num` conversations.

    The first lines are the table of all rules. The next ones show conversations in which rules disagree. Raises the
    errors of a build for bad configurations and missing files, and RecordError when no conversation can be rendered.
    """
    context = BuildContext.load(make_plan(config), RunOptions(), config.output_folder)
    rules = LossAudit(context)
    found, refused = [], 0
    for conversation in sample(context, num):
        try:
            found.append(rules.audit(conversation))
        except ChatFormatError:
            refused += 1
    if not found:
        raise RecordError("no conversation could be rendered; `build` reports the reasons")
    yield from summary(found)
    if refused:
        yield f"{refused} more conversations cannot be expressed in chat format {context.chat_format.name}."
    differing = [audited for audited in found if audited.differs]
    yield ""
    if not differing:
        yield "All rules agree on every token. The first conversation (loss is " + _legend(plain) + "):"
    else:
        yield f"The rules disagree in {len(differing)} of {len(found)} conversations (loss is {_legend(plain)}):"
    for audited in (differing or found[:1])[:MAX_SHOWN]:
        yield ""
        yield render(audited, plain)


def sample(context: BuildContext, num: int) -> Iterator[Conversation]:
    """Yield `num` conversations of the train files: the first one of each data set, then the second of each, and so on.

    There are fewer if the data sets hold fewer.
    """
    rng = random.Random(context.config.rng_seed)
    datasets = zip(context.plan.sources, context.plan.datasets, strict=True)
    streams = [_conversations(source, files.train, rng) for source, files in datasets]
    yield from islice(_in_turn(streams), num)


def _in_turn(streams: Sequence[Iterator[Conversation]]) -> Iterator[Conversation]:
    """Yield one conversation of each stream in turn, until all streams are at their end."""
    left = list(streams)
    while left:
        for stream in list(left):
            conversation = next(stream, None)
            if conversation is None:
                left.remove(stream)
            else:
                yield conversation


def _conversations(source: Source, paths: Sequence[Path], rng: random.Random) -> Iterator[Conversation]:
    """Yield the conversations of one data set in the order of its files. Bad records are skipped."""
    records = (
        InputRecord(number, row, stem_of(path), record)
        for number, path in enumerate(paths)
        for row, record in read_records(path, lambda row, place, reason: None)
    )
    for _, converted in source.convert_all(records, rng):
        if isinstance(converted, list) and not wrong_text(converted):
            yield from converted


def summary(found: list[Audited]) -> Iterator[str]:
    """Yield the lines of a table with one row for each rule, and the remarks below it.

    A row has the number of conversations for which the rule gives a result, and three numbers of tokens: those that get
    loss under the rule, those that get loss under the rule but not in the build, and the reverse. The remarks count the
    tokens that straddle the border of a reply, and say why a rule gives no result.
    """
    total = sum(len(audited.pieces) for audited in found)
    yield f"{len(found)} conversations, {total:,} tokens"
    yield ""
    yield f"{'rule':26} {'conversations':>13} {'with loss':>10} {'more than build':>16} {'less than build':>16}"
    for rule in RULES:
        having = [audited for audited in found if rule in audited.masks]
        loss = sum(int(audited.masks[rule].sum()) for audited in having)
        more = sum(int((audited.masks[rule] & ~audited.masks["build"]).sum()) for audited in having)
        less = sum(int((audited.masks["build"] & ~audited.masks[rule]).sum()) for audited in having)
        numbers = (f"{len(having):>13,} {loss:>10,}", f"{more:>16,} {less:>16,}") if having else (f"{0:>13}", "")
        yield f"{_NAMES[rule]:26} {' '.join(numbers)}".rstrip()
    reasons = Counter((rule, reason) for audited in found for rule, reason in audited.problems.items())
    if straddling := sum(audited.straddling for audited in found):
        yield f"{straddling:,} of the tokens straddle the border of a reply and get no loss in this build."
    for (rule, reason), count in reasons.items():
        yield f"{_NAMES[rule]}: no answer for {count} conversations: {reason}"


def _legend(plain: bool) -> str:
    return "marked *, disagreement names the rules" if plain else "green, disagreement is red and names the rules"


def render(audited: Audited, plain: bool) -> str:
    """Return the text of a conversation in which each run of tokens shows the rules that give it loss.

    Brackets mark the runs if `plain` is set, and terminal colours otherwise.
    """
    names = list(audited.masks)
    columns = np.stack([audited.masks[name] for name in names], axis=1).tolist()
    shown = []
    for flags, run in groupby(zip(columns, audited.pieces, strict=True), key=lambda item: tuple(item[0])):
        text = escape_controls("".join(piece for _, piece in run))
        rules = "+".join(name for name, flag in zip(names, flags, strict=True) if flag)
        if not any(flags):
            shown.append(text)
        elif all(flags):
            shown.append(f"[*{text}]" if plain else _coloured(text, "32;4"))
        else:
            shown.append(f"[{rules}: {text}]" if plain else _coloured(f"[{rules}: {text}]", "31;1"))
    return "".join(shown)


def _coloured(text: str, code: str) -> str:
    return "\n".join(f"\033[{code}m{line}\033[0m" if line else "" for line in text.split("\n"))
