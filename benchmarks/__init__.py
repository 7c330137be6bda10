"""The demonstration and the benchmarks. They are not part of the installed package."""
