"""Write the gzip files the model cards name as `input_file_path`, as copies of the sample Open-Assistant trees.

Each card reads its own export of the same conversations; here every one of them is `data/oasst_trees.jsonl`,
compressed. `2023-07-23_oasst_ready.tar.gz` is, like the original, plain gzip JSON Lines despite its name. The gzip
headers carry no time and no file name, so one zlib version writes the same bytes on every run.

Run it after each change of `oasst_trees.jsonl`, from any folder: python examples/make_oasst_copies.py
"""

import gzip
import io
import sys
from pathlib import Path

DATA_DIR = Path(__file__).parent / "data"
SOURCE_NAME = "oasst_trees.jsonl"
COPY_NAMES = (
    "2023-07-23_oasst_ready.tar.gz",  # llama2-70b-oasst-sft-v10
    "2023-06-02_oasst_all_labels.jsonl.gz",  # falcon-7b-sft-top1-696
    "2023-04-12_oasst_release_ready_synth.jsonl.gz",  # redpajama-3b-chat, stablelm-7b-sft-v7-epoch-3
    "2023-03-25_oasst_research_ready_synth_labels.jsonl.gz",  # oasst-sft-4-pythia-12b-epoch-3.5
)


def compress(content: bytes) -> bytes:
    """Return `content` compressed with gzip, without time stamp and file name, so that the bytes repeat."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(content)
    return buffer.getvalue()


def write_copies(data_dir: Path) -> list[Path]:
    """Write a compressed copy of oasst_trees.jsonl in `data_dir` under each of COPY_NAMES, and return their paths.

    Each copy appears complete or not at all. Raises OSError.
    """
    compressed = compress((data_dir / SOURCE_NAME).read_bytes())
    copies = [data_dir / name for name in COPY_NAMES]
    for copy in copies:
        partial = copy.with_name(copy.name + ".partial")
        partial.write_bytes(compressed)
        partial.replace(copy)
    return copies


def main() -> int:
    try:
        copies = write_copies(DATA_DIR)
    except OSError as error:
        print(f"error: cannot copy the sample trees: {error}", file=sys.stderr)
        return 1
    for copy in copies:
        print(f"{copy.name}  {copy.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
