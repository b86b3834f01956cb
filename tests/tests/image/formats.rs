//! Layers that are more than archives: those that lazy readers take apart are read from end to end.

use std::process::Command;

use serde_json::Value;
use tests::image::{Image as Made, Layer, Tar, digest, gzip};
use tests::registry::Registry;

use super::{Fixture, sample};

/// As stargz-snapshotter (docs/estargz.md) lays it out: each file, the landmark and the table of
/// contents a gzip member of their own, and a footer that says where the table is.
fn estargz(tar: &Tar) -> Layer {
    let table = br#"{"version":1,"entries":[]}"#;
    let files = tar.finish();
    let files = files.strip_suffix(&[0; 1024]).unwrap();
    let landmark = Tar::new().file(".prefetch.landmark", &[0xf]).finish();
    let last = Tar::new().file("stargz.index.json", table).finish();
    let (mut blob, mut whole) = (Vec::new(), Vec::new());
    for part in files.chunks(512).chain([landmark.strip_suffix(&[0; 1024]).unwrap()]) {
        blob.extend(gzip(part));
        whole.extend_from_slice(part);
    }
    let at = blob.len();
    blob.extend(gzip(&last));
    whole.extend(last);
    // An empty member with the offset in its header's extra field.
    blob.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0]);
    blob.extend(format!("{at:016x}STARGZ").bytes());
    blob.extend([1, 0, 0, 0xff, 0xff]);
    blob.extend([0; 8]);
    Layer::new(blob, "tar+gzip", &whole)
}

#[test]
fn an_estargz_layer_is_an_archive_like_any() {
    let fixture = Fixture::new();
    let noise: Vec<u8> =
        (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let made = Made::new(vec![
        estargz(&Tar::new().directory("data/").file("data/noise", &noise).file("data/old", b"1")),
        estargz(&Tar::new().file("data/new", b"2").file("data/.wh.old", b"")),
    ]);
    let image = fixture.load(&made.oci_archive("lazy:1")).unwrap().remove(0);
    assert_eq!(image.id, made.id());
    assert_eq!(image.read_file("data/noise", 200_000).unwrap().unwrap(), noise);
    assert_eq!(image.read_file("data/new", 10).unwrap().unwrap(), b"2");
    assert_eq!(image.read_file("data/old", 10).unwrap(), None);
}

#[test]
fn what_skopeo_makes_zstd_and_zstd_chunked_is_pulled() {
    let plain = |layer: &Layer| layer.media_type.ends_with(".tar");
    let made = sample();
    // It compresses what is not compressed yet.
    let layers: Vec<Layer> = made.layers.iter().filter(|layer| plain(layer)).cloned().collect();
    let made = Made { layers, ..made };
    for format in ["zstd", "zstd:chunked"] {
        // Each anew, or skopeo takes what is there already for the same.
        let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
        let archive = fixture.in_archive_file(&made.oci_archive("app:1"));
        let name = registry.image("app:1");
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .args(["--dest-compress-format", format])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{name}"))
            .output()
            .expect("start skopeo (Debian package skopeo)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let image = fixture.pull(&name).unwrap();
        let manifest = std::fs::read(registry.blob(&image.digest)).unwrap();
        assert_eq!(digest(&manifest), image.digest);
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = &manifest["layers"][0];
        let kind = layer["mediaType"].as_str().unwrap();
        assert!(kind.ends_with("tar+zstd"), "{manifest}");
        // The table of contents that lazy readers look for.
        let table =
            layer["annotations"]["io.containers.zstd-chunked.manifest-checksum"].is_string();
        assert_eq!(table, format == "zstd:chunked", "{manifest}");
        assert_eq!(image.id, made.id());
        assert_eq!(image.read_file("/data/new", 10).unwrap().unwrap(), b"new");
    }
}
