"""The error for records that cannot be used."""


class UnusableError(ValueError):
    """A record cannot be used.

    The report counts such records by `reason`; `found` is the offending part of this record.
    """

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(reason)
        self.reason, self.found = reason, found[:200]


def unused_key(key: str) -> UnusableError:
    """Return the error to raise for a key that has a meaning but is not used."""
    return UnusableError(f"the key `{key}` is not used", f"remove it, or set `ignore: [{key}]` for the data set")
