"""The real flow as processes on real engines, held to the oracle."""
