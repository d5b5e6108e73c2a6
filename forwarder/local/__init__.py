"""A local sandbox service: the vendor's API on loopback, running real processes.

A development and test tool. It executes the commands it is given on this machine, as the user that
started it, which is why it binds to loopback only and asks for a key.
"""
