"""Reads the catalog file that the settings name."""

from __future__ import annotations

from pathlib import Path

from schemas.catalog import Catalog, load_catalog


def read_catalog(path: Path) -> Catalog:
    """The catalog in a file.

    :raises schemas.catalog.CatalogError: with every problem and its path.
    :raises OSError: if the file can't be read.
    """
    return load_catalog(path.read_bytes())
