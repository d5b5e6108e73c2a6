"""The engine: a line's way from the sandbox API to the sinks."""
