from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.model import DeadLetter, FrameKind
from forwarder.spool.interface import Delivery
from forwarder.window import Settled, Window


def settled(number: int) -> Settled:
    """What tells one batch from another."""
    return Settled({f"key {number}": b"x", "latest": b"%d" % number}, Delivery(2**number))


@given(data=st.data(), pieces=st.lists(st.booleans(), min_size=1, max_size=25))
@settings(max_examples=150, deadline=None)
def test_in_any_order_the_cursor_moves_forward_only_past_what_is_settled_and_counts_it_once(
    data: st.DataObject, pieces: list[bool]
) -> None:
    through = [0 if piece else 10 + at for at, piece in enumerate(pieces[:-1])] + [99]
    window = Window()
    begun = 0
    open_ones: list[int] = []
    done: set[int] = set()
    cursor, total = 0, Settled()
    while begun < len(through) or open_ones:
        if begun < len(through) and (not open_ones or data.draw(st.booleans())):
            assert window.begin(through[begun]) == begun
            open_ones.append(begun)
            begun += 1
            continue
        number = open_ones.pop(data.draw(st.integers(0, len(open_ones) - 1)))
        done.add(number)
        move = window.settle(number, settled(number))
        assert window.lowest == min(open_ones, default=begun)
        if move is not None:
            assert move.through_id > cursor
            cursor = move.through_id
            total.add(move.settled)
        passed = through.index(cursor) + 1 if cursor else 0
        assert set(range(passed)) <= done
        # As far as it may: behind it the next place to stand has something unsettled before it.
        further = [at for at in range(passed, begun) if through[at]]
        assert not further or not set(range(further[0] + 1)) <= done
        assert total.delivery.delivered == 2**passed - 1
    assert cursor == 99
    assert total.changes["latest"] == b"%d" % (len(through) - 1), "the latest batch's, in order"
    assert len(total.changes) == len(through) + 1


def test_dead_letters_that_wait_for_a_batch_before_them_are_known() -> None:
    letter = DeadLetter(1, FrameKind.LINES, 0, 1, 5, 7, b"line\n", "400", "poison", 9)
    window = Window()
    first, second = window.begin(1), window.begin(2)
    assert window.settle(second, Settled(letters=[letter])) is None
    assert window.letter_bytes == letter.size_bytes
    move = window.settle(first, Settled())
    assert move is not None
    assert move.settled.letters == [letter]
    assert window.letter_bytes == 0
