"""A program that speaks MPI: `python mpi_program.py openmpi|mpich [exit code of the last rank] [wait]`.

It calls the library itself: Debian's headers and compiler wrappers are large, and no test needs them for this. Every
rank writes one line: rank, size, sum of all ranks, image. With `wait`, it then goes on until a signal ends it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

MPICH = {"MPI_COMM_WORLD": 0x44000000, "MPI_INT": 0x4C000405, "MPI_SUM": 0x58000003}
"""Of MPICH's ABI (mpi.h): handles are numbers. Those of Open MPI are addresses of symbols."""

OPEN_MPI = {"MPI_COMM_WORLD": "ompi_mpi_comm_world", "MPI_INT": "ompi_mpi_int", "MPI_SUM": "ompi_mpi_op_sum"}

Handle = ctypes.c_int | ctypes.c_void_p


class Mpi:
    """The few calls of an MPI library that the program needs."""

    def __init__(self, family: str) -> None:
        self._library = ctypes.CDLL("libmpi.so.40" if family == "openmpi" else "libmpich.so.12")
        self._family = family

    def handle(self, name: str) -> Handle:
        if self._family == "openmpi":
            return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(self._library, OPEN_MPI[name])))
        return ctypes.c_int(MPICH[name])

    def call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, name)(*arguments):
            raise SystemExit(f"{name} failed")

    def number(self, name: str) -> int:
        """Return what the function says of MPI_COMM_WORLD: its size, or our rank in it."""
        value = ctypes.c_int(-1)
        self.call(name, self.handle("MPI_COMM_WORLD"), ctypes.byref(value))
        return value.value

    def sum(self, number: int) -> int:
        """Return the sum of everybody's number."""
        ours, all_of_them = ctypes.c_int(number), ctypes.c_int(-1)
        names = ("MPI_INT", "MPI_SUM", "MPI_COMM_WORLD")
        self.call(
            "MPI_Allreduce",
            *(ctypes.byref(ours), ctypes.byref(all_of_them), ctypes.c_int(1)),
            *map(self.handle, names),
        )
        return all_of_them.value


def main() -> int:
    family, *more = sys.argv[1:]
    mpi = Mpi(family)
    mpi.call("MPI_Init", None, None)
    rank, size = mpi.number("MPI_Comm_rank"), mpi.number("MPI_Comm_size")
    line = f"{rank} {size} {mpi.sum(rank)} {os.environ.get('STAGE_IMAGE_PATH', '')}\n"
    os.write(1, line.encode())  # whole: the launcher mixes the lines of all ranks
    if "wait" in more:
        signal.pause()
    mpi.call("MPI_Finalize")
    return int(more[0]) if more and rank == size - 1 else 0


if __name__ == "__main__":
    raise SystemExit(main())
