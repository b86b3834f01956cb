"""Bad input, byte by byte: the documented error, nothing changed, and everybody else is served."""

import datetime
import http.client
import socket
import threading
import urllib.parse

import botocore.auth
import botocore.awsrequest
import botocore.credentials

from cluster import *

ecs = client("ecs")
logs = client("logs")
ADDRESS = urllib.parse.urlparse(ENDPOINT)
TARGETS = {"ecs": "AmazonEC2ContainerServiceV20141113.", "logs": "Logs_20140328."}


def state():
    """Everything that a call could have made."""
    clusters = ecs.list_clusters()["clusterArns"]
    groups = logs.describe_log_groups()["logGroups"]
    return [
        [[c, ecs.list_container_instances(cluster=c), ecs.list_services(cluster=c), ecs.list_tasks(cluster=c)]
         for c in clusters],
        ecs.list_task_definitions()["taskDefinitionArns"],
        ecs.list_task_definition_families()["families"],
        [[g, logs.describe_log_streams(logGroupName=g["logGroupName"])["logStreams"]] for g in groups],
    ]


def without_request_ids(value):
    if isinstance(value, dict):
        return {k: without_request_ids(v) for k, v in value.items() if k != "ResponseMetadata"}
    return [without_request_ids(v) for v in value] if isinstance(value, list) else value


def signed(body, target="CreateCluster", service="ecs", **more):
    """Headers of a request, signed."""
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGETS[service] + target, **more}
    request = botocore.awsrequest.AWSRequest("POST", ENDPOINT + "/", data=body, headers=headers)
    keys = botocore.credentials.Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    botocore.auth.SigV4Auth(keys, service, REGION).add_auth(request)
    return dict(request.headers)


def post(body, target="CreateCluster", service="ecs"):
    """The status, the error's name and its message."""
    connection = http.client.HTTPConnection(ADDRESS.hostname, ADDRESS.port, timeout=30)
    connection.request("POST", "/", body=body, headers=signed(body, target, service))
    response = connection.getresponse()
    text = response.read()
    connection.close()
    answer = json.loads(text) if text else {}
    message = answer.get("message", answer.get("Message", ""))
    assert len(message) < 5000, f"a message of {len(message)} characters"
    return response.status, answer.get("__type", "").rsplit("#")[-1], message


def refused(body, errors, target="CreateCluster", service="ecs"):
    status, name, message = post(body, target, service)
    assert status == 400 and name in errors, (target, body[:80], status, name, message)


def raw(data, shut=False):
    """Everything that comes back on a connection."""
    with socket.create_connection((ADDRESS.hostname, ADDRESS.port), timeout=30) as stream:
        try:
            stream.sendall(data)
            if shut:
                stream.shutdown(socket.SHUT_WR)
            answer = b""
            while part := stream.recv(65536):
                answer += part
            return answer
        except OSError:
            return b""  # ended before all was sent


SERIALIZATION = ("SerializationException",)
INVALID = ("InvalidParameterException", "ClientException", "SerializationException")


def test_bodies_that_are_no_requests():
    deep = b'{"settings":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    objects = b'{"configuration":' * 100_000 + b"1" + b"}" * 100_000
    for body in [
        b"null", b"[]", b"[1]", b'"text"', b"7", b"true", b"{", b"}", b"{}{}", b"{'clusterName':'x'}",
        b'{"clusterName":"x",}', b'{"clusterName":7}', b'{"clusterName":{}}', b'{"tags":{}}', b'{"tags":[7]}',
        b'{"clusterName":"\xff\xfe"}', b'{"clusterName":"\\ud800"}', b'{"clusterName":"a\nb"}', b"\0", b"\xef\xbb\xbf{}",
        b'{"clusterName":"x","clusterName":"y"}', b'{"clusterName":NaN}', deep, objects,
        b'{"clusterName":"x"' + b" " * 1000 + b"\0}",
    ]:
        refused(body, SERIALIZATION)
        if body != b'{"tags":{}}':
            refused(body, INVALID + ("ClusterNotFoundException",), "RunTask")
        refused(body, SERIALIZATION + INVALID, "CreateLogGroup", "logs")
    refused(b'{"taskDefinition":"x","count":1e99}', SERIALIZATION, "RunTask")
    refused(b'{"taskDefinition":"x","count":99999999999999999999}', SERIALIZATION, "RunTask")
    refused(b'{"family":"x","containerDefinitions":[null]}', INVALID, "RegisterTaskDefinition")
    refused(b'{"family":"x","containerDefinitions":[{"name":"a","image":"a","memory":-1}]}', INVALID,
            "RegisterTaskDefinition")


def test_texts_that_are_not_names():
    elsewhere = INVALID + ("ClusterNotFoundException",)
    for name in ["a b", "a/b", "../../etc", "a\0b", "a\u202eb", "\u001b[2J", "ü", "x" * 600, "x" * 100_000]:
        text = json.dumps(name).encode()
        refused(b'{"clusterName":' + text + b"}", INVALID)
        refused(b'{"cluster":' + text + b"}", elsewhere, "ListTasks")
        refused(b'{"family":' + text + b',"containerDefinitions":[{"name":"a","image":"b","memory":4}]}', INVALID,
                "RegisterTaskDefinition")
        refused(b'{"serviceName":' + text + b',"taskDefinition":"x"}', elsewhere, "CreateService")
        refused(b'{"taskDefinition":' + text + b"}", elsewhere, "RunTask")
        # A group's name may have slashes and dots; it never is a path.
        if "/" not in name:
            refused(b'{"logGroupName":' + text + b"}", INVALID, "CreateLogGroup", "logs")
    for arn in ["arn", "arn:", ":" * 1000, "arn:aws:ecs:::", "arn:aws:ecs:eu-north-1:1:cluster/x/y/z"]:
        text = json.dumps(arn).encode()
        refused(b'{"resourceArn":' + text + b',"tags":[]}', INVALID + ("ResourceNotFoundException",), "TagResource")
        refused(b'{"resourceArn":' + text + b',"tags":{"a":"b"}}', INVALID + ("ResourceNotFoundException",),
                "TagResource", "logs")


def test_too_much():
    tags = [{"key": f"k{i}", "value": "v"} for i in range(10_000)]
    refused(json.dumps({"clusterName": "many", "tags": tags}).encode(), INVALID)
    containers = [{"name": f"c{i}", "image": "x", "memory": 4} for i in range(1000)]
    refused(json.dumps({"family": "many", "containerDefinitions": containers}).encode(), INVALID,
            "RegisterTaskDefinition")
    large = [{"name": "c", "image": "x", "memory": 4, "command": ["x" * 100_000]}]
    refused(json.dumps({"family": "large", "containerDefinitions": large}).encode(), INVALID, "RegisterTaskDefinition")
    refused(json.dumps({"tasks": ["0" * 32] * 101}).encode(), INVALID + ("ClusterNotFoundException",), "DescribeTasks")
    refused(json.dumps({"clusters": ["c"] * 101}).encode(), INVALID, "DescribeClusters")
    groups = {f"k{i}": "v" for i in range(51)}
    refused(json.dumps({"logGroupName": "many", "tags": groups}).encode(), INVALID + ("TooManyTagsException",),
            "CreateLogGroup", "logs")
    for size in (0, -1, 101, 2**31):
        refused(json.dumps({"maxResults": size}).encode(), INVALID, "ListClusters")
    for token in ("nonsense", "x" * 100_000, "\0", "AAAA"):
        refused(json.dumps({"nextToken": token}).encode(), INVALID, "ListClusters")


def test_operations_that_nobody_knows():
    for target in ["", "Nothing", "createcluster", "CreateCluster2", "x" * 10_000, "Create.Cluster", "../CreateCluster"]:
        status, name, _ = post(b"{}", target)
        assert status == 400 and name == "UnknownOperationException", (target, status, name)
    for header in ["CreateCluster", "AmazonEC2ContainerServiceV20141113", "Other_1.CreateCluster", ""]:
        body = b'{"clusterName":"x"}'
        headers = signed(body, **{"X-Amz-Target": header})
        connection = http.client.HTTPConnection(ADDRESS.hostname, ADDRESS.port, timeout=30)
        connection.request("POST", "/", body=body, headers=headers)
        response = connection.getresponse()
        assert 400 <= response.status < 500, (header, response.status, response.read())
        connection.close()


def head(body, *more, version="1.1"):
    """A signed request up to its body, with further lines."""
    lines = [f"{k}: {v.decode() if isinstance(v, bytes) else v}" for k, v in signed(body).items()]
    lines = [f"POST / HTTP/{version}", f"Host: {ADDRESS.netloc}", *lines, *more]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def test_requests_within_requests():
    """No reading of lengths makes a second request of a body: one answer or none, no cluster."""
    body = b'{"clusterName":"smuggled"}'
    inner = head(body, f"Content-Length: {len(body)}") + body
    for lines in [
        [f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked"],
        ["Content-Length: 0", f"Content-Length: {len(inner)}"],
        [f"Content-Length: +{len(inner)}"],
        [f"Content-Length: {len(inner)}, 0"],
        ["Content-Length: -1"],
        ["Content-Length: 99999999999999999999"],
        ["Content-Length: 0x10"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    ]:
        # As its whole body, and after an end of it in chunks.
        for data in (inner, b"0\r\n\r\n" + inner):
            answer = raw(head(b"other", *lines) + data, shut=True)
            assert b"smuggled" not in answer, (lines, answer)
            assert b"smuggled" not in json.dumps(ecs.list_clusters()["clusterArns"]).encode(), lines


def test_heads_that_are_none():
    for data in [
        b"\0" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 10_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"POST / HTTP/1.1\r\n Host: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % i for i in range(10_000)) + b"\r\n",
        b"POST " + b"/x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /\xff\xfe HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Amz-Target: a\0b\r\n\r\n",
    ]:
        answer = raw(data, shut=True)
        status = answer.split(b" ")[1][:1] if answer.startswith(b"HTTP/1.") else b"4"
        assert status == b"4", (data[:60], answer[:200])


def test_signatures_that_are_stretched():
    body = b'{"clusterName":"stretched"}'
    good = signed(body)
    whole = good["Authorization"] if isinstance(good["Authorization"], str) else good["Authorization"].decode()
    for authorization in [
        "", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=", "Basic eDp5", whole + ", " + whole,
        whole.replace("SignedHeaders=", "SignedHeaders=;;;;"), whole.replace("Signature=", "Signature=x"),
        whole[:-1], whole.upper(), whole.replace("/ecs/", "/logs/"), whole.replace(REGION, "us-east-1"),
        whole.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "AWS4-HMAC-SHA256 " + "," * 10_000,
        "AWS4-HMAC-SHA256 " + "Credential=a/b/c/d/aws4_request, " * 100,
    ]:
        connection = http.client.HTTPConnection(ADDRESS.hostname, ADDRESS.port, timeout=30)
        connection.request("POST", "/", body=body, headers={**good, "Authorization": authorization})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        assert 400 <= response.status < 404, (authorization[:80], response.status, text)


def test_those_who_dawdle_hold_up_nobody():
    idle = [socket.create_connection((ADDRESS.hostname, ADDRESS.port)) for _ in range(300)]
    for number, stream in enumerate(idle):
        stream.sendall([b"", b"POST / HTTP/1.1\r\nHost:", head(b"x", "Content-Length: 2000000") + b"x"][number % 3])
    started = time.monotonic()
    for _ in range(5):
        ecs.list_clusters()
    assert time.monotonic() - started < 5, time.monotonic() - started
    assert post(b'{"maxResults":1}' + b" " * (1 << 20), "ListClusters")[0] == 200
    for stream in idle:
        stream.close()
    ecs.list_clusters()


def test_many_at_once():
    found = []
    def calls():
        mine = client("ecs")
        for _ in range(10):
            found.append(mine.list_clusters()["clusterArns"])
            refused(b"{", SERIALIZATION)
    threads = [threading.Thread(target=calls) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160, len(found)


if __name__ == "__main__":
    before = without_request_ids(state())
    try:
        run(globals())
    finally:
        after = without_request_ids(state())
        if after != before:
            print("FAILED something was changed:", before, after, sep="\n  ")
            os._exit(1)
