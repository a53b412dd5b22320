"""The benchmark in hrta_ext/benchmarks/bench_training.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_training import main

sys.exit(main())
