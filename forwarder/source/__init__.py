"""The sandbox API: its clients, its bytes cut into lines, and the arithmetic of resuming."""
