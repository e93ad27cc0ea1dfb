"""What is in nodes and bundles: compared (``sfvm diff``), and told (``sfvm inspect``)."""
