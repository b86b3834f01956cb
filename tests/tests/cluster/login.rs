//! Logins of registries for tasks of a control plane: secrets, and tokens of Amazon ECR.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tests::aws::Aws;
use tests::cluster::{ACCOUNT, Cluster, REGION};
use tests::host::{TestHost, container, script, stderr, stdout};
use tests::registry::{PASSWORD, Registry, USER};

/// Registers a definition by the `aws` CLI.
fn register(cluster: &Cluster, definition: &Value) -> Value {
    let file = cluster.host.definition("login.json", definition);
    let file = format!("file://{file}");
    cluster.aws_ok(&["ecs", "register-task-definition", "--cli-input-json", &file])
}

/// Runs the family's task until it has stopped: how it is described then.
fn run(cluster: &Cluster, family: &str) -> Value {
    let run = cluster.aws_ok(&["ecs", "run-task", "--task-definition", family]);
    assert_eq!(run["failures"], json!([]), "{run}");
    let task = run["tasks"][0]["taskArn"].as_str().expect("an ARN").to_owned();
    let mut described = Value::Null;
    cluster.eventually("the task has stopped", || {
        described = cluster.aws_ok(&["ecs", "describe-tasks", "--tasks", &task]);
        described["tasks"][0]["lastStatus"] == "STOPPED"
    });
    described["tasks"][0].take()
}

fn create_role(cluster: &Cluster) {
    let created =
        cluster.control_plane(&["role", "create", "puller", "--allow", "none:*"]).output();
    let created = created.expect("it starts");
    assert!(created.status.success(), "{}", stderr(&created));
}

#[test]
fn repository_credentials_are_read_with_the_execution_role() {
    let mut cluster = Cluster::new();
    create_role(&cluster);
    let aws = Aws::start().expect("moto starts");
    cluster.add_agent(&[("AWS_ENDPOINT_URL_SECRETS_MANAGER", &aws.endpoint())]);
    let registry = Registry::start_with_login().expect("docker-registry starts");
    registry.push(&cluster.host.archive(), "team/tool:1.0").expect("push");
    let arn = aws.put_secret("login", r#"{"username":"alice","password":"hunter2"}"#);
    let arn = arn.expect("put the secret");
    let mut main = container("main", "echo ran");
    main["image"] = json!(registry.image("team/tool:1.0"));
    main["repositoryCredentials"] = json!({"credentialsParameter": arn});
    let definition = json!({
        "family": "private", "networkMode": "bridge", "executionRoleArn": "puller",
        "containerDefinitions": [main],
    });
    let registered = register(&cluster, &definition);
    let definition = &registered["taskDefinition"];
    assert_eq!(
        definition["containerDefinitions"][0]["repositoryCredentials"]["credentialsParameter"],
        json!(arn)
    );
    let attributes = definition["requiresAttributes"].as_array().expect("a list");
    let needed = "ecs.capability.private-registry-authentication.secretsmanager";
    assert!(attributes.iter().any(|found| found["name"] == needed), "{attributes:?}");

    let stopped = run(&cluster, "private");
    assert_eq!(stopped["stopCode"], "TaskFailedToStart");
    let reason = stopped["stoppedReason"].as_str().expect("a reason");
    assert!(reason.contains("refuses these credentials"), "{reason}");
    assert!(!stopped.to_string().contains("hunter2"), "{stopped}");
    // The secret is rotated: the next pull reads it.
    let login = json!({"username": USER, "password": PASSWORD}).to_string();
    aws.put_secret("login", &login).expect("put the secret");
    let stopped = run(&cluster, "private");
    assert_eq!(stopped["containers"][0]["exitCode"], 0, "{stopped}");
    // An image that is here is for those who may pull it.
    aws.boto3(
        "client('secretsmanager').delete_secret(SecretId='login', ForceDeleteWithoutRecovery=True)",
    )
    .expect("delete the secret");
    let stopped = run(&cluster, "private");
    let reason = stopped["stoppedReason"].as_str().expect("a reason");
    assert!(
        reason.starts_with(&format!(
            "ResourceInitializationError: asm fetching secret from the service for {arn}: \
             GetSecretValue is refused: ResourceNotFoundException: "
        )),
        "{reason}"
    );
    let written = cluster.host.sh(&format!(
        "grep -rlaF -e {PASSWORD} --exclude-dir=images {}",
        cluster.host.root().join("var").display()
    ));
    assert_eq!(written, "");
    assert!(!cluster.log().contains(PASSWORD) && !cluster.log().contains("hunter2"));
}

#[test]
fn a_secret_of_the_definition_is_read_with_the_hosts_credentials() {
    let host = TestHost::new();
    let registry = Registry::start_with_login().expect("docker-registry starts");
    registry.push(&host.archive(), "team/tool:1.0").expect("push");
    let aws = Aws::start().expect("moto starts");
    let login = json!({"username": USER, "password": PASSWORD}).to_string();
    let arn = aws.put_secret("login", &login).expect("put the secret");
    let run = |secret: &str| {
        let mut definition = script("none", "echo ran");
        definition["executionRoleArn"] = json!("puller");
        let container = &mut definition["containerDefinitions"][0];
        container["image"] = json!(registry.image("team/tool:1.0"));
        container["repositoryCredentials"] = json!({"credentialsParameter": secret});
        let file = host.definition("task.json", &definition);
        let mut command = host.command(&["run", "--pull", "always", &file]);
        command.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws.endpoint());
        command.env("AWS_ACCESS_KEY_ID", "host").env("AWS_SECRET_ACCESS_KEY", "host");
        command.env("AWS_DEFAULT_REGION", REGION);
        command.output().expect("lighter starts")
    };
    for secret in [arn.as_str(), "login"] {
        let output = run(secret);
        assert!(stdout(&output).contains("ran"), "{secret}: {}", stderr(&output));
    }
    let output = run("absent");
    assert_eq!(output.status.code(), Some(125));
    let said = stderr(&output);
    assert!(
        said.contains(
            "ResourceInitializationError: asm fetching secret from the service for absent: \
             GetSecretValue is refused: ResourceNotFoundException: "
        ),
        "{said}"
    );
    for (value, expected) in [
        (r#"{"username":"alice","password":"hunter2"}"#, "refuses these credentials"),
        ("hunter2", "unable to unmarshal secret value, invalid schema (secret login must be"),
        (r#"{"username":"hunter2"}"#, "asm fetching password: AuthorizationData is malformed"),
    ] {
        aws.put_secret("login", value).expect("put the secret");
        let said = stderr(&run("login"));
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
    }
}

/// A registry under the name of one of Amazon ECR, on the test's own port 443; ends with this value.
struct Ecr(Child);

impl Ecr {
    const HOST: &str = "000000000000.dkr.ecr.eu-north-1.amazonaws.com";

    fn start(host: &TestHost) -> Self {
        assert_eq!(Self::HOST, format!("{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"));
        let path = |name: &str| host.path(name).display().to_string();
        // The name and the certificate are known within the test's own mounts only.
        let made = host.sh(&format!(
            "set -e; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
               -subj /CN=test -addext subjectAltName=DNS:{name} -addext basicConstraints=critical,CA:FALSE \
               -keyout {key} -out {certificate} 2>/dev/null; \
             cat /etc/ssl/certs/ca-certificates.crt {certificate} > {bundle}; \
             mount --bind {bundle} /etc/ssl/certs/ca-certificates.crt; \
             echo '127.0.0.1 localhost {name}' > {hosts}; mount --bind {hosts} /etc/hosts; \
             htpasswd -Bbn AWS {ACCOUNT}-auth-token > {htpasswd}; echo made",
            name = Self::HOST,
            key = path("key.pem"),
            certificate = path("certificate.pem"),
            bundle = path("bundle.pem"),
            hosts = path("hosts"),
            htpasswd = path("htpasswd"),
        ));
        assert!(made.ends_with("made"), "{made}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:443\n  tls:\n    certificate: {}\n    key: {}\n\
             auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            path("data"),
            path("certificate.pem"),
            path("key.pem"),
            path("htpasswd"),
        );
        fs::write(host.path("registry.yml"), config).expect("write the configuration");
        let log = fs::File::create(host.path("registry.log")).expect("a log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(host.path("registry.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed");
        let address = SocketAddr::from(([127, 0, 0, 1], 443));
        host.eventually("the registry serves", || TcpStream::connect(address).is_ok());
        let pushed = host.sh(&format!(
            "skopeo copy --quiet --insecure-policy --dest-creds AWS:{ACCOUNT}-auth-token \
             oci-archive:{} docker://{}/team/tool:1.0 && echo pushed",
            host.archive().display(),
            Self::HOST
        ));
        assert!(pushed.ends_with("pushed"), "{pushed}");
        Self(child)
    }

    fn image(&self) -> String {
        format!("{}/team/tool:1.0", Self::HOST)
    }
}

impl Drop for Ecr {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn images_of_amazon_ecr_are_pulled_with_a_token() {
    let host = TestHost::new();
    let ecr = Ecr::start(&host);
    let aws = Aws::start().expect("moto starts");
    // By hand, with the host's own credentials.
    let pull = |endpoint: &str| {
        let mut command = host.command(&["image", "pull", "-q", &ecr.image()]);
        command.env("AWS_ENDPOINT_URL_ECR", endpoint);
        command.env("AWS_ACCESS_KEY_ID", "host").env("AWS_SECRET_ACCESS_KEY", "host");
        command.output().expect("lighter starts")
    };
    let output = pull("http://127.0.0.1:1");
    let said = stderr(&output);
    assert!(
        said.contains(&format!(
            "The task can’t pull the image. Check your network configuration. get a login of Amazon \
             ECR for registry {ACCOUNT} in {REGION}: call GetAuthorizationToken at http://127.0.0.1:1"
        )),
        "{said}"
    );
    let output = pull(&aws.endpoint());
    assert!(output.status.success(), "{}", stderr(&output));
    host.ok(&["image", "rm", &ecr.image()]);

    // By the control plane, with the execution role and without.
    let mut cluster = Cluster::on(host, &[]);
    create_role(&cluster);
    cluster.add_agent(&[("AWS_ENDPOINT_URL_ECR", &aws.endpoint())]);
    for role in [true, false] {
        let mut main = container("main", "echo ran");
        main["image"] = json!(ecr.image());
        let mut definition = json!({
            "family": "ecr", "networkMode": "bridge", "containerDefinitions": [main],
        });
        if role {
            definition["executionRoleArn"] = json!("puller");
        }
        register(&cluster, &definition);
        let stopped = run(&cluster, "ecr");
        assert_eq!(stopped["containers"][0]["exitCode"], 0, "{stopped}");
    }
    assert!(!cluster.log().contains("auth-token"), "{}", cluster.log());
}
