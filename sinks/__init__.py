"""Where lines go: the sink interface, the built-in sinks and their pure encoders."""
