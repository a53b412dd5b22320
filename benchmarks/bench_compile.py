"""The benchmark in hrta_ext/benchmarks/bench_compile.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_compile import main

sys.exit(main())
