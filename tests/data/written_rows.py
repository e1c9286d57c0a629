"""Rows written in every format."""

import csv
import json

import pytest

ROWS = [{"problem": f"What is {n} + {n}?\nSay ü.", "answer": str(2 * n)} for n in range(5)]


def write(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow==19.0.0")
        from pyarrow.parquet import write_table

        write_table(arrow.Table.from_pylist(rows), path)
    elif path.name == "list.json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path
