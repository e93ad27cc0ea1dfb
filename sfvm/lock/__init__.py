"""Locks: what a node and its ancestors have fetched, so that they can be built from the very same again."""
