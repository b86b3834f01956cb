//! Spooled output: limits and what follows from them.

use std::fs;

use anyhow::Result;
use protocol::monitor::{Call, SpoolFull, Status, spool_data, spool_index};
use tests::monitor::{Task, eventually};

#[test]
fn both_streams_arrive_to_the_byte() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    client.run(&task.script("web", "seq 1 200000; seq 1 50000 >&2")?)?;
    client.stopped("web")?;
    let output = task.output("web")?;
    let numbers = |last: u32| (1..=last).map(|n| format!("{n}\n")).collect::<String>();
    assert!(output.text() == numbers(200_000), "{} bytes of stdout", output.stdout.len());
    assert!(output.stderr == numbers(50_000).into_bytes(), "{} bytes", output.stderr.len());
    Ok(())
}

#[test]
fn a_blocking_spool_holds_the_container_until_it_is_read() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let mut create = task.script("web", "seq 1 1000000")?;
    create.spool_limit = 1 << 20;
    client.run(&create)?;
    let spool = task.task().join("web/spool");
    let size = || -> u64 {
        fs::read_dir(&spool)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    };
    eventually("a full spool", || (size() >= 1 << 20).then_some(()))?;
    let newest_is_empty = || -> Option<Vec<u32>> {
        let mut numbers: Vec<u32> = fs::read_dir(&spool)
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let newest = numbers.pop()?;
        (fs::metadata(spool_data(&spool, newest)).ok()?.len() == 0).then_some(numbers)
    };
    // Consume as a reader does until all has come: 6.9 MB through 1 MiB.
    let mut text = Vec::new();
    loop {
        let consumed = eventually("closed segments, or the end", || {
            newest_is_empty()
                .filter(|numbers| !numbers.is_empty())
                .or_else(|| (!task.exits().is_empty()).then(Vec::new))
        })?;
        if consumed.is_empty() {
            break;
        }
        assert!(size() < 4 << 20, "{}", size());
        for number in consumed {
            text.extend(fs::read(spool_data(&spool, number))?);
            fs::remove_file(spool_data(&spool, number))?;
            fs::remove_file(spool_index(&spool, number))?;
        }
    }
    text.extend(task.output("web")?.stdout);
    let wanted: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(text == wanted.into_bytes(), "{} bytes", text.len());
    Ok(())
}

#[test]
fn a_full_spool_delays_no_exit() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let mut create = task.script("web", "while true; do seq 1 1000; done")?;
    create.spool_limit = 1 << 18;
    client.run(&create)?;
    let spool = task.task().join("web/spool");
    eventually("a full spool", || (fs::read_dir(&spool).ok()?.count() >= 8).then_some(()))?;
    client.call(&Call::Kill { container: "web".into(), signal: 9, all: false })?;
    assert_eq!(client.stopped("web")?.status, Status::Stopped);
    Ok(())
}

#[test]
fn a_dropping_spool_holds_nobody_and_marks_the_gap() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let mut create = task.script("web", "seq 1 1000000")?;
    create.spool_limit = 1 << 20;
    create.spool_full = SpoolFull::DropOldest;
    client.run(&create)?;
    assert_eq!(client.stopped("web")?.exit.and_then(|exit| exit.code), Some(0));
    let output = task.output("web")?;
    assert!(output.gap);
    let wanted: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(wanted.into_bytes().ends_with(&output.stdout));
    assert!(output.stdout.len() >= 1 << 19, "{}", output.stdout.len());
    assert!(output.stdout.len() <= 1 << 21, "{}", output.stdout.len());
    Ok(())
}
