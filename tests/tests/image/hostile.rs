//! Layers that attack the host: each is refused with the entry and the reason, and leaves nothing.

use std::os::unix::fs::MetadataExt as _;

use tests::image::{Entry, Image as Made, Layer, Tar, gzip};

use super::{Fixture, chain};

fn refused(name: &str, tar: Tar, reason: &str) {
    refused_layer(name, Layer::gzip(&tar), reason);
}

fn refused_layer(name: &str, layer: Layer, reason: &str) {
    let fixture = Fixture::new();
    let good = Layer::gzip(&Tar::new().file("good", b"good"));
    let image = Made::new(vec![good, layer]);
    let error = match fixture.load(&image.oci_archive("hostile:1")) {
        Err(error) => chain(&error),
        Ok(_) => panic!("{name}: accepted"),
    };
    assert!(error.contains(reason), "{name}: {error:?} does not say {reason:?}");
    assert_eq!(fixture.content(), Default::default(), "{name}");
}

#[test]
fn paths_out_of_the_layer_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let out = outside.path().to_str().unwrap();
    let target = victim.to_str().unwrap();
    let up = format!("{}{}", "../".repeat(40), &target[1..]);
    let up_dir = format!("{}{}", "../".repeat(40), &out[1..]);

    refused(
        "dot-dot",
        Tar::new().file("../evil", b"x"),
        "entry \"../evil\": its name leads outside",
    );
    refused("inner dot-dot", Tar::new().file("a/../../evil", b"x"), "leads outside");
    refused("long dot-dot", Tar::new().file(&up, b"x"), "leads outside");
    refused("dot-dot alone", Tar::new().directory(".."), "leads outside");
    refused("absolute", Tar::new().file(target, b"x"), "its name is absolute");
    refused("absolute directory", Tar::new().directory("/etc"), "its name is absolute");
    refused(
        "write through an absolute link",
        Tar::new().symlink("evil", out).file("evil/victim", b"x"),
        "entry \"evil/victim\": its path passes symbolic link \"evil\"",
    );
    refused(
        "write through a relative link",
        Tar::new().symlink("evil", &up_dir).file("evil/victim", b"x"),
        "leads outside of the layer through symbolic link \"evil\"",
    );
    refused(
        "directory through a link",
        Tar::new().symlink("evil", out).directory("evil/sub"),
        "leads to nothing in this layer",
    );
    refused(
        "link through a link",
        Tar::new().symlink("a", "..").symlink("a/b", "c"),
        "leads outside of the layer through symbolic link \"a\" -> \"..\"",
    );
    refused(
        "links in a circle",
        Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b""),
        "too many symbolic links",
    );
    refused("hard link out", Tar::new().hard_link("evil", target), "hard link to");
    refused("hard link up", Tar::new().hard_link("evil", &up), "hard link to");
    refused(
        "hard link through a link",
        Tar::new().symlink("out", out).hard_link("evil", "out/victim"),
        "entry \"evil\": hard link to \"out/victim\"",
    );
    refused(
        "hard link to a missing file",
        Tar::new().hard_link("evil", "etc/passwd"),
        "does not exist in this layer",
    );
    refused(
        "hard link to the root",
        Tar::new().hard_link("evil", "."),
        "a hard link to itself or to the root",
    );
    refused(
        "hard link to a directory",
        Tar::new().directory("d").hard_link("e", "d"),
        "a hard link to a directory",
    );
    refused(
        "whiteout through a link",
        Tar::new().symlink("evil", out).file("evil/.wh.victim", b""),
        "leads to nothing in this layer",
    );
    refused("whiteout of the parent", Tar::new().file("a/.wh...", b""), "a whiteout of nothing");
    refused("whiteout of itself", Tar::new().file(".wh..", b""), "a whiteout of nothing");
    refused("whiteout of nothing", Tar::new().file(".wh.", b""), "a whiteout of nothing");
    refused("whiteout as directory", Tar::new().file(".wh.a/b", b""), "passes a whiteout");
    refused(
        "file as directory",
        Tar::new().file("a", b"").file("a/b", b""),
        "which is not a directory",
    );
    refused("root as file", Tar::new().file("./.", b"x"), "the root of a layer is a directory");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(std::fs::metadata(&victim).unwrap().nlink(), 1);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn hard_links_reach_files_of_their_own_layer_only() {
    refused(
        "to a whiteout",
        Tar::new().file(".wh.gone", b"").hard_link("evil", "gone"),
        "a hard link to what a whiteout removes",
    );
    refused(
        "to the name of a whiteout",
        Tar::new().file(".wh.gone", b"").hard_link("evil", ".wh.gone"),
        "does not exist in this layer",
    );
    refused("to itself", Tar::new().file("a", b"").hard_link("a", "./a"), "to itself");
    refused("to nothing", Tar::new().hard_link("evil", ""), "to itself or to the root");
    // To a link, not through it: both names are the link then.
    let fixture = Fixture::new();
    let outside = fixture.dir.path().join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    let tar = Tar::new().symlink("a", outside.to_str().unwrap()).hard_link("b", "a");
    let loaded = fixture.load(&Made::new(vec![Layer::gzip(&tar)]).oci_archive("x:1")).unwrap();
    let made = std::fs::symlink_metadata(loaded[0].layers[0].join("b")).unwrap();
    assert!(made.is_symlink() && made.nlink() == 2);
    assert_eq!(std::fs::metadata(&outside).unwrap().nlink(), 1);
}

/// An entry with these pax records, then an innocent one.
fn pax(name: &str, pax: &[(&str, &[u8])], data: &[u8]) -> Tar {
    Tar::new().entry(&Entry { name, pax, data, ..Entry::default() }).file("next", b"")
}

#[test]
fn tricks_with_pax_records_are_refused() {
    for (size, reason) in [
        (&b"-1"[..], "number in a pax record"),
        (b"+4", "number in a pax record"),
        (b"4.0", "number in a pax record"),
        (b"18446744073709551616", "number in a pax record"),
        (b"18446744073709551615", "unpacks to more than 68719476736 bytes"),
        (b"9223372036854775807", "unpacks to more than 68719476736 bytes"),
        // More than there is, less than there is: the next header is not where it should be.
        (b"100000", "read at byte"),
        (b"0", "checksum of a header"),
    ] {
        let name = String::from_utf8_lossy(size);
        refused(&format!("size {name}"), pax("a", &[("size", size)], b"data"), reason);
    }
    refused(
        "size given twice",
        pax("a", &[("size", b"4"), ("size", b"-1")], b"data"),
        "number in a pax record",
    );
    refused(
        "zero byte in a name",
        pax("a", &[("path", b"a\0b")], b""),
        "a name contains a zero byte",
    );
    refused("zero byte in a key", pax("a", &[("pa\0th", b"b")], b""), "contains a zero byte");
    refused("name out of the layer", pax("a", &[("path", b"../../evil")], b""), "leads outside");
    refused("absolute name", pax("a", &[("path", b"/evil")], b""), "its name is absolute");
    refused(
        "name given twice",
        pax("a", &[("path", b"a"), ("path", b"../b")], b""),
        "leads outside",
    );
    let long = vec![b'a'; 5000];
    refused("name too long", pax("a", &[("path", &long)], b""), "longer than 4096 bytes");
    let big = vec![b'a'; 1 << 20];
    refused("records too long", pax("a", &[("comment", &big)], b""), "larger than 1 MiB");
    refused(
        "hard link out of the layer",
        Tar::new().entry(&Entry {
            kind: b'1',
            name: "a",
            link: "b",
            pax: &[("linkpath", b"/etc/passwd")],
            ..Entry::default()
        }),
        "hard link to \"/etc/passwd\": its name is absolute",
    );
    let gnu = Entry { kind: b'L', name: "L", data: b"../evil\0", ..Entry::default() };
    refused("GNU name", Tar::new().entry(&gnu).file("innocent", b""), "leads outside");
    let sparse: &[(&str, &[u8])] = &[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"8,4")];
    refused("segments past the end", pax("a", sparse, b"data"), "overlap or pass the end");
    let sparse: &[(&str, &[u8])] =
        &[("GNU.sparse.size", b"99999999999999"), ("GNU.sparse.map", b"0,4")];
    refused("sparse and huge", pax("a", sparse, b"data"), "unpacks to more than 68719476736 bytes");
    let name: &[(&str, &[u8])] =
        &[("GNU.sparse.size", b"4"), ("GNU.sparse.map", b"0,4"), ("GNU.sparse.name", b"../evil")];
    refused("name of a sparse file", pax("a", name, b"data"), "leads outside");
    let hidden = [&[0; 512][..], &Tar::new().file("hidden", b"").finish()].concat();
    refused_layer(
        "entries after the end",
        Layer::new(gzip(&hidden), "tar+gzip", &hidden),
        "something follows a single block of zeros",
    );
}

#[test]
fn names_of_directories_do_not_fill_the_memory() {
    let component = "d".repeat(250);
    let tail = vec![component.as_str(); 15].join("/");
    let tar = (0..1000).fold(Tar::new(), |tar, at| tar.directory(&format!("{at}/{tail}")));
    refused("directories", tar, "names and attributes of its directories take more than 16777216");
}

#[test]
fn more_than_500_layers_are_refused() {
    let layers = (0..501).map(|at| Layer::gzip(&Tar::new().file(&at.to_string(), b""))).collect();
    let fixture = Fixture::new();
    let Err(error) = fixture.load(&Made::new(layers).oci_archive("hostile:1")) else {
        panic!("accepted");
    };
    assert!(chain(&error).contains("more than 500 elements"), "{}", chain(&error));
    assert_eq!(fixture.content(), Default::default());
}

#[test]
fn zstd_windows_that_would_fill_the_memory_are_refused() {
    // A frame that asks for 128 MiB and has one empty block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x88, 1, 0, 0];
    refused_layer(
        "window",
        Layer::new(frame.to_vec(), "tar+zstd", b""),
        "a zstd window of 134217728 bytes; at most 33554432 are accepted",
    );
}

#[test]
fn content_that_is_not_what_was_promised_is_refused() {
    let tar = Tar::new().file("a", b"content");
    let good = Layer::gzip(&tar);
    let zeros = "sha256:".to_owned() + &"0".repeat(64);

    // The manifest's digest and size are those of another blob than the one under that name.
    let mut layer = good.clone();
    layer.blob = gzip(&Tar::new().file("a", b"CONTENT").finish());
    layer.size = layer.blob.len() as u64;
    refused_layer("wrong digest", layer, "the manifest says sha256:");
    let layer = Layer { size: good.size + 1, ..good.clone() };
    refused_layer(
        "wrong size",
        layer,
        &format!("content has {} bytes, the manifest says {}", good.size, good.size + 1),
    );
    let layer = Layer { diff_id: zeros.clone(), ..good.clone() };
    refused_layer("wrong diff id", layer, &format!("the configuration says {zeros}"));
    let layer = Layer { diff_id: "sha256:../../../etc".to_owned(), ..good.clone() };
    refused_layer("diff id as path", layer, "is not a digest");
    let layer = Layer { media_type: "application/x-zip".to_owned(), ..good.clone() };
    refused_layer("media type", layer, "\"application/x-zip\" is not supported");

    let bytes = tar.finish();
    let cut = &good.blob[..good.blob.len() - 12];
    refused_layer(
        "truncated gzip",
        Layer::new(cut.to_vec(), "tar+gzip", &bytes),
        "incomplete deflate stream",
    );
    let cut = &bytes[..600];
    refused_layer("truncated tar", Layer::new(gzip(cut), "tar+gzip", cut), "read at byte");
    refused_layer(
        "no tar",
        Layer::new(gzip(&[7; 2048]), "tar+gzip", &[7; 2048]),
        "checksum of a header",
    );
    refused_layer(
        "no zstd",
        Layer::new(b"\x28\xb5\x2f\xfdrubbish".to_vec(), "tar+zstd", b""),
        "read at byte 0",
    );
    for (name, part, reason) in
        [("manifest", 0, "content of sha256:"), ("configuration", 1, "content of sha256:")]
    {
        let image = Made::new(vec![good.clone()]);
        let mut archive = image.oci_archive("hostile:1");
        // The same length, so that nothing but the digest tells.
        let blob = &image.blobs()[part].1;
        let at = archive.windows(blob.len()).position(|bytes| bytes == blob.as_slice()).unwrap();
        let last = at + blob.len() - 1;
        archive[last] = b' ';
        let fixture = Fixture::new();
        let error = match fixture.load(&archive) {
            Err(error) => chain(&error),
            Ok(_) => panic!("{name}: accepted"),
        };
        assert!(error.contains(reason), "{name}: {error}");
        assert_eq!(fixture.content(), Default::default(), "{name}");
    }
}

#[test]
fn layers_that_exhaust_the_host_are_refused() {
    // 64 GiB claimed by a sparse file without content.
    let mut sparse = [0_u8; 512];
    sparse[..4].copy_from_slice(b"huge");
    let mut put = |at: usize, text: &[u8]| sparse[at..at + text.len()].copy_from_slice(text);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, b"00000000000\0");
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"S");
    put(257, b"ustar  \0");
    // Base 256, because octal digits end at 8 GiB.
    put(483, &[0x80, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0]);
    let sum: u32 = sparse.iter().map(|byte| u32::from(*byte)).sum();
    sparse[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let tar = [sparse.as_slice(), &[0; 1024]].concat();
    refused_layer(
        "huge",
        Layer::new(gzip(&tar), "tar+gzip", &tar),
        "unpacks to more than 68719476736 bytes",
    );

    let deep = vec!["d"; 300].join("/");
    refused("deep", Tar::new().directory(&deep), "more than 256 directories deep");
    refused("long name", Tar::new().file(&"n".repeat(300), b""), "a component longer than 255");
    let owner = Entry { name: "a", pax: &[("uid", b"4294967295")], ..Entry::default() };
    refused("owner", Tar::new().entry(&owner), "its owner is not a 32-bit number");
    let unknown = Entry { kind: b'V', name: "a", ..Entry::default() };
    refused("unknown kind", Tar::new().entry(&unknown), "a kind of entry that layers do not have");
}

#[test]
fn orders_to_overlayfs_and_labels_of_the_host_are_dropped() {
    let fixture = Fixture::new();
    let pax: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.kept", b"a\nb"),
    ];
    let entry = Entry { kind: b'5', name: "dir", mode: 0o755, pax, ..Entry::default() };
    let image = Made::new(vec![Layer::gzip(&Tar::new().entry(&entry))]);
    let loaded = fixture.load(&image.oci_archive("x:1")).unwrap();
    let dir = loaded[0].layers[0].join("dir");
    let names = std::process::Command::new("python3")
        .args(["-c", "import os,sys; print(*os.listxattr(sys.argv[1]))"])
        .arg(&dir)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&names.stdout).trim(), "user.kept");
}

#[test]
fn device_nodes_are_made_as_docker_makes_them_behind_a_closed_door() {
    let fixture = Fixture::new();
    let device = |kind, name, device| Entry { kind, name, device, mode: 0o600, ..Entry::default() };
    let tar = Tar::new()
        .entry(&device(b'3', "null", (1, 3)))
        .entry(&device(b'4', "disk", (8, 0)))
        .entry(&device(b'6', "fifo", (0, 0)));
    let image = Made::new(vec![Layer::gzip(&tar)]);
    let loaded = fixture.load(&image.oci_archive("x:1")).unwrap();
    let stat = |name: &str| std::fs::symlink_metadata(loaded[0].layers[0].join(name)).unwrap();
    assert_eq!((stat("null").mode(), stat("null").rdev()), (0o20600, 0x103));
    assert_eq!((stat("disk").mode(), stat("disk").rdev()), (0o60600, 0x800));
    assert_eq!(stat("fifo").mode(), 0o10600);
    let store = std::fs::metadata(fixture.dir.path().join("images")).unwrap();
    assert_eq!(store.mode() & 0o777, 0o700);
}

/// An image of these layers, unpacked.
fn accepted(fixture: &Fixture, layers: &[Tar]) -> Vec<std::path::PathBuf> {
    let made = Made::new(layers.iter().map(Layer::gzip).collect());
    let loaded = fixture.load(&made.oci_archive("x:1"));
    loaded.unwrap_or_else(|error| panic!("{}", chain(&error)))[0].layers.clone()
}

#[test]
fn a_link_of_one_layer_is_no_way_for_the_next() {
    let fixture = Fixture::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    let layers = accepted(
        &fixture,
        &[
            Tar::new().directory("d").file("d/victim", b"old"),
            Tar::new().symlink("d", outside.path().to_str().unwrap()),
            Tar::new().file("d/victim", b"new").file("d/.wh.other", b""),
        ],
    );
    assert_eq!(std::fs::read(layers[0].join("d/victim")).unwrap(), b"new");
    assert!(layers[1].join("d").is_symlink());
    assert_eq!(std::fs::read_to_string(outside.path().join("victim")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn names_and_times_of_any_kind_are_bytes_and_numbers() {
    let fixture = Fixture::new();
    let strange = pax("a", &[("path", b"new\nline \xff\x1b[2J")], b"data");
    let global =
        Entry { kind: b'g', name: "g", data: b"18 path=../../x\n\n\n", ..Entry::default() };
    let late: &[(&str, &[u8])] = &[("mtime", b"9223372036854775807.999999999")];
    let early: &[(&str, &[u8])] = &[("mtime", b"-9223372036854775807")];
    let tar = strange
        .entry(&global)
        .entry(&Entry { name: "late", pax: late, ..Entry::default() })
        .entry(&Entry { name: "early", pax: early, ..Entry::default() });
    let layers = accepted(&fixture, &[tar]);
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::OsStr::from_bytes(b"new\nline \xff\x1b[2J");
    assert_eq!(std::fs::read(layers[0].join(name)).unwrap(), b"data");
    for name in ["next", "late", "early"] {
        assert!(layers[0].join(name).exists(), "{name}");
    }
    for time in ["9223372036854775808", "-9223372036854775808.5", "1e3", "+-1", ""] {
        let record: &[(&str, &[u8])] = &[("mtime", time.as_bytes())];
        match time {
            "" => drop(accepted(&Fixture::new(), &[pax("a", record, b"")])),
            _ => refused(time, pax("a", record, b""), "pax mtime"),
        }
    }
    // Where it is shown it is no order to a terminal, and no longer than a line.
    let name = [b"../\x1b[2J".as_slice(), &[b'x'; 500_000]].concat();
    let fixture = Fixture::new();
    let made = Made::new(vec![Layer::gzip(&pax("a", &[("path", &name)], b""))]);
    let Err(error) = fixture.load(&made.oci_archive("x:1")) else { panic!("accepted") };
    let error = chain(&error);
    assert!(error.contains("longer than 4096 bytes") && error.len() < 4096, "{}", error.len());
    assert!(!error.contains('\x1b'), "{error}");
    let made = Made::new(vec![Layer::gzip(&Tar::new().hard_link("a", "\x1b[2J"))]);
    let Err(error) = fixture.load(&made.oci_archive("x:1")) else { panic!("accepted") };
    let error = chain(&error);
    assert!(error.contains("does not exist") && !error.contains('\x1b'), "{error:?}");
}

#[test]
fn a_layer_whose_root_is_opaque_hides_all_below() {
    let fixture = Fixture::new();
    let layers = accepted(
        &fixture,
        &[
            Tar::new().file("below", b""),
            Tar::new().file(".wh..wh..opq", b"").file("shown", b""),
            Tar::new().file("above", b""),
        ],
    );
    assert_eq!(layers.len(), 2, "{layers:?}");
    assert!(layers[0].join("above").exists() && layers[1].join("shown").exists());
}

#[test]
fn extensions_that_are_too_much_are_refused() {
    let big = vec![b'a'; (1 << 20) + 1];
    for kind in *b"LKgx" {
        let entry = Entry { kind, name: "long", data: &big, ..Entry::default() };
        let tar = Tar::new().entry(&entry).file("next", b"");
        refused(&char::from(kind).to_string(), tar, "an extension header larger than 1 MiB");
    }
    let names: Vec<String> = (0..1025).map(|at| format!("SCHILY.xattr.user.{at}")).collect();
    let attributes: Vec<(&str, &[u8])> =
        names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
    refused("attributes", pax("a", &attributes, b""), "more than 1024 extended attributes");
    for (map, reason) in [
        (&b"0,4,2,4"[..], "overlap or pass the end"),
        (b"18446744073709551615,4", "overlap or pass the end"),
        (b"4,4,0,4", "overlap or pass the end"),
        (b"0,4,6", "a sparse segment without a length"),
        (b"0,-4", "number in a pax record"),
    ] {
        let sparse: &[(&str, &[u8])] = &[("GNU.sparse.size", b"10"), ("GNU.sparse.map", map)];
        refused(&String::from_utf8_lossy(map), pax("a", sparse, b"datadata"), reason);
    }
    // A negative number in base 256.
    let mut bytes = Tar::new().file("a", b"data").finish();
    bytes[124..136].fill(0xff);
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let layer = Layer::new(gzip(&bytes), "tar+gzip", &bytes);
    refused_layer("negative size", layer, "layer sha256:");
}

#[test]
fn file_capabilities_are_kept_as_they_are_or_refused() {
    let fixture = Fixture::new();
    // Version 3: for user namespaces whose root is user 100000 only.
    let mut value = [0_u8; 24];
    value[..4].copy_from_slice(&0x0300_0001_u32.to_le_bytes());
    value[4..8].copy_from_slice(&0x0400_u32.to_le_bytes());
    value[20..].copy_from_slice(&100_000_u32.to_le_bytes());
    let tar = pax("program", &[("SCHILY.xattr.security.capability", &value)], b"");
    let layers = accepted(&fixture, &[tar]);
    let kept = std::process::Command::new("python3")
        .args(["-c", "import os,sys; print(os.getxattr(sys.argv[1], 'security.capability').hex())"])
        .arg(layers[0].join("program"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout).trim(), hex::encode(value));
    let tar = pax("program", &[("SCHILY.xattr.security.capability", b"rubbish")], b"");
    refused("no capabilities", tar, "entry \"program\": set its extended attributes");
}

#[test]
fn a_device_that_is_a_whiteout_hides_and_does_no_more() {
    let fixture = Fixture::new();
    let device = Entry { kind: b'3', name: "gone", mode: 0o777, ..Entry::default() };
    let layers = accepted(&fixture, &[Tar::new().file("gone", b"old"), Tar::new().entry(&device)]);
    assert_eq!(std::fs::symlink_metadata(layers[0].join("gone")).unwrap().rdev(), 0);
    assert_eq!(std::fs::read(layers[1].join("gone")).unwrap(), b"old");
    let tar = Tar::new().entry(&device).hard_link("evil", "gone");
    refused("hard link to one", tar, "a hard link to what a whiteout removes");
    let tar = Tar::new().entry(&device).file("gone/x", b"");
    refused("way through one", tar, "which is not a directory");
}
