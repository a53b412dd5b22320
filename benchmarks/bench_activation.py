"""The benchmark in hrta_ext/benchmarks/bench_activation.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_activation import main

sys.exit(main())
