"""How fast the flow is, against what one would use instead. `make bench`; README.md says what is fair."""
