"""What guests download over HTTP, kept on the host: a caching proxy, and packages unpacked where that is cheap.

Nothing here is trusted and nothing has to be: package managers check the signatures and digests of what they get, from
wherever it came.
"""
