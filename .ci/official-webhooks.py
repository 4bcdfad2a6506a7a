"""Runs a node between two ends of an official Standard Webhooks library. See .ci/official-webhooks.

The library signs a webhook, the node takes it in at its ingress, and its egress sends it to a receiver here, where the
library verifies it. Then each is given what the other signed with one byte flipped, and must refuse it.
"""

import base64
import datetime
import http.server
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

IN, OUT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OLD = "whsec_" + "T2xkIHNlY3JldCB0aGF0IHN0aWxsIHNpZ25zISEh"


class Python:
    """PyPI `standardwebhooks`."""

    def __init__(self):
        from standardwebhooks.webhooks import Webhook

        self.webhook = Webhook

    def sign(self, secret, msg_id, at, body):
        when = datetime.datetime.fromtimestamp(at, tz=datetime.timezone.utc)
        return self.webhook(secret).sign(msg_id, when, body.decode())

    def verifies(self, secret, headers, body):
        try:
            self.webhook(secret).verify(body, headers)
            return True
        except Exception:  # the library has a class of its own, and others for odd input
            return False


class Npm:
    """npm `standardwebhooks`."""

    SCRIPT = """
const { Webhook } = require("standardwebhooks");
const asked = JSON.parse(require("fs").readFileSync(0));
const webhook = new Webhook(asked.secret), body = Buffer.from(asked.body, "base64").toString();
if (asked.sign) console.log(JSON.stringify(webhook.sign(asked.id, new Date(asked.at * 1000), body)));
else { let ok = true; try { webhook.verify(body, asked.headers); } catch { ok = false; } console.log(ok); }
"""

    def ask(self, **asked):
        asked["body"] = base64.b64encode(asked["body"]).decode()
        done = subprocess.run(["node", "-e", self.SCRIPT], input=json.dumps(asked).encode(), capture_output=True, check=True)
        return json.loads(done.stdout)

    def sign(self, secret, msg_id, at, body):
        return self.ask(sign=True, secret=secret, id=msg_id, at=at, body=body)

    def verifies(self, secret, headers, body):
        return self.ask(secret=secret, headers=headers, body=body)


def receiver(arrived):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def start(binary, directory, port):
    text = f"""
[node]
data_dir = "{directory}/data"
[interop]
bind_addr = "127.0.0.1:0"
metrics_addr = "127.0.0.1:0"
[interop.providers.official]
scheme = "standard_webhooks"
tenant = "acme"
topic = "official"
secrets = [{{ kid = "in", env = "IN" }}]
[egress.official]
tenant = "acme"
topic = "official"
url = "http://127.0.0.1:{port}/hook"
allow_http = true
allow_ports = [{port}]
allow_cidrs = ["127.0.0.1"]
secrets = [{{ kid = "new", env = "OUT" }}, {{ kid = "old", env = "OLD" }}]
[mailbox]
listen = "127.0.0.1:0"
oap_listen = "127.0.0.1:0"
metrics_addr = "127.0.0.1:0"
"""
    path = os.path.join(directory, "node.toml")
    with open(path, "w") as file:
        file.write(text)
    env = {"IN": IN, "OUT": OUT, "OLD": OLD}
    node = subprocess.Popen([binary, "--config", path], stdout=subprocess.PIPE, env=env, text=True)
    for line in node.stdout:
        said = json.loads(line)
        if said.get("msg") == "ready":
            # what it says from now on must not fill the pipe
            threading.Thread(target=node.stdout.read, daemon=True).start()
            return node, said["interop"]
    sys.exit(f"the node did not start: {node.wait()}")


def post(address, headers, body):
    headers = {**headers, "content-type": "application/json"}
    request = urllib.request.Request(f"http://{address}/webhooks/official", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def flipped(body):
    return body[:9] + bytes([body[9] ^ 1]) + body[10:]


def must(what, holds):
    if not holds:
        sys.exit(f"FAILED: {what}")


def main(binary, which):
    library = {"python": Python, "npm": Npm}[which]()
    arrived = queue.Queue()
    with tempfile.TemporaryDirectory() as directory:
        node, address = start(binary, directory, receiver(arrived))
        try:
            rounds(library, address, arrived)
        finally:
            node.send_signal(signal.SIGTERM)
            node.wait(timeout=30)
    print(f"{which}: ok")


def rounds(library, address, arrived):
    at = int(datetime.datetime.now().timestamp())
    bodies = [b'{"type":"order.paid","n":1}', '{"type":"\u00fc\U0001f600","n":2}'.encode(), b'{"type":  "x" ,"n":3.0}\n']
    for n, body in enumerate(bodies):
        msg_id = f"msg_{n}_{at}"
        signature = library.sign(IN, msg_id, at, body)
        headers = {"webhook-id": msg_id, "webhook-timestamp": str(at), "webhook-signature": signature}
        must(f"ingress refuses a flipped byte (round {n})", post(address, headers, flipped(body)) == 401)
        must(f"ingress refuses another id (round {n})", post(address, {**headers, "webhook-id": "x"}, body) == 401)
        must(f"ingress takes what the library signed (round {n})", post(address, headers, body) == 202)
        got, sent = arrived.get(timeout=20)
        must(f"the same bytes and id come out (round {n})", sent == body and got["webhook-id"] == msg_id)
        for secret in (OUT, OLD):
            must(f"the library takes what egress signed (round {n})", library.verifies(secret, got, sent))
            must(f"the library refuses a flipped byte (round {n})", not library.verifies(secret, got, flipped(sent)))
        must(f"the library refuses a stranger's secret (round {n})", not library.verifies(IN, got, sent))
    must("nothing else came out", arrived.empty())


main(*sys.argv[1:3])
