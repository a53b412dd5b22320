"""The benchmark in hrta_ext/benchmarks/bench_two_layer.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_two_layer import main

sys.exit(main())
