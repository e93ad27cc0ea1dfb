"""The verbs of formats, one file each: what a disk must be, what a guest must have, and what is made of them."""
