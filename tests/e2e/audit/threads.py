"""Opens a file in many threads, at once and one after another; says its own number."""
import os
import sys
import threading


def opens():
    for _ in range(3):
        with open(sys.argv[1], "rb") as file:
            file.read()


threads = [threading.Thread(target=opens) for _ in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for _ in range(20):
    thread = threading.Thread(target=opens)
    thread.start()
    thread.join()
print(os.getpid())
