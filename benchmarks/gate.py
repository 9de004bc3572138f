"""What the gate costs: answers a second, how long one takes, and memory, beside the bare model.

    python benchmarks/gate.py [--quick] [--long] [--json FILE]

The model is the small CNN for 8x8 images, in one thread. Three servers, uvicorn and FastAPI all of
them, read the same requests in the same way: "bare" calls the model once a request; "bare, batched"
calls it once for all that wait, as the gate does; and the gate does all it does, with keys, budgets
and windows, the watch, and a log that is on disk before an answer leaves.

They take turns in short slices, so that what else the machine does hits them alike. Clients are in
a process of their own: on two cores, one is theirs. CPU time is the server's, of all its threads.
--long asks for a million answers, and looks at memory while it does.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script runs from any folder, installed or not

import numpy as np  # noqa: E402

from benchmarks.shared.asking import Asked, ask  # noqa: E402
from benchmarks.shared.fresh import ONE_THREAD  # noqa: E402
from benchmarks.shared.table import Row, at_least, at_most, print_table, write_json  # noqa: E402

SHAPE = (1, 8, 8)
KINDS = ("bare", "bare, batched", "gate")
SCRIPT = ROOT / "benchmarks" / "shared" / "gate_server.py"
CONNECTIONS = 32
AT_LEAST, AT_MOST = 2_000, 15.0  # answers a second; percent
SLICE, SLICES, QUICK_SLICES = 1.5, 8, 3  # seconds, and how many of each
LONG, QUICK_LONG, EACH = 1_000_000, 20_000, 64  # answers, and to a request
FLAT = 10.0  # MB


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers."""

    process: int
    port: int
    key: str

    def request(self, inputs: int) -> bytes:
        x = np.random.default_rng(inputs).random((inputs, *SHAPE)).round(3)
        body = json.dumps({"inputs": x.tolist()}).encode()
        head = (
            f"POST /v1/answers HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    @property
    def cpu(self) -> float:
        """Seconds of it so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> float:
        """MB of memory."""
        pages = Path(f"/proc/{self.process}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def server(kind: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, str(SCRIPT), kind, str(port), folder]
        process = subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            key = process.stdout.readline().decode().strip()
            _wait(port, process)
            yield Server(process.pid, port, key)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the server did not start")


@dataclass(slots=True)
class Turns:
    """What one server did in its slices, each with CPU seconds a request."""

    asked: list[Asked]
    cpu: list[float]

    @property
    def rate(self) -> float:
        return statistics.median(each.rate for each in self.asked)

    def quantile(self, q: float) -> float:
        """In ms, of all requests."""
        return 1e3 * float(np.quantile(np.concatenate([each.times for each in self.asked]), q))


def turns(
    servers: dict[str, Server], inputs: int, connections: int, slices: int
) -> dict[str, Turns]:
    found = {kind: Turns([], []) for kind in servers}
    for number in range(slices + 1):
        for kind, one in servers.items():
            before = one.cpu
            asked = ask(one.port, one.request(inputs), connections, SLICE)
            if number:  # the first is to warm up
                found[kind].asked.append(asked)
                found[kind].cpu.append((one.cpu - before) / len(asked.times))
    return found


def rows(servers: dict[str, Server], inputs: int, connections: int, slices: int) -> list[Row]:
    found, many = turns(servers, inputs, connections, slices), f"{inputs} x {connections}"
    out = []
    for kind, one in found.items():
        rate = one.rate * inputs
        name = f"{kind}, {many}"
        is_goal = kind == "gate" and (inputs, connections) == (1, CONNECTIONS)
        row = (
            at_least(name, rate, "answers/s", AT_LEAST) if is_goal else Row(name, rate, "answers/s")
        )
        cpu = 1e6 * statistics.median(one.cpu)
        out += [
            row,
            Row(f"{name}, half of them within", one.quantile(0.5), "ms"),
            Row(f"{name}, 99 of 100 within", one.quantile(0.99), "ms"),
            Row(f"{name}, of CPU", cpu, "us/request"),
        ]
    if connections > 1:
        gate = found["gate"]
        for bare in KINDS[:-1]:
            more = _percent([a / b for a, b in zip(gate.cpu, found[bare].cpu, strict=True)])
            name = f"the gate's CPU over {bare}, {many}"
            out.append(
                at_most(name, more, "%", AT_MOST) if bare == "bare" else Row(name, more, "%")
            )
    return out


def _percent(ratios: list[float]) -> float:
    return 100 * (statistics.median(ratios) - 1)


def memory(gate: Server, answers: int) -> list[Row]:
    """Resident memory in four parts of a long run: the first is for what grows once."""
    request, sizes, done = gate.request(EACH), [], 0
    began = time.perf_counter()
    while done < answers:
        done += EACH * len(ask(gate.port, request, CONNECTIONS, 1.0).times)
        sizes.append(gate.resident)
    grown = statistics.mean(sizes[-max(1, len(sizes) // 4) :]) - sizes[len(sizes) // 4]
    return [
        Row("asked in the long run", done, "answers"),
        Row("... a second", done / (time.perf_counter() - began), "answers/s"),
        Row("memory at its end", sizes[-1], "MB"),
        at_most("... grown since its first quarter", grown, "MB", FLAT),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short slices, few of them")
    parser.add_argument("--long", action="store_true", help="a million answers, for memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    asked = parser.parse_args()
    slices = QUICK_SLICES if asked.quick else SLICES
    with server(KINDS[0]) as bare, server(KINDS[1]) as batched, server(KINDS[2]) as gate:
        servers = dict(zip(KINDS, (bare, batched, gate), strict=True))
        found = rows(servers, 1, CONNECTIONS, slices)
        found += rows(servers, 16, CONNECTIONS, slices)
        found += rows(servers, 1, 1, slices)
        found += memory(gate, LONG if asked.long else QUICK_LONG)
    print_table("The gate, inputs to a request x connections", found)
    if asked.json:
        write_json(asked.json, "gate", found)


if __name__ == "__main__":
    main()
