"""The version: pyproject.toml, CITATION.cff's test and every file that is written take it from here."""

__version__ = "0.2.0"
