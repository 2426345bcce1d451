"""Compose the first lines of a report: what the data is, which training settings suit it, and what looks wrong."""

from pretokenizer.figures.lengths import GLOBAL_BATCHES, LengthReport, SeqLength
from pretokenizer.figures.stats import DatasetStats, total_stats
from pretokenizer.reports.build_reports import BuildReports

MAX_CUT_SHARE = 0.01
"""Maximum share of documents that the recommended seq_length cuts."""
MIN_ITERATIONS = 30
"""Minimum number of iterations in an epoch at the recommended global batch size, if the data allows it."""


def verdict(reports: BuildReports) -> list[str]:
    """Return the first sentences of the report: the size of the data, and the recommended training settings.

    For a train split without documents, a single sentence says that nothing can be trained.
    """
    train = total_stats(reports.stats["train"])
    if not train.accepted:
        return ["Train has no document, so nothing can be trained on this data."]
    return [_size(reports, train), *_settings(train, reports.lengths["train"])]


def _size(reports: BuildReports, train: DatasetStats) -> str:
    val = total_stats(reports.stats.get("val", []))
    held_out = f"val has {val.accepted:,}" if val.accepted else "there is no val split"
    return (
        f"Train has {_count(train.accepted, 'document')} with {train.tokens:,} tokens, of which"
        f" {train.loss_tokens / train.tokens:.0%} get loss; {held_out}."
    )


def _settings(train: DatasetStats, lengths: LengthReport) -> list[str]:
    """Return sentences that recommend seq_length, global batch size and number of epochs."""
    row = recommended_length(lengths, train.accepted)
    num_cut = f"{row.documents_cut:,} of {train.accepted:,} documents are" if row.documents_cut else "no document is"
    rows_per_epoch = row.packed_rows
    batch = recommended_batch(rows_per_epoch)
    epochs = recommended_epochs(train.accepted)
    iterations = -(-rows_per_epoch * epochs // batch)
    return [
        f"Set `--seq_length {row.seq_length}`: {num_cut} cut.",
        f"With `--packing` an epoch has {_count(rows_per_epoch, 'row')}, {row.packed_share:.0%} full."
        f" `--global_batch_size {batch}` and {_count(epochs, 'epoch')} make `--train_iters {iterations}`."
        + (" This is little data: watch the loss on val and stop early." if train.accepted < 1000 else ""),
    ]


def recommended_length(lengths: LengthReport, num_documents: int) -> SeqLength:
    """Return the shortest seq_length that cuts at most MAX_CUT_SHARE of the documents, or the longest in `lengths`."""
    fitting = (row for row in lengths.seq_lengths if row.documents_cut <= MAX_CUT_SHARE * num_documents)
    return next(fitting, lengths.seq_lengths[-1])


def recommended_batch(rows_per_epoch: int) -> int:
    """Return the largest global batch size, a power of two up to 64, that leaves MIN_ITERATIONS iterations in an epoch.

    An epoch has `rows_per_epoch` packed rows. Return 1 if no size leaves so many iterations.

    >>> recommended_batch(10_000), recommended_batch(500), recommended_batch(20)
    (64, 16, 1)
    """
    fitting = (batch for batch in GLOBAL_BATCHES if batch <= 64 and rows_per_epoch // batch >= MIN_ITERATIONS)
    return max(fitting, default=1)


def recommended_epochs(num_documents: int) -> int:
    """Return a usual number of epochs for fine-tuning: 3 below 20,000 documents, 2 below 200,000, else 1."""
    return 3 if num_documents < 20_000 else 2 if num_documents < 200_000 else 1


def suspicions(reports: BuildReports) -> list[str]:
    """Return a sentence for each finding to check before training, such as many bad records or duplicates."""
    train, duplicates = total_stats(reports.stats["train"]), reports.duplicates
    found = []
    for counts in reports.records:
        lost = sum(counts.bad.values())
        if lost:
            found.append(f"{counts.name}: {lost:,} of {counts.records:,} records are bad.")
        reason, count = max(counts.left_out.items(), key=lambda item: item[1], default=("", 0))
        if count > 0.1 * counts.records and not reason.startswith("not drawn"):
            found.append(f"{counts.name}: {count / counts.records:.0%} of the records are left out: {reason}.")
    if train.tokens and not 0.05 <= train.loss_tokens / train.tokens <= 0.95:
        found.append(f"{train.loss_tokens / train.tokens:.1%} of the training tokens get loss.")
    if duplicates.train > 0.01 * train.accepted and not duplicates.removed:
        found.append(f"{duplicates.train:,} training documents are exact copies; `--dedup exact` removes them.")
    if duplicates.leaked and not duplicates.removed:
        found.append(f"{duplicates.leaked:,} validation documents are in train too; `--dedup exact` removes them.")
    if train.control_tokens_in_text:
        found.append(f"Messages spell {_count(train.control_tokens_in_text, 'control token')}; look at these records.")
    if train.straddling_tokens:
        found.append(
            f"{_count(train.straddling_tokens, 'token')} of train straddle{'s' * (train.straddling_tokens == 1)} the"
            " border of a reply: a part of the text is in the prompt, so the whole token gets no loss."
        )
    if "val" not in reports.stats:
        found.append("There is no validation data; `val_split: 0.05` sets some aside.")
    return found


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
