"""Write the selected documents of a split: shards of token ids and role ids, origins, and texts as JSON lines."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pretokenizer.files.origin import origin_path
from pretokenizer.files.shard import ShardWriter, optimal_dtype
from pretokenizer.selection.select_documents import Selected
from pretokenizer.selection.token_store import TokenStore, batches

ROLE_VOCABULARY = 16
"""Number of role ids that Open-Assistant reserves. It makes the elements of the role shards uint16."""
BATCH_ORIGINS = 1 << 18
"""Number of documents whose origins are written at a time."""


def write_shards(prefix: Path, chosen: list[Selected], store: TokenStore, write_json: bool) -> list[Path]:
    """Write the documents of a split: `prefix-{text,role}.{bin,idx}`, `prefix_origin.npy`, and perhaps `prefix.jsonl`.

    `chosen` holds the selected documents of each data set. The texts (.jsonl) are written with `write_json`. Return the
    paths of the two .bin files, which are the large ones, so that the caller can start to hash them.
    """
    role_dtype = optimal_dtype(ROLE_VOCABULARY)
    total = sum(int(selected.table.sizes[selected.documents].sum()) for selected in chosen)
    with ExitStack() as stack:
        text_writer = stack.enter_context(ShardWriter(f"{prefix}-text", store.dtype))
        role_writer = stack.enter_context(ShardWriter(f"{prefix}-role", role_dtype))
        json_file = stack.enter_context(prefix.with_name(prefix.name + ".jsonl").open("wb")) if write_json else None
        progress = stack.enter_context(
            tqdm(total=total, desc=f"write {prefix.name}", unit="tok", unit_scale=True, disable=None)
        )
        for selected in chosen:
            table = selected.table
            for documents in batches(selected.documents, table.sizes):
                sizes = table.sizes[documents]
                text_writer.add_batch(store.gather(table, documents), sizes)
                role_writer.add_batch(store.gather_roles(table, documents, role_dtype), sizes)
                if json_file is not None:
                    json_file.write(store.gather_texts(table, documents))
                progress.update(int(sizes.sum()))
    _write_origins(origin_path(prefix), chosen)
    return [prefix.with_name(f"{prefix.name}-{kind}.bin") for kind in ("text", "role")]


def _write_origins(path: Path, chosen: list[Selected]) -> None:
    """Write the origins of N documents to a .npy file, as an int64 array (N, 3).

    Each row holds the index of the document's data set, of its file in the data set, and of its record in the file.
    """
    shape = (sum(selected.documents.size for selected in chosen), 3)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
        for selected in chosen:
            for start in range(0, selected.documents.size, BATCH_ORIGINS):
                documents = selected.documents[start : start + BATCH_ORIGINS]
                origins = np.empty((documents.size, 3), dtype="<i8")
                origins[:, 0] = selected.dataset
                origins[:, 1:] = selected.table.origins_of(documents)
                file.write(origins.tobytes())
