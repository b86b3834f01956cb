//! Images that are on a host already, and a policy that is newer than they are: no way around it by
//! not asking the registry.

use agent::image::Policy;
use serde_json::{Value, json};
use tests::host::{TestHost, script, stderr};
use tests::image::{Entry, Image as Made, Layer, Tar, digest};
use tests::registry::Registry;

use super::signature::{Signer, push};
use super::{Fixture, sample};

/// Something that runs.
fn busybox() -> Made {
    let program = std::fs::read("/bin/busybox").expect("Debian package busybox-static");
    let file = Entry { name: "bin/busybox", mode: 0o755, data: &program, ..Entry::default() };
    Made::new(vec![Layer::gzip(&Tar::new().directory("bin/").entry(&file))])
}

/// An agent with this policy, or none.
fn restart(host: &TestHost, policy: Option<&Value>) {
    host.stop_agent();
    let directory = host.root().join("etc/ecs");
    std::fs::create_dir_all(&directory).unwrap();
    let path = host.path("policy.json");
    let setting = match policy {
        Some(policy) => {
            std::fs::write(&path, policy.to_string()).unwrap();
            format!("LIGHTER_SIGNATURE_POLICY={}\n", path.display())
        }
        None => String::new(),
    };
    std::fs::write(directory.join("ecs.config"), setting).unwrap();
    host.start_agent();
}

/// `None`: it ran; else why not.
fn run(host: &TestHost, pull: &str, image: &str) -> Option<String> {
    let mut definition = script("none", "true");
    let container = &mut definition["containerDefinitions"][0];
    container["image"] = json!(image);
    container["entryPoint"] = json!(["/bin/busybox", "true"]);
    container["command"] = json!([]);
    let file = host.definition("task.json", &definition);
    let output = host.run(&["run", "--pull", pull, &file]);
    (!output.status.success()).then(|| stderr(&output))
}

fn refused(host: &TestHost, pull: &str, image: &str, parts: &[&str]) {
    let text = run(host, pull, image).expect("it ran");
    assert!(text.contains("CannotPullContainerError"), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn an_image_that_is_here_is_judged_by_the_policy_of_today() {
    let host = TestHost::empty();
    let mut registry = Registry::start().unwrap();
    let (alice, bob) = (Signer::new(), Signer::new());
    let made = busybox();
    let of = digest(&made.manifest());
    let archive = host.path("archive");
    std::fs::write(&archive, made.oci_archive("app:1")).unwrap();
    registry.push(&archive, "app:1").unwrap();
    let (app, other) = (registry.image("app:1"), registry.image("other:1"));
    let signed_by = |who: &Signer| {
        json!({
            "default": who.requirement("matchRepository"),
            "transports": {"docker-archive": {"": [{"type": "insecureAcceptAnything"}]}},
        })
    };

    restart(&host, None);
    assert_eq!(run(&host, "missing", &app), None);

    // It came before there was a policy.
    restart(&host, Some(&signed_by(&alice)));
    let unknown = "none is known of the image that is on this host";
    refused(&host, "never", &app, &[unknown, "--pull never"]);
    refused(&host, "never", &made.id(), &[unknown]);
    refused(&host, "missing", &app, &["there is none of sha256:"]);
    push(&host.path(""), &registry, "app", &of, &[alice.sign(&of, &registry.image("app"))]);
    refused(&host, "never", &app, &[unknown]);
    // Its registry is asked although the image is here; and not again, also after a restart.
    assert_eq!(run(&host, "missing", &app), None);
    registry.stop().unwrap();
    restart(&host, Some(&signed_by(&alice)));
    for pull in ["missing", "never"] {
        assert_eq!(run(&host, pull, &app), None);
    }
    assert_eq!(run(&host, "never", &made.id()), None);

    // What was signed for one repository is not good for another that it is tagged with here.
    host.ok(&["image", "tag", &app, &other]);
    refused(&host, "never", &other, &["does not accept for", "none that is known"]);

    // Another key today.
    restart(&host, Some(&signed_by(&bob)));
    refused(&host, "never", &app, &["not made with the key", &bob.public()]);
    let instead = "the image that is on this host may not be used instead";
    refused(&host, "missing", &app, &[instead, "not made with the key"]);
    let rejecting = json!({"default": [{"type": "reject"}]});
    restart(&host, Some(&rejecting));
    refused(&host, "never", &app, &["rejects it by its default"]);
    restart(&host, Some(&signed_by(&alice)));
    assert_eq!(run(&host, "never", &app), None);

    // A damaged record is as good as none.
    let records = host.root().join("var/lib/lighter/images/signatures");
    let record: Vec<_> = std::fs::read_dir(&records).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(record.len(), 1);
    std::fs::write(record[0].path(), "{").unwrap();
    refused(&host, "never", &app, &[unknown]);
    host.ok(&["image", "rm", &other]);
    host.ok(&["image", "rm", &app]);
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 0, "swept with its image");
    host.stop_agent();
}

#[test]
fn an_image_whose_id_begins_like_a_name_does_not_run_in_the_place_of_what_has_that_name() {
    let (fixture, alice) = (Fixture::new(), Signer::new());
    let image = fixture.load(&sample().oci_archive("free.example/x:1")).unwrap().remove(0);
    let hex = &image.id["sha256:".len()..];
    let (name, other) = (&hex[..6], &hex[..8]);
    let path = fixture.dir.path().join("policy.json");
    let text = json!({
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {
            format!("docker.io/library/{name}"): alice.requirement("matchRepository"),
        }},
    });
    std::fs::write(&path, text.to_string()).unwrap();
    let policy = Policy::load(&path).unwrap();
    for reference in [&image.id, hex, "free.example/x:1", other] {
        let found = fixture.store.find(reference).unwrap().unwrap();
        fixture.store.permits(&policy, &found, reference).unwrap();
    }
    let found = fixture.store.find(name).unwrap().expect("by the beginning of its id");
    let refused = super::chain(&fixture.store.permits(&policy, &found, name).unwrap_err());
    assert!(refused.contains("none is known of the image"), "{refused}");
}

#[test]
fn a_loaded_image_is_judged_by_what_archives_must_have() {
    let host = TestHost::empty();
    let alice = Signer::new();
    let archive = host.path("archive");
    std::fs::write(&archive, busybox().docker_archive(&["app:1"])).unwrap();
    let signed = alice.requirement("matchRepository");
    let archives = json!({
        "default": signed,
        "transports": {"docker-archive": {"": [{"type": "insecureAcceptAnything"}]}},
    });
    restart(&host, Some(&archives));
    host.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    assert_eq!(run(&host, "never", "app:1"), None);
    restart(&host, Some(&json!({"default": signed})));
    refused(&host, "never", "app:1", &["none is known of the image"]);
    restart(&host, Some(&archives));
    assert_eq!(run(&host, "never", "app:1"), None);
    host.stop_agent();
}
