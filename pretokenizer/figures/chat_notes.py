"""What the chat format did to the conversations, as warnings for the report."""

from collections import Counter


def chat_warnings(notes: Counter[str]) -> list[str]:
    """Return a sentence for each count that a user should know; `notes` has the names of encode/batch.py.

    >>> chat_warnings(Counter(messages_dropped=3))
    ['the chat template does not show 3 messages that have text, so they are in no document']
    """
    warnings = []
    if changed := notes["replies_changed"]:
        warnings.append(
            f"{changed:,} of {notes['replies_compared']:,} compared replies are not trained on as they are served,"
            " because the chat template rewrites earlier messages (it drops thoughts, for example); `--history unroll`"
            " writes each reply after the prompt that is served"
        )
    if dropped := notes["messages_dropped"]:
        warnings.append(
            f"the chat template does not show {dropped:,} messages that have text, so they are in no document"
        )
    return warnings
