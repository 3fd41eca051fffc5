"""One process at a time in a folder, or the processes of one launcher."""

import errno
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# what a file system or a kernel without flock answers
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def alone_in(
    folder: Path, program: str, name: str = ".lock", *, shared: bool = False
) -> Iterator[None]:
    """Hold a lock on the folder, which is made if need be; the death of the process releases it.

    Where the file system has no locks, says so on stderr and goes on.

    Args:
        folder: that nobody else may work in.
        program: what works there, for messages.
        name: of the lock's file.
        shared: others may hold the lock too, if they share it.

    Raises:
        ValueError: another process holds it.
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another {program} is at work in {folder}: wait for it, or choose another name"
            ) from error
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            print(
                f"{folder}: this file system has no locks ({error.strerror}). Nothing keeps a "
                f"second {program} from the same folder",
                file=sys.stderr,
            )
        yield
