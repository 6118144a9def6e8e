"""The store: a gallery's Lance table through LanceDB, on a local disk or an object storage.

Every change is one commit of Lance: it is there as a whole or not at all, even if the process is killed.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ivt.retrieval.models import ModelVersion

if TYPE_CHECKING:
    from lance import LanceDataset
    from lancedb import DBConnection
    from lancedb.table import Table

VECTOR_INDEX = "vector_idx"
INDEX = "IVF_RQ"  # kind of the index of large galleries
IDS_PER_CONDITION = 1000  # image ids that one SQL condition names


def any_of(column: str, values: Iterable[str]) -> str:
    """SQL condition that a text column has one of some values."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def _ids_by_fragment(dataset: "LanceDataset", image_ids: Sequence[str]) -> dict[int, list[str]]:
    """Tell which fragments hold some rows; a condition with the ids of all is slow on each fragment."""
    if not image_ids:
        return {}
    rows = dataset.to_table(columns=["image_id"], with_row_address=True)
    rows = rows.filter(pc.is_in(rows["image_id"], value_set=pa.array(image_ids)))
    found = defaultdict(list)
    for image_id, address in zip(rows["image_id"].to_pylist(), rows["_rowaddr"].to_pylist(), strict=True):
        found[address >> 32].append(image_id)  # the upper half of an address is the fragment
    return found


@dataclass(frozen=True)
class Store:
    """Where a gallery is stored, and how its table is written.

    Attributes:
        uri: path or URI, which ends in ".lance".
        storage_options: settings of the object storage, as pairs; by default the environment's.

    Raises:
        ValueError: if `uri` does not end in ".lance".
        ImportError: if LanceDB is not installed.
    """

    uri: str
    storage_options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        folder, name = os.path.split(self.uri)
        if not name.endswith(".lance") or name == ".lance":
            raise ValueError(f"gallery is {self.uri!r}, expected a path or URI that ends in .lance: people.lance")
        try:
            import lance  # noqa: F401
            import lancedb  # noqa: F401
        except ImportError as error:
            raise ImportError("galleries need LanceDB: pip install 'ivt-person-retrieval[search]'") from error

    def connect(self) -> "DBConnection":
        """Open the folder of the table; a local one is made if it is missing."""
        import lancedb

        return lancedb.connect(
            os.path.dirname(self.uri) or ".",
            storage_options=dict(self.storage_options) or None,
            read_consistency_interval=timedelta(0),  # a search sees what another process has just added
        )

    @property
    def name(self) -> str:
        """Name of the table in its folder."""
        return os.path.basename(self.uri).removesuffix(".lance")

    def open(self) -> "Table | None":
        """The table, or None if there is none yet."""
        if "://" not in self.uri and not os.path.isdir(self.uri):
            return None  # and make no folder
        try:
            return self.connect().open_table(self.name)
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise

    def create(self, schema: pa.Schema) -> "Table":
        """An empty table, unless another process has just made one."""
        return self.connect().create_table(self.name, schema=schema, exist_ok=True)

    def drop(self) -> None:
        """Delete the table, if there is one."""
        if self.open() is not None:
            self.connect().drop_table(self.name)

    def model_version(self, table: "Table") -> ModelVersion:
        """The model that made the vectors of a table.

        Raises:
            ValueError: if the table is no gallery.
        """
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        try:
            return ModelVersion(metadata["model_name"], metadata["model_revision"])
        except KeyError:
            raise ValueError(
                f"{self.uri} is a Lance table, but no gallery: it does not say which model made it"
            ) from None

    def dataset(self, version: int | None = None) -> "LanceDataset":
        """The table as Lance sees it, for what LanceDB does not offer."""
        import lance

        return lance.dataset(self.uri, version=version, storage_options=dict(self.storage_options) or None)

    def replace(self, other: "Store") -> None:
        """Commit all rows of another table, its schema and model in the place of those here."""
        dataset = other.dataset()
        reader = pa.RecordBatchReader.from_batches(dataset.schema, dataset.to_batches())
        self.connect().create_table(self.name, data=reader, schema=dataset.schema, mode="overwrite")

    def build_index(self, table: "Table") -> None:
        """Build an index of the kind `INDEX` for cosine search, in the place of what there is."""
        from lancedb.index import IvfRq

        table.create_index("vector", config=IvfRq(distance_type="cosine"), name=VECTOR_INDEX)

    def upsert(self, table: "Table", rows: pa.Table) -> None:
        """Commit rows; those whose `image_id` is in the table already take the place of the old ones."""
        table.merge_insert("image_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def write_fragments(self, rows: pa.Table) -> list[str]:
        """Write rows beside the table, not yet part of it, and return what `commit_fragments` takes."""
        from lance.fragment import write_fragments

        fragments = write_fragments(
            rows, self.uri, schema=rows.schema, mode="append", storage_options=dict(self.storage_options) or None
        )
        return [json.dumps(fragment.to_json()) for fragment in fragments]

    def commit_fragments(self, fragments: Sequence[str], replaced: Sequence[str]) -> None:
        """Make fragments part of the table and take the rows which they replace out, in one commit.

        Args:
            fragments: what `write_fragments` returned, on any machine.
            replaced: image ids whose present rows go.
        """
        import lance
        from lance.fragment import FragmentMetadata

        dataset = self.dataset()
        changed, removed = [], []
        for fragment_id, image_ids in _ids_by_fragment(dataset, replaced).items():
            fragment = dataset.get_fragment(fragment_id)
            assert fragment is not None  # the dataset has just named it
            rest = fragment.delete(any_of("image_id", image_ids))
            if rest is None:
                removed.append(fragment_id)
            else:
                changed.append(rest)
        operation = lance.LanceOperation.Update(
            removed_fragment_ids=removed,
            updated_fragments=changed,
            new_fragments=[FragmentMetadata.from_json(fragment) for fragment in fragments],
        )
        options = dict(self.storage_options) or None
        lance.LanceDataset.commit(self.uri, operation, read_version=dataset.version, storage_options=options)

    def delete(self, table: "Table", image_ids: Sequence[str]) -> None:
        """Take rows out, by their names."""
        for start in range(0, len(image_ids), IDS_PER_CONDITION):
            table.delete(any_of("image_id", image_ids[start : start + IDS_PER_CONDITION]))
