"""CloudWatch Logs: groups, streams, events, pages, filters, errors."""

from cluster import *

logs = client("logs")
NOW = int(time.time() * 1000)


def put(group, stream, *messages, at=NOW):
    events = [{"timestamp": at + i, "message": m} for i, m in enumerate(messages)]
    return logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def stream(group, name):
    try:
        logs.create_log_group(logGroupName=group)
    except logs.exceptions.ResourceAlreadyExistsException:
        pass
    logs.create_log_stream(logGroupName=group, logStreamName=name)


def test_groups():
    logs.create_log_group(logGroupName="/a/one", tags={"k": "v"})
    raises("ResourceAlreadyExistsException", logs.create_log_group, logGroupName="/a/one")
    raises("InvalidParameterException", logs.create_log_group, logGroupName="white space")
    logs.create_log_group(logGroupName="/a/two")
    logs.put_retention_policy(logGroupName="/a/one", retentionInDays=7)
    raises("InvalidParameterException", logs.put_retention_policy, logGroupName="/a/one", retentionInDays=8)
    found = logs.describe_log_groups(logGroupNamePrefix="/a/")["logGroups"]
    assert [g["logGroupName"] for g in found] == ["/a/one", "/a/two"], found
    assert found[0]["retentionInDays"] == 7 and found[0]["arn"].endswith(":log-group:/a/one:*"), found
    logs.delete_retention_policy(logGroupName="/a/one")
    logs.delete_log_group(logGroupName="/a/one")
    raises("ResourceNotFoundException", logs.delete_log_group, logGroupName="/a/one")
    pages = logs.get_paginator("describe_log_groups").paginate(PaginationConfig={"PageSize": 1})
    assert "/a/two" in [g["logGroupName"] for page in pages for g in page["logGroups"]]


def test_tags():
    logs.create_log_group(logGroupName="tagged", tags={"a": "1"})
    arn = logs.describe_log_groups(logGroupNamePrefix="tagged")["logGroups"][0]["arn"].removesuffix(":*")
    logs.tag_log_group(logGroupName="tagged", tags={"b": "2"})
    assert logs.list_tags_log_group(logGroupName="tagged")["tags"] == {"a": "1", "b": "2"}
    logs.untag_log_group(logGroupName="tagged", tags=["a"])
    logs.tag_resource(resourceArn=arn, tags={"c": "3"})
    logs.untag_resource(resourceArn=arn, tagKeys=["b"])
    assert logs.list_tags_for_resource(resourceArn=arn)["tags"] == {"c": "3"}
    raises("ResourceNotFoundException", logs.list_tags_log_group, logGroupName="nothing")
    raises("ResourceNotFoundException", logs.tag_resource, resourceArn=arn + "-not", tags={"c": "3"})


def test_streams_and_events():
    stream("g", "s/one")
    stream("g", "s/two")
    raises("ResourceAlreadyExistsException", logs.create_log_stream, logGroupName="g", logStreamName="s/one")
    raises("InvalidParameterException", logs.create_log_stream, logGroupName="g", logStreamName="a:b")
    raises("ResourceNotFoundException", logs.put_log_events, logGroupName="g", logStreamName="none",
           logEvents=[{"timestamp": NOW, "message": "x"}])
    assert "nextSequenceToken" in put("g", "s/one", "alpha", "beta", "gamma ü")
    put("g", "s/two", "delta", at=NOW + 10)
    got = logs.get_log_events(logGroupName="g", logStreamName="s/one", startFromHead=True)
    assert [e["message"] for e in got["events"]] == ["alpha", "beta", "gamma ü"], got
    assert [e["timestamp"] for e in got["events"]] == [NOW, NOW + 1, NOW + 2], got
    more = logs.get_log_events(logGroupName="g", logStreamName="s/one", nextToken=got["nextForwardToken"])
    assert more["events"] == [] and more["nextForwardToken"] == got["nextForwardToken"], more
    last = logs.get_log_events(logGroupName="g", logStreamName="s/one", limit=1)
    assert [e["message"] for e in last["events"]] == ["gamma ü"], last
    before = logs.get_log_events(logGroupName="g", logStreamName="s/one", limit=1, nextToken=last["nextBackwardToken"])
    assert [e["message"] for e in before["events"]] == ["beta"], before
    window = logs.get_log_events(logGroupName="g", logStreamName="s/one", startTime=NOW + 1, endTime=NOW + 2, startFromHead=True)
    assert [e["message"] for e in window["events"]] == ["beta"], window
    streams = logs.describe_log_streams(logGroupName="g", orderBy="LastEventTime", descending=True)["logStreams"]
    assert streams[0]["logStreamName"] == "s/two" and streams[0]["lastEventTimestamp"] == NOW + 10, streams
    everything = logs.filter_log_events(logGroupName="g")
    assert [e["message"] for e in everything["events"]] == ["alpha", "beta", "gamma ü", "delta"], everything
    some = logs.filter_log_events(logGroupName="g", filterPattern="?alpha ?delta")
    assert [e["message"] for e in some["events"]] == ["alpha", "delta"], some
    one = logs.filter_log_events(logGroupName="g", logStreamNamePrefix="s/t")
    assert [e["message"] for e in one["events"]] == ["delta"], one
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName="g", PaginationConfig={"PageSize": 1})
    assert [e["message"] for page in pages for e in page["events"]] == ["alpha", "beta", "gamma ü", "delta"]
    logs.delete_log_stream(logGroupName="g", logStreamName="s/two")
    raises("ResourceNotFoundException", logs.get_log_events, logGroupName="g", logStreamName="s/two")


def test_batches():
    stream("b", "s")
    old = put("b", "s", "too old", at=NOW - 15 * 24 * 3600 * 1000)
    assert old["rejectedLogEventsInfo"]["tooOldLogEventEndIndex"] == 1, old
    raises("InvalidParameterException", logs.put_log_events, logGroupName="b", logStreamName="s",
           logEvents=[{"timestamp": NOW + 5, "message": "x"}, {"timestamp": NOW, "message": "y"}])
    raises("InvalidParameterException", logs.get_log_events, logGroupName="b", logStreamName="s", limit=10001)
    put("b", "s", *[f"line {i}" for i in range(10000)])
    got, token = 0, None
    while True:
        more = {"nextToken": token} if token else {"startFromHead": True}
        page = logs.get_log_events(logGroupName="b", logStreamName="s", limit=3000, **more)
        got += len(page["events"])
        if page["nextForwardToken"] == token:
            break
        token = page["nextForwardToken"]
    assert got == 10000, got


if __name__ == "__main__":
    run(globals(), logs=OPERATIONS["logs"])
