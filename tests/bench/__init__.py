"""The bench: ratios within one run, never a test. ``./bootstrap nox -s bench [-- --only NAME,…]``."""
