"""The spool: the truth. Frames, positions and cursors, committed together."""
