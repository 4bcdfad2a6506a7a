"""What .ci/rules and .ci/alerts share: the shipped alert rules as data, and a Prometheus of one's own."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RULES = os.path.join(ROOT, "deploy/prometheus/ron-node.rules.yml")
CONFIG = os.path.join(ROOT, "deploy/prometheus/prometheus.yml")
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# a range in an expression, and how long it must hold: what an alert knows of time
WINDOW = re.compile(r"(?P<before>\[|^ +for: )(?P<n>\d+)(?P<unit>ms|s|m|h|d)(?P<after>\]|$)", re.MULTILINE)


class NotDone(Exception):
    """This machine does not allow it."""


class Found(Exception):
    """What the drill is there to find."""


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def tool(name):
    """A program of Prometheus: given by the environment, unpacked by .ci/tools, or installed."""
    given = os.environ.get(name.upper())
    unpacked = os.path.join(ROOT, "target/tools/usr/bin", name)
    path = given or (unpacked if os.path.exists(unpacked) else shutil.which(name))
    if not path:
        raise NotDone(f"there is no {name} here; .ci/tools unpacks one")
    return path


def alerts(text):
    """The alerts of a rules file, in order: name → its lines."""
    parts = re.split(r"^      - alert: (\S+)\n", text, flags=re.MULTILINE)
    # up to what belongs to the next one: a comment, or another group
    bodies = [re.split(r"^(?:  - name: |      #|$)", body, flags=re.MULTILINE)[0] for body in parts[2::2]]
    return dict(zip(parts[1::2], bodies))


def expression(lines):
    """The expression of an alert, on one line."""
    found = re.search(r"^        expr: (?:>-\n)?(.*?)^        (?:for|labels): ", lines, re.MULTILINE | re.DOTALL)
    return " ".join(found.group(1).split())


def metrics(expression):
    """The metrics that an expression names."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on) \([^)]*\)", "", bare)
    return {word for word in re.findall(r"[a-z_][a-z0-9_]*\b(?! *\()", bare) if word not in ("and", "or")}


def windows(text):
    """Every window of a rules file, ms, in order."""
    return [int(found["n"]) * UNITS[found["unit"]] for found in WINDOW.finditer(text)]


def render(text, factor):
    """The rules with each range and each `for` divided by `factor`, and nothing else changed, which is checked."""
    if factor == 1:
        return text

    def shorter(found):
        whole = int(found["n"]) * UNITS[found["unit"]]
        if whole % factor:
            raise ValueError(f"{found[0].strip()} is no whole number of ms / {factor}")
        return f"{found['before']}{whole // factor}ms{found['after']}"

    rendered = WINDOW.sub(shorter, text)
    same = WINDOW.sub("WINDOW", rendered) == WINDOW.sub("WINDOW", text)
    scaled = [short * factor for short in windows(rendered)] == windows(text)
    bare = re.search(r"\d[smhd]\b", WINDOW.sub("", re.sub(r"(annotations:|#).*", "", text)))
    if not same or not scaled or not windows(text) or bare:
        raise ValueError(f"the rendered rules differ from the shipped ones in more than their windows: {bare}")
    return rendered


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Prometheus:
    """A real one on loopback, with the shipped scrape configuration but for targets and intervals."""

    def __init__(self, directory, mailbox, interop, rules, interval):
        config = read(CONFIG)
        for old, new in [("127.0.0.1:9600", mailbox), ("127.0.0.1:9909", interop), ("15s", interval)]:
            if old not in config:
                raise ValueError(f"{CONFIG} has no {old}")
            config = config.replace(old, new)
        os.makedirs(directory)
        for name, text in [("prometheus.yml", config), ("ron-node.rules.yml", rules)]:
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(os.path.join(directory, "prometheus.log"), "wb")
        arguments = [
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address={self.address}",
        ]
        self.process = subprocess.Popen([tool("prometheus"), *arguments], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.get("/-/ready")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise NotDone(f"Prometheus does not start here: {read(self.log.name)[-2000:]}") from None
                time.sleep(0.1)

    def get(self, path, **query):
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise OSError(f"{error.code} {error.read().decode(errors='replace')}") from None

    def api(self, path, **query):
        return json.loads(self.get(f"/api/v1/{path}", **query))["data"]

    def query(self, expression):
        """The instant vector of an expression."""
        return self.api("query", query=expression)["result"]

    def states(self):
        """The alerts as they are: name → `pending` or `firing`, the graver one."""
        found = {}
        for alert in self.api("alerts")["alerts"]:
            name = alert["labels"]["alertname"]
            found[name] = "firing" if "firing" in (alert["state"], found.get(name)) else alert["state"]
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()
