"""The disk around a node's filesystem: what a format asks for, partition tables and boot code as bytes, composition."""
