"""How much memory do twenty visitors take who open the page at once?

    python benchmarks/visitors.py --tabs 20 --visitors 4

starts `visdec-lite app` on this machine only, opens the page so many times at once, and prints who found a place, how
long it took, and the memory of the server with its kernels, what they share counted once. Linux.
"""

from __future__ import annotations

import argparse
import http.client
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit


def memory(pid: int) -> tuple[int, int]:
    """Kernels of a server, and megabytes of it and them."""
    family = [pid]
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                family.append(int(status.parent.name))
        except OSError:
            continue  # it has ended
    total = 0
    for one in family:
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)[1])
        except OSError:
            continue
    return len(family) - 1, total // 1024


def open_page(url: str) -> tuple[int, float]:
    """Status, and seconds until the page was whole."""
    parts, started = urlsplit(url), time.perf_counter()
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=600)
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    answer.read()
    return answer.status, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tabs", type=int, default=20)
    parser.add_argument("--visitors", type=int, help="places; default: what memory holds")
    asked = parser.parse_args()
    command = [sys.executable, "-m", "visdec_lite", "app", "--no-browser"]
    command += ["--visitors", str(asked.visitors)] if asked.visitors else []
    with tempfile.NamedTemporaryFile("w+") as words:
        server = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT)
        try:
            while not (said := re.search(r"(http://\S+)\s+for (\d+) at a time", Path(words.name).read_text())):
                if server.poll() is not None:
                    sys.exit(Path(words.name).read_text())
                time.sleep(0.2)
            url, places = said[1], said[2]
            seen = [memory(server.pid)]
            over = threading.Event()

            def watch() -> None:
                while not over.wait(0.5):
                    seen.append(memory(server.pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            with ThreadPoolExecutor(asked.tabs) as tabs:
                pages = list(tabs.map(lambda _: open_page(url), range(asked.tabs)))
            over.set()
            watcher.join()
            served = sorted(seconds for status, seconds in pages if status == 200)
            refused = sorted(seconds for status, seconds in pages if status == 503)
            print(f"{asked.tabs} tabs at once, {places} places: {len(served)} served, {len(refused)} asked to wait")
            print(f"served after {served[0]:.1f} to {served[-1]:.1f} s")
            if refused:
                print(f"told to wait after {refused[0]:.1f} to {refused[-1]:.1f} s")
            kernels, most = max(seen, key=lambda one: one[1])
            print(f"memory: server alone {seen[0][1]} MB, at most {most} MB with {kernels} kernels")
        finally:
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    main()
