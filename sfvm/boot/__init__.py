"""Booting bundles: to look at them, and to test them."""
