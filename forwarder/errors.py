"""The errors that cross a layer. Each is named for what its catcher does next."""

from __future__ import annotations


class ForwarderError(Exception):
    """The base of every error that this program raises on purpose."""


class ConfigError(ForwarderError):
    """The configuration cannot be used. The message holds every problem, each with its place."""


class UsageError(ForwarderError):
    """A command was asked for something that cannot be done as asked (exit 2)."""


class SourceError(ForwarderError):
    """The sandbox API answered with an error, or did not answer.

    Attributes:
        code: The Connect code (`unavailable`, `not_found`, ...), or for an in-band error of a log
            stream its code (`REPLAY_GAP`, ...), or `connection` when there was no answer at all.
        reason: `google.rpc.ErrorInfo.reason`, empty when not given.
        retry_after_s: The server's wish (`google.rpc.RetryInfo`, Retry-After), if it has one.
    """

    def __init__(
        self, message: str, *, code: str, reason: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s


class SourceUnavailableError(SourceError):
    """Come back later: an outage, a cut connection, a timeout, or a code that nobody knows."""


class CredentialsRefusedError(SourceError):
    """`unauthenticated` or `permission_denied`: hold, say so loudly, try again slowly."""


class SandboxNotFoundError(SourceError):
    """The API does not know this sandbox."""


class SandboxNotRunningError(SourceError):
    """The sandbox has ended, is ending, or has not begun: no new stream can be opened now."""


class InvalidRequestError(SourceError):
    """The API refused the request itself: our mistake, never retried unchanged."""


class LogStreamError(SourceError):
    """An in-band error of a log stream; every one of them ends the stream. See `code`."""


class SpoolError(ForwarderError):
    """The spool cannot do what was asked."""


class SpoolUnavailableError(SpoolError):
    """No room, or another process holds the database. Nothing was stored; try the same again."""


class SpoolUntrustedError(SpoolError):
    """The spool cannot be trusted or written: the daemon must stop (exit 74)."""


class SpoolLockedError(SpoolError):
    """Another daemon holds `state_dir` (exit 75)."""
