"""Time ``synthvlm view`` on made-up runs: ``python bench/view.py [--captions 200000] [--repeat 5] [--keep DIR]``.

The run is that of ``bench/selection.py`` (finished, parts merged, no pixels). Times are those of requests over HTTP to a server in a process of its
own, one after another: the first page right after the start, while the run is still being read, and everything else when it has been.
Processor time is what matters where the machine has other work.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from selection import fabricate

ROUNDS = 7
TRIAL = "w=clip:1&w=ssim:{}&top={}"


class Client:
    """Requests with the session's cookie, over one connection."""

    def __init__(self, link: str, pid: int) -> None:
        self._pid = pid
        url = urllib.parse.urlsplit(link)
        assert url.hostname
        self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=300)
        self._cookie = f"synthvlm-{url.port}={urllib.parse.parse_qs(url.query)['token'][0]}"

    def busy(self) -> float:
        """Return the server's processor time until now, in milliseconds."""
        user, system = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return 1000 * (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def get(self, path: str) -> tuple[float, dict]:
        """Return the milliseconds until the whole answer is here, and the answer."""
        began = time.perf_counter()
        self._connection.request("GET", path, headers={"Cookie": self._cookie})
        response = self._connection.getresponse()
        body = response.read()
        took = 1000 * (time.perf_counter() - began)
        assert response.status == 200, (path, response.status, body[:300])
        return took, json.loads(body)


def serve(root: Path) -> tuple[subprocess.Popen[str], Client]:
    """Start the command; return it and a client of it."""
    process = subprocess.Popen([sys.executable, "-m", "synthvlm", "view", str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    line = process.stdout.readline()
    return process, Client(line.removeprefix("Look at: ").strip(), process.pid)


def main() -> None:
    """Make the run, unless it is there, and time the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", metavar="DIR", help="make the run here, and leave it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(given.keep or scratch) / f"run-{given.captions}x{given.repeat}"
        if not (root / "run.json").exists():
            fabricate(root, given.captions, given.repeat)
        pairs = given.captions * given.repeat
        print(f"{pairs:,} pairs ({given.captions:,} captions x {given.repeat}), {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        began = time.perf_counter()
        process, client = serve(root)
        print(f"  {'from the command to its link':44} {1000 * (time.perf_counter() - began):7.0f} ms")
        try:
            told: dict = {"total": 0}
            while not told["total"]:
                took, told = client.get("/api/pairs?limit=60")
            print(f"  {'… to the first page with pairs':44} {1000 * (time.perf_counter() - began):7.0f} ms (its request {took:.0f} ms)")
            live = client.get("/api/live")[1]
            while live["read"] < live["to_read"]:
                time.sleep(0.1)
                live = client.get("/api/live")[1]
            print(f"  {'… until everything is read':44} {1000 * (time.perf_counter() - began):7.0f} ms")
            measure(client, pairs)
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            print(f"  {'peak memory':44} {int(peak.split()[1]) / 1e6:7.2f} GB")
        finally:
            process.terminate()
            process.wait()


def measure(client: Client, pairs: int) -> None:
    """Print median and slowest of the rounds of each request, and the server's processor time for one; every round asks for something new."""
    end, middle = pairs - 60, pairs // 2
    requests: dict[str, Callable[[int], str]] = {
        "first page, in the input's order": lambda n: f"/api/pairs?limit=60&r=clip:0.{n}:",
        "first page, by total": lambda n: f"/api/pairs?limit=60&sort=total&down=true&w=clip:1&w=ssim:0.{n}",
        "first page, by a score, two limits": lambda n: f"/api/pairs?limit=60&sort=clip&down=true&r=ssim:0.{n}:&r=clip:0.2:0.4",
        "first page, words of the caption": lambda n: f"/api/pairs?limit=60&q=thing+{n}",
        "last page of a new order": lambda n: f"/api/pairs?limit=60&offset={end}&sort=total&down=true&w=clip:1&w=ssim:1.{n}",
        "other pages of that order": lambda n: (
            f"/api/pairs?limit=60&offset={middle + 60 * n}&sort=total&down=true&w=clip:1&w=ssim:1.{ROUNDS}"
        ),
        "another weight: who enters, who leaves": lambda n: f"/api/trial?w=clip:1&w=ssim:0.{n}&top=10%25",
        "another top": lambda n: f"/api/trial?w=clip:1&w=ssim:0.{ROUNDS}&top={10 + n}%25",
        "a pair with everything": lambda n: f"/api/pairs/{n}37/2",
    }
    client.get("/api/trial?w=clip:1&w=ssim:0.99&top=10%25")
    for name, path in requests.items():
        busy = client.busy()
        found = [client.get(path(n))[0] for n in range(1, ROUNDS + 1)]
        busy = (client.busy() - busy) / ROUNDS
        print(f"  {name:44} {statistics.median(found):7.0f} ms, slowest {max(found):.0f} ms; {busy:.0f} ms of processor time", flush=True)


if __name__ == "__main__":
    main()
