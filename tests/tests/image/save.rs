//! Archives that are made of unpacked layers, and who reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::image::{Entry, Image as Made, Layer, Tar};
use tests::podman;

use super::{Fixture, chain, sample};

/// Saves to a file of the fixture's directory.
fn save(fixture: &Fixture, references: &[&str]) -> Result<PathBuf, agent::image::Error> {
    let path = fixture.dir.path().join("saved.tar");
    std::fs::write(&path, b"").unwrap();
    let references: Vec<String> = references.iter().map(|name| (*name).to_owned()).collect();
    fixture.store.save(&references, &path, &|| false).map(|()| path)
}

/// The members of an archive by name.
fn members(archive: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            std::io::copy(&mut entry, &mut bytes).unwrap();
            (name, bytes)
        })
        .collect()
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

#[test]
fn layers_come_out_bit_for_bit() {
    let fixture = Fixture::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let capability: &[u8] = b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tar::new()
        .directory("./dir/")
        .entry(&Entry {
            name: "./dir/suid",
            mode: 0o4755,
            owner: (1, 2),
            data: &vec![7; 700_000],
            pax: &[("SCHILY.xattr.security.capability", capability), ("comment", b"x\ny")],
            ..Entry::default()
        })
        .hard_link("dir/again", "./dir/suid")
        .symlink("to-dir", "dir")
        .file("to-dir/through-a-link", b"content")
        .file(&long, b"long")
        .file("empty", b"")
        .file(".wh.gone", b"")
        .file(".wh..wh.plnk", b"data of a bookkeeping entry")
        .entry(&Entry { kind: b'3', name: "null", device: (1, 3), ..Entry::default() });
    // What follows the last entry belongs to the digest, too.
    let bytes = [tar.finish(), vec![0; 9000], b"trailing bytes".to_vec()].concat();
    let odd = Layer::new(tests::image::gzip(&bytes), "tar+gzip", &bytes);
    // Ends without the blocks of zeroes.
    let cut = Tar::new().file("a", &[1; 1024]).finish();
    let cut = cut[..cut.len() - 1024].to_vec();
    let cut = Layer::new(cut.clone(), "tar", &cut);
    let layers = vec![odd, cut, Layer::plain(&Tar::new())];
    let sources: Vec<Vec<u8>> = vec![bytes, layers[1].blob.clone(), layers[2].blob.clone()];
    let made = Made::new(layers.clone());
    fixture.load(&made.oci_archive("odd:1")).unwrap();
    let saved = members(&save(&fixture, &["odd:1"]).unwrap());
    for (layer, bytes) in layers.iter().zip(&sources) {
        assert!(saved[&blob(&layer.diff_id)] == *bytes, "{}", layer.diff_id);
    }
    assert_eq!(saved[&blob(&made.id())], made.config_blob());
}

#[test]
fn what_gnu_tar_packs_comes_out_as_it_packed_it() {
    let fixture = Fixture::new();
    let script = "mkdir -p $1/t/sub && cd $1/t && echo text > file && ln file again && \
        ln -s file link && mkfifo pipe && truncate -s 3M sparse && \
        printf data | dd of=sparse bs=1 seek=1048576 conv=notrunc status=none && \
        touch \"sub/$(printf 'n%.0s' $(seq 200))\" && printf 'umlaut' > 'sub/ä' && cp -a /etc/pam.d sub";
    let dir = fixture.dir.path();
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(dir).status().unwrap();
    assert!(made.success());
    for (at, options) in [
        &["--format=gnu", "--sparse"][..],
        &["--format=gnu"],
        &["--format=pax", "--xattrs"],
        &["--format=pax", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=ustar", "--exclude=n*"],
        &["--format=v7", "--exclude=n*", "--exclude=pipe"],
    ]
    .iter()
    .enumerate()
    {
        let file = dir.join(format!("{at}.tar"));
        let packed = Command::new("tar")
            .args(*options)
            .arg("-cf")
            .arg(&file)
            .arg("-C")
            .arg(dir.join("t"))
            .arg(".")
            .output()
            .unwrap();
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        let bytes = std::fs::read(&file).unwrap();
        let layer = Layer::new(tests::image::gzip(&bytes), "tar+gzip", &bytes);
        let made = Made::new(vec![layer.clone()]);
        let name = format!("gnu:{at}");
        fixture.load(&made.oci_archive(&name)).unwrap();
        let saved = members(&save(&fixture, &[&name]).unwrap());
        assert!(saved[&blob(&layer.diff_id)] == bytes, "{options:?}");
    }
}

#[test]
fn names_are_chosen_as_docker_chooses_them() {
    let fixture = Fixture::new();
    let (one, other) = (sample(), Made::new(vec![Layer::gzip(&Tar::new().file("o", b""))]));
    fixture.load(&one.docker_archive(&["repo:1", "repo:2", "elsewhere/x:3"])).unwrap();
    fixture.load(&other.docker_archive(&["repo:other"])).unwrap();
    let tags = |references: &[&str]| {
        let saved = members(&save(&fixture, references).unwrap());
        let manifest: Value = serde_json::from_slice(&saved["manifest.json"]).unwrap();
        manifest
            .as_array()
            .unwrap()
            .iter()
            .map(|image| image["RepoTags"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(tags(&["repo:1"]), [json!(["repo:1"])]);
    assert_eq!(tags(&[&one.id()]), [Value::Null]);
    assert_eq!(tags(&["repo:1", "elsewhere/x:3"]), [json!(["elsewhere/x:3", "repo:1"])]);
    let all = tags(&["repo"]);
    assert_eq!(all.len(), 2);
    assert!(all.contains(&json!(["repo:1", "repo:2"])) && all.contains(&json!(["repo:other"])));
    let unknown = chain(&save(&fixture, &["repo:1", "none:1"]).unwrap_err());
    assert!(unknown.contains("no such image: none:1"), "{unknown}");

    // The same images make the same bytes.
    let first = std::fs::read(save(&fixture, &["repo"]).unwrap()).unwrap();
    assert!(first == std::fs::read(save(&fixture, &["repo"]).unwrap()).unwrap());
}

fn run(program: &str, arguments: &[&str]) -> String {
    printed(program, &Command::new(program).args(arguments).output().unwrap())
}

fn printed(program: &str, output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn our_load_skopeo_and_podman_read_what_we_save() {
    let fixture = Fixture::new();
    let made = sample();
    fixture.load(&made.docker_archive(&["sample:1", "registry.example/sample:2"])).unwrap();
    let path = save(&fixture, &["sample:1", "registry.example/sample:2"]).unwrap();
    let archive = path.to_str().unwrap();

    let again = Fixture::new();
    let loaded = again.load(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].id, made.id());
    assert_eq!(loaded[0].references, ["registry.example/sample:2", "sample:1"]);

    // The docker-archive and the OCI layout are the same image.
    let config =
        run("skopeo", &["inspect", "--config", &format!("docker-archive:{archive}:sample:1")]);
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["config"]["Cmd"], json!(["serve"]));
    let layout = fixture.dir.path().join("layout");
    let target = format!("oci:{}:x", layout.display());
    let policy = ["--insecure-policy", "copy", "--quiet", "--preserve-digests"];
    let source = format!("oci-archive:{archive}:registry.example/sample:2");
    let copied = Command::new("skopeo").args(policy).args([&source, &target]).output().unwrap();
    if !copied.status.success() {
        // An older skopeo knows an entry by the specification's annotation, which holds the tag.
        run("skopeo", &[&policy[..], &[&format!("oci-archive:{archive}:2"), &target]].concat());
    }
    let id = made.id();
    assert!(layout.join(blob(&id)).exists(), "the configuration is the same");

    let place = fixture.dir.path().join("podman");
    let podman = |arguments: &[&str]| printed("podman", &podman::with_storage(&place, arguments));
    podman(&["load", "--quiet", "--input", archive]);
    let shown = podman(&["image", "inspect", "registry.example/sample:2", "--format", "{{.Id}}"]);
    assert_eq!(shown.trim(), id.trim_start_matches("sha256:"));
}

#[test]
fn a_layer_that_was_changed_or_has_no_recipe_is_not_saved() {
    let fixture = Fixture::new();
    let image = fixture.load(&sample().oci_archive("sample:1")).unwrap().remove(0);
    let refused = |text: &str| {
        let error = chain(&save(&fixture, &["sample:1"]).unwrap_err());
        assert!(error.contains(text) && error.contains("pull it again"), "{error}");
    };
    let file = image.layers[0].join("data/new");
    for (content, text) in [("longer", "kind or size"), ("NEW", "digest")] {
        std::fs::write(&file, content).unwrap();
        refused(text);
    }
    std::fs::remove_file(&file).unwrap();
    refused("data/new");
    std::fs::write(&file, "new").unwrap();
    save(&fixture, &["sample:1"]).unwrap();
    let recipe = image.layers[0].parent().unwrap().join("recipe");
    let bytes = std::fs::read(&recipe).unwrap();
    std::fs::write(&recipe, &bytes[..bytes.len() / 2]).unwrap();
    refused("damaged");
    std::fs::remove_file(&recipe).unwrap();
    refused("older version");
}
