//! Amounts written as text: task `cpu` and `memory`, and the sizes of log options.

/// CPU units of `256`, `.25 vCPU`, `1vcpu`; `None` if the text is no such amount.
pub fn cpu_units(text: &str) -> Option<u32> {
    amount(text, "vcpu")
}

/// MiB of `512`, `0.5GB`, `1 gb`.
pub fn mebibytes(text: &str) -> Option<u32> {
    amount(text, "gb")
}

/// A whole number, or a decimal number with the unit, which is 1024 of the former. Amounts between
/// whole numbers are none.
fn amount(text: &str, unit: &str) -> Option<u32> {
    let split = text.len().checked_sub(unit.len()).filter(|at| text.is_char_boundary(*at));
    if let Some((number, suffix)) = split.map(|at| text.split_at(at))
        && suffix.eq_ignore_ascii_case(unit)
    {
        return decimal(number.strip_suffix(' ').unwrap_or(number), 1024);
    }
    whole(text)?.try_into().ok()
}

/// `number * scale`, exactly.
fn decimal(number: &str, scale: u64) -> Option<u32> {
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if integer.is_empty() && fraction.is_empty() {
        return None;
    }
    let integer = if integer.is_empty() { 0 } else { whole(integer)? };
    let mut scaled = integer.checked_mul(scale)?;
    if !fraction.is_empty() {
        let parts = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = whole(fraction)?.checked_mul(scale)?;
        if !part.is_multiple_of(parts) {
            return None;
        }
        scaled = scaled.checked_add(part / parts)?;
    }
    scaled.try_into().ok()
}

/// Digits only: `parse` alone would take a sign.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Bytes of a log option as Docker reads them: `10m`, `1.5g`, `512kb`; units are powers of 1000.
pub(super) fn log_bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let scale = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1_000,
        "m" | "mb" | "mib" => 1_000_000,
        "g" | "gb" | "gib" => 1_000_000_000,
        "t" | "tb" | "tib" => 1_000_000_000_000,
        _ => return None,
    };
    let (integer, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let parts = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = whole(fraction)?.checked_mul(scale)? / parts;
    whole(integer)?.checked_mul(scale)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_forms() {
        let table = [
            ("256", Some(256)),
            ("0", Some(0)),
            ("1 vCPU", Some(1024)),
            ("1vcpu", Some(1024)),
            (".5 vCPU", Some(512)),
            ("0.25 VCPU", Some(256)),
            ("1. vCPU", Some(1024)),
            ("16 vCPU", Some(16_384)),
            (".3 vCPU", None),
            ("0.5", None),
            ("", None),
            ("vCPU", None),
            (" vCPU", None),
            (". vCPU", None),
            ("1  vCPU", None),
            (" 1 vCPU", None),
            ("+1", None),
            ("-256", None),
            ("1 GB", None),
            ("1.2.3 vCPU", None),
            ("4294967296", None),
            ("99999999999999999999 vCPU", None),
            ("0.00000000000000000000000000000000000000001 vCPU", None),
            ("é vCPU", None),
            ("1évcpu", None),
        ];
        for (text, units) in table {
            assert_eq!(cpu_units(text), units, "{text:?}");
        }
    }

    #[test]
    fn memory_forms() {
        let table = [
            ("512", Some(512)),
            ("1 GB", Some(1024)),
            ("1GB", Some(1024)),
            ("0.5GB", Some(512)),
            ("2 gb", Some(2048)),
            ("1 G", None),
            ("1 GiB", None),
            ("512 MB", None),
            ("0.3 GB", None),
        ];
        for (text, mebibytes_) in table {
            assert_eq!(mebibytes(text), mebibytes_, "{text:?}");
        }
    }

    #[test]
    fn log_sizes_are_powers_of_1000() {
        let table = [
            ("10m", Some(10_000_000)),
            ("10M", Some(10_000_000)),
            ("1.5g", Some(1_500_000_000)),
            ("512", Some(512)),
            ("512 kb", Some(512_000)),
            ("1kib", Some(1_000)),
            ("0", Some(0)),
            ("-1", None),
            ("", None),
            ("m", None),
            ("10x", None),
            ("10mm", None),
            ("99999999999999999999g", None),
        ];
        for (text, bytes) in table {
            assert_eq!(log_bytes(text), bytes, "{text:?}");
        }
    }
}
