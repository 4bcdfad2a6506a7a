"""A node and its everyday load. See .ci/alerts."""

import datetime
import hashlib
import hmac
import http.client
import http.server
import json
import os
import subprocess
import threading
import time

import prom

SECRET = "a secret that GitHub knows"
OUT = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OPS = "enqueue,recv,ack,nack,peek,stat,admin"
CONFIG = """
[node]
data_dir = "{directory}/data"
[interop]
bind_addr = "127.0.0.1:0"
metrics_addr = "127.0.0.1:0"
brownout = {{ error_rate_5m = 0.01, upstream_p95_ms = 250 }}
[interop.providers.github]
scheme = "github"
tenant = "acme"
topic = "github"
secrets = [{{ kid = "2026-11", env = "GITHUB_SECRET" }}]
[egress.billing]
tenant = "acme"
topic = "billing"
url = "http://127.0.0.1:{port}/hook"
allow_http = true
allow_ports = [{port}]
allow_cidrs = ["127.0.0.1"]
secrets = [{{ kid = "2026-11", env = "OUT" }}]
[mailbox]
listen = "127.0.0.1:0"
oap_listen = "127.0.0.1:0"
metrics_addr = "127.0.0.1:0"
[chaos]
enabled = true
"""


class Node:
    """A real node on loopback, and an endpoint that its egress delivers to."""

    def __init__(self, programs, directory):
        self.programs, self.config = programs, os.path.join(directory, "node.toml")
        self.endpoint = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        threading.Thread(target=self.endpoint.serve_forever, daemon=True).start()
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(directory=directory, port=self.endpoint.server_address[1]))
        self.log = open(os.path.join(directory, "node.log"), "wb")
        env = {"GITHUB_SECRET": SECRET, "OUT": OUT}
        program = os.path.join(programs, "ron-node")
        self.process = subprocess.Popen([program, "--config", self.config], stdout=self.log, stderr=self.log, env=env)
        deadline = time.monotonic() + 20
        while b'"msg":"ready"' not in open(self.log.name, "rb").read():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise prom.Found(f"the node does not start: {prom.read(self.log.name)[-2000:]}")
            time.sleep(0.1)

    def ctl(self, *arguments):
        """What `ronctl` prints."""
        command = [os.path.join(self.programs, "ronctl"), *arguments[:1]]
        command += [*arguments[1:], "--config", self.config]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def status(self):
        return json.loads(self.ctl("status", "--json"))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()
        self.endpoint.shutdown()


class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Caller:
    """One connection, opened anew when it has ended."""

    def __init__(self, address, token=None):
        self.address, self.connection = address, None
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def call(self, method, path, body=b"", headers=None):
        """Status and body."""
        for last in (False, True):
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address, timeout=60)
            try:
                self.connection.request(method, path, body, {**self.headers, **(headers or {})})
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, OSError):
                self.connection.close()
                self.connection = None
                if last:
                    raise

    def post(self, path, value):
        status, body = self.call("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json"})
        return status, json.loads(body)


class Traffic:
    """Sends, webhooks, consumers, copies and egress, with what is normal among them: strangers, repeats and retries."""

    def __init__(self, node):
        addresses = node.status()["addresses"]
        self.interop, self.mailbox = addresses["interop"], addresses["mailbox"]
        self.token = node.ctl("cap", "mint", "--tenant", "acme", "--topic", "*", "--op", OPS, "--ttl", "2h").strip()
        self.ended, self.rejecting = threading.Event(), threading.Event()
        self.sends = []  # of each send and webhook that was answered 2xx: when it began, and how long it took, s
        self.waits = []  # of each message: when it came, and how long it had waited, s
        self.failures = []  # of what should have been
        caller = self.caller()
        self.must(caller.call("POST", "/v1/acme/copies/enqueue", b"the first makes it")[0])
        subscribe = json.dumps({"add": [{"topic": "copies"}]}).encode()
        self.must(caller.call("PUT", "/v1/acme/jobs/subscribers", subscribe)[0])
        workers = [self.sender, self.webhooks, self.stranger, self.poison]
        self.threads = [threading.Thread(target=worker, daemon=True) for worker in workers]
        for topic in ("jobs", "github", "copies"):
            self.threads.append(threading.Thread(target=self.consumer, args=(topic,), daemon=True))
        for thread in self.threads:
            thread.start()

    def caller(self):
        return Caller(self.mailbox, self.token)

    def must(self, status):
        if status != 200:
            raise prom.Found(f"the load cannot begin: {status}")

    def p95(self, of, seconds=float("inf")):
        """Of the sends or waits of the last `seconds`."""
        since = time.monotonic() - seconds
        times = sorted(took for at, took in of if at >= since)
        return times[int(len(times) * 0.95)] if times else 0.0

    def paced(self, per_second):
        """Numbers at a rate, until the end."""
        number, began = 0, time.monotonic()
        while not self.ended.wait(max(0.0, began + number / per_second - time.monotonic())):
            yield number
            number += 1
            if time.monotonic() - began > number / per_second + 1:
                # a stall: no burst afterwards
                began = time.monotonic() - number / per_second

    def timed(self, caller, path, body, headers):
        began = time.monotonic()
        status, answer = caller.call("POST", path, body, headers)
        if status < 300:
            self.sends.append((began, time.monotonic() - began))
        else:
            self.failures.append(f"{path}: {status} {answer[:200]}")

    def sender(self):
        caller = self.caller()
        for number in self.paced(15):
            # every tenth is sent twice, as after a lost answer
            headers = {"Idempotency-Key": f"k{number - (number % 10 == 9)}", "Content-Type": "text/plain"}
            body = b"job %d" % (number - (number % 10 == 9))
            self.timed(caller, "/v1/acme/jobs/enqueue", body, headers)
            if number % 10 == 0:
                self.timed(caller, "/v1/acme/billing/enqueue", body, {})

    def webhooks(self):
        caller = Caller(self.interop)
        for number in self.paced(15):
            body = b'{"action":"opened","number":%d}' % number
            mac = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            headers = {"X-Hub-Signature-256": f"sha256={mac}", "X-GitHub-Event": "issues", "X-GitHub-Delivery": f"d{number}"}
            self.timed(caller, "/webhooks/github", body, {**headers, "Content-Type": "application/json"})

    def stranger(self):
        """A tenth of what comes in at the public port: no alert is about that."""
        caller, guess = Caller(self.interop), "sha256=" + "0" * 64
        for number in self.paced(2):
            headers = {"X-Hub-Signature-256": guess, "X-GitHub-Event": "push", "X-GitHub-Delivery": f"s{number}"}
            caller.call("POST", f"/webhooks/{'github' if number % 2 else 'nobody'}", b"{}", headers)

    def consumer(self, topic):
        caller, taken, ask = self.caller(), 0, {"max_messages": 10, "wait_ms": 1000, "visibility_ms": 2000}
        while not self.ended.is_set():
            status, answer = caller.post(f"/v1/acme/{topic}/recv", ask)
            if status != 200:
                self.ended.wait(0.2)
                continue
            for message in answer["messages"]:
                if message["delivery"] == 1:
                    sent = datetime.datetime.fromisoformat(message["enqueued_at"]).timestamp()
                    self.waits.append((time.monotonic(), time.time() - sent))
            receipts = [message["receipt"] for message in answer["messages"]]
            taken += len(receipts)
            if receipts and taken % 100 < len(receipts):
                # two of 200 come again: one fails, one is forgotten
                if taken % 200 < 100:
                    caller.post(f"/v1/acme/{topic}/nack", {"receipts": receipts[:1], "delay_ms": 0})
                receipts = receipts[1:]
            if receipts:
                caller.post(f"/v1/acme/{topic}/ack", {"receipts": receipts})

    def put_poison(self, count):
        caller = self.caller()
        for _ in range(count // 200):
            status, _ = caller.post("/v1/acme/poison/enqueue/batch", {"messages": [{"payload": "poison"}] * 200})
            if status != 200:
                raise prom.Found(f"the poison cannot be sent: {status}")

    def reject_poison(self, on):
        if on:
            self.rejecting.set()
            return
        self.rejecting.clear()
        # else what nobody takes any more would grow old
        status, answer = self.caller().post("/v1/acme/poison/purge", {"confirm": "poison"})
        if status != 200:
            raise prom.Found(f"the poison cannot be purged: {answer}")

    def poison(self):
        """Rejects up to 5 messages a second."""
        caller = self.caller()
        for _ in self.paced(5):
            if not self.rejecting.is_set():
                continue
            status, answer = caller.post("/v1/acme/poison/recv", {})
            receipts = [message["receipt"] for message in answer["messages"]] if status == 200 else []
            if receipts:
                caller.post("/v1/acme/poison/nack", {"receipts": receipts, "mode": "reject", "reason": "poison"})

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(timeout=30)

