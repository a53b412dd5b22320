"""The paper's experiments, one file each, importable; nothing here knows of the command line."""
