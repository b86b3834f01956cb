//! Whiteouts of the image specification: in a layer, `.wh.name` says that `name` of the layers
//! below is gone, `.wh..wh..opq` that everything below its directory is.

const PREFIX: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the last component of an entry's name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// An ordinary file.
    Plain,
    /// The file of this name is gone.
    Removed(&'a [u8]),
    /// Nothing of the lower layers shows in the parent directory.
    Opaque,
    /// Bookkeeping of aufs (`.wh..wh.plnk`, `.wh..wh.aufs`), which Docker skips too.
    Bookkeeping,
    /// A whiteout of nothing, of the directory itself or of its parent.
    Invalid,
}

pub(super) fn classify(name: &[u8]) -> Name<'_> {
    if name == OPAQUE {
        return Name::Opaque;
    }
    if name.starts_with(META) {
        return Name::Bookkeeping;
    }
    match name.strip_prefix(PREFIX) {
        None => Name::Plain,
        Some(b"" | b"." | b"..") => Name::Invalid,
        Some(removed) => Name::Removed(removed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_classified() {
        for (name, class) in [
            ("file", Name::Plain),
            (".who", Name::Plain),
            (".w", Name::Plain),
            (".wh.file", Name::Removed(b"file")),
            (".wh..hidden", Name::Removed(b".hidden")),
            (".wh.a.wh.b", Name::Removed(b"a.wh.b")),
            (".wh..wh..opq", Name::Opaque),
            (".wh..wh.plnk", Name::Bookkeeping),
            (".wh..wh.", Name::Bookkeeping),
            (".wh.", Name::Invalid),
            (".wh..", Name::Invalid),
            (".wh...", Name::Invalid),
        ] {
            assert_eq!(classify(name.as_bytes()), class, "{name}");
        }
    }
}
