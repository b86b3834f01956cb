//! What a container's Docker texts say, as members of its definition.

use serde_json::{Value, json};

use super::docker::{self, Text, is_off, malformed, shorten};
use super::read::{Object, put};
use super::{MEBIBYTE, PayloadError};

/// The container's members of `Config`.
pub(super) fn read_config(
    mut text: Text,
    health: Option<&str>,
    path: &str,
    map: &mut Object,
) -> Result<(), PayloadError> {
    for (key, member) in [
        ("User", "user"),
        ("WorkingDir", "workingDirectory"),
        ("Hostname", "hostname"),
        ("Tty", "pseudoTerminal"),
        ("OpenStdin", "interactive"),
        ("NetworkDisabled", "disableNetworking"),
        ("Labels", "dockerLabels"),
    ] {
        put(map, member, text.take(key));
    }
    let check = text.object("Healthcheck")?;
    let checked = !check.values().all(is_off);
    if checked {
        let place = text.at("Healthcheck");
        put(map, "healthCheck", health_check(Text::of(place, check))?);
    }
    match health.filter(|kind| !kind.is_empty()) {
        None => {}
        Some("docker") if checked => {}
        Some("docker") => {
            let rule = "is docker, and dockerConfig.config has no Healthcheck";
            return Err(malformed(format!("{path}.healthCheckType"), rule));
        }
        Some(_) => {
            let rule = "must be docker";
            return Err(malformed(format!("{path}.healthCheckType"), rule));
        }
    }
    text.finish()
}

/// Docker's durations are nanoseconds.
fn health_check(mut text: Text) -> Result<Object, PayloadError> {
    const SECOND: i64 = 1_000_000_000;
    let mut check = Object::new();
    put(&mut check, "command", text.list("Test")?);
    for (key, member) in
        [("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "startPeriod")]
    {
        put(&mut check, member, text.number(key)?.map(|duration| duration / SECOND));
    }
    put(&mut check, "retries", text.number("Retries")?);
    text.finish()?;
    Ok(check)
}

/// The container's members of `HostConfig`. Returns the network mode.
pub(super) fn read_host_config(
    mut text: Text,
    memory: Option<i64>,
    map: &mut Object,
) -> Result<Option<String>, PayloadError> {
    let mode = text.text("NetworkMode")?.map(|mode| match mode.as_str() {
        "default" => "bridge".to_owned(),
        _ => mode,
    });
    put(map, "memoryReservation", text.mebibytes("MemoryReservation")?);
    for (key, member) in [
        ("Privileged", "privileged"),
        ("ReadonlyRootfs", "readonlyRootFilesystem"),
        ("Dns", "dnsServers"),
        ("DnsSearch", "dnsSearchDomains"),
        ("SecurityOpt", "dockerSecurityOptions"),
    ] {
        put(map, member, text.take(key));
    }
    let mut linux = Object::new();
    let mut capabilities = Object::new();
    put(&mut capabilities, "add", text.take("CapAdd"));
    put(&mut capabilities, "drop", text.take("CapDrop"));
    put(&mut linux, "capabilities", capabilities);
    put(&mut linux, "initProcessEnabled", text.take("Init"));
    put(&mut linux, "sharedMemorySize", text.mebibytes("ShmSize")?);
    read_swap(&mut text, memory, &mut linux)?;
    let place = text.at("Devices");
    let devices = text.list("Devices")?;
    let devices: Result<Vec<_>, _> = devices
        .into_iter()
        .enumerate()
        .map(|(index, device)| read_device(format!("{place}[{index}]"), device))
        .collect();
    put(&mut linux, "devices", devices?);
    let place = text.at("Tmpfs");
    let mut mounts = Vec::new();
    for (target, options) in text.object("Tmpfs")? {
        mounts.push(read_tmpfs(&place, &target, &options)?);
    }
    put(&mut linux, "tmpfs", mounts);
    put(map, "linuxParameters", linux);
    let mut limits = Vec::new();
    let place = text.at("Ulimits");
    for (index, limit) in text.list("Ulimits")?.into_iter().enumerate() {
        let place = format!("{place}[{index}]");
        let mut limit = Text::of(place.clone(), docker::object(place, limit)?);
        limits.push(json!({
            "name": limit.take("Name"),
            "softLimit": limit.take("Soft"),
            "hardLimit": limit.take("Hard"),
        }));
        limit.finish()?;
    }
    put(map, "ulimits", limits);
    let controls = text.object("Sysctls")?.into_iter();
    let controls = controls.map(|(name, value)| json!({"namespace": name, "value": value}));
    put(map, "systemControls", controls.collect::<Vec<_>>());
    let mut hosts = Vec::new();
    let place = text.at("ExtraHosts");
    for (index, host) in text.list("ExtraHosts")?.into_iter().enumerate() {
        let Some((name, address)) = host.as_str().and_then(|host| host.split_once(':')) else {
            return Err(malformed(format!("{place}[{index}]"), "must be \"host:address\""));
        };
        hosts.push(json!({"hostname": name, "ipAddress": address}));
    }
    put(map, "extraHosts", hosts);
    let place = text.at("LogConfig");
    let mut log = Text::of(place, text.object("LogConfig")?);
    let (driver, options) = (log.text("Type")?, log.object("Config")?);
    log.finish()?;
    if driver.is_some() || !options.is_empty() {
        put(map, "logConfiguration", json!({"logDriver": driver, "options": options}));
    }
    text.finish()?;
    Ok(mode)
}

/// `MemorySwap` is memory and swap together.
fn read_swap(text: &mut Text, memory: Option<i64>, linux: &mut Object) -> Result<(), PayloadError> {
    let place = text.at("MemorySwap");
    if let Some(total) = text.mebibytes("MemorySwap")? {
        let Some(memory) = memory else {
            return Err(malformed(place, "needs the container's memory"));
        };
        let Some(swap) = total.checked_sub(memory).filter(|swap| *swap >= 0) else {
            let rule = format!("must not be less than the container's memory, {memory} MiB");
            return Err(malformed(place, rule));
        };
        linux.insert("maxSwap".to_owned(), swap.into());
        put(linux, "swappiness", text.take("MemorySwappiness"));
    } else {
        // 0 without swap says nothing; anything else is refused by the validator.
        put(linux, "swappiness", text.number("MemorySwappiness")?);
    }
    Ok(())
}

fn read_device(place: String, device: Value) -> Result<Value, PayloadError> {
    let mut device = Text::of(place.clone(), docker::object(place, device)?);
    let letters = device.text("CgroupPermissions")?.unwrap_or_else(|| "rwm".to_owned());
    let mut permissions = Vec::new();
    for letter in letters.chars() {
        permissions.push(match letter {
            'r' => "read",
            'w' => "write",
            'm' => "mknod",
            _ => {
                return Err(malformed(device.at("CgroupPermissions"), "must be of r, w and m"));
            }
        });
    }
    let value = json!({
        "hostPath": device.take("PathOnHost"),
        "containerPath": device.take("PathInContainer"),
        "permissions": permissions,
    });
    device.finish()?;
    Ok(value)
}

/// `options` is `opts,size=…`, the size in bytes or with a unit.
fn read_tmpfs(place: &str, target: &str, options: &Value) -> Result<Value, PayloadError> {
    let place = format!("{place}[\"{}\"]", shorten(target));
    let Some(options) = options.as_str() else {
        return Err(malformed(place, "must be a text"));
    };
    let mut size = None;
    let mut others = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.strip_prefix("size=") {
            Some(text) => {
                let Some(mebibytes) = whole_mebibytes(text) else {
                    return Err(malformed(place, "size must be whole MiB"));
                };
                size = Some(mebibytes);
            }
            None => others.push(option),
        }
    }
    let Some(size) = size else {
        return Err(PayloadError::NotSupported { member: place, what: "tmpfs without a size" });
    };
    Ok(json!({"containerPath": target, "size": size, "mountOptions": others}))
}

/// MiB of `16m`, `1g`, `65536k`, or bytes.
fn whole_mebibytes(text: &str) -> Option<i64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 1 << 10),
        (at, 'm' | 'M') => (text.get(..at)?, MEBIBYTE),
        (at, 'g' | 'G') => (text.get(..at)?, 1 << 30),
        _ => (text, 1),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bytes = digits.parse::<i64>().ok()?.checked_mul(unit)?;
    (bytes % MEBIBYTE == 0).then_some(bytes / MEBIBYTE)
}
