//! What ECS takes and we do not act on yet. A value that is there and not acted on is refused,
//! never ignored.

use super::node::Node;
use super::problems::{ProblemKind, Report};

/// Members and values that are refused, with what they would need.
///
/// A path names members; `[]` stands for each element. A path alone refuses every value but the
/// ones that say "off": null, false, an empty string, list or map. `path=value` refuses that
/// string, `path=start*` every string with that start, `path!=value` every other string.
pub const NOT_SUPPORTED_YET: &[(&str, &str)] = &[
    ("pidMode=task", "one pid namespace for the task's containers"),
    ("ipcMode=task", "one IPC namespace for the task's containers"),
    ("requiresCompatibilities[]=MANAGED_INSTANCES", "managed instances"),
    ("proxyConfiguration", "the App Mesh proxy"),
    ("inferenceAccelerators", "Elastic Inference, which Amazon has ended"),
    ("ephemeralStorage", "a size limit on the task's storage"),
    ("enableFaultInjection", "fault injection"),
    ("runtimePlatform.operatingSystemFamily=WINDOWS_*", "Windows containers"),
    ("trustedExecutionConfiguration.isolationMode=ISOLATED_SANDBOX", "a virtual machine per task"),
    (
        "trustedExecutionConfiguration.isolationMode=CONFIDENTIAL_SANDBOX",
        "an attested virtual machine per task",
    ),
    ("trustedExecutionConfiguration.attestationPolicy", "attestation"),
    ("containerDefinitions[].links", "container links"),
    ("containerDefinitions[].portMappings[].appProtocol", "Service Connect"),
    ("containerDefinitions[].portMappings[].containerPortRange", "port ranges"),
    ("containerDefinitions[].restartPolicy.enabled", "container restart policies"),
    ("containerDefinitions[].environmentFiles", "environment files in S3"),
    ("containerDefinitions[].secrets", "secrets as environment variables"),
    ("containerDefinitions[].dependsOn[].condition=HEALTHY", "container health checks"),
    ("containerDefinitions[].versionConsistency=disabled", "switching off digest resolution"),
    ("containerDefinitions[].dockerSecurityOptions[]=label:*", "SELinux labels"),
    ("containerDefinitions[].dockerSecurityOptions[]=apparmor:*", "AppArmor profiles"),
    (
        "containerDefinitions[].dockerSecurityOptions[]=credentialspec:*",
        "Active Directory credential specs",
    ),
    ("containerDefinitions[].logConfiguration.logDriver=awsfirelens", "the log driver awsfirelens"),
    ("containerDefinitions[].logConfiguration.logDriver=fluentd", "the log driver fluentd"),
    ("containerDefinitions[].logConfiguration.logDriver=gelf", "the log driver gelf"),
    ("containerDefinitions[].logConfiguration.logDriver=journald", "the log driver journald"),
    ("containerDefinitions[].logConfiguration.logDriver=splunk", "the log driver splunk"),
    ("containerDefinitions[].logConfiguration.logDriver=syslog", "the log driver syslog"),
    ("containerDefinitions[].logConfiguration.secretOptions", "secrets as log options"),
    ("containerDefinitions[].logConfiguration.options.compress=true", "compressed log files"),
    ("containerDefinitions[].logConfiguration.options.env", "variables in log lines"),
    ("containerDefinitions[].logConfiguration.options.env-regex", "variables in log lines"),
    ("containerDefinitions[].logConfiguration.options.labels", "labels in log lines"),
    ("containerDefinitions[].logConfiguration.options.labels-regex", "labels in log lines"),
    (
        "containerDefinitions[].logConfiguration.options.awslogs-credentials-endpoint",
        "log credentials from an endpoint",
    ),
    (
        "containerDefinitions[].logConfiguration.options.awslogs-datetime-format",
        "log events of several lines",
    ),
    ("containerDefinitions[].logConfiguration.options.awslogs-format", "formats of log events"),
    (
        "containerDefinitions[].logConfiguration.options.awslogs-multiline-pattern",
        "log events of several lines",
    ),
    ("containerDefinitions[].logConfiguration.options.tag", "tags in log lines"),
    ("containerDefinitions[].healthCheck", "container health checks"),
    ("containerDefinitions[].resourceRequirements", "GPUs and other accelerators"),
    ("containerDefinitions[].firelensConfiguration", "FireLens log routing"),
    ("containerDefinitions[].credentialSpecs", "Active Directory credential specs"),
    (
        "containerDefinitions[].linuxParameters.initProcessEnabled",
        "an init process in the container",
    ),
    (
        "containerDefinitions[].linuxParameters.tmpfs[].mountOptions[]=bind",
        "mount options for what is mounted already",
    ),
    (
        "containerDefinitions[].linuxParameters.tmpfs[].mountOptions[]=rbind",
        "mount options for what is mounted already",
    ),
    (
        "containerDefinitions[].linuxParameters.tmpfs[].mountOptions[]=remount",
        "mount options for what is mounted already",
    ),
    (
        "volumes[].dockerVolumeConfiguration.scope=shared",
        "volumes that outlive the task; scope task is there",
    ),
    ("volumes[].dockerVolumeConfiguration.driver!=local", "volume drivers other than local"),
    ("volumes[].dockerVolumeConfiguration.driverOpts", "options of volume drivers"),
    ("volumes[].dockerVolumeConfiguration.labels", "labels of volumes"),
    (
        "volumes[].efsVolumeConfiguration.transitEncryption=ENABLED",
        "NFS through a TLS tunnel, which the kernel's NFS client cannot speak with EFS; leave \
         transitEncryption out, or mount on the host with Amazon's efs-utils and give the mount's \
         path as host.sourcePath",
    ),
    (
        "volumes[].efsVolumeConfiguration.transitEncryptionPort",
        "the port of a TLS tunnel; without transitEncryption there is none",
    ),
    (
        "volumes[].efsVolumeConfiguration.authorizationConfig.accessPointId",
        "access points, which EFS offers through a TLS tunnel only; give the access point's \
         directory as rootDirectory, or mount on the host with Amazon's efs-utils and give the \
         mount's path as host.sourcePath",
    ),
    (
        "volumes[].efsVolumeConfiguration.authorizationConfig.iam=ENABLED",
        "IAM authorization, which EFS offers through a TLS tunnel only; let the file system's \
         policy admit clients of the network, or mount on the host with Amazon's efs-utils and \
         give the mount's path as host.sourcePath",
    ),
    (
        "volumes[].s3filesVolumeConfiguration",
        "S3 is an object store and not a file system, it cannot be mounted; let a container that \
         runs first copy the objects into a volume",
    ),
    (
        "volumes[].fsxWindowsFileServerVolumeConfiguration",
        "FSx for Windows File Server, which Amazon has for Windows containers only; mount the share \
         on the host by SMB and give the mount's path as host.sourcePath",
    ),
    ("volumes[].configuredAtLaunch", "volumes configured when the task is run (EBS)"),
];

/// Members that are accepted though they change nothing, and why that is right.
pub const ACCEPTED_WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("containerDefinitions[].portMappings[].name", "a label that only Service Connect refers to"),
    ("containerDefinitions[].restartPolicy", "when `enabled` is false nothing else in it counts"),
    ("containerDefinitions[].versionConsistency", "only the default `enabled` is accepted"),
    ("runtimePlatform.operatingSystemFamily", "only `LINUX` is accepted"),
    (
        "trustedExecutionConfiguration",
        "only isolation mode `SHARED` is accepted, which is how every task runs",
    ),
    (
        "volumes[].dockerVolumeConfiguration",
        "only a volume of scope `task` and driver `local` is accepted, which is what a volume \
         without any configuration is; `autoprovision` belongs to scope `shared`",
    ),
    (
        "volumes[].efsVolumeConfiguration.transitEncryption",
        "only the default `DISABLED` is accepted",
    ),
    (
        "volumes[].efsVolumeConfiguration.authorizationConfig",
        "only the default of `iam`, `DISABLED`, is accepted, and no access point",
    ),
];

/// Which strings a row refuses.
#[derive(Debug, Clone, Copy)]
enum Refused<'a> {
    /// Everything but "off".
    On,
    Exactly(&'a str),
    StartingWith(&'a str),
    AllBut(&'a str),
}

fn row(pattern: &str) -> (&str, Refused<'_>) {
    if let Some((path, value)) = pattern.split_once("!=") {
        return (path, Refused::AllBut(value));
    }
    match pattern.split_once('=') {
        Some((path, value)) => match value.strip_suffix('*') {
            Some(start) => (path, Refused::StartingWith(start)),
            None => (path, Refused::Exactly(value)),
        },
        None => (pattern, Refused::On),
    }
}

/// Reports every value of the definition that the table refuses.
pub(super) fn check(root: &Node<'_>, report: &mut Report) {
    for (pattern, what) in NOT_SUPPORTED_YET {
        let (path, refused) = row(pattern);
        for node in select(root, path) {
            if is_refused(&node, refused) {
                report.add(ProblemKind::NotSupportedYet, &node.path, *what);
            }
        }
    }
}

/// The values at a path of the table.
fn select<'a>(root: &Node<'a>, path: &str) -> Vec<Node<'a>> {
    let mut nodes = vec![root.clone()];
    for segment in path.split('.') {
        nodes = match segment.strip_suffix("[]") {
            Some(name) => nodes.iter().flat_map(|node| node.list(name)).collect(),
            None => nodes.iter().filter_map(|node| node.member(segment)).collect(),
        };
    }
    nodes
}

fn is_refused(node: &Node<'_>, refused: Refused<'_>) -> bool {
    use serde_json::Value;
    let text = node.as_text().unwrap_or_default();
    match refused {
        Refused::On => match node.value {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(_) => true,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        },
        Refused::Exactly(value) => text == value,
        Refused::StartingWith(start) => text.starts_with(start),
        Refused::AllBut(value) => !text.is_empty() && text != value,
    }
}
