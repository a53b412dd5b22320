"""Users' tables: reading, scaling, the model made of one."""

from hrta_ext.tables.model import Regression
from hrta_ext.tables.reading import open_table
from hrta_ext.tables.scaling import ModelError
from hrta_ext.tables.table import Table, TableError

__all__ = ["ModelError", "Regression", "Table", "TableError", "open_table"]
