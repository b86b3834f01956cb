//! Which entry of an image index fits a platform (`os/architecture[/variant]`).

use super::error::told;
use super::manifest::Descriptor;

/// Indexes that name an index, from the first to the last. No circle is possible, as long as every
/// digest is verified.
pub(super) const MAX_NESTING: usize = 4;
pub(super) const NESTED: &str = "indexes name indexes, more than 4 deep";

/// A platform in the spelling of the image specification, which is Go's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
    /// Of this host's processor, where nobody asked for a variant: users call it `linux/amd64`.
    level: Option<&'static str>,
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
        let architecture = architecture(std::env::consts::ARCH);
        Self { os: "linux".to_owned(), architecture, variant, level: x86_64_level() }
    }

    /// `None` if `text` is neither `os/architecture[/variant]` nor, for Linux, an architecture.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let alone = architecture(&text.to_ascii_lowercase());
        if ARCHITECTURES.contains(&alone.as_str()) {
            let os = "linux".to_owned();
            return Some(Self { os, architecture: alone, variant: None, level: None });
        }
        let mut parts = text.split('/').map(str::to_ascii_lowercase);
        let (os, arch, variant) = (parts.next()?, parts.next()?, parts.next());
        let empty = os.is_empty() || arch.is_empty() || variant.as_deref() == Some("");
        if empty || parts.next().is_some() {
            return None;
        }
        let architecture = architecture(&arch);
        Some(Self { os, architecture, variant, level: None })
    }

    /// The best entry. Of equal ones the first; entries without a platform (old tools wrote them
    /// for a single image) come last, because only their configurations tell what they are.
    pub(super) fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        entries
            .iter()
            .filter(|entry| entry.artifact_type.is_none())
            .filter_map(|entry| {
                let rank = match &entry.platform {
                    Some(offered) => {
                        let variant = offered.variant.as_deref();
                        self.rank(&offered.os, &offered.architecture, variant)?
                    }
                    None => usize::MAX,
                };
                Some((rank, entry))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry)
    }

    /// Would an image of this kind run here?
    pub(super) fn fits(&self, os: &str, arch: &str, variant: Option<&str>) -> bool {
        self.rank(os, arch, variant).is_some()
    }

    /// How good an image of this kind is, the smallest is the best; `None` if it does not run.
    fn rank(&self, os: &str, arch: &str, variant: Option<&str>) -> Option<usize> {
        let arch = architecture(arch);
        let variant = variant.filter(|text| !text.is_empty()).unwrap_or(default_variant(&arch));
        if self.os != os {
            return None;
        }
        self.runs()
            .iter()
            .position(|(runs, level)| *runs == arch && (level.is_empty() || *level == variant))
    }

    /// What runs on this platform, the best first: as containerd has it, an image for an older
    /// variant or for the 32-bit sibling where there is none of its own.
    fn runs(&self) -> Vec<(&str, &str)> {
        const ARM: [&str; 4] = ["v8", "v7", "v6", "v5"];
        const AMD64: [&str; 4] = ["v4", "v3", "v2", "v1"];
        let from = |variants: &'static [&'static str], variant: &str| {
            let at = variants.iter().position(|known| *known == variant);
            at.map_or(&[][..], |at| &variants[at..])
        };
        let variant = self.variant.as_deref().or(self.level);
        let variant = variant.unwrap_or(default_variant(&self.architecture));
        let mut runs: Vec<(&str, &str)> = Vec::new();
        match self.architecture.as_str() {
            "amd64" => {
                runs.extend(from(&AMD64, variant).iter().map(|level| ("amd64", *level)));
                runs.push(("386", ""));
            }
            "arm" => runs.extend(from(&ARM, variant).iter().map(|level| ("arm", *level))),
            "arm64" => {
                runs.push(("arm64", variant));
                if variant != "v8" {
                    runs.push(("arm64", "v8"));
                }
                runs.extend(ARM.map(|level| ("arm", level)));
            }
            other => runs.push((other, variant)),
        }
        runs
    }
}

/// Those that Linux images are made for: a word alone may be one.
const ARCHITECTURES: [&str; 9] =
    ["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"];

/// The level of the x86-64 psABI that this processor has; `None` for the first.
fn x86_64_level() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let second = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2");
        let second = second && has!("popcnt") && has!("cmpxchg16b");
        let third = has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c");
        let third = second && third && has!("fma") && has!("lzcnt") && has!("movbe");
        let fourth = has!("avx512f") && has!("avx512bw") && has!("avx512cd");
        let fourth = third && fourth && has!("avx512dq") && has!("avx512vl");
        match (second, third, fourth) {
            (_, _, true) => Some("v4"),
            (_, true, _) => Some("v3"),
            (true, _, _) => Some("v2"),
            _ => None,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
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
            let architecture = platform.architecture.clone();
            Platform { os, architecture, variant, level: None }.to_string()
        })
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { told(&names.join(", ")) }
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
            ("linux/amd64/v2", Some("linux/amd64")),
            ("linux/amd64/v4", Some("linux/amd64/v3")),
            ("linux/386", None),
            ("linux/arm/v8", Some("linux/arm/v7")),
            ("linux/arm/v6", Some("linux/arm/v6")),
            ("linux/arm/v5", None),
            ("linux/arm64/v8", Some("linux/arm64")),
            ("linux/aarch64", Some("linux/arm64")),
            ("linux/arm/v7", Some("linux/arm/v7")),
            ("linux/arm", Some("linux/arm/v7")),
            ("linux/arm64/v9", Some("linux/arm64")),
            ("linux/s390x", None),
            ("arm64", Some("linux/arm64")),
            ("X86_64", Some("linux/amd64")),
            ("s390x", None),
        ] {
            let platform = Platform::parse(wanted).unwrap();
            let digest = platform.choose(&index).map(|entry| entry.digest.as_str());
            assert_eq!(digest, chosen, "{wanted}");
        }
        let host = |level| Platform { level, ..Platform::parse("linux/amd64").unwrap() };
        for (level, chosen) in
            [(Some("v4"), "linux/amd64/v3"), (Some("v2"), "linux/amd64"), (None, "linux/amd64")]
        {
            assert_eq!(host(level).choose(&index).unwrap().digest, chosen, "{level:?}");
            assert_eq!(host(level).to_string(), "linux/amd64");
        }
        // 32-bit siblings, where there is nothing better; what has no platform, where there is nothing else.
        for (offered, wanted, chosen) in [
            (&["linux/386", "linux/arm/v6"][..], "linux/amd64", Some("linux/386")),
            (&["linux/arm/v6", "linux/arm/v7", "linux/386"], "linux/arm64", Some("linux/arm/v7")),
            (&["linux/amd64", "linux/amd64"], "linux/arm64", None),
        ] {
            let index: Vec<Descriptor> = offered.iter().copied().map(entry).collect();
            let platform = Platform::parse(wanted).unwrap();
            let digest = platform.choose(&index).map(|entry| entry.digest.as_str());
            assert_eq!(digest, chosen, "{wanted}");
        }
        let mut bare = entry("linux/s390x");
        bare.platform = None;
        let wanted = Platform::parse("linux/amd64").unwrap();
        assert!(wanted.choose(std::slice::from_ref(&bare)).is_some());
        bare.artifact_type = Some("application/x".to_owned());
        assert!(wanted.choose(std::slice::from_ref(&bare)).is_none());
        assert_eq!(offered(&index[..3]), "linux/amd64/v3, linux/arm/v6");
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd64/"] {
            assert_eq!(Platform::parse(bad), None, "{bad}");
        }
    }
}
