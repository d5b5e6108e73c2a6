"""Continuous archiving to S3 and compatible stores."""
