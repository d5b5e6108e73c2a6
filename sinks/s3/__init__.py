"""Continuous archiving to S3 and compatible stores."""

from sinks.s3.settings import S3Settings
from sinks.s3.sink import S3Sink

__all__ = ["S3Settings", "S3Sink"]
