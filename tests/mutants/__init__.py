"""Seeded bugs: each is a promise broken on purpose, and names the test that must notice."""
