"""`python -m forwarder`: the command, also where its script is not on the path."""

from __future__ import annotations

from forwarder.cli import main

main()
