//! Archives, what is made of them on disk, and the image's own view of its files.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use serde_json::json;
use tests::image::{Entry, Image as Made, Layer, Tar, digest, gzip, oci_archive};

use super::{Fixture, chain, no_one, sample};

#[test]
fn an_oci_archive_is_loaded_and_seen_as_a_container_sees_it() {
    let fixture = Fixture::new();
    let made = sample();
    let images = fixture.load(&made.oci_archive("docker.io/library/sample:1")).unwrap();
    let image = &images[0];
    assert_eq!(image.references, ["sample:1"]);
    assert_eq!(image.id, made.id());
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.config.entrypoint, ["/init"]);
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(image.config.volumes, ["/data"]);
    assert_eq!(image.read_file("/etc/gone", 100).unwrap(), None);
    assert_eq!(image.read_file("data/old", 100).unwrap(), None);
    assert_eq!(image.read_file("/data/new", 100).unwrap().unwrap(), b"new");
    assert!(image.read_file("/etc/passwd", 10).is_err());
    let user = image.resolve_user("app").unwrap();
    assert_eq!((user.uid, user.gid, user.home.as_str()), (10, 20, "/srv"));
    assert_eq!(user.additional_gids, [30]);
    assert!(
        chain(&image.resolve_user("nobody").unwrap_err()).contains("unable to find user nobody")
    );
}

#[test]
fn an_archive_names_no_image_by_the_digest_of_another() {
    let fixture = Fixture::new();
    let made = sample();
    let own = digest(&made.manifest());
    let trusted = format!("registry.example/app@{}", digest(b"what others trust"));
    for (archive, place) in [
        (made.docker_archive(&["a:1", &trusted]), "manifest.json"),
        // Nor by its own, which such an archive does not show.
        (made.docker_archive(&[&format!("app@{own}")]), "manifest.json"),
        (made.oci_archive(&trusted), "index.json"),
        (made.oci_archive(&trusted.replace('@', ":1@")), "index.json"),
    ] {
        let before = fixture.content();
        let refused = chain(&fixture.load(&archive).unwrap_err());
        assert!(refused.contains(place) && refused.contains("has not this digest"), "{refused}");
        assert_eq!(fixture.content(), before);
        assert!(fixture.store.find(&trusted).unwrap().is_none());
    }
    for (name, references) in [("app", vec![]), ("app:1", vec!["app:1"])] {
        let image = fixture.load(&made.oci_archive(&format!("{name}@{own}"))).unwrap().remove(0);
        assert_eq!(image.references, references);
        assert_eq!(image.repo_digests, [format!("app@{own}")]);
    }
}

/// Mounts the layers and lists the tree, in a mount namespace of its own.
fn overlay_listing(layers: &[std::path::PathBuf]) -> String {
    let lower: Vec<&str> = layers.iter().map(|path| path.to_str().unwrap()).collect();
    let mount = tempfile::tempdir().unwrap();
    let script = "mount -t overlay overlay -o \"lowerdir=$1\" \"$2\" && cd \"$2\" && find . | sort";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", &lower.join(":")])
        .arg(mount.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn overlayfs_reads_our_whiteouts() {
    let fixture = Fixture::new();
    let image = fixture.load(&sample().oci_archive("sample:1")).unwrap().remove(0);
    let listing = overlay_listing(&image.layers);
    assert_eq!(listing, ".\n./data\n./data/new\n./etc\n./etc/group\n./etc/passwd\n");
}

#[test]
fn a_layer_that_comes_twice_is_stacked_once() {
    let fixture = Fixture::new();
    let (a, b) = (Tar::new().file("x", b"a"), Tar::new().file("x", b"b").file("y", b"b"));
    let layers = [&a, &b, &a].map(Layer::gzip).to_vec();
    let image = fixture.load(&Made::new(layers).oci_archive("twice:1")).unwrap().remove(0);
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.read_file("x", 9).unwrap().unwrap(), b"a");
    assert_eq!(overlay_listing(&image.layers), ".\n./x\n./y\n");
}

#[test]
fn metadata_survives() {
    let fixture = Fixture::new();
    // VFS_CAP_REVISION_2, effective, with a newline among its bytes.
    let capability: &[u8] = b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let pax: &[(&str, &[u8])] =
        &[("SCHILY.xattr.security.capability", capability), ("mtime", b"1500000000.25")];
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let tar = Tar::new()
        .entry(&Entry {
            kind: b'5',
            name: "dir/",
            mode: 0o1777,
            owner: (7, 8),
            mtime: 5,
            ..Entry::default()
        })
        .entry(&Entry {
            name: "dir/suid",
            mode: 0o4755,
            owner: (1, 2),
            data: b"#!",
            pax,
            ..Entry::default()
        })
        .hard_link("dir/again", "dir/suid")
        .symlink("abs", "/etc/passwd")
        .file(&long, b"long")
        .file("replaced", b"1")
        .file("replaced", b"2")
        .directory("was-dir")
        .file("was-dir/x", b"")
        .file("was-dir", b"file now");
    let image =
        fixture.load(&Made::new(vec![Layer::gzip(&tar)]).oci_archive("m:1")).unwrap().remove(0);
    let stat = |name: &str| std::fs::symlink_metadata(image.layers[0].join(name)).unwrap();
    let (dir, suid) = (stat("dir"), stat("dir/suid"));
    assert_eq!((dir.mode(), dir.uid(), dir.gid(), dir.mtime()), (0o41777, 7, 8, 5));
    assert_eq!((suid.mode(), suid.uid(), suid.gid()), (0o104_755, 1, 2));
    assert_eq!((suid.mtime(), suid.mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(stat("dir/again").ino(), suid.ino());
    assert_eq!(stat(&"d".repeat(120)).mode(), 0o40755);
    assert_eq!(image.read_file(&long, 9).unwrap().unwrap(), b"long");
    assert_eq!(image.read_file("replaced", 9).unwrap().unwrap(), b"2");
    assert_eq!(image.read_file("was-dir", 9).unwrap().unwrap(), b"file now");
    let target = std::fs::read_link(image.layers[0].join("abs")).unwrap();
    assert_eq!(target.to_str(), Some("/etc/passwd"));
    let value = Command::new("python3")
        .args(["-c", "import os,sys; print(os.getxattr(sys.argv[1],'security.capability').hex())"])
        .arg(image.layers[0].join("dir/suid"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&value.stdout).trim(), hex::encode(capability));
    assert_eq!(image.read_file("abs", 9).unwrap(), None);
}

#[test]
fn a_new_volume_gets_the_image_s_directory() {
    let fixture = Fixture::new();
    let lower = Tar::new()
        .entry(&Entry { kind: b'5', name: "data", mode: 0o750, owner: (5, 6), ..Entry::default() })
        .file("data/kept", b"kept")
        .file("data/gone", b"gone")
        .directory("data/sub")
        .file("data/sub/x", b"x")
        .hard_link("data/sub/y", "data/sub/x")
        .symlink("data/link", "kept")
        .symlink("alias", "/data");
    let upper = Tar::new()
        .entry(&Entry { kind: b'5', name: "data", mode: 0o700, owner: (7, 8), ..Entry::default() })
        .file("data/.wh.gone", b"");
    let image = Made::new([&lower, &upper].map(Layer::gzip).to_vec());
    let image = fixture.load(&image.oci_archive("v:1")).unwrap().remove(0);
    let volume = tempfile::tempdir().unwrap();
    assert!(!image.copy_directory("/none", volume.path()).unwrap());
    assert!(image.copy_directory("/alias/", volume.path()).unwrap());
    let stat = |name: &str| std::fs::symlink_metadata(volume.path().join(name)).unwrap();
    assert_eq!((stat("").mode(), stat("").uid(), stat("").gid()), (0o40700, 7, 8));
    assert_eq!(std::fs::read(volume.path().join("link")).unwrap(), b"kept");
    assert_eq!(stat("sub/x").ino(), stat("sub/y").ino());
    assert!(!volume.path().join("gone").exists());
    assert!(!image.copy_directory("/data", volume.path()).unwrap(), "not into what is not empty");
}

#[test]
fn every_kind_of_archive_is_read() {
    let made = sample();
    let mut plain = made.clone();
    plain.layers = made.layers.iter().map(|layer| Layer { ..layer.clone() }).collect();
    let docker = plain.docker_archive(&["sample:docker", "me/other:2"]);
    let oci = made.oci_archive("sample:oci");
    for (name, archive, references) in [
        ("docker", docker.clone(), vec!["me/other:2", "sample:docker"]),
        ("docker, compressed", gzip(&docker), vec!["me/other:2", "sample:docker"]),
        ("oci, compressed", gzip(&oci), vec!["sample:oci"]),
    ] {
        let fixture = Fixture::new();
        let images =
            fixture.load(&archive).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(images.len(), 1, "{name}");
        assert_eq!(images[0].references, references, "{name}");
        assert_eq!(images[0].id, made.id(), "{name}");
        assert_eq!(fixture.store.find(references[0]).unwrap().unwrap().digest, images[0].digest);
        assert!(
            fixture
                .content()
                .iter()
                .all(|path| !path.starts_with(fixture.dir.path().join("images/tmp")))
        );
    }
}

#[test]
fn archives_of_skopeo_are_read() {
    let fixture = Fixture::new();
    let source = fixture.in_archive_file(&sample().oci_archive("sample:1"));
    for (kind, name) in
        [("oci-archive", "sample:skopeo"), ("docker-archive", "docker.io/library/sample:skopeo")]
    {
        let to = fixture.dir.path().join(kind);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci-archive:{}", source.display()))
            .arg(format!("{kind}:{}:{name}", to.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let archive = std::fs::read(&to).unwrap();
        let images =
            fixture.load(&archive).unwrap_or_else(|error| panic!("{kind}: {}", chain(&error)));
        assert_eq!(images[0].references, ["sample:skopeo"], "{kind}");
        assert_eq!(images[0].read_file("/data/new", 9).unwrap().unwrap(), b"new");
    }
}

#[test]
fn the_platform_and_the_names_of_an_archive_are_chosen() {
    let fixture = Fixture::new();
    let (here, mut there) = (sample(), sample());
    there.architecture = "s390x".to_owned();
    let both = oci_archive(&[
        (&there, json!({"org.opencontainers.image.ref.name": "app:1"})),
        (&here, json!({"org.opencontainers.image.ref.name": "app:1"})),
        (&here, json!({"org.opencontainers.image.ref.name": "latest"})),
    ]);
    let images = fixture.load(&both).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].id, here.id());
    assert_eq!(images[0].references, ["app:1"]);

    let fixture = Fixture::new();
    let error = fixture.load(&there.oci_archive("app:1")).unwrap_err();
    assert!(chain(&error).contains("there is linux/s390x"), "{}", chain(&error));
    for (bytes, text) in [
        (b"hello".to_vec(), "not a tar archive"),
        (Tar::new().file("a", b"").finish(), "neither an OCI layout"),
        (Tar::new().file("index.json", b"{").finish(), "index.json: EOF"),
        (
            Tar::new().file("manifest.json", br#"[{"Config":"../../etc/passwd"}]"#).finish(),
            "has no member \"../../etc/passwd\"",
        ),
        (here.oci_archive("app:1")[..3000].to_vec(), "truncated"),
    ] {
        let error = chain(&fixture.load(&bytes).unwrap_err());
        assert!(error.contains(text), "{error} does not say {text}");
    }
    assert_eq!(fixture.content(), Default::default());
}

#[test]
fn removal_follows_docker() {
    let fixture = Fixture::new();
    let shared = Layer::gzip(&Tar::new().file("shared", b"s"));
    let own = Layer::gzip(&Tar::new().file("own", b"o"));
    let one = Made::new(vec![shared.clone(), own.clone()]);
    let two = Made::new(vec![shared.clone()]);
    fixture.load(&one.docker_archive(&["one:1", "one:2", "other/one:1"])).unwrap();
    fixture.load(&two.docker_archive(&["two:1"])).unwrap();
    let remove = |reference: &str, force, in_use: &dyn Fn(&str) -> bool| {
        fixture.store.remove(reference, force, in_use).map_err(|error| error.to_string())
    };
    let used = |_: &str| true;
    let prefix = &one.id()["sha256:".len()..][..12];

    assert!(remove("three", false, &no_one).unwrap_err().contains("no such image: three"));
    assert!(remove(prefix, false, &no_one).unwrap_err().contains("must be forced"));
    assert!(remove(prefix, true, &used).unwrap_err().contains("cannot be forced"));
    let removed = remove("one:1", false, &used).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["one:1".to_owned()], vec![]));
    remove("one:2", false, &used).unwrap();
    assert!(remove("other/one:1", false, &used).unwrap_err().contains("must force"));
    let removed = remove("other/one:1", true, &used).unwrap();
    assert!(removed.deleted.is_empty(), "the container keeps its image");
    assert_eq!(fixture.store.find(prefix).unwrap().unwrap().references, Vec::<String>::new());
    assert_eq!(fixture.store.list().unwrap().len(), 2);
    let removed = remove(prefix, false, &no_one).unwrap();
    assert_eq!(removed.deleted, [one.id(), own.diff_id.clone()], "the shared layer stays");
    assert!(fixture.store.find("two:1").unwrap().unwrap().layers[0].join("shared").exists());
    let removed = remove("two:1", false, &no_one).unwrap();
    assert_eq!(removed.untagged, ["two:1"]);
    assert_eq!(removed.deleted, [two.id(), shared.diff_id.clone()]);
    assert_eq!(fixture.content(), Default::default());
}

#[test]
fn a_tag_that_moves_leaves_the_old_image_without_a_name() {
    let fixture = Fixture::new();
    let images = [b"1", b"2"].map(|data| Made::new(vec![Layer::gzip(&Tar::new().file("f", data))]));
    for image in &images {
        fixture.load(&image.oci_archive("app:1")).unwrap();
    }
    assert_eq!(fixture.store.find("app:1").unwrap().unwrap().id, images[1].id());
    assert!(fixture.store.find(&images[0].id()).unwrap().unwrap().references.is_empty());
    // Beginnings of ids, also of the wrong length or case.
    assert!(fixture.store.find("zzzz").unwrap().is_none());
    let all = fixture.store.find("");
    assert!(all.unwrap().is_none());
}

/// Names, kinds, modes, owners, sizes, times, links and contents below a directory.
fn listing(root: &std::path::Path) -> String {
    let script = "cd \"$1\" && find . -printf '%P %y %m %U %G %n %l %T@ ' \
                  \\( -type d -printf '\\n' -o -printf '%s\\n' \\) | sort && \
                  find . -type f -print0 | sort -z | xargs -0 sha256sum";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_gnu_tar_packs_is_unpacked_as_it_unpacks_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let script = "
        mkdir -p \"$1\" && cd \"$1\" && cp -a /etc/. etc && mkdir -m 1777 sticky && mkfifo pipe &&
        mkdir -p $(printf 'd%.0s' $(seq 150))/$(printf 'e%.0s' $(seq 150)) &&
        echo long > $(printf 'd%.0s' $(seq 150))/$(printf 'e%.0s' $(seq 150))/$(printf 'f%.0s' $(seq 150)) &&
        ln -s $(printf 'target%.0s' $(seq 40)) link && echo x > one && ln one two &&
        cp /bin/true suid && chown 1:2 suid && chmod 6755 suid &&
        echo start > sparse && truncate -s 3M sparse && echo middle >> sparse && truncate -s 5M sparse &&
        for n in $(seq 60); do printf x | dd of=holes bs=1 seek=$((n * 65536)) conv=notrunc 2>/dev/null; done
    ";
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(&source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for options in [&["--format=gnu", "--sparse"][..], &["--format=pax"], &["--format=gnu"]] {
        let (packed, unpacked) = (dir.path().join("layer.tar"), dir.path().join("unpacked"));
        std::fs::create_dir(&unpacked).unwrap();
        let tar = |arguments: &[&str], directory: &std::path::Path| {
            let mut command = Command::new("tar");
            command.args(arguments).arg("-C").arg(directory).arg("-f").arg(&packed);
            if arguments.contains(&"-c") {
                command.arg(".");
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        tar(&[options, &["-c"]].concat(), &source);
        tar(&["-x", "-p", "--same-owner"], &unpacked);
        let bytes = std::fs::read(&packed).unwrap();
        let fixture = Fixture::new();
        let image = Made::new(vec![Layer::new(gzip(&bytes), "tar+gzip", &bytes)]);
        let image = fixture
            .load(&image.oci_archive("real:1"))
            .unwrap_or_else(|error| panic!("{options:?}: {}", chain(&error)))
            .remove(0);
        let (ours, theirs) = (listing(&image.layers[0]), listing(&unpacked));
        if let Some((a, b)) = ours.lines().zip(theirs.lines()).find(|(a, b)| a != b) {
            panic!("{options:?}: {a:?} here, {b:?} by tar");
        }
        assert_eq!(ours.len(), theirs.len(), "{options:?}");
        let blocks =
            |root: &std::path::Path| std::fs::metadata(root.join("holes")).unwrap().blocks();
        if options.contains(&"--sparse") {
            assert!(blocks(&image.layers[0]) <= blocks(&unpacked), "holes are kept");
        }
        std::fs::remove_dir_all(&unpacked).unwrap();
    }
}
