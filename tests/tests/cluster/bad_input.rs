//! Hostile and broken peers: the documented error, and nothing changed.

use tests::cluster::Cluster;

/// Clusters and definitions there are: what bad input must not change.
fn state(cluster: &Cluster) -> serde_json::Value {
    cluster.boto3(
        "e = client('ecs')\n\
         answer([e.list_clusters()['clusterArns'], e.list_task_definitions()['taskDefinitionArns']])",
    )
}

#[test]
fn requests_that_are_not_signed_right() {
    let cluster = Cluster::new();
    let before = state(&cluster);
    let (revoked, secret) = cluster.create_key(&[]);
    let gone = cluster.control_plane(&["key", "revoke", &revoked]).output().expect("it starts");
    assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    cluster.boto3(&format!(
        r#"
import datetime, urllib.request, urllib.error
import botocore.auth, botocore.awsrequest, botocore.credentials
def call(**keys):
    return client('ecs', **keys).create_cluster
own = dict(aws_access_key_id=os.environ['AWS_ACCESS_KEY_ID'])
raises('UnrecognizedClientException', call(aws_access_key_id='AKIAUNKNOWN', aws_secret_access_key='x'), clusterName='x')
raises('UnrecognizedClientException', call(aws_access_key_id='{revoked}', aws_secret_access_key='{secret}'), clusterName='x')
raises('InvalidSignatureException', call(**own, aws_secret_access_key='wrong'), clusterName='x')

def post(body, headers=None, sign=True, when=None, target='CreateCluster', tamper=None):
    headers = {{'Content-Type': 'application/x-amz-json-1.1',
               'X-Amz-Target': 'AmazonEC2ContainerServiceV20141113.' + target, **(headers or {{}})}}
    request = botocore.awsrequest.AWSRequest('POST', ENDPOINT + '/', data=body, headers=headers)
    if sign:
        keys = botocore.credentials.Credentials(os.environ['AWS_ACCESS_KEY_ID'], os.environ['AWS_SECRET_ACCESS_KEY'])
        real = botocore.auth.get_current_datetime if hasattr(botocore.auth, 'get_current_datetime') else None
        if when is not None:
            moment = datetime.datetime.now(datetime.timezone.utc) + when
            if real: botocore.auth.get_current_datetime = lambda remove_tzinfo=True: moment.replace(tzinfo=None) if remove_tzinfo else moment
            else: botocore.auth.datetime = type('D', (), {{'datetime': type('T', (), {{'utcnow': staticmethod(lambda: moment.replace(tzinfo=None))}})}})
        try: botocore.auth.SigV4Auth(keys, 'ecs', REGION).add_auth(request)
        finally:
            if real: botocore.auth.get_current_datetime = real
            elif when is not None: botocore.auth.datetime = datetime
    data = tamper if tamper is not None else body
    sent = urllib.request.Request(ENDPOINT + '/', data=data, headers=dict(request.headers), method='POST')
    try:
        with urllib.request.urlopen(sent) as got: return got.status, json.loads(got.read())
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text else {{}}

status, body = post(b'{{"clusterName":"x"}}', sign=False)
assert status == 400 and body['__type'].endswith('MissingAuthenticationTokenException'), (status, body)
status, body = post(b'{{"clusterName":"x"}}', tamper=b'{{"clusterName":"y"}}')
assert status == 400 and body['__type'].endswith('InvalidSignatureException'), (status, body)
status, body = post(b'{{"clusterName":"x"}}', when=datetime.timedelta(minutes=-20))
assert status == 400 and body['__type'].endswith('InvalidSignatureException'), (status, body)
status, body = post(b'{{"clusterName":')
assert status == 400 and body['__type'].endswith('SerializationException'), (status, body)
status, body = post(b'{{"clusterName":7}}')
assert status == 400 and body['__type'].endswith('SerializationException'), (status, body)
status, body = post(b'{{}}', target='NoSuchThing')
assert status == 400 and body['__type'].endswith('UnknownOperationException'), (status, body)
try:
    status, body = post(b'{{"clusterName":"' + b'x' * (8 << 20) + b'"}}')
    assert status == 413, status
except (urllib.error.URLError, ConnectionError) as error:
    pass  # answered and closed before all of it was sent
status, body = post(b'{{"clusterName":"fine"}}')
assert status == 200, (status, body)
client('ecs').delete_cluster(cluster='fine')
"#
    ));
    assert_eq!(state(&cluster), before);
}

#[test]
fn bytes_that_are_no_requests() {
    let cluster = Cluster::new();
    cluster.check("bad_input.py");
    let log = cluster.log();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn agents_that_are_refused() {
    let cluster = Cluster::joined();
    let before = state(&cluster);
    // Upgrades without a signature, and of nobody.
    for path in ["acs/ws", "tcs/ws"] {
        let answer = cluster.host.sh(&format!(
            "curl -s -o /dev/null -w '%{{http_code}}' -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
             -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
             {}/{path}?clusterArn=default",
            cluster.endpoint()
        ));
        assert!(answer.starts_with('4'), "{path}: {answer}");
    }
    assert_eq!(state(&cluster), before);
    cluster.wait_connected(1);
}

#[test]
fn an_agent_that_was_registered_elsewhere() {
    let mut cluster = Cluster::joined();
    cluster.stop_agent(0);
    cluster.boto3("client('ecs').create_cluster(clusterName='other')");
    let output = cluster
        .host
        .command(&["agent"])
        .env("ECS_CLUSTER", "other")
        .output()
        .expect("lighter starts");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let found = cluster.boto3(
        "answer(client('ecs').list_container_instances(cluster='other')['containerInstanceArns'])",
    );
    assert_eq!(found, serde_json::json!([]));
    cluster.start_agent(0);
    cluster.wait_connected(1);
}
