"""What is in an object."""
