"""What an operator of an archive should hear of, though it is allowed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sinks.addresses import is_plaintext_remote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sinks.s3.keys import KeyTemplate
    from sinks.s3.settings import S3Settings

_SECONDS_PER_HOUR = 3600.0
#: One window a minute.
_MANY_WINDOWS_PER_HOUR = 60
#: Of these there are as many as there are sandboxes; of containers there are few names.
_OF_SANDBOXES = ("sandbox_id", "display_name")
#: Objects of these are restored for hours before anybody can read them.
_FROZEN = frozenset({"GLACIER", "DEEP_ARCHIVE"})


def advice(settings: S3Settings, template: KeyTemplate) -> Iterator[str]:
    """Warnings about these settings, whose key is this."""
    yield from _about_small_objects(settings, template)
    yield from _about_readers(settings, template)
    yield from _about_the_store(settings)


def _about_small_objects(settings: S3Settings, template: KeyTemplate) -> Iterator[str]:
    windows = _SECONDS_PER_HOUR / settings.window.max_age
    fields = template.template.fields
    spread = " and ".join(f"{{{name}}}" for name in _OF_SANDBOXES if name in fields)
    if spread:
        yield (
            f"the key has {spread}: each window makes an object of its own for every sandbox in it,"
            f" up to {windows:,.0f} an hour for one that keeps talking, and at least one for each"
            " that hardly says anything"
        )
    if windows > _MANY_WINDOWS_PER_HOUR:
        yield (
            f"window.max_age makes up to {2 * windows:,.0f} objects an hour, manifests among them,"
            " and they are small unless a lot comes; 5m makes 24"
        )
    if settings.window.at_end:
        yield (
            "window.at_end: every sandbox that ends may close the window for all, which makes two"
            " objects or more: up to 2,000 an hour when 1,000 end in one"
        )


def _about_readers(settings: S3Settings, template: KeyTemplate) -> Iterator[str]:
    fields = template.template.fields
    if "date" not in fields and fields.isdisjoint(_OF_SANDBOXES):
        yield "the key has no {date}: a query about one day has to look at every object"
    prefix, manifests = template.root, settings.recipe.manifests
    hidden = any(name.startswith(("_", ".")) for name in manifests.split("/"))
    if manifests.startswith(prefix) and not hidden:
        yield (
            f"manifests are among the objects, in {manifests}: most query engines would take them"
            " for data, unless a folder's name begins with an underscore"
        )
    if settings.storage_class in _FROZEN:
        yield (
            f"storage_class {settings.storage_class}: `archive cat` and `verify` cannot read such"
            " objects, nor manifests, before they are restored; a lifecycle rule can move objects"
            " there later, and leave the manifests"
        )


def _about_the_store(settings: S3Settings) -> Iterator[str]:
    endpoint = settings.store_endpoint
    if is_plaintext_remote(endpoint):
        yield "http://: anybody in between can read the lines"
    is_dotted = "." in settings.bucket and settings.store_addressing == "virtual"
    if is_dotted and urlsplit(endpoint).scheme == "https":
        yield (
            "the bucket's name has a dot: the certificates of most stores do not cover it as a part"
            ' of the host; "addressing: path" avoids that'
        )
