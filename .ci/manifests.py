"""What schemas cannot say of deploy/: one pod, ports and names that fit together. See .ci/manifests."""

import glob
import json
import sys
import tomllib

import yaml


def must(what, holds):
    if not holds:
        sys.exit(f"FAILED: {what}")


def kubernetes(rendered, config):
    objects = [one for one in yaml.safe_load_all(rendered) if one]
    kinds = sorted(f"{one['kind']}/{one['metadata']['name'].rsplit('-', 1)[0]}" for one in objects)
    must(f"a StatefulSet, a ConfigMap and three Services: {kinds}", len(objects) == 5)
    (pods,) = [one for one in objects if one["kind"] == "StatefulSet"]
    must("one replica", pods["spec"]["replicas"] == 1)
    pod = pods["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listens = {
        "interop": config["interop"]["bind_addr"],
        "interop-admin": config["interop"]["metrics_addr"],
        "mailbox": config["mailbox"]["listen"],
        "oap": config["mailbox"]["oap_listen"],
        "mailbox-admin": config["mailbox"]["metrics_addr"],
    }
    must(f"the pod's ports are what the node listens on: {ports}", {k: f"0.0.0.0:{v}" for k, v in ports.items()} == listens)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {one["name"] for one in pod["volumes"] + [c["metadata"] for c in pods["spec"]["volumeClaimTemplates"]]}
    must(f"each mount has a volume: {mounts}", set(mounts) == volumes)
    must("the data is on the volume", config["node"]["data_dir"].startswith(mounts["data"] + "/"))
    (mounted,) = [one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"]
    must("the pod mounts the configuration of this content", {"name": "config", "configMap": {"name": mounted}} in pod["volumes"])
    must("longer than a drain", pod["terminationGracePeriodSeconds"] * 1000 > 2 * config["node"]["drain_ms"])
    labels = pods["spec"]["template"]["metadata"]["labels"]
    served = set()
    for service in (one for one in objects if one["kind"] == "Service"):
        must(f"{service['metadata']['name']} finds the pod", service["spec"]["selector"].items() <= labels.items())
        served |= {port["targetPort"] for port in service["spec"]["ports"]}
    must(f"every port is served, and no other: {served}", served == set(ports))
    must("a headless Service names the pod", pods["spec"]["serviceName"] in [one["metadata"]["name"] for one in objects])


def grafana():
    for path in glob.glob("deploy/grafana/provisioning/*/*.yaml"):
        with open(path, encoding="utf-8") as file:
            must(f"{path} has something in it", yaml.safe_load(file)["apiVersion"] == 1)
    dashboards = glob.glob("deploy/grafana/dashboards/*.json")
    must("dashboards", len(dashboards) == 3)
    for path in dashboards:
        with open(path, encoding="utf-8") as file:
            dashboard = json.load(file)
        ids = [panel["id"] for panel in dashboard["panels"]]
        must(f"{path}: ids of panels are different", len(ids) == len(set(ids)))
        taken = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            must(f"{path}: {panel['title']} is on the grid, beside the others", at["x"] + at["w"] <= 24 and not cells & taken)
            taken |= cells


with open(sys.argv[1], encoding="utf-8") as rendered, open(sys.argv[2], "rb") as config:
    kubernetes(rendered, tomllib.load(config))
grafana()
