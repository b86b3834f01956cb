#!/usr/bin/env python3
"""Extracts the members of RegisterTaskDefinitionRequest from botocore's ECS service model.

    python3 -m pip download --no-deps -d bc botocore
    unzip -q -d bc 'bc/botocore-*.whl' 'botocore/data/ecs/*'
    python3 extract.py VERSION bc/botocore/data/ecs/2014-11-13/service-2.json.gz > register-task-definition.json

One row per member: its path ([] = each element), type, whether it is required, its enum.
"""
import gzip
import json
import sys

version, model = sys.argv[1:]
shapes = json.load(gzip.open(model))["shapes"]
rows = []


def walk(path, name, required):
    shape = shapes[name]
    kind = shape["type"]
    row = {"path": path, "type": kind}
    if required:
        row["required"] = True
    if "enum" in shape:
        row["enum"] = shape["enum"]
    if path:
        rows.append(row)
    if kind == "structure":
        for member, value in shape["members"].items():
            child = f"{path}.{member}" if path else member
            walk(child, value["shape"], member in shape.get("required", []))
    elif kind == "list":
        walk(path + "[]", shape["member"]["shape"], False)


walk("", "RegisterTaskDefinitionRequest", False)
outer = [m for m in shapes["TaskDefinition"]["members"]
         if m not in shapes["RegisterTaskDefinitionRequest"]["members"]]
lines = ",\n".join("    " + json.dumps(row) for row in rows)
print(f'{{\n  "botocore": "{version}",\n  "read_only": {json.dumps(outer)},\n  "members": [\n{lines}\n  ]\n}}')
