"""Tables of images: CSV files, and the lists that CelebA hands out."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from datamodules.names import unique_keys
from datamodules.shards import DataError

NAME_COLUMNS = ("name", "image_id")  # ours, and that of CelebA's CSV files


def read_table(
    path: Path, name_column: str | None = None, columns: Iterable[str] | None = None
) -> pd.DataFrame:
    """Read a table as text, the images' names in its first column; cells that are missing as "".

    Args:
        path: a CSV file with a header; or as CelebA's list_attr_celeba.txt, whose first line is a
            count, whose header lacks the names, and whose cells are separated by spaces.
        name_column: of the names; by default the first of `NAME_COLUMNS` that there is.
        columns: the others to read; by default all.

    Raises:
        DataError: the file has no such column, or is no table.
        OSError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            count, header = file.readline().strip(), file.readline().split()
        if count.isdigit():
            options = {"sep": r"\s+", "skiprows": 2, "header": None, "names": ["name", *header]}
        else:
            options = {"skipinitialspace": True, "index_col": False}
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: no CSV table ({error})") from error
    found = list(table.columns)
    named = [name for name in NAME_COLUMNS if name in found] if name_column is None else []
    name_column = name_column or (named or NAME_COLUMNS)[0]
    wanted = [name_column, *(found if columns is None else columns)]
    for column in wanted:
        if column not in found:
            raise DataError(f"{path}: no column {column!r}; it has {found}")
    return table[list(dict.fromkeys(wanted))].fillna("")


def read_attributes(path: Path, name_column: str | None = None) -> pd.DataFrame:
    """Read a table of 0 / 1 attributes, indexed by the keys of images (`names.unique_keys`).

    Reads CelebA's -1 / 1 as 0 / 1.

    Raises ValueError: the file is missing, has no column of names (see `read_table`), or names an
    image twice.
    """
    try:
        table = read_table(path, name_column)
    except FileNotFoundError as error:
        raise ValueError(f"attributes: there is no file {path}") from error
    except (OSError, DataError) as error:
        raise ValueError(f"attributes: {error}") from error
    table = table[table.iloc[:, 0] != ""]
    names = table.iloc[:, 0]
    if names.duplicated().any():
        raise ValueError(f"attributes: {path} names {names[names.duplicated()].iloc[0]!r} twice")
    values = table.iloc[:, 1:].apply(_numbers).set_axis(names.map(unique_keys(names)))
    return values.replace(-1, 0)


def _numbers(column: "pd.Series[str]") -> "pd.Series[str]":
    """Read a column as numbers, if it holds nothing else."""
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column
