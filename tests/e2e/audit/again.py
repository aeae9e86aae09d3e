"""Opens a file in one process after another, all of which have the same number; says that number."""
import ctypes
import os
import signal
import struct
import sys
import time

CLONE3 = 435
TIMES = 6
# /proc has the start of a process in hundredths of a second.
TICK = 0.02


def again(number):
    """A child that has this number: clone3(2) with set_tid."""
    numbers = (ctypes.c_int * 1)(number)
    fields = [0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(numbers), 1, 0]
    asked = ctypes.create_string_buffer(struct.pack("=11Q", *fields))
    child = ctypes.CDLL(None, use_errno=True).syscall(CLONE3, asked, 88)
    if child < 0:
        raise OSError(ctypes.get_errno(), f"no child of the number {number}")
    return child


def opens(child):
    if child == 0:
        for _ in range(3):
            with open(sys.argv[1], "rb") as file:
                file.read()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    ended = time.monotonic()
    while time.monotonic() < ended + TICK:
        pass
    return child


first = opens(os.fork())
for _ in range(TIMES - 1):
    opens(again(first))
print(first)
