"""The helper VM: its image, how it is started, and the guest as seen through it."""
