"""Detect the kind of a data file, such as gzip or parquet, by its first bytes, and CSV and TSV by the suffix."""

from pretokenizer.records.json_text import BYTE_ORDER_MARK, RecordError, starts_list

HEAD_BYTES = 512
"""Number of bytes at the start of a file that `kind_of` needs."""
COMPRESSED = {"gzip": ".gz", "zstd": ".zst", "xz": ".xz", "bz2": ".bz2"}
"""Kind of compression -> suffix of file names."""
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""Second to fourth byte of a skippable zstd frame, whose first byte is 0x50 to 0x5f."""
_PICKLE = "a Python pickle, which is not read because it can run code; save the records as JSON lines"
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer instead of the file; run `git lfs pull` in its repository",
    **dict.fromkeys((b"<!doctype html", b"<html"), "an HTML page, so the download failed; download the file again"),
    b"PK\x03\x04": "a zip archive or an Excel sheet; unpack it, or save the sheet as CSV",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x04\x22\x4d\x18": "an LZ4 file; decompress it",
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), _PICKLE),
    b"\x89HDF": "an HDF5 file; save the records as JSON lines",
    b"SQLite format 3": "an SQLite database; save the records as JSON lines",
    b"Obj\x01": "an Avro file; save the records as JSON lines or parquet",
    b"%PDF": "a PDF document",
    **dict.fromkeys((b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "UTF-32 text; save it as UTF-8"),
}


def kind_of(head: bytes, name: str) -> str:
    """Return the kind of a file: gzip, zstd, xz, bz2, tar, parquet, arrow, utf-16, csv, tsv, list, object or lines.

    `head` holds the file's first HEAD_BYTES bytes. The last three kinds are JSON. `list` is text that begins with `[`.
    `object` is text in a `.json` file that begins with `{`: one object, or JSON lines. `lines` is any other text.
    Raises RecordError for a kind that is known not to hold records.
    """
    for magic, description in _FOREIGN.items():
        if head.startswith(magic) or (magic.startswith(b"<") and head.lower().startswith(magic)):
            raise RecordError(f"{name}: {description}")
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[:1] in b"PQRSTUVWXYZ[\\]^_" and head[1:4] == _ZSTD_SKIPPABLE:
        return "zstd"
    if head.startswith(b"BZh") and head[3:4].isdigit():
        return "bz2"
    if head[257:262] == b"ustar":
        return "tar"
    if head[:1] == b"\0" != head[1:2] or head[:1] != b"\0" == head[1:2]:
        return "utf-16"
    suffix = name.lower().rpartition(".")[2]
    if suffix in ("csv", "tsv"):
        return suffix
    if starts_list(head):
        return "list"
    is_object = suffix == "json" and head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"{"
    return "object" if is_object else "lines"
