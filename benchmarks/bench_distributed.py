"""The benchmark in hrta_ext/benchmarks/bench_distributed.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_distributed import main

sys.exit(main())
