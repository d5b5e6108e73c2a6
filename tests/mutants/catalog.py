"""The seeded bugs. Each is one that others have shipped, or that we nearly did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of the code, and the test that must fail because of it.

    Attributes:
        name: What the bug does, in words.
        file: Where it is.
        code: The code as it is, found there exactly once.
        bug: What it becomes.
        test: The test that notices.
    """

    name: str
    file: str
    code: str
    bug: str
    test: str


RESUME = "tests/property/test_resume.py::test_every_line_is_taken_exactly_once_whatever_breaks"
GAPS = (
    "tests/property/test_resume.py"
    "::test_what_the_server_dropped_is_inside_declared_gaps_and_nothing_else_is"
)
SINK_CRASHES = "tests/unit/sinks/test_file_sink_crashes.py"

MUTANTS: tuple[Mutant, ...] = (
    # The source: reading, resuming, the end --------------------------------------------------
    Mutant(
        "a re-read begins at the checkpoint, without an overlap",
        "forwarder/source/resume.py",
        "return max(from_ns - overlap_ns - SECOND_NS, 0)",
        "return max(from_ns, 0)",
        RESUME,
    ),
    Mutant(
        "a lost session is opened again at the local time",
        "forwarder/reopening.py",
        "return Begin(checkpoint.high_stamp_ns + skip_ns if skip_ns else since)",
        "return Begin(__import__('time').time_ns())",
        "tests/unit/test_follower.py"
        "::test_a_stream_without_a_session_is_read_again_from_before_its_checkpoint",
    ),
    Mutant(
        "lines that were taken are recognised by their stamp alone",
        "forwarder/source/overlap.py",
        "        if not ahead[record] and not self._look_ahead(record):\n",
        "        while self._load_next():\n"
        "            pass\n"
        "        met = self.__dict__.setdefault('_met', set())\n"
        "        met.update(known[1][:30] for known in ahead)\n"
        "        if record[1][:30] in met:\n"
        "            self.removed += 1\n"
        "            return True\n"
        "        if not ahead[record] and not self._look_ahead(record):\n",
        RESUME,
    ),
    Mutant(
        "equal lines are recognised as a set, not counted",
        "forwarder/source/overlap.py",
        "        ahead[record] -= 1\n",
        "        ahead[record] -= 0\n",
        RESUME,
    ),
    Mutant(
        "each message is decoded by itself",
        "forwarder/taker.py",
        "                    feed(data)\n",
        '                    feed(data.decode("utf-8", "replace").encode())\n',
        RESUME,
    ),
    Mutant(
        "a resumed session's replay is taken again",
        "forwarder/source/resume.py",
        "        return self._cut_replay(data, begin)\n",
        "        return data\n",
        RESUME,
    ),
    Mutant(
        "the checkpoint counts bytes that are in no frame yet",
        "forwarder/taker.py",
        "        offset -= self._cutter.buffered_bytes\n",
        "",
        RESUME,
    ),
    Mutant(
        "a missing range is not declared",
        "forwarder/junction.py",
        "        if not (restarted and self._reopening.read_to_end):\n",
        "        if False:\n",
        GAPS,
    ),
    Mutant(
        "a gap is declared whenever a session was lost",
        "forwarder/junction.py",
        "            lost = overlap.lost and not surely\n",
        "            lost = True\n",
        RESUME,
    ),
    Mutant(
        "the end of a stream is taken for the end of the sandbox",
        "forwarder/follower.py",
        "        elif sandbox.ended:\n",
        "        elif sandbox.ended or error is None:\n",
        "tests/unit/test_follower.py::test_readings_that_bring_nothing_new_come_ever_more_slowly",
    ),
    Mutant(
        "refused credentials end a follow",
        "forwarder/source/resume.py",
        "            return Step.HOLD\n",
        "            return Step.ASK\n",
        "tests/unit/source/test_resume.py",
    ),
    Mutant(
        "a sandbox that is not found once is given up",
        "forwarder/inquiry.py",
        "range(CONFIRMATIONS if well_known else _OF_A_STRANGER)",
        "range(1)",
        "tests/unit/test_follower.py::test_a_sandbox_that_is_known_again_in_time_is_followed_on",
    ),
    Mutant(
        "silence is believed",
        "forwarder/stream_limits.py",
        "        if now_s - self.heard_s >= self._silent_s:\n",
        "        if False:\n",
        "tests/unit/test_stream_limits.py::test_a_stream_is_due_when_it_was_silent_for_long",
    ),
    Mutant(
        "a restarted container goes on with the old line numbers",
        "forwarder/drafts.py",
        "generation=generation, next_line=0, open_part=0)",
        "generation=generation, open_part=0)",
        "tests/unit/test_follower_renewal.py"
        "::test_a_restarted_container_is_read_on_with_line_numbers_of_its_own",
    ),
    Mutant(
        "positions follow the local clock",
        "forwarder/drafts.py",
        "        high_ns = max(at.high_stamp_ns, block.first_stamp_ns, block.last_stamp_ns)\n",
        "        high_ns = max(at.high_stamp_ns, self._now_ns)\n",
        "tests/unit/test_drafts.py"
        "::test_records_are_numbered_and_the_highest_stamp_never_goes_back",
    ),
    # The spool ----------------------------------------------------------------------------------
    Mutant(
        "what was read counts as stored before it is",
        "forwarder/intake.py",
        "            if commits:\n                await self._store(commits)\n",
        "            if commits:\n"
        "                self._later = asyncio.ensure_future(self._store(commits))\n",
        "tests/unit/test_intake.py"
        "::test_a_flush_returns_only_when_what_was_offered_before_is_durable",
    ),
    Mutant(
        "synchronous is NORMAL",
        "forwarder/spool/files.py",
        '    connection.execute("PRAGMA synchronous = FULL")\n'
        '    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]\n',
        '    connection.execute("PRAGMA synchronous = NORMAL")\n    synchronous = 2\n',
        "tests/unit/spool/test_spool_files.py::test_every_commit_is_an_fsync_into_a_write_ahead_log",
    ),
    Mutant(
        "frame ids begin again after the spool was empty",
        "forwarder/spool/statements.py",
        '        "SELECT last_frame_id, total_lines FROM counter"\n',
        '        "SELECT (SELECT coalesce(max(id), 0) FROM frame), total_lines FROM counter"\n',
        "tests/property/test_spool_model.py",
    ),
    Mutant(
        "a live stream's tail is deleted as soon as the sinks are past it",
        "forwarder/spool/pruning.py",
        "        upto = max((high_ns - keep_tail_ns, -1),"
        " _standing(connection, stream_id, high_ns))\n",
        "        pass\n",
        "tests/property/test_spool_model.py",
    ),
    Mutant(
        "a spool that is gone is taken for a first start",
        "forwarder/spool/files.py",
        "    if state.marker.exists():\n        raise SpoolUntrustedError(",
        "    if False:\n        raise SpoolUntrustedError(",
        "tests/unit/spool/test_spool_files.py"
        "::test_a_database_that_is_gone_is_never_taken_for_a_first_start",
    ),
    Mutant(
        "a frame's checksum is not looked at",
        "forwarder/spool/frames.py",
        "        matches = numbered(summed, frame_id, total_lines) == checksum\n",
        "        matches = True\n",
        "tests/unit/spool/test_spool_frames.py::test_one_changed_bit_in_any_column_is_noticed",
    ),
    Mutant(
        "a failed sync is tried again",
        "forwarder/spool/writer.py",
        "    sqlite3.SQLITE_LOCKED,\n",
        "    sqlite3.SQLITE_LOCKED,\n    sqlite3.SQLITE_IOERR,\n",
        "tests/unit/spool/test_spool_writer.py",
    ),
    Mutant(
        "a spool that went back is not noticed",
        "forwarder/spool/checks.py",
        "    if mark is None or mark.last_frame_id <= own.last_frame_id:\n",
        "    if True:\n",
        "tests/unit/spool/test_spool_mark.py"
        "::test_a_database_that_went_back_is_told_loudly_and_goes_on",
    ),
    Mutant(
        "ids that were given before a spool went back are given again",
        "forwarder/spool/checks.py",
        '    connection.execute("UPDATE counter SET last_frame_id = ?", (mark.last_frame_id,))\n',
        "",
        "tests/unit/spool/test_spool_mark.py"
        "::test_ids_that_were_given_before_it_went_back_are_never_given_again",
    ),
    Mutant(
        "lines that a sink is just delivering are dropped for lack of room",
        "forwarder/spool/dropping.py",
        "        stays = any(after < place.id <= upto for after, upto in writing)\n",
        "        stays = False\n",
        "tests/unit/spool/test_spool_room.py::test_what_a_sink_was_handed_is_never_dropped",
    ),
    # Delivery -----------------------------------------------------------------------------------
    Mutant(
        "the cursor moves before the file is synced",
        "sinks/files/output.py",
        "            self._files.sync_data(fd)\n",
        "",
        f"{SINK_CRASHES}::test_a_confirmed_batch_survives_a_power_cut",
    ),
    Mutant(
        "a file goes on at its end instead of behind what is confirmed",
        "sinks/file.py",
        "        length_bytes = target.file.append(mark.length_bytes, buffers)\n",
        "        end = target.file.measure(None).length_bytes\n"
        "        length_bytes = target.file.append(end, buffers)\n",
        f"{SINK_CRASHES}::test_every_byte_is_there_once_after_a_crash_at_any_call",
    ),
    Mutant(
        "a file is put away before its bytes are confirmed",
        "sinks/files/rotator.py",
        "            if self._state.get(key) == value\n",
        "            if True\n",
        "tests/unit/sinks/test_file_rotation.py"
        "::test_a_file_is_not_put_away_before_its_bytes_are_confirmed",
    ),
    Mutant(
        "a number that a file on the disk has is taken again",
        "sinks/files/rotator.py",
        "        number = max(mark.put_away_as, highest + 1)\n"
        "        found = target.file.measure(mark)\n",
        "        number = mark.put_away_as\n        found = target.file.measure(mark)\n",
        "tests/unit/sinks/test_file_rotation.py"
        "::test_a_file_that_is_due_is_put_away_behind_the_highest_number_on_the_disk",
    ),
    Mutant(
        "a batch that a sink could not take is let go",
        "forwarder/outlet.py",
        "            self._give_up(error, batch, begun_s)\n            return None\n",
        "            return {}\n",
        "tests/unit/test_dispatcher.py::test_an_unavailable_sink_gets_the_same_batch_again",
    ),
    Mutant(
        "batches overtake a slow one without end",
        "forwarder/dispatcher.py",
        "        for _ in range(self._window.lowest - lowest):\n"
        "            self._places.release()\n",
        "        self._places.release()\n",
        "tests/unit/test_dispatcher_in_flight.py"
        "::test_one_slow_batch_lets_only_so_many_overtake_it",
    ),
    Mutant(
        "the cursor passes a batch that is not confirmed",
        "forwarder/window.py",
        "        while self.lowest in self._settled:\n",
        "        while self.lowest <= number:\n"
        "            self._settled.setdefault(self.lowest, Settled())\n",
        "tests/unit/test_dispatcher_in_flight.py"
        "::test_after_a_crash_all_from_the_lowest_unconfirmed_batch_comes_again",
    ),
    Mutant(
        "what is to come again after a partial delivery is let go",
        "forwarder/delivering.py",
        "        return [indices[index] for index in again]\n",
        "        return indices if again else ()\n",
        "tests/unit/test_delivering.py"
        "::test_named_records_are_set_aside_and_only_what_is_missing_comes_again",
    ),
    Mutant(
        "a held sink is closed under a write",
        "forwarder/outlet.py",
        "            await self._idle.wait()\n",
        "",
        "tests/unit/test_outlet.py"
        "::test_nothing_is_being_written_while_a_held_sink_is_closed_and_opened",
    ),
    Mutant(
        "dead letters have no bound",
        "forwarder/dispatcher.py",
        "        has_room = not total or total < self._plan.dead_letter_bytes\n",
        "        has_room = True\n",
        "tests/unit/test_dispatcher_dead_letters.py"
        "::test_dead_letters_that_are_full_hold_the_sink_until_somebody_drops_them",
    ),
    Mutant(
        "a record is blamed on one verdict",
        "forwarder/halving.py",
        "and self._refusals > 1:",
        "and self._refusals > 0:",
        "tests/unit/test_halving.py::test_one_verdict_that_was_a_whim_blames_nobody",
    ),
    Mutant(
        "after a crash batches are cut anew",
        "forwarder/gathering.py",
        "            if group.last_id > at:\n",
        "            if group.last_id < at:\n",
        "tests/unit/test_gathering.py"
        "::test_after_a_crash_the_same_batches_come_again_with_other_limits_too",
    ),
    # The archive: windows, objects, the way back -----------------------------------------------
    Mutant(
        "an object of somebody else counts as ours",
        "sinks/s3/upload.py",
        '        if found.metadata["window"] != metadata["window"]:\n            return False\n',
        "",
        "tests/unit/sinks/s3/test_upload.py::test_an_object_of_somebody_else_is_never_touched",
    ),
    Mutant(
        "other records of the same window count as delivered",
        "sinks/s3/upload.py",
        'return records != "" and found.metadata.get("records") == records',
        "return True",
        "tests/unit/sinks/s3/test_upload.py::test_other_records_of_our_own_window_hold_the_sink",
    ),
    Mutant(
        "an object is written over another one",
        "sinks/s3/upload.py",
        "                create_only=create_only,\n            )\n        except",
        "                create_only=False,\n            )\n        except",
        "tests/unit/sinks/s3/test_upload.py"
        "::test_a_foreign_object_that_comes_at_the_last_moment_is_not_touched_either",
    ),
    Mutant(
        "an upload whose beginning was not answered is left in the bucket",
        "sinks/s3/upload.py",
        "        if not ids:  # the store may have begun one, and its answer was lost\n",
        "        if False:\n",
        "tests/unit/sinks/s3/test_upload.py"
        "::test_an_upload_in_parts_survives_a_lost_answer_at_its_beginning_and_at_its_end",
    ),
    Mutant(
        "parts of what was built before end in the object that is built now",
        "sinks/s3/upload.py",
        "known.upload_id and known.sha256 == staged.sha256:",
        "known.upload_id:",
        "tests/unit/sinks/s3/test_upload.py"
        "::test_parts_of_an_object_that_was_made_anew_are_not_mixed_with_the_old_ones",
    ),
    Mutant(
        "the manifest does not wait for the objects",
        "sinks/s3/sink.py",
        "await together(map(ensure, plan.objects[:-1]))",
        "await together(map(ensure, plan.objects))",
        "tests/unit/sinks/s3/test_sink.py::test_the_manifest_waits_for_every_object",
    ),
    Mutant(
        "after a restart a window is built as the settings are now",
        "sinks/s3/sink.py",
        "recipe = self._settings.recipe if known is None else known.recipe",
        "recipe = self._settings.recipe",
        "tests/unit/sinks/s3/test_sink.py"
        "::test_a_restart_with_other_settings_finishes_the_window_as_it_was_begun",
    ),
    Mutant(
        "the index forgets what was put together before",
        "sinks/s3/index.py",
        "known = _entries(key, remembered[key]) if key in remembered else []",
        "known: list[IndexEntry] = []",
        "tests/unit/sinks/s3/test_index.py::test_what_was_put_together_before_stays_in_its_day",
    ),
    Mutant(
        "an object that was changed is shown",
        "sinks/s3/archive.py",
        "        if sha256 != archived.sha256:\n",
        "        if False:\n",
        "tests/unit/sinks/s3/test_archive.py"
        "::test_an_object_that_was_changed_is_refused_before_a_line_of_it_is_shown",
    ),
    Mutant(
        "objects are read one behind the other, although they overlap",
        "forwarder/archive_order.py",
        "if waiting and (lowest is None or waiting[0][1].start <= lowest[0]):",
        "if waiting and lowest is None:",
        "tests/unit/test_archive_order.py::test_objects_between_which_lines_alternate_are_merged",
    ),
    Mutant(
        "after a crash windows are cut anew",
        "forwarder/windowing.py",
        "            if last_id > at:\n",
        "            if last_id < at:\n",
        "tests/unit/test_windowing.py"
        "::test_after_a_restart_the_recorded_windows_come_again_with_other_limits_too",
    ),
    Mutant(
        "what a sink was handed may be dropped after a restart",
        "forwarder/windowing.py",
        ", **handed_note(bounds[-1][1])}",
        "}",
        "tests/unit/test_dispatcher_windows.py"
        "::test_windows_that_were_handed_out_before_a_restart_are_not_dropped_after_it",
    ),
    Mutant(
        "a window may be larger than the spool",
        "forwarder/windowing.py",
        "min(self._most_bytes, room_bytes // _ROOM_SHARE)",
        "self._most_bytes",
        "tests/unit/test_dispatcher_windows.py"
        "::test_windows_are_so_small_that_a_spool_of_limited_size_has_room_for_several",
    ),
)
