"""`make bench`: what the forwarder carries, next to the vendor's CLI, on one server in one run."""
