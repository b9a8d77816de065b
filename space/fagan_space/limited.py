"""Program that runs another one under limits of the system; started by `fagan_space.child`.

    python limited.py '{"cpu_seconds": 10, "memory": 1000000000, "file_size": 0}' PROGRAM OPTIONS

The limits hold even if the process that started it is gone. The program's `ValueError` becomes its answer, with the
exit status `REFUSED`. It imports nothing else of this package, which would take longer than many an upload.
"""

import json
import os
import runpy
import sys

REFUSED = 3


def limit(*, cpu_seconds: int, memory: int, file_size: int) -> None:
    """Have the system end this process when it exceeds its limits, and serve others first.

    Args:
        cpu_seconds: Processor time [seconds].
        memory: Private memory [bytes]. Address space would be wrong: libraries of a GPU reserve gigabytes of it.
        file_size: Size of each file that it writes [bytes].
    """
    try:
        import resource
    except ImportError:  # Windows has none of these; the limit on the clock holds there, too
        return
    os.nice(5)
    wanted = {"RLIMIT_CPU": cpu_seconds, "RLIMIT_DATA": memory, "RLIMIT_FSIZE": file_size}
    for name, value in wanted.items():
        kind = getattr(resource, name)
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    limit(**json.loads(sys.argv[1]))
    sys.argv = sys.argv[2:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except ValueError as error:
        sys.stdout.buffer.write(str(error).encode())
        sys.exit(REFUSED)
