//! The port: real clients, and requests that are refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{Answered, Call, ECS, Running, certificate};

fn target(operation: &str) -> String {
    format!("{ECS}.{operation}")
}

/// Clusters are what calls would make.
fn clusters(running: &Running) -> usize {
    running.state.view().clusters.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_and_the_aws_cli_learn_who_they_are() {
    let running = Running::start().await;
    let arn = format!("arn:aws:iam::123456789012:user/{}", running.key.id);
    let printed = running
        .python(
            "who = client('sts').get_caller_identity()\n\
             assert who['ResponseMetadata']['HTTPHeaders']['x-amzn-requestid'] == who['ResponseMetadata']['RequestId']\n\
             print(json.dumps([who['Account'], who['Arn'], who['UserId']]))\n",
        )
        .await;
    let who: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(who, json!(["123456789012", arn, running.key.id]));
    let printed = running.aws(&["sts", "get-caller-identity", "--output", "json"]).await;
    let who: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(who["Arn"], json!(arn));
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_understands_refusals() {
    let running = Running::start().await;
    let printed = running
        .python(
            "import datetime, botocore.auth as auth\n\
             wrong = dict(aws_secret_access_key='wrong')\n\
             unknown = dict(aws_access_key_id='AKIAUNKNOWN')\n\
             token = dict(aws_session_token='token')\n\
             out = [code(client('ecs', **more).list_clusters) for more in (wrong, unknown, token)]\n\
             out += [code(client('logs', **more).describe_log_groups) for more in (wrong, unknown)]\n\
             out += [code(client('sts', **more).get_caller_identity) for more in (wrong, unknown)]\n\
             out += [code(client('sts').get_session_token)]\n\
             out += [code(client('ecs').describe_task_sets, cluster='c', service='s')]\n\
             real = auth.get_current_datetime\n\
             auth.get_current_datetime = lambda *a, **b: real(*a, **b) + datetime.timedelta(minutes=-6)\n\
             out += [code(client('ecs').list_clusters), code(client('sts').get_caller_identity)]\n\
             print(json.dumps(out))\n",
        )
        .await;
    let codes: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        codes,
        json!([
            "InvalidSignatureException",
            "UnrecognizedClientException",
            "UnrecognizedClientException",
            "InvalidSignatureException",
            "UnrecognizedClientException",
            "SignatureDoesNotMatch",
            "InvalidClientTokenId",
            "InvalidAction",
            "UnknownOperationException",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
        ])
    );
}

#[tokio::test]
async fn json_calls_that_are_refused() {
    let running = Running::start().await;
    let key = &running.key;
    let body = br#"{"clusterName":"x"}"#;
    let create = target("CreateCluster");
    let call = || running.call(body).target(&create);
    let minutes = |minutes| Timestamp::now() + SignedDuration::from_mins(minutes);

    let refused = call().send().await;
    assert_eq!((refused.status, &*refused.error()), (400, "MissingAuthenticationTokenException"));
    let refused = call().signed(key, "ecs").with(|call| call.tampered = Some(b"{}")).send().await;
    assert_eq!((refused.status, &*refused.error()), (400, "InvalidSignatureException"));
    for (now, text) in
        [(minutes(-6), "Signature expired: "), (minutes(6), "Signature not yet current: ")]
    {
        let refused = call().with(|call| call.now = now).signed(key, "ecs").send().await;
        assert_eq!((refused.status, &*refused.error()), (400, "InvalidSignatureException"));
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(text), "{message}");
    }
    let refused = call().signed(key, "logs").send().await;
    assert_eq!((refused.status, &*refused.error()), (400, "InvalidSignatureException"));
    // A signature that leaves the operation open.
    let refused = running.call(body).signed(key, "ecs").target(&create).send().await;
    assert_eq!((refused.status, &*refused.error()), (400, "IncompleteSignatureException"));
    let refused = call()
        .with(|call| call.headers.push(("authorization", "Bearer x".to_owned())))
        .send()
        .await;
    assert_eq!((refused.status, &*refused.error()), (400, "IncompleteSignatureException"));
    for (bad, name) in [
        (&br#"{"clusterName":"#[..], "SerializationException"),
        (br#"{"clusterName":7}"#, "SerializationException"),
        (b"\xff", "SerializationException"),
    ] {
        let (status, refused) = running.json(key, &create, bad).await;
        assert_eq!((status, &refused["__type"]), (400, &json!(name)));
    }
    for unknown in [target("RunNothing"), "NoSuchService.RunTask".to_owned(), "nonsense".to_owned()]
    {
        let (status, refused) = running.json(key, &unknown, b"{}").await;
        assert_eq!((status, &refused["__type"]), (400, &json!("UnknownOperationException")));
    }
    for (method, path) in [("GET", "/"), ("POST", "/elsewhere"), ("PUT", "/")] {
        let refused = running
            .call(b"")
            .with(|call| {
                call.method = method;
                call.path = path;
            })
            .send()
            .await;
        assert_eq!((refused.status, &*refused.error()), (404, "UnknownOperationException"));
    }
    assert_eq!(clusters(&running), 0);
    let (status, made) = running.json(key, &create, body).await;
    assert_eq!((status, &made["cluster"]["clusterName"]), (200, &json!("x")));
    let logs = running
        .call(b"{}")
        .target("Logs_20140328.DescribeLogGroups")
        .signed(key, "logs")
        .send()
        .await;
    assert_eq!((logs.status, logs.json()), (200, json!({ "logGroups": [] })));
}

#[tokio::test]
async fn keys_that_end() {
    let running = Running::start().await;
    let create = target("ListClusters");
    let key = running.create_key(&["*"]).await;
    assert_eq!(running.json(&key, &create, b"{}").await.0, 200);
    let revoke = control_plane::access::Request::RevokeKey { id: key.id.clone() };
    control_plane::access::perform(&running.state, revoke, Timestamp::now()).await.unwrap();
    let (status, refused) = running.json(&key, &create, b"{}").await;
    assert_eq!((status, &refused["__type"]), (400, &json!("UnrecognizedClientException")));
    assert_eq!(refused["message"], json!("The security token included in the request is invalid."));

    let mut session = running.create_key(&["*"]).await;
    session.session_token = Some("to/ken==".to_owned());
    session.expires_at = Some(Timestamp::now() + SignedDuration::from_secs(60));
    running.put(&session).await;
    assert_eq!(running.json(&session, &create, b"{}").await.0, 200);
    session.expires_at = Some(Timestamp::now());
    running.put(&session).await;
    let (status, refused) = running.json(&session, &create, b"{}").await;
    assert_eq!((status, &refused["__type"]), (400, &json!("ExpiredTokenException")));
    let form = b"Action=GetCallerIdentity&Version=2011-06-15";
    let refused = running.call(form).form().signed(&session, "sts").send().await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("<Code>ExpiredToken</Code>"), "{}", refused.text());
}

#[tokio::test]
async fn a_key_does_what_it_is_allowed() {
    let running = Running::start().await;
    let key = running.create_key(&["ecs:List*", "logs:*"]).await;
    assert_eq!(running.json(&key, &target("ListClusters"), b"{}").await.0, 200);
    let (status, refused) = running.json(&key, &target("CreateCluster"), b"{}").await;
    assert_eq!((status, &refused["__type"]), (400, &json!("AccessDeniedException")));
    let message = refused["message"].as_str().unwrap();
    let expected = format!(
        "User: arn:aws:iam::123456789012:user/{} is not authorized to perform: ecs:CreateCluster",
        key.id
    );
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(clusters(&running), 0);
    // Who one is may be asked by everyone.
    let form = b"Action=GetCallerIdentity&Version=2011-06-15";
    assert_eq!(running.call(form).form().signed(&key, "sts").send().await.status, 200);
}

#[tokio::test]
async fn forms() {
    let running = Running::start().await;
    let key = &running.key;
    for (form, status, code) in [
        (
            &b"Action=GetCallerIdentity&Version=2011-06-15"[..],
            200,
            "<Account>123456789012</Account>",
        ),
        (b"Action=AssumeRole&Version=2011-06-15", 400, "<Code>InvalidAction</Code>"),
        (b"Action=GetCallerIdentity&Version=2010-05-08", 400, "<Code>InvalidAction</Code>"),
        (b"Version=2011-06-15", 400, "<Code>MissingAction</Code>"),
        (b"Action=%FF&Action=x", 400, "<Code>MalformedQueryString</Code>"),
    ] {
        let answer = running.call(form).form().signed(key, "sts").send().await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(code), "{}", answer.text());
        assert!(answer.head.contains("content-type: text/xml\r\n"), "{}", answer.head);
    }
    let refused = running.call(b"Action=GetCallerIdentity").form().send().await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("<Code>MissingAuthenticationToken</Code>"));

    let identity = "/?Action=GetCallerIdentity&Version=2011-06-15";
    let get = running.call(b"").with(|call| {
        call.method = "GET";
        call.path = identity;
    });
    assert_eq!(get.signed(key, "sts").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_requests() {
    let running = Running::start().await;
    let url = running
        .python("print(client('sts').generate_presigned_url('get_caller_identity', ExpiresIn=60, HttpMethod='GET'))")
        .await;
    let path = url.strip_prefix(&format!("http://{}", running.address)).unwrap().to_owned();
    let get = |path| {
        running.call(b"").with(move |call| {
            call.method = "GET";
            call.path = path;
        })
    };
    let answer = get(&path).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let tampered = path.replace("X-Amz-Expires=60", "X-Amz-Expires=6000");
    let refused = get(&tampered).send().await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("<Code>SignatureDoesNotMatch</Code>"), "{}", refused.text());
}

#[tokio::test]
async fn large_bodies() {
    let running = Running::start().await;
    let create = target("CreateCluster");
    let large = vec![b' '; 3 << 20];
    let call = || running.call(&large).target(&create);
    let refused = call().signed(&running.key, "ecs").send().await;
    assert_eq!((refused.status, &*refused.error()), (413, "RequestEntityTooLarge"));
    // Of someone unknown the body is not even read.
    let refused = call().send().await;
    assert_eq!((refused.status, &*refused.error()), (400, "MissingAuthenticationTokenException"));

    // The length is not always announced.
    let mut chunked = Vec::new();
    for chunk in large.chunks(64 << 10) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let refused = call()
        .signed(&running.key, "ecs")
        .with(|call| {
            call.headers.push(("transfer-encoding", "chunked".to_owned()));
            call.tampered = Some(&chunked);
        })
        .send()
        .await;
    assert_eq!((refused.status, &*refused.error()), (413, "RequestEntityTooLarge"));

    // Two MiB are fine, in one piece or in many.
    let fits = [&b"{\"clusterName\":\"x\"}"[..], &vec![b' '; (2 << 20) - 19]].concat();
    assert_eq!(running.json(&running.key, &create, &fits).await.0, 200);
}

#[tokio::test]
async fn what_is_no_request() {
    let running = Running::start().await;
    let talk = async |text: &[u8]| {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // The server may have closed by then.
        let _ = stream.write_all(text).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    assert_eq!(Answered::read(&talk(long.as_bytes()).await).status, 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert_eq!(Answered::read(&talk(many.as_bytes()).await).status, 431);
    assert_eq!(Answered::read(&talk(b"\x16\x03\x01nonsense\r\n\r\n").await).status, 400);
    assert!(talk(b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc").await.len() < 1000);
    let odd = b"POST / HTTP/1.1\r\nhost: a b\r\nx-amz-target: \xff\xfe\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert_eq!(Answered::read(&talk(odd).await).status, 400);
    let health = running.call(b"").with(|call| {
        call.method = "GET";
        call.path = "/healthz";
    });
    let health = health.send().await;
    assert_eq!((health.status, health.json()), (200, json!({ "status": "ok" })));
    assert!(health.head.contains("\r\nx-amzn-requestid: "), "{}", health.head);
}

/// No upgrade, so that the answer ends with the connection.
fn close(call: Call<'_>) -> Call<'_> {
    call.with(|call| call.headers.retain(|(name, _)| *name != "connection"))
}

#[tokio::test]
async fn sessions_that_are_refused() {
    let running = Running::start().await;
    let upgrade = |path| {
        running.call(b"").with(move |call| {
            call.method = "GET";
            call.path = path;
            call.headers = [
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ]
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec();
        })
    };
    let only = |answer: &Answered| {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        let object = answer.json();
        let names: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
        let [name] = names.as_slice() else { panic!("{object}") };
        name.clone()
    };
    let path = "/acs/ws?clusterArn=default&containerInstanceArn=x&dockerVersion=DockerVersion:+20";
    assert_eq!(only(&close(upgrade(path)).send().await), "MissingAuthenticationTokenException");
    let limited = running.create_key(&["ecs:List*"]).await;
    let refused = close(upgrade(path).signed(&limited, "ecs")).send().await;
    assert_eq!(only(&refused), "AccessDeniedException");
    let refused = close(upgrade("/tcs/ws").signed(&running.key, "sts")).send().await;
    assert_eq!(only(&refused), "InvalidSignatureException");
    // Signed, and not an upgrade.
    let refused = close(upgrade(path).signed(&running.key, "ecs")).send().await;
    assert_eq!(only(&refused), "InvalidParameterException");
    // Signed, an upgrade, and of an instance that there is not: the refusal is of the session.
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let call = upgrade(path).signed(&running.key, "ecs");
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in &call.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all((head + "\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    assert_eq!(only(&Answered::read(&answer[..length])), "InvalidInstanceException");
}

#[tokio::test]
async fn the_end_waits_for_calls_and_not_for_the_idle() {
    let mut running = Running::start().await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /heal").await.unwrap();
    let mut answer = vec![0; 1024];
    assert!(slow.read(&mut answer).await.unwrap() > 0);
    let started = Instant::now();
    running.stop().await;
    assert!(started.elapsed() < Duration::from_secs(11));
    assert_eq!(idle.read(&mut answer).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn https() {
    let files = tempfile::tempdir().unwrap();
    let tls = certificate(files.path());
    let shown = tls.0.display().to_string();
    let running = Running::start_with(|config| config.tls = Some(tls)).await;
    let printed = running
        .python(&format!(
            "endpoint = 'https://localhost:{}'\n\
             ecs = client('ecs', endpoint_url=endpoint, verify='{shown}')\n\
             ecs.create_cluster()\n\
             print(ecs.discover_poll_endpoint()['endpoint'])\n",
            running.address.port()
        ))
        .await;
    assert!(
        printed.starts_with(&format!("https://localhost:{}", running.address.port())),
        "{printed}"
    );
    // Who does not speak TLS is sent away.
    let mut plain = TcpStream::connect(running.address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}
