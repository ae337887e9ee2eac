"""The entry: the warm path and the wait in few imports, everything else behind `stager.cli.full`."""

from __future__ import annotations

import os
import sys

from stager import warm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from stager.clock import Clock
    from stager.errors import StageImageError
    from stager.interfaces import Teller
    from stager.reference import Reference
    from stager.warm import Place, Question, Record


def main(argv: list[str] | None = None) -> int:
    """Run `stage-image` with `argv` (default: the process's); return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    _hold_streams()
    try:
        if warm.is_plain(os.environ) and (question := warm.parse(words)) is not None:
            code = _warm(question)
            if code is not None:
                return code if argv is not None else _end(code)
        from stager.cli.full import run

        code = run(words)
        return code if argv is not None else _end(code)
    except KeyboardInterrupt:  # not yet, or no longer, in the hands of boundary.guarded
        return _interrupted()


def _hold_streams() -> None:
    # Daemons and some launchers close them. The next file that is opened would be "stdout", and an image have answers
    # written into it; Python has None for a stream that was closed.
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if fd < 2 else os.O_WRONLY)  # gets the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above


def _warm(question: Question) -> int | None:
    """Answer from a record, now or when the leader of this very staging leaves one; None if it takes the long way."""
    try:
        place = warm.Place(os.environ)
        record = warm.answer(question, place)
        if record is not None:
            return _give(question, record)
        # A lone word may be a verb, or a path below the working directory: nothing can be left or found for it here.
        return _follow(question, place if question.name is None else _prepared(place))
    except OSError:
        return None


def _prepared(place: Place) -> Place:
    """Return `place` once its store's directory is there, so that the first of many tasks can leave its note in it.

    Made only where that is ours to do, as the long way would make it, which then accepts, refuses or fills it: without
    it 43 to 72 of 256 tasks went the long way, at 110 ms of CPU each (measured). Raises OSError.
    """
    own = not place.store or os.path.lexists(f"{place.store}/VERSION")  # a whole one of root's: ours is the default
    root = place.layout.root if own else place.store
    if not os.path.lexists(root) and root.isprintable() and root == os.path.abspath(root):
        parent, uid = os.stat(os.path.dirname(root)), os.geteuid()
        if parent.st_mode & 0o1000 or (parent.st_uid == uid and not parent.st_mode & 0o022):
            _make_folder(root, 0o700 if uid else 0o755)  # everybody may read root's
    return warm.Place(os.environ)  # looked at again: another task may have been quicker


def _make_folder(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return


def _follow(question: Question, place: Place) -> int | None:
    """Wait for the leader, if there is one, and give its answer or its failure; None if there is neither."""
    from stager.clock import SystemClock
    from stager.errors import InvalidReference
    from stager.reference import parse
    from stager.store.files import discard
    from stager.store.memory import read_failure
    from stager.waiting import Follower

    clock = SystemClock()
    begun = clock.now()
    try:
        reference = parse(question.text)
    except InvalidReference:
        return None
    path = place.layout.leader(reference.key)
    ours = question.name is None or _claim(path, place, clock)
    if not ours:
        teller = _teller(reference.name)
        try:
            record = Follower(path, clock, teller).follow(lambda: warm.answer(question, place))
        finally:
            teller.close()
        if record is not None:
            return _give(question, record)
    if _is_known(reference, place):
        return None
    failure = read_failure(place.layout.failure(reference.key), clock.now(), begun=begun)
    if failure is not None and ours:
        discard(path)
    return None if failure is None else _report(failure, reference.shown)


def _claim(path: str, place: Place, clock: Clock) -> bool:
    """Leave our note where no living process left one; tell whether it is ours to go the long way.

    That takes 100 ms of CPU before it leaves a note itself: on 2 cores 60 of 256 tasks went it in vain, and kept the
    leader from its download (measured).
    """
    from stager.process import current
    from stager.store.files import create_text, discard
    from stager.store.memory import LeaderNote, read_leader

    folder, mine = os.path.dirname(path), LeaderNote(current(), clock.wall()).text()
    try:
        if not os.path.isdir(folder):
            known = {os.path.basename(each) for each in place.layout.folders}
            if not known.issuperset(os.listdir(place.layout.root)):
                return True
            _make_folder(folder, 0o700)  # a store that is to be: the long way makes the rest, or refuses it
        if create_text(path, mine):
            return True
        note = read_leader(path)
        if note is not None and note.holder.alive:
            return False
        discard(path)
        return create_text(path, mine)
    except OSError:
        return True


def _is_known(reference: Reference, place: Place) -> bool:
    """Whether the long way may find an image in spite of a failure that stands."""
    layout, key = place.layout, reference.key
    paths = [layout.pin(place.scope, key), layout.reference_record(key)]
    paths += [layout.image_dir(reference.digest)] if reference.digest else []
    return any(os.path.lexists(path) for path in paths)


def _report(error: StageImageError, reference: str) -> int:
    from stager.cli.boundary import report

    error.reference = reference
    return report(error)


def _teller(subject: str) -> Teller:
    from stager.jobenv import from_environ
    from stager.progress import teller

    return teller(subject, quiet=(from_environ(os.environ).local_rank or 0) > 0)


def _give(question: Question, record: Record) -> int:
    """Print the answer, or become the command. Raises OSError: the long way says better what is wrong with stdout."""
    if question.verb != "exec":
        os.write(1, os.fsencode((record.path if question.verb == "path" else record.root) + "\n"))
        return 0
    from stager.errors import StageImageError
    from stager.process import become

    try:
        become(record.command(question), record.environment(os.environ))
    except StageImageError as error:
        return _report(error, "")


def _end(code: int) -> NoReturn:
    # Taking the interpreter apart costs 2 ms of CPU, in each of the node's tasks at the very moment of their release,
    # and 11 ms where all has been imported. What was written has been flushed, or told of, before.
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(code)


def _interrupted() -> int:
    # For real, as `boundary.guarded` does it: a shell that sees a mere 130 goes on with the next line of its script.
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 128 + signal.SIGINT
