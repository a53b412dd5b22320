"""The benchmark in hrta_ext/benchmarks/bench_distributed.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_distributed import main

if __name__ == "__main__":  # ranks are processes that import this file
    sys.exit(main())
