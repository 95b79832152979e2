"""Measurements beside other libraries. `make bench` runs them all; each module also runs by itself."""
