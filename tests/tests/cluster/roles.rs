//! Task roles: only the task's own containers get its credentials, and those may do what the role
//! allows.

use serde_json::json;
use tests::cluster::{ACCOUNT, Cluster};
use tests::host::{FIRST_ID, container};

/// Registers and runs a task that prints its credentials document and its metadata, and stays.
fn run(cluster: &Cluster, family: &str, mode: &str, role: bool) -> String {
    let script = "wget -q -O - http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; echo; \
                  wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/task; echo; \
                  echo uri $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; exec sleep 1000";
    let mut definition = json!({
        "family": family, "networkMode": mode, "containerDefinitions": [container("main", script)],
    });
    if role {
        definition["taskRoleArn"] = json!(format!("arn:aws:iam::{ACCOUNT}:role/reader"));
    }
    let network = if mode == "awsvpc" {
        ", networkConfiguration={'awsvpcConfiguration': {'subnets': ['subnet-1']}}"
    } else {
        ""
    };
    let task = cluster.boto3(&format!(
        "import json\n\
         ecs = client('ecs')\n\
         ecs.register_task_definition(**json.loads(r'''{definition}'''))\n\
         task = ecs.run_task(taskDefinition='{family}'{network})['tasks'][0]['taskArn']\n\
         wait(ecs, 'tasks_running', tasks=[task])\n\
         answer(task.rsplit('/')[-1])"
    ));
    task.as_str().expect("an id").to_owned()
}

fn output(cluster: &Cluster, task: &str, line: usize) -> String {
    let mut found = String::new();
    cluster.eventually("the task has printed", || {
        let text = cluster.host.ok(&["logs", task]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        found = lines.get(line).map(|line| (*line).to_owned()).unwrap_or_default();
        !found.is_empty()
    });
    found
}

#[test]
fn a_task_with_a_user_namespace_gets_its_credentials() {
    let mut cluster = Cluster::new();
    cluster.host.remap_users();
    cluster.add_agent(&[("LIGHTER_USERNS_REMAP", "nobody")]);
    let created =
        cluster.control_plane(&["role", "create", "reader", "--allow", "ecs:List*"]).output();
    assert!(created.expect("it starts").status.success());
    for mode in ["awsvpc", "bridge"] {
        let task = run(&cluster, &format!("mapped-{mode}"), mode, true);
        let credentials: serde_json::Value =
            serde_json::from_str(&output(&cluster, &task, 0)).expect("the credentials document");
        assert_eq!(credentials["RoleArn"], format!("arn:aws:iam::{ACCOUNT}:role/reader"));
        let pid = cluster.host.inspect(&task)["containers"][0]["pid"].as_i64().expect("a pid");
        assert_eq!(cluster.host.sh(&format!("stat -c %u /proc/{pid}")), FIRST_ID.to_string());
    }
}

#[test]
fn a_task_gets_its_own_credentials_and_no_other_tasks() {
    let cluster = Cluster::joined();
    let created =
        cluster.control_plane(&["role", "create", "reader", "--allow", "ecs:List*"]).output();
    assert!(created.expect("it starts").status.success());
    for mode in ["awsvpc", "bridge", "host"] {
        let task = run(&cluster, &format!("role-{mode}"), mode, true);
        let credentials: serde_json::Value =
            serde_json::from_str(&output(&cluster, &task, 0)).expect("the credentials document");
        assert_eq!(credentials["RoleArn"], format!("arn:aws:iam::{ACCOUNT}:role/reader"));
        let metadata: serde_json::Value =
            serde_json::from_str(&output(&cluster, &task, 1)).expect("the task's metadata");
        assert!(metadata["TaskARN"].as_str().expect("an ARN").ends_with(&task), "{metadata}");
        // The credentials sign requests, for what the role allows and nothing else.
        let text = |name: &str| credentials[name].as_str().expect("a string").to_owned();
        cluster.boto3(&format!(
            "keys = dict(aws_access_key_id='{}', aws_secret_access_key='{}', aws_session_token='{}')\n\
             identity = client('sts', **keys).get_caller_identity()\n\
             assert identity['Arn'] == 'arn:aws:sts::{ACCOUNT}:assumed-role/reader/{task}', identity\n\
             ecs = client('ecs', **keys)\n\
             ecs.list_clusters()\n\
             message = raises('AccessDeniedException', ecs.create_cluster, clusterName='x')\n\
             assert 'ecs:CreateCluster' in message, message",
            text("AccessKeyId"),
            text("SecretAccessKey"),
            text("Token"),
        ));
        // Another task, told the first one's path, gets nothing (host mode shares one endpoint, where the
        // path is the secret).
        if mode != "host" {
            let uri = output(&cluster, &task, 2).replace("uri ", "");
            let other = run(&cluster, &format!("other-{mode}"), mode, false);
            let stolen = cluster.host.sh(&format!(
                "LIGHTER_ROOT={} {} exec -c main {other} wget -q -O - http://169.254.170.2{uri}; echo code $?",
                cluster.host.root().display(),
                tests::binary("lighter").display()
            ));
            assert!(stolen.contains("code 1") && !stolen.contains("SecretAccessKey"), "{stolen}");
        }
    }
}
