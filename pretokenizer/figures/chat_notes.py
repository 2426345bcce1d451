"""Warn in the report if the chat template drops messages or changes replies."""

from collections import Counter


def chat_warnings(notes: Counter[str]) -> list[str]:
    """Return warnings about replies that differ from those served or were not compared, and about dropped messages.

    `notes` maps names in NOTES (encode/batch.py), such as `messages_dropped`, to their counts over the whole build.

    >>> chat_warnings(Counter(messages_dropped=3))
    ['the chat template omits 3 messages that have text, so no document contains them']
    """
    warnings = []
    skipped = notes["replies_skipped"]
    if changed := notes["replies_changed"]:
        warnings.append(
            f"{changed:,} of {notes['replies_compared']:,} compared replies differ from what the model sees and writes "
            "when it is served, because the chat template rewrites earlier messages (for example, it drops thoughts); "
            "`--history unroll` writes each reply after the prompt that is served"
            + (f"; {skipped:,} further replies of long conversations were not compared" if skipped else "")
        )
    elif skipped:
        warnings.append(
            f"all {notes['replies_compared']:,} compared replies are as the model sees and writes them when it is "
            f"served; {skipped:,} further replies of long conversations were not compared"
        )
    if dropped := notes["messages_dropped"]:
        warnings.append(f"the chat template omits {dropped:,} messages that have text, so no document contains them")
    return warnings
