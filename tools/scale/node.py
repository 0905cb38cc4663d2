"""A node in the development profile, in a directory of its own, and what it costs."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")

SETTINGS = """
[limits]
subscriptions_max = 100000
sessions_max = 100000
tenant_sessions_max = 100000
realities_max = 2000
consumers_max = 100000
credit_bytes_max = 1099511627776
[rooms]
rooms_max = 20000
joined_max = 1000
[store]
namespace_keys_max = 200000
[cron]
jobs_max = 20000
"""


class Node:
    def __init__(self, programs, settings=SETTINGS):
        self.programs = programs
        self.directory = tempfile.mkdtemp(prefix="arqonbus-scale.",
                                          dir=os.environ.get("BENCH_DIR"))
        self.data = f"{self.directory}/data"
        with open(f"{self.directory}/arqonbus.toml", "w") as file:
            file.write(settings)
        self.start()

    def start(self):
        """Returns after how many seconds it was ready."""
        since = time.monotonic()
        self.process = subprocess.Popen(
            [f"{self.programs}/arqonbus", "serve", "--dev", "--data", self.data,
             "--config", f"{self.directory}/arqonbus.toml",
             "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=open(f"{self.directory}/log", "a"))
        line = self.process.stdout.readline().decode()
        took = time.monotonic() - since
        found = re.match(r"ready edge=ws://([^:]+):(\d+)", line)
        if not found:
            raise SystemExit(f"no node: {line!r}; {open(self.directory + '/log').read()[-2000:]}")
        self.edge = (found[1], int(found[2]))
        with open(f"{self.data}/dev-token") as file:
            self.token = file.read().strip()
        return took

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def kill(self):
        self.process.kill()
        self.process.wait(60)

    def end(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def memory(self):
        """Resident bytes that are the process's own (not pages of mapped files)."""
        with open(f"/proc/{self.process.pid}/status") as file:
            found = re.search(r"RssAnon:\s+(\d+) kB", file.read())
        return int(found[1]) * 1024

    def settled(self, seconds=3.0):
        """Its memory once it has been left alone."""
        time.sleep(seconds)
        return self.memory()

    def cpu(self):
        """Seconds of CPU time so far, all threads."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            after = file.read().rpartition(")")[2].split()
        return (int(after[11]) + int(after[12])) / TICK

    def disk(self, part=""):
        """Bytes on disk of the data directory, or of what in it has this in its path."""
        total = 0
        for path, _, files in os.walk(self.data):
            if part in path:
                for name in files:
                    total += os.stat(f"{path}/{name}").st_blocks * 512
        return total

    def arqon(self, *arguments):
        """One result of `arqon`, and how many seconds it took."""
        since = time.monotonic()
        done = subprocess.run(
            [f"{self.programs}/arqon", *map(str, arguments), "--output", "json"],
            env={**os.environ, "ARQON_URL": "ws://%s:%d/v1/ws" % self.edge,
                 "ARQON_TOKEN": self.token},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=280)
        took = time.monotonic() - since
        if done.returncode:
            raise SystemExit(f"arqon {' '.join(map(str, arguments))}: "
                             f"{done.stderr.decode()[-500:]}")
        text = done.stdout.decode().strip()
        try:
            return json.loads(text), took
        except ValueError:
            return [json.loads(line) for line in text.splitlines() if line.startswith("{")], took
