"""How the engine delivers to a sink: what a sink's settings ask of it."""

from __future__ import annotations

from dataclasses import dataclass

#: Retrying is for ever, unless somebody says how long.
FOR_EVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """When a window is closed; whichever comes first. The daemon's end closes it, too.

    Attributes:
        max_bytes: About so large should be what the sink makes of it (see `Window.made`).
        max_age_s: How long its first record waits at most.
        at_end: Whether the end of a stream closes it.
    """

    max_bytes: int = 64 << 20
    max_age_s: float = 300.0
    at_end: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """What batches are made of, and how they are sent.

    Attributes:
        max_records: The most records in one batch; None without a limit.
        max_bytes: About the most bytes in one, as the server sent them; None for the engine's own
            `spool.batch_bytes`. A single record may be larger.
        max_age_s: How long records wait for others, so that batches are not too small; 0 for not at
            all. Nothing waits while the daemon stops.
        in_flight: So many batches may be under way at once; then they may arrive out of order.
        timeout_s: A `write` that takes longer is cancelled and tried again, and so are `open` and
            `close`; None for no limit.
        fixed: What a batch consists of is made durable before it is first sent, so that it is the
            same batch also after a crash.
        give_up_after_s: After so long of failing, a batch is set aside as dead letters.
        window: The sink takes windows and not batches: it is a `sinks.window.WindowSink`. Then only
            `in_flight` and `timeout_s` count besides; what a window consists of is always made
            durable before it is first sent, and none of it ever becomes a dead letter.
        dead_letter_bytes: When dead letters take so much in the spool, the sink is held; what was
            under way then may still be added.
    """

    max_records: int | None = None
    max_bytes: int | None = None
    max_age_s: float = 0.0
    in_flight: int = 1
    timeout_s: float | None = None
    fixed: bool = False
    give_up_after_s: float = FOR_EVER_S
    window: WindowLimits | None = None
    dead_letter_bytes: int = 256 << 20
