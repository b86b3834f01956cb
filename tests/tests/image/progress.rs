//! What `lighter image pull` shows, on a terminal and elsewhere.

use std::process::Command;

use tests::host::{TestHost, stderr, stdout};
use tests::image::{Image as Made, Layer, Tar, digest};
use tests::registry::Registry;

/// Of what no compression makes less.
fn noise(bytes: u32, seed: u32) -> Vec<u8> {
    (0..bytes).map(|n| (n + seed).wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect()
}

fn short(digest: &str) -> &str {
    &digest["sha256:".len()..][..12]
}

#[test]
fn a_pull_is_shown_in_dockers_words() {
    let host = TestHost::empty();
    let registry = Registry::start().unwrap();
    let base = Layer::plain(&Tar::new().file("base", &noise(5_000_000, 1)));
    let one = Made::new(vec![base.clone(), Layer::gzip(&Tar::new().file("one", b"1"))]);
    let two = Made::new(vec![base.clone(), Layer::gzip(&Tar::new().file("two", b"2"))]);
    let archive = host.path("archive");
    for (made, name) in [(&one, "app:1"), (&two, "app:2")] {
        std::fs::write(&archive, made.oci_archive(name)).unwrap();
        registry.push(&archive, name).unwrap();
    }
    host.start_agent();
    let (first, second) = (registry.image("app:1"), registry.image("app:2"));
    let repository = registry.image("app");

    // Two lines for a layer, whatever its size.
    let output = host.run(&["image", "pull", &first]);
    let lines = stderr(&output);
    let mut expected = vec![format!("1: Pulling from {repository}")];
    for layer in &one.layers {
        expected.push(format!("{}: Pulling fs layer", short(&layer.digest)));
        expected.push(format!("{}: Pull complete", short(&layer.digest)));
    }
    for line in &expected {
        assert!(lines.lines().any(|shown| shown == line), "no {line:?} in {lines}");
    }
    assert_eq!(lines.lines().count(), expected.len(), "{lines}");
    let of = digest(&one.manifest());
    let end = |digest: &str, status: &str, name: &str| {
        format!("Digest: {digest}\nStatus: {status} {name}\n{name}")
    };
    assert_eq!(stdout(&output).trim(), end(&of, "Downloaded newer image for", &first));

    let output = host.run(&["image", "pull", &first]);
    assert_eq!(stdout(&output).trim(), end(&of, "Image is up to date for", &first));
    let output = host.run(&["image", "pull", "--quiet", &first]);
    assert_eq!((stdout(&output).trim(), stderr(&output).trim()), (first.as_str(), ""));

    let lines = stderr(&host.run(&["image", "pull", &second]));
    let exists = format!("{}: Already exists", short(&base.digest));
    assert!(lines.lines().any(|line| line == exists), "{lines}");

    // On a terminal of 120 columns.
    host.ok(&["image", "rm", &first, &second]);
    let lighter = host.command(&[]).get_program().to_str().unwrap().to_owned();
    let shown = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("stty rows 40 cols 120; {lighter} image pull {first}"))
        .arg("/dev/null")
        .env("LIGHTER_ROOT", host.root())
        .env("TERM", "xterm")
        .output()
        .expect("start script (Debian package bsdutils)");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success(), "{text}");
    for part in [
        format!("1: Pulling from {repository}"),
        format!("{}: Pull complete", short(&base.digest)),
        format!("{}: Pull complete", short(&one.layers[1].digest)),
        format!("Digest: {of}"),
        format!("Status: Downloaded newer image for {first}"),
    ] {
        assert!(text.contains(&part), "no {part:?} in {text:?}");
    }
    // Bars move: the terminal is told to go back over lines.
    assert!(text.contains("\u{1b}["), "{text:?}");
    host.stop_agent();
}
