"""What ``hrta bench`` runs, and what it makes of the results: ``bench_*`` are programs, the others what they share."""
