"""The dashboards' panels, asked of a real Prometheus as Grafana would ask. See .ci/alerts."""

import glob
import json
import math
import os
import time

import prom

DASHBOARDS = os.path.join(prom.ROOT, "deploy/grafana/dashboards/*.json")
# What has nothing to show in this drill, each with the reason.
NOTHING = {
    "Certificates end in": "no listener has one",
}
# What shows nothing but 0, each with the reason. Any other panel has a line that is not 0 at some time.
ZERO = {
    "Brownout now": "it is over when the dashboards are asked",
    "Audit records dropped": "none is",
    "Endpoints without delivery": "the endpoint is well",
    "Breakers": "the endpoint is well",
    "Restarts": "nothing crashes",
    "Bus": "nobody reads too slowly",
    "TLS handshakes that failed": "no listener speaks TLS",
    "Integrity": "nothing is damaged",
    "Full queues and rate limits": "the load is below all limits",
    "Memory only": "it is a durable node",
}
# What shows 0 or not, as it happens.
EITHER = {
    "Failed, 5 min": "it may be over for longer than that when the dashboards are asked",
    "In flight": "requests take a few ms, and are seen if a scrape meets one",
    "Leases out": "what consumers have in their hands at that moment",
    "Copies that wait": "they wait for milliseconds, and are seen if a scrape meets one",
}


def panels():
    """Each panel that asks something: dashboard, title, whether it asks for now alone, expressions."""
    for path in sorted(glob.glob(DASHBOARDS)):
        dashboard = json.loads(prom.read(path))
        for panel in dashboard["panels"]:
            expressions = [target["expr"] for target in panel.get("targets", [])]
            if expressions:
                yield dashboard["title"], panel["title"], panel["type"] == "stat", expressions
        for annotation in dashboard["annotations"]["list"]:
            if "expr" in annotation:
                yield dashboard["title"], annotation["name"], False, [annotation["expr"]]


def filled(expression, rate_s, range_s):
    """An expression with its variables as Grafana fills them in when everything is chosen."""
    for name, text in [("$__rate_interval", f"{rate_s}s"), ("$__range", f"{range_s}s"), ("$instance", ".*"), ("$queue", ".*")]:
        expression = expression.replace(name, text)
    if "$" in expression:
        raise ValueError(f"a variable that nobody fills in: {expression}")
    return expression


def values(prometheus, expression, since, now_alone, step_s):
    """Every value that the panel would draw."""
    if now_alone:
        return [float(one["value"][1]) for one in prometheus.query(expression)]
    # at most 11,000 points a line
    step_s = max(step_s, (time.time() - since) / 5000)
    series = prometheus.api("query_range", query=expression, start=since, end=time.time(), step=f"{step_s * 1000:.0f}ms")["result"]
    return [float(value) for one in series for _, value in one["values"]]


def check(prometheus, since, scrape_s):
    """What is wrong with the panels, after a time in which everything that they tell of has happened; and how many there are."""
    wrong, asked = [], 0
    rate_s, range_s = max(4, round(4 * scrape_s)), max(1, round(time.time() - since))
    for dashboard, title, now_alone, expressions in panels():
        drawn = []
        for expression in expressions:
            asked += 1
            try:
                found = values(prometheus, filled(expression, rate_s, range_s), since, now_alone, scrape_s)
            except (OSError, ValueError) as error:
                wrong.append(f"{dashboard}, {title}: {error}")
                continue
            if not found and title not in NOTHING:
                wrong.append(f"{dashboard}, {title}: no data for {expression}")
            drawn += found
        shows = any(math.isfinite(value) and value != 0 for value in drawn)
        if title in EITHER:
            continue
        if not shows and title not in ZERO and title not in NOTHING:
            wrong.append(f"{dashboard}, {title}: shows nothing but 0")
        if shows and (title in ZERO or title in NOTHING):
            wrong.append(f"{dashboard}, {title}: shows something; it is not what is thought of it")
    return wrong, asked
