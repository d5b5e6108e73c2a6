"""The parts of the file sink: which bytes go where (pure), and how they get onto the disk."""
