"""The benchmarks' own truth is right, and what they take apart is still there. No figure is tested."""
