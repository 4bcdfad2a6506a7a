#!/usr/bin/env python3
"""A million messages: memory while they wait, and how soon they are served after a SIGKILL.

Starts the given ron-node on free ports, sends COUNT messages of 256 bytes over four topics in batches, reads the
peak resident memory (VmHWM), kills the node with SIGKILL, drops the store's pages from the page cache, starts it
again, and times from the start of the process until a receive of the oldest message of every topic is answered.
Standard library only; shares no code with the product.

    chaos/million.py --node target/release/ron-node --ronctl target/release/ronctl [--count 1000000]
"""

import argparse
import atexit
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

TOPICS = ["a", "b", "c", "d"]
BATCH = 256
RSS_KIB_MAX = 250 * 1024
SERVED_S_MAX = 2.0


def start(node, config):
    began = time.monotonic()
    child = subprocess.Popen([node, "--config", config], stdout=subprocess.PIPE, text=True)
    atexit.register(child.kill)
    for line in child.stdout:
        said = json.loads(line)
        if said.get("ready") == 1:
            threading.Thread(target=lambda: child.stdout.read(), daemon=True).start()
            host, port = said["mailbox"].rsplit(":", 1)
            return child, host, int(port), began
    sys.exit("the node did not get ready")


def call(connection, token, path, body):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        sys.exit(f"{path}: {answer.status} {text[:300]!r}")
    return json.loads(text)


def payload(topic, number):
    return f"{topic}-{number:09d}-".ljust(256, "x")


def fill(host, port, token, topic, count):
    connection = http.client.HTTPConnection(host, port, timeout=60)
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        messages = [{"payload": payload(topic, n), "content_type": "text/plain"} for n in numbers]
        results = call(connection, token, f"/v1/acme/{topic}/enqueue/batch", {"messages": messages})["results"]
        if any("msg_id" not in result for result in results):
            sys.exit(f"refused: {results[0]}")


def status_kib(pid, field):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--node", required=True)
    args.add_argument("--ronctl", required=True)
    args.add_argument("--count", type=int, default=1_000_000)
    args = args.parse_args()
    with tempfile.TemporaryDirectory(prefix="million-", dir=".") as directory:
        config, data = os.path.join(directory, "node.toml"), os.path.join(directory, "data")
        with open(config, "w") as file:
            file.write(f'[node]\ndata_dir = "{data}"\n[mailbox]\nlisten = "127.0.0.1:0"\n')
            file.write('metrics_addr = "127.0.0.1:0"\n[interop]\nbind_addr = "127.0.0.1:0"\n')
            file.write('metrics_addr = "127.0.0.1:0"\n')
        child, host, port, _ = start(args.node, config)
        mint = [args.ronctl, "cap", "mint", "--keyring", os.path.join(data, "keyring"), "--tenant", "acme"]
        mint += ["--topic", "*", "--op", "enqueue,recv", "--ttl", "1h"]
        token = subprocess.run(mint, check=True, capture_output=True, text=True).stdout.strip()
        began = time.monotonic()
        each = args.count // len(TOPICS)
        for topic in TOPICS:
            fill(host, port, token, topic, each)
        took, peak = time.monotonic() - began, status_kib(child.pid, "VmHWM")
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        store = os.path.join(data, "store.redb")
        with open(store, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        child, host, port, began = start(args.node, config)
        ready = time.monotonic() - began
        connection = http.client.HTTPConnection(host, port, timeout=60)
        for topic in TOPICS:
            messages = call(connection, token, f"/v1/acme/{topic}/recv", {"max_messages": 1})["messages"]
            if [message["payload"] for message in messages] != [payload(topic, 0)]:
                sys.exit(f"{topic}: not its oldest message")
        served, after = time.monotonic() - began, status_kib(child.pid, "VmHWM")
        size = os.path.getsize(store)
        child.send_signal(signal.SIGKILL)
        child.wait()
    print(f"{each * len(TOPICS)} messages in {took:.1f} s, file {size / 2**20:.0f} MiB")
    print(f"peak RSS {peak / 1024:.0f} MiB while filling, {after / 1024:.0f} MiB after the restart")
    print(f"after SIGKILL, cold: ready in {ready:.2f} s, the oldest of {len(TOPICS)} topics in {served:.2f} s")
    if max(peak, after) > RSS_KIB_MAX or served > SERVED_S_MAX:
        sys.exit("over the limits of 250 MiB or 2 s")


if __name__ == "__main__":
    main()
