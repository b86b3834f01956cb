#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3600;

fn rules() -> Rules {
    Rules {
        minimum_age: Duration::from_secs(HOUR),
        untracked_minimum_age: Duration::from_secs(HOUR),
        untracked: false,
        per_cycle: 5,
    }
}

fn now() -> Timestamp {
    at(1_000_000)
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(second).unwrap()).unwrap()
}

/// Pulled and last used so many seconds ago, with one layer of its own of 100 bytes.
fn image(id: &str, pulled: u64, used: u64) -> Candidate {
    Candidate {
        id: id.to_owned(),
        layers: BTreeMap::from([(format!("layer of {id}"), 100)]),
        pulled_at: at(1_000_000 - pulled),
        last_used_at: at(1_000_000 - used),
        tracked: true,
        fetched: true,
        held: false,
    }
}

fn free(bytes: u64) -> Cause {
    Cause::Pressure(Excess { bytes, inodes: false })
}

#[test]
fn the_cycle_takes_what_is_old_enough_least_recently_used_first() {
    let images = [
        image("young", HOUR - 1, HOUR - 1),
        image("b", 9 * HOUR, 2 * HOUR),
        image("a", 8 * HOUR, 3 * HOUR),
        Candidate { held: true, ..image("held", 9 * HOUR, 9 * HOUR) },
        Candidate { tracked: false, ..image("by hand", 9 * HOUR, 9 * HOUR) },
        // Used a moment ago, and by no known task any more: its age counts.
        image("c", HOUR, 0),
    ];
    assert_eq!(plan(&images, Cause::Cycle, &rules(), now()), ["a", "b", "c"]);
    let two = Rules { per_cycle: 2, ..rules() };
    assert_eq!(plan(&images, Cause::Cycle, &two, now()), ["a", "b"]);
}

#[test]
fn images_of_no_task_share_the_number_and_go_smallest_first() {
    let by_hand = |id: &str, size: u64, age: u64| Candidate {
        tracked: false,
        layers: BTreeMap::from([(id.to_owned(), size)]),
        ..image(id, age, age)
    };
    let images = [
        by_hand("large", 300, 9 * HOUR),
        by_hand("small", 10, 2 * HOUR),
        by_hand("young", 1, HOUR - 1),
        image("tracked", 2 * HOUR, 2 * HOUR),
    ];
    let all = Rules { untracked: true, ..rules() };
    assert_eq!(plan(&images, Cause::Cycle, &all, now()), ["tracked", "small", "large"]);
    let two = Rules { per_cycle: 2, ..all };
    assert_eq!(plan(&images, Cause::Cycle, &two, now()), ["tracked", "small"]);
}

#[test]
fn pressure_takes_the_cycles_images_first_then_others_then_young_ones() {
    let images = [
        image("young", 10, 10),
        Candidate { tracked: false, ..image("young by hand", 20, 20) },
        Candidate { tracked: false, ..image("by hand", 9 * HOUR, 9 * HOUR) },
        image("b", 2 * HOUR, 2 * HOUR),
        image("a", 3 * HOUR, 3 * HOUR),
        Candidate { held: true, ..image("held", 9 * HOUR, 9 * HOUR) },
        Candidate { tracked: false, fetched: false, ..image("loaded", 9 * HOUR, 9 * HOUR) },
        Candidate { fetched: false, ..image("loaded and used", 4 * HOUR, 4 * HOUR) },
    ];
    let order = ["loaded and used", "a", "b", "by hand", "young by hand", "young"];
    for (bytes, count) in [(0, 0), (1, 1), (100, 1), (101, 2), (600, 6), (10_000, 6)] {
        assert_eq!(plan(&images, free(bytes), &rules(), now()), order[..count], "{bytes}");
    }
    let all = Rules { untracked: true, per_cycle: 0, ..rules() };
    assert!(plan(&images, free(10_000), &all, now()).contains(&"loaded".to_owned()));
    let inodes = Cause::Pressure(Excess { bytes: 0, inodes: true });
    assert_eq!(plan(&images, inodes, &rules(), now()), order);
}

#[test]
fn under_pressure_no_image_goes_in_vain() {
    let with = |id: &str, layers: &[(&str, u64)], used: u64, held: bool| Candidate {
        layers: layers.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect(),
        held,
        ..image(id, 9 * HOUR, used)
    };
    let images = [
        // All of it belongs to a held image, too.
        with("vain", &[("base", 1000)], 9 * HOUR, false),
        with("held", &[("base", 1000)], 9 * HOUR, true),
        // Two that share a layer free it together.
        with("one", &[("shared", 500)], 8 * HOUR, false),
        with("two", &[("shared", 500), ("own", 1)], 7 * HOUR, false),
        with("last", &[("other", 100)], 6 * HOUR, false),
    ];
    assert_eq!(plan(&images, free(400), &rules(), now()), ["one", "two"]);
    assert_eq!(plan(&images, free(502), &rules(), now()), ["one", "two", "last"]);
    // No image without layers frees anything.
    assert!(plan(&[with("empty", &[], 9, false)], free(1), &rules(), now()).is_empty());
}

#[test]
fn a_clock_that_was_set_back_makes_nothing_old() {
    let mut future = image("a", 0, 0);
    future.pulled_at = at(2_000_000);
    assert!(plan(&[future], Cause::Cycle, &rules(), now()).is_empty());
}

#[test]
fn marks_are_read() {
    for (text, expected) in [
        ("85%", Some(Mark::Percent(85))),
        ("0%", Some(Mark::Percent(0))),
        ("100%", Some(Mark::Percent(100))),
        ("101%", None),
        ("-1%", None),
        ("%", None),
        ("1024", Some(Mark::Bytes(1024))),
        ("64b", Some(Mark::Bytes(64))),
        ("85", None),
        ("100", None),
        ("2k", Some(Mark::Bytes(2048))),
        ("2KB", Some(Mark::Bytes(2000))),
        ("3MiB", Some(Mark::Bytes(3 << 20))),
        ("40 GB", Some(Mark::Bytes(40_000_000_000))),
        ("40g", Some(Mark::Bytes(40 << 30))),
        ("1T", Some(Mark::Bytes(1 << 40))),
        ("99999999999T", None),
        ("1.5G", None),
        ("G", None),
        ("", None),
        ("5 bananas", None),
    ] {
        assert_eq!(Mark::parse(text), expected, "{text:?}");
    }
}

#[test]
fn marks_are_compared_with_what_df_shows() {
    let usage = Usage { used: 80, available: 20, inodes_used: 10, inodes_available: 90 };
    let marks = |high: u8, low: u8| Marks { high: Mark::Percent(high), low: Mark::Percent(low) };
    let bytes = |bytes| Excess { bytes, inodes: false };
    assert_eq!(marks(85, 75).excess(&usage), Excess::default());
    assert_eq!(marks(80, 75).excess(&usage), Excess::default());
    assert_eq!(marks(79, 75).excess(&usage), bytes(5));
    // A low mark that turns out above the high one is the high one.
    assert_eq!(marks(70, 90).excess(&usage), bytes(10));
    let amount = Marks { high: Mark::Bytes(40), low: Mark::Percent(75) };
    assert_eq!(amount.excess(&usage), bytes(40));
    assert_eq!(amount.excess(&Usage { used: 40, ..usage }), Excess::default());
    let mixed = Marks { high: Mark::Bytes(70), low: Mark::Percent(50) };
    assert_eq!(mixed.excess(&usage), bytes(30));
    let inodes = Usage { inodes_used: 99, inodes_available: 1, ..usage };
    assert_eq!(marks(85, 75).excess(&inodes), Excess { bytes: 5, inodes: true });
    // A full filesystem makes room for a second attempt even below its marks.
    let room = |marks: Marks, usage: &Usage| marks.room(usage).missing(usage);
    assert_eq!(room(marks(85, 75), &usage), bytes(20));
    assert_eq!(room(marks(85, 10), &usage), bytes(70));
    // Free bytes are no reason to give back as many where it is inodes that ran out.
    let empty = Usage { used: 10, available: 90, inodes_used: 98, inodes_available: 2 };
    let target = marks(85, 75).room(&empty);
    assert_eq!(target.missing(&empty), Excess { bytes: 0, inodes: true });
    assert!(target.missing(&Usage { inodes_used: 96, ..empty }).is_none());
    assert_eq!(room(marks(85, 5), &empty), Excess { bytes: 5, inodes: true });
    // A filesystem that counts no inodes (btrfs) is never short of them.
    let uncounted = Usage { inodes_used: 0, inodes_available: 0, ..usage };
    assert!(!marks(1, 0).excess(&uncounted).inodes);
    assert_eq!(room(marks(85, 75), &uncounted), bytes(20));
    let huge = Usage {
        used: u64::MAX,
        available: u64::MAX,
        inodes_used: u64::MAX,
        inodes_available: u64::MAX,
    };
    assert!(!marks(50, 40).excess(&huge).is_none());
    assert!(!room(marks(50, 40), &huge).is_none());
}

prop_compose! {
    fn any_image(id: usize)(
        layers in prop::collection::btree_map(0_u8..6, 0_u64..50, 0..4),
        pulled in 0_u64..4 * HOUR,
        used in 0_u64..4 * HOUR,
        tracked: bool,
        fetched: bool,
        held: bool,
    ) -> Candidate {
        Candidate {
            // A layer has one size, whoever has it.
            layers: layers.into_keys().map(|n| (format!("l{n}"), u64::from(n) * 7)).collect(),
            tracked, fetched, held,
            ..image(&format!("i{id}"), pulled, used)
        }
    }
}

fn any_images() -> impl Strategy<Value = Vec<Candidate>> {
    (0_usize..12).prop_flat_map(|count| (0..count).map(any_image).collect::<Vec<_>>())
}

fn any_rules() -> impl Strategy<Value = Rules> {
    (0..4 * HOUR, 0..4 * HOUR, any::<bool>(), 0_usize..6).prop_map(|(age, other, all, count)| {
        Rules {
            minimum_age: Duration::from_secs(age),
            untracked_minimum_age: Duration::from_secs(other),
            untracked: all,
            per_cycle: count,
        }
    })
}

/// Bytes of layers that only images of `gone` have.
fn freed(images: &[Candidate], gone: &[String]) -> u64 {
    let stay: BTreeSet<&String> = images
        .iter()
        .filter(|image| !gone.contains(&image.id))
        .flat_map(|image| image.layers.keys())
        .collect();
    let all: BTreeMap<&String, u64> =
        images.iter().flat_map(|image| &image.layers).map(|(name, size)| (name, *size)).collect();
    all.into_iter().filter(|(name, _)| !stay.contains(name)).map(|(_, size)| size).sum()
}

proptest! {
    #[test]
    fn nothing_that_is_held_goes_and_nothing_twice(
        images in any_images(), rules in any_rules(), bytes in 0_u64..200, inodes: bool, cycle: bool,
    ) {
        let cause = if cycle { Cause::Cycle } else { Cause::Pressure(Excess { bytes, inodes }) };
        let chosen = plan(&images, cause, &rules, now());
        let unique: BTreeSet<&String> = chosen.iter().collect();
        prop_assert_eq!(unique.len(), chosen.len());
        for id in &chosen {
            let image = images.iter().find(|image| image.id == *id).unwrap();
            prop_assert!(!image.held);
            prop_assert!(image.tracked || rules.untracked || (!cycle && image.fetched));
        }
        // The order in which they are listed says nothing.
        let mut turned = images.clone();
        turned.reverse();
        prop_assert_eq!(plan(&turned, cause, &rules, now()), chosen);
    }

    #[test]
    fn the_cycle_keeps_to_its_number_and_to_the_ages(images in any_images(), rules in any_rules()) {
        let chosen = plan(&images, Cause::Cycle, &rules, now());
        prop_assert!(chosen.len() <= rules.per_cycle);
        let taken = |image: &&Candidate| chosen.contains(&image.id);
        for image in images.iter().filter(taken) {
            prop_assert!(is_old(image, &rules, now()));
        }
        // Who stays although it could go was used later than who went, or the number was reached.
        let last = images.iter().filter(taken).filter(|i| i.tracked).map(|i| i.last_used_at).max();
        for image in images.iter().filter(|i| i.tracked && !i.held && is_old(i, &rules, now())) {
            if !taken(&image) {
                prop_assert_eq!(chosen.len(), rules.per_cycle);
                prop_assert!(last.is_none_or(|last| image.last_used_at >= last));
            }
        }
    }

    #[test]
    fn pressure_frees_enough_or_all_it_may(images in any_images(), rules in any_rules(), bytes in 0_u64..200) {
        let chosen = plan(&images, free(bytes), &rules, now());
        let all: Vec<String> = images
            .iter()
            .filter(|i| !i.held && (i.tracked || i.fetched || rules.untracked))
            .map(|i| i.id.clone())
            .collect();
        prop_assert!(freed(&images, &chosen) >= bytes.min(freed(&images, &all)));
        if bytes == 0 {
            prop_assert!(chosen.is_empty());
        }
        // Whatever order they are removed in, the last one is needed.
        if let Some((_, but_one)) = chosen.split_last() {
            prop_assert!(freed(&images, but_one) < bytes);
        }
    }
}
