//! Logins of registries for `lighter run` and `lighter image pull`: those of the user who types.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::host::{TestHost, script, stderr, stdout};
use tests::registry::{PASSWORD, Registry, USER};

/// A host and a registry that wants a login, with an image.
struct World {
    host: TestHost,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        let host = TestHost::new();
        let registry = Registry::start_with_login().expect("docker-registry starts");
        registry.push(&host.archive(), "team/tool:1.0").expect("push");
        Self { host, registry }
    }

    fn image(&self) -> String {
        self.registry.image("team/tool:1.0")
    }

    /// A task of the image: the file that defines it.
    fn definition(&self) -> String {
        let mut definition = script("none", "echo ran");
        definition["containerDefinitions"][0]["image"] = json!(self.image());
        self.host.definition("task.json", &definition)
    }

    /// Docker's configuration of a user.
    fn configure(&self, config: &Value) -> PathBuf {
        let directory = self.host.path("docker");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("config.json"), config.to_string()).expect("write config.json");
        directory
    }

    /// A credential helper: what it does besides noting what it was asked.
    fn helper(&self, name: &str, does: &str) {
        let directory = self.host.path("bin");
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join(format!("docker-credential-{name}"));
        let asked = self.host.path("asked");
        let text = format!(
            "#!/bin/sh\nserver=$(cat)\necho \"$1 $server\" >> {}\n{does}\n",
            asked.display()
        );
        fs::write(&path, text).expect("write the helper");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set its mode");
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.host.path("asked")).unwrap_or_default()
    }

    /// A command of the user whose configuration this is.
    fn command(&self, config: &std::path::Path, arguments: &[&str]) -> Command {
        let mut command = self.host.command(arguments);
        let path = std::env::var("PATH").expect("PATH");
        command.env("PATH", format!("{}:{path}", self.host.path("bin").display()));
        command.env("DOCKER_CONFIG", config);
        command
    }

    fn run(&self, config: &std::path::Path, arguments: &[&str]) -> Output {
        self.command(config, arguments).output().expect("lighter starts")
    }

    /// Where the password would be if somebody had written it down.
    fn found(&self, secret: &str) -> String {
        let root = self.host.root();
        let state = root.join("var/lib/lighter");
        self.host.sh(&format!(
            "grep -rlaF -e {secret} --exclude-dir=images {} {}",
            state.display(),
            root.join("run").display()
        ))
    }
}

fn answer(user: &str, secret: &str) -> String {
    format!("echo '{{\"ServerURL\":\"x\",\"Username\":\"{user}\",\"Secret\":\"{secret}\"}}'")
}

#[test]
fn the_users_credential_helper_is_asked_and_the_agent_told() {
    let world = World::new();
    let (host, image) = (&world.host, world.image());
    let registry = world.registry.address();
    let config = world.configure(&json!({"credHelpers": {registry.clone(): "tests"}, "auths": {}}));
    let nobody = host.path("nobody");
    // An agent that knows nothing of the user.
    host.start_agent();
    let output = world.run(&nobody, &["image", "pull", &image]);
    assert!(stderr(&output).contains("refuses anonymous access"), "{}", stderr(&output));

    world.helper("tests", &answer(USER, PASSWORD));
    let output = world.run(&config, &["image", "pull", &image]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(world.asked(), format!("get {registry}\n"));
    let output = world.run(&nobody, &["image", "push", &image]);
    assert!(stderr(&output).contains("refuses anonymous access"), "{}", stderr(&output));
    let output = world.run(&config, &["image", "push", &image]);
    assert!(stdout(&output).contains("1.0: digest: sha256:"), "{}", stderr(&output));
    host.ok(&["image", "rm", &image]);

    let file = world.definition();
    let output = world.run(&config, &["run", &file]);
    assert!(stdout(&output).contains("ran"), "{}", stderr(&output));
    let output = world.run(&config, &["run", "-d", "--pull", "always", &file]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(world.found(PASSWORD), "", "the login is written down");
    // The next one brings his own.
    let output = world.run(&nobody, &["run", "--pull", "always", &file]);
    assert!(stderr(&output).contains("refuses anonymous access"), "{}", stderr(&output));
    host.stop_agent();

    // The store of all registries, and no agent but the command itself.
    let config = world.configure(&json!({"credsStore": "tests"}));
    let output = world.run(&config, &["run", "--pull", "always", &file]);
    assert!(stdout(&output).contains("ran"), "{}", stderr(&output));
}

#[test]
fn helpers_that_fail_are_named_where_their_login_is_needed() {
    let world = World::new();
    let (host, image, registry) = (&world.host, world.image(), world.registry.address());
    let config = world.configure(&json!({"credHelpers": {registry.clone(): "tests"}}));
    let pull = || {
        let output = world.run(&config, &["image", "pull", &image]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        stderr(&output)
    };
    let program = "docker-credential-tests";
    let said = pull();
    assert!(
        said.contains(&format!("start {program}, which must be in a directory of PATH")),
        "{said}"
    );
    for (does, expected) in [
        ("echo 'credentials not found in native keychain'; exit 1", "refuses anonymous access"),
        ("echo 'the key is locked'; exit 2", "fails (exit status: 2): the key is locked"),
        ("echo hunter2; kill -9 $$", "fails (signal: 9 (SIGKILL)): hunter2"),
        ("echo '{\"Secret\":\"hunter2'; exit 1", "fails (exit status: 1)\n"),
        ("echo '{\"Secret\":\"hunter2\"}'", "does not answer with the JSON of a login"),
        ("head -c 70000 /dev/zero", "answers more than 65536 bytes"),
    ] {
        world.helper("tests", does);
        let said = pull();
        assert!(said.contains(expected), "{does}: {said}");
    }
    world.helper("tests", &answer(USER, "hunter2"));
    let said = pull();
    assert!(said.contains("refuses these credentials") && !said.contains("hunter2"), "{said}");
    // What stands in the file counts where the helper has nothing.
    let encoded = host.sh(&format!("printf '{USER}:{PASSWORD}' | base64 -w0"));
    let config = world.configure(&json!({
        "credsStore": "none", "auths": {format!("https://{registry}/v1/"): {"auth": encoded}},
    }));
    let output = world.run(&config, &["image", "pull", "-q", &image]);
    assert!(output.status.success(), "{}", stderr(&output));

    // Only a pull needs the login: the image is here now.
    let config = world.configure(&json!({"credsStore": "../evil"}));
    let file = world.definition();
    let output = world.run(&config, &["run", &file]);
    assert!(stdout(&output).contains("ran"), "{}", stderr(&output));
    let output = world.run(&config, &["run", "--pull", "always", &file]);
    assert_eq!(output.status.code(), Some(125));
    let said = stderr(&output);
    let expected = format!(
        "CannotPullContainerAuthError: ask credential helper \"../evil\" for the login of {registry}: \
         a helper's name is of letters"
    );
    assert!(said.contains(&expected), "{said}");
}
