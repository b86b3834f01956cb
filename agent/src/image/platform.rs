//! Which entry of an image index fits a platform (`os/architecture[/variant]`).

use super::manifest::Descriptor;

/// A platform in the spelling of the image specification, which is Go's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// This host's.
    pub(super) fn host() -> Self {
        let variant = (std::env::consts::ARCH == "arm").then(|| "v7".to_owned());
        Self { os: "linux".to_owned(), architecture: architecture(std::env::consts::ARCH), variant }
    }

    /// `None` if `text` is not `os/architecture[/variant]`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_ascii_lowercase);
        let (os, arch, variant) = (parts.next()?, parts.next()?, parts.next());
        let empty = os.is_empty() || arch.is_empty() || variant.as_deref() == Some("");
        if empty || parts.next().is_some() {
            return None;
        }
        let architecture = architecture(&arch);
        Some(Self { os, architecture, variant })
    }

    /// The best entry: of this OS and architecture, and of this variant; where none was asked for,
    /// the most portable one (no variant, else the lowest).
    pub(super) fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        entries
            .iter()
            .filter(|entry| {
                entry.platform.as_ref().is_some_and(|offered| {
                    self.fits(&offered.os, &offered.architecture, offered.variant.as_deref())
                })
            })
            .min_by_key(|entry| entry.platform.as_ref().and_then(|offered| offered.variant.clone()))
    }

    /// Would an image of this kind run here?
    pub(super) fn fits(&self, os: &str, arch: &str, variant: Option<&str>) -> bool {
        let offered = architecture(arch);
        self.os == os
            && self.architecture == offered
            && self.variant.as_deref().is_none_or(|wanted| {
                wanted
                    == variant.filter(|text| !text.is_empty()).unwrap_or(default_variant(&offered))
            })
    }
}

/// What an entry without a variant means.
fn default_variant(architecture: &str) -> &'static str {
    match architecture {
        "arm64" => "v8",
        "arm" => "v7",
        "amd64" => "v1",
        _ => "",
    }
}

fn architecture(name: &str) -> String {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" | "i686" => "386",
        "armhf" | "armel" => "arm",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
    .to_owned()
}

/// The platforms of an index, for an error.
pub(super) fn offered(entries: &[Descriptor]) -> String {
    let mut names: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        // Attestations are entries of an unknown platform.
        .filter(|platform| platform.os != "unknown")
        .map(|platform| {
            let os = platform.os.clone();
            let variant = platform.variant.clone().filter(|text| !text.is_empty());
            Platform { os, architecture: platform.architecture.clone(), variant }.to_string()
        })
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn entry(platform: &str) -> Descriptor {
        let mut parts = platform.split('/');
        let json = serde_json::json!({
            "digest": platform, "size": 1, "mediaType": "m",
            "platform": {"os": parts.next(), "architecture": parts.next(),
                         "variant": parts.next().unwrap_or_default()},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_entry_that_runs_is_chosen() {
        let index: Vec<Descriptor> = [
            "unknown/unknown",
            "linux/amd64/v3",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64",
            "linux/amd64",
            "windows/amd64",
        ]
        .map(entry)
        .to_vec();
        for (wanted, chosen) in [
            ("linux/amd64", Some("linux/amd64")),
            ("linux/x86_64", Some("linux/amd64")),
            ("linux/amd64/v3", Some("linux/amd64/v3")),
            ("linux/amd64/v2", None),
            ("linux/arm64/v8", Some("linux/arm64")),
            ("linux/aarch64", Some("linux/arm64")),
            ("linux/arm/v7", Some("linux/arm/v7")),
            ("linux/arm", Some("linux/arm/v6")),
            ("linux/s390x", None),
        ] {
            let platform = Platform::parse(wanted).unwrap();
            let digest = platform.choose(&index).map(|entry| entry.digest.as_str());
            assert_eq!(digest, chosen, "{wanted}");
        }
        assert_eq!(offered(&index[..3]), "linux/amd64/v3, linux/arm/v6");
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd64/"] {
            assert_eq!(Platform::parse(bad), None, "{bad}");
        }
    }
}
