"""The wiring: which source feeds which operator feeds which sink."""
