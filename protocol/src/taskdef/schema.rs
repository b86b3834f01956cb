//! The complete shape of RegisterTaskDefinition: every member of every structure, with type, enum
//! and range. A test compares it with Amazon's model (`model/register-task-definition.json`).
//!
//! Ranges are those that hold whatever else the definition says; the model itself has almost none.

/// The type of a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    OneOf(&'static [&'static str]),
    /// The least and the most allowed. The API's integers have 32 bits.
    Integer(i64, i64),
    Boolean,
    List(&'static Kind),
    /// Texts by any key.
    TextMap,
    Object(&'static [Member]),
    /// Written by Amazon only; ignored, so that what DescribeTaskDefinition prints is a definition.
    ReadOnly,
}

/// A member of a structure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

use Kind::{Boolean, Integer, List, Object, OneOf, ReadOnly, Text, TextMap};

const fn required(name: &'static str, kind: Kind) -> Member {
    Member { name, kind, required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Member {
    Member { name, kind, required: false }
}

const fn at_least(least: i64) -> Kind {
    Integer(least, i32::MAX as i64)
}

const ANY_INTEGER: Kind = at_least(i32::MIN as i64);

/// What `aws ecs describe-task-definition` prints: the definition and its tags.
pub(super) const DESCRIBED: &[Member] = &[
    required("taskDefinition", Object(REGISTER_TASK_DEFINITION)),
    optional("tags", List(&Object(TAG))),
];

/// The definition.
pub(super) const REGISTER_TASK_DEFINITION: &[Member] = &[
    required("family", Text),
    optional("taskRoleArn", Text),
    optional("executionRoleArn", Text),
    optional("networkMode", OneOf(&["bridge", "host", "awsvpc", "none"])),
    required("containerDefinitions", List(&Object(CONTAINER_DEFINITION))),
    optional("volumes", List(&Object(VOLUME))),
    optional("placementConstraints", List(&Object(TASK_DEFINITION_PLACEMENT_CONSTRAINT))),
    optional(
        "requiresCompatibilities",
        List(&OneOf(&["EC2", "FARGATE", "EXTERNAL", "MANAGED_INSTANCES"])),
    ),
    optional("cpu", Text),
    optional("memory", Text),
    optional("tags", List(&Object(TAG))),
    optional("pidMode", OneOf(&["host", "task"])),
    optional("ipcMode", OneOf(&["host", "task", "none"])),
    optional("proxyConfiguration", Object(PROXY_CONFIGURATION)),
    optional("inferenceAccelerators", List(&Object(INFERENCE_ACCELERATOR))),
    optional("ephemeralStorage", Object(EPHEMERAL_STORAGE)),
    optional("runtimePlatform", Object(RUNTIME_PLATFORM)),
    optional("enableFaultInjection", Boolean),
    optional("trustedExecutionConfiguration", Object(TRUSTED_EXECUTION_CONFIGURATION)),
    optional("taskDefinitionArn", ReadOnly),
    optional("revision", ReadOnly),
    optional("status", ReadOnly),
    optional("requiresAttributes", ReadOnly),
    optional("compatibilities", ReadOnly),
    optional("registeredAt", ReadOnly),
    optional("deregisteredAt", ReadOnly),
    optional("deleteRequestedAt", ReadOnly),
    optional("registeredBy", ReadOnly),
];

const TRUSTED_EXECUTION_CONFIGURATION: &[Member] = &[
    required("isolationMode", OneOf(&["SHARED", "ISOLATED_SANDBOX", "CONFIDENTIAL_SANDBOX"])),
    optional("attestationPolicy", Text),
];

const RUNTIME_PLATFORM: &[Member] = &[
    optional("cpuArchitecture", OneOf(&["X86_64", "ARM64"])),
    optional(
        "operatingSystemFamily",
        OneOf(&[
            "WINDOWS_SERVER_2019_FULL",
            "WINDOWS_SERVER_2019_CORE",
            "WINDOWS_SERVER_2016_FULL",
            "WINDOWS_SERVER_2004_CORE",
            "WINDOWS_SERVER_2022_CORE",
            "WINDOWS_SERVER_2022_FULL",
            "WINDOWS_SERVER_2025_CORE",
            "WINDOWS_SERVER_2025_FULL",
            "WINDOWS_SERVER_20H2_CORE",
            "LINUX",
        ]),
    ),
];

const EPHEMERAL_STORAGE: &[Member] = &[required("sizeInGiB", Integer(21, 200))];

const INFERENCE_ACCELERATOR: &[Member] =
    &[required("deviceName", Text), required("deviceType", Text)];

const PROXY_CONFIGURATION: &[Member] = &[
    optional("type", OneOf(&["APPMESH"])),
    required("containerName", Text),
    optional("properties", List(&Object(KEY_VALUE_PAIR))),
];

const TAG: &[Member] = &[optional("key", Text), optional("value", Text)];

const TASK_DEFINITION_PLACEMENT_CONSTRAINT: &[Member] =
    &[optional("type", OneOf(&["memberOf"])), optional("expression", Text)];

const VOLUME: &[Member] = &[
    optional("name", Text),
    optional("host", Object(HOST_VOLUME_PROPERTIES)),
    optional("dockerVolumeConfiguration", Object(DOCKER_VOLUME_CONFIGURATION)),
    optional("efsVolumeConfiguration", Object(EFS_VOLUME_CONFIGURATION)),
    optional("s3filesVolumeConfiguration", Object(S3_FILES_VOLUME_CONFIGURATION)),
    optional(
        "fsxWindowsFileServerVolumeConfiguration",
        Object(FSX_WINDOWS_FILE_SERVER_VOLUME_CONFIGURATION),
    ),
    optional("configuredAtLaunch", Boolean),
];

const FSX_WINDOWS_FILE_SERVER_VOLUME_CONFIGURATION: &[Member] = &[
    required("fileSystemId", Text),
    required("rootDirectory", Text),
    required("authorizationConfig", Object(FSX_WINDOWS_FILE_SERVER_AUTHORIZATION_CONFIG)),
];

const FSX_WINDOWS_FILE_SERVER_AUTHORIZATION_CONFIG: &[Member] =
    &[required("credentialsParameter", Text), required("domain", Text)];

const S3_FILES_VOLUME_CONFIGURATION: &[Member] = &[
    required("fileSystemArn", Text),
    optional("rootDirectory", Text),
    optional("transitEncryptionPort", Integer(1, 65_535)),
    optional("accessPointArn", Text),
];

const EFS_VOLUME_CONFIGURATION: &[Member] = &[
    required("fileSystemId", Text),
    optional("rootDirectory", Text),
    optional("transitEncryption", OneOf(&["ENABLED", "DISABLED"])),
    optional("transitEncryptionPort", Integer(1, 65_535)),
    optional("authorizationConfig", Object(EFS_AUTHORIZATION_CONFIG)),
];

const EFS_AUTHORIZATION_CONFIG: &[Member] =
    &[optional("accessPointId", Text), optional("iam", OneOf(&["ENABLED", "DISABLED"]))];

const DOCKER_VOLUME_CONFIGURATION: &[Member] = &[
    optional("scope", OneOf(&["task", "shared"])),
    optional("autoprovision", Boolean),
    optional("driver", Text),
    optional("driverOpts", TextMap),
    optional("labels", TextMap),
];

const HOST_VOLUME_PROPERTIES: &[Member] = &[optional("sourcePath", Text)];

const CONTAINER_DEFINITION: &[Member] = &[
    optional("name", Text),
    optional("image", Text),
    optional("repositoryCredentials", Object(REPOSITORY_CREDENTIALS)),
    optional("cpu", at_least(0)),
    optional("memory", at_least(6)),
    optional("memoryReservation", at_least(6)),
    optional("links", List(&Text)),
    optional("portMappings", List(&Object(PORT_MAPPING))),
    optional("essential", Boolean),
    optional("restartPolicy", Object(CONTAINER_RESTART_POLICY)),
    optional("entryPoint", List(&Text)),
    optional("command", List(&Text)),
    optional("environment", List(&Object(KEY_VALUE_PAIR))),
    optional("environmentFiles", List(&Object(ENVIRONMENT_FILE))),
    optional("mountPoints", List(&Object(MOUNT_POINT))),
    optional("volumesFrom", List(&Object(VOLUME_FROM))),
    optional("linuxParameters", Object(LINUX_PARAMETERS)),
    optional("secrets", List(&Object(SECRET))),
    optional("dependsOn", List(&Object(CONTAINER_DEPENDENCY))),
    optional("startTimeout", at_least(2)),
    optional("stopTimeout", at_least(2)),
    optional("versionConsistency", OneOf(&["enabled", "disabled"])),
    optional("hostname", Text),
    optional("user", Text),
    optional("workingDirectory", Text),
    optional("disableNetworking", Boolean),
    optional("privileged", Boolean),
    optional("readonlyRootFilesystem", Boolean),
    optional("dnsServers", List(&Text)),
    optional("dnsSearchDomains", List(&Text)),
    optional("extraHosts", List(&Object(HOST_ENTRY))),
    optional("dockerSecurityOptions", List(&Text)),
    optional("interactive", Boolean),
    optional("pseudoTerminal", Boolean),
    optional("dockerLabels", TextMap),
    optional("ulimits", List(&Object(ULIMIT))),
    optional("logConfiguration", Object(LOG_CONFIGURATION)),
    optional("healthCheck", Object(HEALTH_CHECK)),
    optional("systemControls", List(&Object(SYSTEM_CONTROL))),
    optional("resourceRequirements", List(&Object(RESOURCE_REQUIREMENT))),
    optional("firelensConfiguration", Object(FIRELENS_CONFIGURATION)),
    optional("credentialSpecs", List(&Text)),
];

const FIRELENS_CONFIGURATION: &[Member] =
    &[required("type", OneOf(&["fluentd", "fluentbit"])), optional("options", TextMap)];

const RESOURCE_REQUIREMENT: &[Member] = &[
    optional("value", Text),
    required("type", OneOf(&["GPU", "InferenceAccelerator", "NeuronDevice"])),
    optional("sharingStrategy", Object(SHARING_STRATEGY)),
];

const SHARING_STRATEGY: &[Member] = &[optional("nvidiaMps", Object(NVIDIA_MPS_ALLOCATION))];

const NVIDIA_MPS_ALLOCATION: &[Member] =
    &[required("memory", at_least(1)), optional("maxComputePercent", Integer(1, 100))];

const SYSTEM_CONTROL: &[Member] = &[optional("namespace", Text), optional("value", Text)];

const HEALTH_CHECK: &[Member] = &[
    required("command", List(&Text)),
    optional("interval", Integer(5, 300)),
    optional("timeout", Integer(2, 60)),
    optional("retries", Integer(1, 10)),
    optional("startPeriod", Integer(0, 300)),
];

const LOG_CONFIGURATION: &[Member] = &[
    required(
        "logDriver",
        OneOf(&[
            "json-file",
            "syslog",
            "journald",
            "gelf",
            "fluentd",
            "awslogs",
            "splunk",
            "awsfirelens",
        ]),
    ),
    optional("options", TextMap),
    optional("secretOptions", List(&Object(SECRET))),
];

const ULIMIT: &[Member] = &[
    required(
        "name",
        OneOf(&[
            "core",
            "cpu",
            "data",
            "fsize",
            "locks",
            "memlock",
            "msgqueue",
            "nice",
            "nofile",
            "nproc",
            "rss",
            "rtprio",
            "rttime",
            "sigpending",
            "stack",
        ]),
    ),
    required("softLimit", at_least(-1)),
    required("hardLimit", at_least(-1)),
];

const HOST_ENTRY: &[Member] = &[required("hostname", Text), required("ipAddress", Text)];

const CONTAINER_DEPENDENCY: &[Member] = &[
    required("containerName", Text),
    required("condition", OneOf(&["START", "COMPLETE", "SUCCESS", "HEALTHY"])),
];

const SECRET: &[Member] = &[required("name", Text), required("valueFrom", Text)];

const LINUX_PARAMETERS: &[Member] = &[
    optional("capabilities", Object(KERNEL_CAPABILITIES)),
    optional("devices", List(&Object(DEVICE))),
    optional("initProcessEnabled", Boolean),
    optional("sharedMemorySize", at_least(1)),
    optional("tmpfs", List(&Object(TMPFS))),
    optional("maxSwap", at_least(0)),
    optional("swappiness", Integer(0, 100)),
];

const TMPFS: &[Member] = &[
    required("containerPath", Text),
    required("size", at_least(1)),
    optional("mountOptions", List(&Text)),
];

const DEVICE: &[Member] = &[
    required("hostPath", Text),
    optional("containerPath", Text),
    optional("permissions", List(&OneOf(&["read", "write", "mknod"]))),
];

const KERNEL_CAPABILITIES: &[Member] =
    &[optional("add", List(&Text)), optional("drop", List(&Text))];

const VOLUME_FROM: &[Member] = &[optional("sourceContainer", Text), optional("readOnly", Boolean)];

const MOUNT_POINT: &[Member] = &[
    optional("sourceVolume", Text),
    optional("containerPath", Text),
    optional("readOnly", Boolean),
];

const ENVIRONMENT_FILE: &[Member] = &[required("value", Text), required("type", OneOf(&["s3"]))];

const KEY_VALUE_PAIR: &[Member] = &[optional("name", Text), optional("value", Text)];

const CONTAINER_RESTART_POLICY: &[Member] = &[
    required("enabled", Boolean),
    optional("ignoredExitCodes", List(&ANY_INTEGER)),
    optional("restartAttemptPeriod", Integer(60, 1800)),
];

const PORT_MAPPING: &[Member] = &[
    optional("containerPort", Integer(1, 65_535)),
    optional("hostPort", Integer(0, 65_535)),
    optional("protocol", OneOf(&["tcp", "udp"])),
    optional("name", Text),
    optional("appProtocol", OneOf(&["http", "http2", "grpc"])),
    optional("containerPortRange", Text),
];

const REPOSITORY_CREDENTIALS: &[Member] = &[required("credentialsParameter", Text)];
