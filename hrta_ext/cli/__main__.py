"""``python -m hrta_ext.cli``: the command line where the script ``hrta`` is not on the path."""

import sys

from hrta_ext.cli import main

sys.exit(main())
