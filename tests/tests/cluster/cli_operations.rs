//! Every operation by its command of the unmodified `aws` CLI, version 2.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::cluster::{ACCOUNT, Cluster, REGION};
use tests::host::container;

/// Commands of `aws ecs` by the test that must run them.
const CLUSTERS: &[&str] = &[
    "create-cluster",
    "delete-cluster",
    "describe-clusters",
    "list-account-settings",
    "list-clusters",
    "list-tags-for-resource",
    "put-account-setting",
    "put-account-setting-default",
    "put-cluster-capacity-providers",
    "tag-resource",
    "untag-resource",
    "update-cluster",
    "update-cluster-settings",
];
const DEFINITIONS: &[&str] = &[
    "delete-task-definitions",
    "deregister-task-definition",
    "describe-task-definition",
    "list-task-definition-families",
    "list-task-definitions",
    "register-task-definition",
];
const INSTANCES: &[&str] = &[
    "delete-attributes",
    "deregister-container-instance",
    "describe-container-instances",
    "discover-poll-endpoint",
    "list-attributes",
    "list-container-instances",
    "put-attributes",
    "register-container-instance",
    "submit-attachment-state-changes",
    "submit-container-state-change",
    "submit-task-state-change",
    "update-container-agent",
    "update-container-instances-state",
];
const TASKS: &[&str] = &["describe-tasks", "list-tasks", "run-task", "start-task", "stop-task"];
const SERVICES: &[&str] = &[
    "create-service",
    "delete-service",
    "describe-services",
    "get-task-protection",
    "list-services",
    "update-service",
    "update-task-protection",
];
/// Commands of `aws logs`.
const LOGS: &[&str] = &[
    "create-log-group",
    "create-log-stream",
    "delete-log-group",
    "delete-log-stream",
    "delete-retention-policy",
    "describe-log-groups",
    "describe-log-streams",
    "filter-log-events",
    "get-log-events",
    "list-tags-for-resource",
    "list-tags-log-group",
    "put-log-events",
    "put-retention-policy",
    "tag-log-group",
    "tag-resource",
    "untag-log-group",
    "untag-resource",
];

/// A cluster, and the commands that were run.
struct Cli {
    cluster: Cluster,
    run: RefCell<BTreeSet<String>>,
}

impl Cli {
    fn new(cluster: Cluster) -> Self {
        Self { cluster, run: RefCell::default() }
    }

    /// A command that must succeed, its arguments separated by single spaces: what it prints.
    fn ok(&self, line: &str) -> Value {
        let arguments: Vec<&str> = line.split(' ').collect();
        self.run.borrow_mut().insert(arguments[1].to_owned());
        self.cluster.aws_ok(&arguments)
    }

    /// A command that must fail with this error.
    fn refused(&self, error: &str, line: &str) {
        let arguments: Vec<&str> = line.split(' ').collect();
        self.run.borrow_mut().insert(arguments[1].to_owned());
        let output = self.cluster.aws(&arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(254), "{line}: {text}");
        assert!(text.contains(&format!("An error occurred ({error})")), "{line}: {text}");
    }

    /// Standard output of a command that must succeed.
    fn text(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split(' ').collect();
        self.run.borrow_mut().insert(arguments[1].to_owned());
        let mut command = self.cluster.client("/usr/bin/aws");
        command.args(arguments).args(["--endpoint-url", self.cluster.endpoint()]);
        let output = command.output().expect("the aws CLI is installed");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {stderr}\n{}", self.cluster.log());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Each of these has been run.
    fn ran(&self, commands: &[&str]) {
        let run = self.run.borrow();
        let missing: Vec<_> = commands.iter().filter(|command| !run.contains(**command)).collect();
        assert!(missing.is_empty(), "not run: {missing:?}");
    }

    /// Registers a task definition with `--cli-input-json`.
    fn register(&self, family: &str, script: &str) {
        let definition =
            json!({ "family": family, "containerDefinitions": [container("main", script)] });
        let file = self.cluster.host.definition(&format!("{family}.json"), &definition);
        self.ok(&format!("ecs register-task-definition --cli-input-json file://{file}"));
    }
}

fn arn(rest: &str) -> String {
    format!("arn:aws:ecs:{REGION}:{ACCOUNT}:{rest}")
}

/// Of an array of strings.
fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn clusters_tags_and_settings() {
    let cli = Cli::new(Cluster::new());
    let identity = cli.ok("sts get-caller-identity");
    assert_eq!(identity["Account"], ACCOUNT);
    let made = cli.ok("ecs create-cluster --cluster-name blue --tags key=k,value=v");
    assert_eq!(made["cluster"]["clusterArn"], arn("cluster/blue"));
    cli.ok("ecs create-cluster --cluster-name green");
    cli.ok("ecs create-cluster");
    let listed = cli.ok("ecs list-clusters --page-size 1");
    assert_eq!(strings(&listed["clusterArns"]).len(), 3, "every page: {listed}");
    let first = cli.ok("ecs list-clusters --max-items 2");
    assert_eq!(strings(&first["clusterArns"]).len(), 2, "{first}");
    let next = first["NextToken"].as_str().expect("a token");
    let rest = cli.ok(&format!("ecs list-clusters --starting-token {next}"));
    assert_eq!(strings(&rest["clusterArns"]).len(), 1, "{rest}");
    let updated = cli.ok(
        "ecs update-cluster-settings --cluster blue --settings name=containerInsights,value=enabled",
    );
    assert_eq!(updated["cluster"]["settings"][0]["value"], "enabled", "{updated}");
    let updated = cli
        .ok("ecs update-cluster --cluster blue --settings name=containerInsights,value=disabled");
    assert_eq!(updated["cluster"]["settings"][0]["value"], "disabled", "{updated}");
    let put = cli
        .ok("ecs put-cluster-capacity-providers --cluster blue --capacity-providers FARGATE \
         --default-capacity-provider-strategy capacityProvider=FARGATE,weight=1");
    assert_eq!(strings(&put["cluster"]["capacityProviders"]), ["FARGATE"], "{put}");
    cli.ok(&format!(
        "ecs tag-resource --resource-arn {} --tags key=a,value=1",
        arn("cluster/blue")
    ));
    cli.ok(&format!("ecs untag-resource --resource-arn {} --tag-keys k", arn("cluster/blue")));
    let tags =
        cli.ok(&format!("ecs list-tags-for-resource --resource-arn {}", arn("cluster/blue")));
    assert_eq!(tags["tags"], json!([{"key": "a", "value": "1"}]));
    let described = cli.text(
        "ecs describe-clusters --clusters blue gone --include TAGS STATISTICS --output text \
         --query [clusters[0].tags[0].value,failures[0].reason]",
    );
    assert_eq!(described, "1\tMISSING");
    for command in ["put-account-setting", "put-account-setting-default"] {
        let put = cli.ok(&format!("ecs {command} --name serviceLongArnFormat --value enabled"));
        assert_eq!(put["setting"]["value"], "enabled", "{put}");
    }
    let settings =
        cli.ok("ecs list-account-settings --effective-settings --name taskLongArnFormat");
    assert_eq!(settings["settings"][0]["value"], "enabled", "{settings}");
    let gone = cli.ok("ecs delete-cluster --cluster green");
    assert_eq!(gone["cluster"]["status"], "INACTIVE", "{gone}");
    cli.refused("ClusterNotFoundException", "ecs delete-cluster --cluster nothing");
    cli.ran(CLUSTERS);
}

#[test]
fn task_definitions() {
    let cli = Cli::new(Cluster::new());
    cli.register("web", "sleep 1000");
    cli.register("web", "sleep 2000");
    let described = cli.ok("ecs describe-task-definition --task-definition web --include TAGS");
    assert_eq!(described["taskDefinition"]["revision"], 2, "{described}");
    let listed = cli.ok("ecs list-task-definitions --family-prefix web --sort DESC --page-size 1");
    let arns = [arn("task-definition/web:2"), arn("task-definition/web:1")];
    assert_eq!(strings(&listed["taskDefinitionArns"]), arns);
    let families = cli.ok("ecs list-task-definition-families --family-prefix w --max-items 1");
    assert_eq!(strings(&families["families"]), ["web"]);
    let gone = cli.ok("ecs deregister-task-definition --task-definition web:2");
    assert_eq!(gone["taskDefinition"]["status"], "INACTIVE", "{gone}");
    // Newer than the CLI of some distributions.
    let deleted =
        cli.cluster.aws(&["ecs", "delete-task-definitions", "--task-definitions", "web:2"]);
    let text = String::from_utf8_lossy(&deleted.stderr).into_owned();
    if deleted.status.code() == Some(252) && text.contains("Invalid choice") {
        println!("this aws CLI has no delete-task-definitions");
        cli.run.borrow_mut().insert("delete-task-definitions".to_owned());
    } else {
        let deleted = cli.ok("ecs delete-task-definitions --task-definitions web:2");
        let status = &deleted["taskDefinitions"][0]["status"];
        assert_eq!(status, "DELETE_IN_PROGRESS", "{deleted}");
    }
    cli.refused("ClientException", "ecs describe-task-definition --task-definition unknown");
    cli.ran(DEFINITIONS);
}

#[test]
fn container_instances_and_what_agents_call() {
    let cli = Cli::new(Cluster::new());
    cli.ok("ecs create-cluster");
    let found = cli.ok("ecs discover-poll-endpoint --cluster default");
    assert!(found["endpoint"].as_str().is_some_and(|at| at.starts_with("http")), "{found}");
    let made = cli.ok("ecs register-container-instance --total-resources \
         name=CPU,type=INTEGER,integerValue=1024 name=MEMORY,type=INTEGER,integerValue=512 \
         name=PORTS,type=STRINGSET,stringSetValue=22 --attributes name=color,value=red");
    let instance = made["containerInstance"]["containerInstanceArn"].as_str().expect("an ARN");
    let listed = cli.text(
        "ecs list-container-instances --page-size 1 --output text \
         --query containerInstanceArns[0]",
    );
    assert_eq!(listed, instance);
    let id = instance.rsplit('/').next().expect("an id");
    cli.ok("ecs list-container-instances --status ACTIVE");
    let described = cli.ok(&format!("ecs describe-container-instances --container-instances {id}"));
    assert_eq!(described["containerInstances"][0]["agentConnected"], false, "{described}");
    cli.ok(&format!("ecs put-attributes --attributes name=stack,value=x,targetId={instance}"));
    let found =
        cli.ok("ecs list-attributes --target-type container-instance --attribute-name stack");
    assert_eq!(found["attributes"][0]["value"], "x", "{found}");
    let gone =
        cli.ok(&format!("ecs delete-attributes --attributes name=stack,targetId={instance}"));
    assert_eq!(gone["attributes"][0]["name"], "stack", "{gone}");
    let drained = cli.ok(&format!(
        "ecs update-container-instances-state --container-instances {id} --status DRAINING"
    ));
    assert_eq!(drained["containerInstances"][0]["status"], "DRAINING", "{drained}");
    cli.refused(
        "NoUpdateAvailableException",
        &format!("ecs update-container-agent --container-instance {id}"),
    );
    let task = arn(&format!("task/default/{}", "0".repeat(32)));
    for report in [
        format!("ecs submit-task-state-change --task {task} --status STOPPED"),
        format!(
            "ecs submit-container-state-change --task {task} --container-name a --status STOPPED"
        ),
        format!(
            "ecs submit-attachment-state-changes --attachments attachmentArn={},status=ATTACHED",
            arn("attachment/a")
        ),
    ] {
        assert_eq!(cli.ok(&report)["acknowledgment"], "ACK", "{report}");
    }
    let gone =
        cli.ok(&format!("ecs deregister-container-instance --container-instance {id} --force"));
    assert_eq!(gone["containerInstance"]["status"], "INACTIVE", "{gone}");
    cli.ran(INSTANCES);
}

#[test]
fn tasks() {
    let cli = Cli::new(Cluster::joined());
    cli.register("job", "sleep 1000");
    let run = cli
        .ok("ecs run-task --task-definition job --count 2 --started-by cli --tags key=a,value=b");
    assert_eq!(run["failures"], json!([]));
    let tasks: Vec<&str> = run["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .filter_map(|t| t["taskArn"].as_str())
        .collect();
    cli.ok(&format!("ecs wait tasks-running --tasks {}", tasks.join(" ")));
    let listed = cli.ok("ecs list-tasks --family job --page-size 1");
    assert_eq!(strings(&listed["taskArns"]).len(), 2, "{listed}");
    let described = cli.text(&format!(
        "ecs describe-tasks --tasks {} --include TAGS --output text \
         --query tasks[].[lastStatus,startedBy,tags[0].value]",
        tasks[0]
    ));
    assert_eq!(described, "RUNNING\tcli\tb");
    cli.ok(&format!("ecs describe-tasks --tasks {}", tasks[0]));
    let instance =
        cli.text("ecs list-container-instances --query containerInstanceArns[0] --output text");
    let started =
        cli.ok(&format!("ecs start-task --task-definition job --container-instances {instance}"));
    let started = started["tasks"][0]["taskArn"].as_str().expect("an ARN");
    let all = [tasks[0], tasks[1], started];
    for task in all {
        let stopped = cli.ok(&format!("ecs stop-task --task {task} --reason enough"));
        assert_eq!(stopped["task"]["desiredStatus"], "STOPPED", "{stopped}");
    }
    cli.ok(&format!("ecs wait tasks-stopped --tasks {}", all.join(" ")));
    let impossible = cli.ok("ecs run-task --task-definition job --placement-constraints \
         type=memberOf,expression=attribute:color==red");
    assert_eq!(impossible["tasks"], json!([]));
    assert!(impossible["failures"][0]["reason"].is_string(), "{impossible}");
    cli.refused("InvalidParameterException", "ecs run-task --task-definition job --count 11");
    cli.refused("ClusterNotFoundException", "ecs list-tasks --cluster nothing");
    cli.ran(TASKS);
}

#[test]
fn services() {
    let cli = Cli::new(Cluster::joined());
    cli.register("web", "sleep 1000");
    let made =
        cli.ok("ecs create-service --service-name web --task-definition web --desired-count 1");
    assert_eq!(made["service"]["status"], "ACTIVE", "{made}");
    cli.ok("ecs wait services-stable --services web");
    let listed = cli.ok("ecs list-services --page-size 1");
    assert_eq!(strings(&listed["serviceArns"]), [arn("service/default/web")]);
    let task = cli.text("ecs list-tasks --service-name web --query taskArns[0] --output text");
    let kept = cli.ok(&format!(
        "ecs update-task-protection --cluster default --tasks {task} --protection-enabled"
    ));
    assert_eq!(kept["protectedTasks"][0]["protectionEnabled"], true, "{kept}");
    let shown = cli.ok("ecs get-task-protection --cluster default");
    assert_eq!(shown["protectedTasks"][0]["taskArn"], task, "{shown}");
    cli.ok(&format!(
        "ecs update-task-protection --cluster default --tasks {task} --no-protection-enabled"
    ));
    let updated =
        cli.ok("ecs update-service --service web --force-new-deployment --desired-count 0");
    assert_eq!(updated["service"]["desiredCount"], 0, "{updated}");
    let deleted = cli.ok("ecs delete-service --service web --force");
    assert!(deleted["service"]["status"].is_string(), "{deleted}");
    cli.ok("ecs wait services-inactive --services web");
    let described = cli.ok("ecs describe-services --services web nothing");
    assert_eq!(described["services"][0]["status"], "INACTIVE", "{described}");
    assert_eq!(described["failures"][0]["reason"], "MISSING", "{described}");
    cli.ran(SERVICES);
}

#[test]
fn logs() {
    let cli = Cli::new(Cluster::new());
    cli.ok("logs create-log-group --log-group-name /web --tags a=1");
    cli.ok("logs put-retention-policy --log-group-name /web --retention-in-days 7");
    let groups = cli.ok("logs describe-log-groups --log-group-name-prefix /w --page-size 1");
    assert_eq!(groups["logGroups"][0]["retentionInDays"], 7, "{groups}");
    cli.ok("logs delete-retention-policy --log-group-name /web");
    let of = format!("--resource-arn arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/web");
    cli.ok("logs tag-log-group --log-group-name /web --tags b=2");
    cli.ok("logs untag-log-group --log-group-name /web --tags a");
    cli.ok(&format!("logs tag-resource {of} --tags c=3"));
    cli.ok(&format!("logs untag-resource {of} --tag-keys b"));
    let tags = json!({ "c": "3" });
    assert_eq!(cli.ok("logs list-tags-log-group --log-group-name /web")["tags"], tags);
    assert_eq!(cli.ok(&format!("logs list-tags-for-resource {of}"))["tags"], tags);
    cli.ok("logs create-log-stream --log-group-name /web --log-stream-name one");
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    cli.ok(&format!(
        "logs put-log-events --log-group-name /web --log-stream-name one \
         --log-events timestamp={now},message=alpha timestamp={now},message=beta"
    ));
    let streams = cli.ok("logs describe-log-streams --log-group-name /web");
    assert_eq!(streams["logStreams"][0]["logStreamName"], "one", "{streams}");
    let got = cli.ok("logs get-log-events --log-group-name /web --log-stream-name one");
    assert_eq!(got["events"].as_array().map(Vec::len), Some(2), "{got}");
    let found = cli.ok("logs filter-log-events --log-group-name /web --filter-pattern alpha");
    assert_eq!(found["events"][0]["message"], "alpha", "{found}");
    assert_eq!(found["events"].as_array().map(Vec::len), Some(1), "{found}");
    let paged = cli.ok("logs filter-log-events --log-group-name /web --page-size 1 --max-items 2");
    assert_eq!(paged["events"].as_array().map(Vec::len), Some(2), "{paged}");
    let tail = cli.text("logs tail /web --since 5m --format short");
    assert!(tail.contains("alpha") && tail.contains("beta"), "{tail}");
    cli.ok("logs delete-log-stream --log-group-name /web --log-stream-name one");
    cli.ok("logs delete-log-group --log-group-name /web");
    cli.refused("ResourceNotFoundException", "logs tail /web");
    cli.ran(LOGS);
}

/// The lists above are of exactly the operations that there are.
#[test]
fn no_operation_is_left_out() {
    let cluster = Cluster::new();
    let found = cluster.boto3(
        "from botocore import xform_name\n\
         def commands(names): return sorted(xform_name(name, '-') for name in names)\n\
         parts = ('operations', 'tasks', 'services')\n\
         ecs = [name for part in parts for name in OPERATIONS[part]] + NEVER\n\
         answer([commands(ecs), commands(OPERATIONS['logs'])])",
    );
    let mut ecs = [CLUSTERS, DEFINITIONS, INSTANCES, TASKS, SERVICES].concat();
    ecs.sort_unstable();
    assert_eq!(found, json!([ecs, LOGS]));
}
