//! `lighter image …` in Docker's words.

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tests::host::{TestHost, stderr, stdout};
use tests::image::{Image as Made, Layer, Tar};
use tests::registry::Registry;

use super::sample;

/// Runs a command with something on its standard input.
fn fed(host: &TestHost, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = host.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that ends without reading is part of what is tested.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn commands_on_images_speak_as_docker_does() {
    let host = TestHost::empty();
    let registry = Registry::start().unwrap();
    let (one, two) = (sample(), Made::new(vec![Layer::gzip(&Tar::new().file("two", b"2"))]));
    for (name, made) in [("one:1", &one), ("two:1", &two)] {
        let path = host.path(name);
        tests::image::write(&path, &made.docker_archive(&[name])).unwrap();
        let loaded = host.run(&["image", "load", "-i", path.to_str().unwrap()]);
        assert_eq!(stdout(&loaded), format!("Loaded image: {name}\n"));
        for layer in &made.layers {
            let short = &layer.diff_id["sha256:".len()..][..12];
            for word in ["Loading layer", "Load complete"] {
                let line = format!("{short}: {word}\n");
                assert!(stderr(&loaded).contains(&line), "no {line:?} in {}", stderr(&loaded));
            }
        }
    }
    let ids = [one.id(), two.id()];

    // ls
    let format = ["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"];
    assert_eq!(host.ok(&format), format!("one:1 {}\ntwo:1 {}", ids[0], ids[1]));
    let head = host.ok(&["image", "ls", "--filter", "label=k=v"]);
    assert!(head.starts_with("REPOSITORY   TAG       IMAGE ID       CREATED"), "{head}");
    assert_eq!(head.lines().count(), 2, "{head}");
    assert_eq!(host.ok(&["images", "-q", "two"]), ids[1]["sha256:".len()..][..12]);
    assert_eq!(host.ok(&["images", "-q", "--filter", "dangling=true"]), "");
    let line: Value =
        serde_json::from_str(&host.ok(&["images", "--format", "json", "t*"])).unwrap();
    assert_eq!((&line["Repository"], &line["Digest"]), (&json!("two"), &json!("<none>")));
    for wrong in [["--filter", "size=1"], ["--filter", "dangling"], ["--format", "{{.Nope}}"]] {
        let output = host.run(&[&["images"][..], &wrong].concat());
        assert!(!output.status.success() && !output.stderr.is_empty(), "{wrong:?}");
    }

    // inspect, history
    let shown = host.ok(&["image", "inspect", "one:1"]);
    assert!(shown.starts_with("[\n    {\n        \"Id\": \"sha256:"), "{shown}");
    let format = "{{index .RepoTags 0}} {{json .Config.Cmd}} {{range .RootFS.Layers}}x{{end}}";
    assert_eq!(host.ok(&["image", "inspect", "-f", format, "one:1"]), "one:1 [\"serve\"] xx");
    let shown = host.ok(&["image", "inspect", "--format", "json", "one:1", "two:1"]);
    assert!(shown.starts_with("[{\"Id\":\"sha256:") && shown.lines().count() == 1, "{shown}");
    let output = host.run(&["image", "inspect", "none:1"]);
    assert_eq!((output.status.code(), stdout(&output).trim()), (Some(1), "[]"));
    assert!(stderr(&output).contains("no such image: none:1"), "{}", stderr(&output));
    let steps = host.ok(&["history", "one:1"]);
    assert!(steps.starts_with("IMAGE     CREATED   CREATED BY   SIZE"), "{steps}");

    // tag, save, load
    host.ok(&["tag", "one:1", "again:2"]);
    assert!(!host.run(&["tag", "none:1", "x:1"]).status.success());
    let file = host.path("saved.tar");
    let file = file.to_str().unwrap();
    assert_eq!(host.ok(&["save", "-o", file, "again", "two:1"]), "");
    let piped = host.run(&["save", "again", "two:1"]);
    assert!(piped.status.success() && piped.stdout == std::fs::read(file).unwrap());
    let output = host.run(&["save", "-o", "/nonexistent/x.tar", "one:1"]);
    assert!(stderr(&output).contains("directory \"/nonexistent\" does not exist"));
    let output = host.run(&["save", "-o", file, "none:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(piped.stdout == std::fs::read(file).unwrap(), "what was there stays");
    let left = host.sh(&format!("ls -A {} | grep -c '^.save-'", host.path("").display()));
    assert_eq!(left, "0");

    // An archive's own names are told, all of them and no others; without one, the id.
    for (names, told) in [
        (&["more:1", "more:2"][..], "Loaded image: more:1\nLoaded image: more:2".to_owned()),
        (&[], format!("Loaded image ID: {}", ids[0])),
    ] {
        let path = host.path("named");
        tests::image::write(&path, &one.docker_archive(names)).unwrap();
        assert_eq!(host.ok(&["load", "-qi", path.to_str().unwrap()]), told);
    }
    host.ok(&["rmi", "more:1", "more:2"]);

    // rm, prune
    let output = host.run(&["rmi", "none:1"]);
    assert_eq!(output.status.code(), Some(1));
    let output = host.run(&["rmi", "-f", "none:1", "none:2"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), String::new()));
    for name in ["none:1", "none:2"] {
        assert!(stderr(&output).contains(&format!("no such image: {name}")), "{output:?}");
    }
    let removed = host.ok(&["rmi", "--no-prune", "two:1"]);
    assert!(removed.starts_with("Untagged: two:1\nDeleted: sha256:"), "{removed}");
    let asked = fed(&host, &["image", "prune", "-a"], b"n\n");
    assert!(stdout(&asked).contains("Are you sure you want to continue? [y/N]"));
    assert!(stdout(&asked).ends_with("Total reclaimed space: 0B\n"), "{}", stdout(&asked));
    assert_eq!(host.ok(&["images", "-q"]).lines().count(), 1);
    assert_eq!(host.ok(&["image", "prune", "-f"]), "Total reclaimed space: 0B");
    let kept = host.ok(&["image", "prune", "-af", "--filter", "label!=k"]);
    assert_eq!(kept, "Total reclaimed space: 0B");
    let pruned = fed(&host, &["image", "prune", "-a", "--filter", "until=1h"], b"y\n");
    let text = stdout(&pruned);
    for part in [
        "filtered with:\n  - until=1h",
        "Deleted Images:\nuntagged: again:2\nuntagged: one:1\ndeleted: sha256:",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains("Total reclaimed space: ") && !text.contains(" 0B"), "{text}");
    assert_eq!(host.ok(&["images", "-q"]), "");
    let loaded = fed(&host, &["load"], &piped.stdout);
    assert_eq!(stdout(&loaded), "Loaded image: again:2\nLoaded image: two:1\n");

    // push, pull
    let name = registry.image("team/two:3");
    host.ok(&["tag", "two:1", &name]);
    let pushed = host.ok(&["push", &name]);
    let repository = name.trim_end_matches(":3");
    assert!(
        pushed.starts_with(&format!("The push refers to repository [{repository}]\n")),
        "{pushed}"
    );
    let last = pushed.lines().last().unwrap();
    assert!(last.starts_with("3: digest: sha256:") && last.contains(" size: "), "{pushed}");
    let digest = last.split(' ').nth(2).unwrap();
    assert_eq!(host.ok(&["push", "-q", "-a", repository]), name);
    assert!(host.ok(&["images", "--digests", repository]).contains(digest));
    let output = host.run(&["push", "-a", &name]);
    assert!(stderr(&output).contains("tag can't be used with --all-tags/-a"));
    let output = host.run(&["push", &registry.image("absent")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("does not exist locally with the tag"), "{}", stderr(&output));
    host.ok(&["rmi", "-f", &ids[1]]);
    assert!(host.ok(&["pull", &name]).contains(&format!("Digest: {digest}")));
    let again = host.ok(&["pull", &format!("{name}@{digest}")]);
    assert!(again.contains(&format!("Status: Image is up to date for {name}@{digest}")), "{again}");
    host.ok(&["tag", &name, &registry.image("team/two:4")]);
    host.ok(&["push", "-a", repository]);
    host.ok(&["image", "prune", "-af"]);
    let all = host.ok(&["pull", "-a", repository]);
    for tag in ["3", "4"] {
        let status = format!("Status: Downloaded newer image for {repository}:{tag}\n");
        assert!(all.contains(&status), "{all}");
    }
    assert!(!all.contains("Using default tag"), "{all}");
    assert_eq!(host.ok(&["images", "--format", "{{.Tag}}", repository]), "3\n4");
    let output = host.run(&["pull", "-a", &name]);
    assert!(stderr(&output).contains("tag can't be used with --all-tags/-a"), "{output:?}");
    let none = registry.image("team/none");
    let output = host.run(&["pull", "-a", &none]);
    assert!(stderr(&output).contains("the registry has no such repository"), "{output:?}");
    let output = host.run(&["pull", &none]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(1), "Using default tag: latest\n")
    );
    assert!(stderr(&output).contains(&format!("\nlighter: pull {none} from ")), "{output:?}");
}
