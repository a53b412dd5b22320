"""The benchmark in hrta_ext/benchmarks/bench_physics.py, as a program."""

import sys

from hrta_ext.benchmarks.bench_physics import main

sys.exit(main())
