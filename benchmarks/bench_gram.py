"""The benchmark in hrta_ext/benchmarks/bench_gram.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_gram import main

sys.exit(main())
