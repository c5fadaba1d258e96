"""Models of full or small size with random weights, for the benchmarks."""
