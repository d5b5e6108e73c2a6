"""What the daemon tells about itself: health, metrics, status, and word to the service manager."""
