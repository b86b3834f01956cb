//! Strategies: which of the instances that fit is taken. Each narrows what the one before left.

use std::collections::BTreeMap;

use protocol::ecs;

use super::view::Candidate;
use crate::state::ZONE;

/// Most strategies of a request.
const MAX_STRATEGIES: usize = 5;

/// One of a chain of strategies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    Random,
    /// Over instances.
    SpreadHosts,
    /// Over the values of an attribute; not to have it is a value, too.
    Spread(String),
    BinpackCpu,
    BinpackMemory,
}

impl Strategy {
    /// Reads the strategies of a request. None is none: the default applies.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(given: &[ecs::PlacementStrategy]) -> Result<Vec<Self>, String> {
        if given.len() > MAX_STRATEGIES {
            return Err(format!("Too many placement strategies, at most {MAX_STRATEGIES}."));
        }
        given.iter().map(Self::parse_one).collect()
    }

    fn parse_one(given: &ecs::PlacementStrategy) -> Result<Self, String> {
        let field = given.field.as_deref().filter(|field| !field.is_empty());
        match (given.kind.as_deref().unwrap_or_default(), field) {
            ("random", None) => Ok(Self::Random),
            ("random", Some(_)) => Err("The random strategy takes no field.".to_owned()),
            ("spread", Some("instanceId" | "host")) => Ok(Self::SpreadHosts),
            ("spread", Some(field)) => match field.strip_prefix("attribute:") {
                Some(name) if !name.is_empty() => Ok(Self::Spread(name.to_owned())),
                _ => Err(format!(
                    "Invalid field {field:?} of the spread strategy. Valid are instanceId, host \
                     and attribute:NAME."
                )),
            },
            ("spread", None) => Err("The spread strategy needs a field.".to_owned()),
            ("binpack", Some(field)) if field.eq_ignore_ascii_case("cpu") => Ok(Self::BinpackCpu),
            ("binpack", Some(field)) if field.eq_ignore_ascii_case("memory") => {
                Ok(Self::BinpackMemory)
            }
            ("binpack", _) => Err("The binpack strategy needs the field cpu or memory.".to_owned()),
            (other, _) => Err(format!(
                "Invalid placement strategy type {other:?}. Valid types are random, spread and \
                 binpack."
            )),
        }
    }

    /// What applies without any: over zones, then over instances.
    pub(super) fn default_chain() -> Vec<Self> {
        vec![Self::Spread(ZONE.to_owned()), Self::SpreadHosts]
    }
}

/// A sequence of numbers from a seed (SplitMix64): the same seed, the same choices.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`; 0 if there is none.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        u64::try_from(end)
            .ok()
            .and_then(|end| bits.checked_rem(end))
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(0)
    }
}

/// A chain of strategies over candidates, with what it counts.
#[derive(Debug)]
pub(super) struct Ranking {
    stages: Vec<Stage>,
}

#[derive(Debug)]
enum Stage {
    Random,
    /// Tasks by value, and the value of each candidate.
    Spread {
        value_of: Vec<usize>,
        counts: Vec<u32>,
    },
    Cpu,
    Memory,
}

impl Ranking {
    /// `count` tells how many tasks to spread are on a candidate.
    pub(super) fn new(
        chain: &[Strategy],
        candidates: &[Candidate<'_>],
        count: impl Fn(&Candidate<'_>) -> u32,
    ) -> Self {
        let default;
        let chain = if chain.is_empty() {
            default = Strategy::default_chain();
            &default
        } else {
            chain
        };
        let spreads =
            |strategy: &Strategy| matches!(strategy, Strategy::Spread(_) | Strategy::SpreadHosts);
        let tasks: Vec<u32> = if chain.iter().any(spreads) {
            candidates.iter().map(count).collect()
        } else {
            Vec::new()
        };
        let stages = chain
            .iter()
            .map(|strategy| match strategy {
                Strategy::Random => Stage::Random,
                Strategy::BinpackCpu => Stage::Cpu,
                Strategy::BinpackMemory => Stage::Memory,
                Strategy::SpreadHosts => Stage::Spread {
                    value_of: (0..candidates.len()).collect(),
                    counts: tasks.clone(),
                },
                Strategy::Spread(name) => spread(name, candidates, &tasks),
            })
            .collect();
        Self { stages }
    }

    /// Leaves those of `among` (indexes of candidates) on which the next task goes best, one of
    /// which is returned.
    pub(super) fn best(
        &self,
        candidates: &[Candidate<'_>],
        among: &mut Vec<usize>,
        random: &mut Random,
    ) -> Option<usize> {
        self.narrow(candidates, among, random, |key| key)
    }

    /// The mirror of [`Self::best`]: from which a task is taken best.
    pub(super) fn worst(
        &self,
        candidates: &[Candidate<'_>],
        among: &mut Vec<usize>,
        random: &mut Random,
    ) -> Option<usize> {
        self.narrow(candidates, among, random, |key| u64::MAX - key)
    }

    fn narrow(
        &self,
        candidates: &[Candidate<'_>],
        among: &mut Vec<usize>,
        random: &mut Random,
        sign: fn(u64) -> u64,
    ) -> Option<usize> {
        for stage in &self.stages {
            let key = |index: usize| sign(stage.key(index, candidates));
            if matches!(stage, Stage::Random) {
                break;
            }
            let Some(least) = among.iter().map(|index| key(*index)).min() else { break };
            among.retain(|index| key(*index) == least);
        }
        among.get(random.below(among.len())).copied()
    }

    /// A task was placed on a candidate.
    pub(super) fn added(&mut self, index: usize) {
        self.change(index, |count| count.saturating_add(1));
    }

    /// A task was taken from a candidate.
    pub(super) fn removed(&mut self, index: usize) {
        self.change(index, |count| count.saturating_sub(1));
    }

    fn change(&mut self, index: usize, change: impl Fn(u32) -> u32) {
        for stage in &mut self.stages {
            if let Stage::Spread { value_of, counts } = stage
                && let Some(count) = value_of.get(index).and_then(|value| counts.get_mut(*value))
            {
                *count = change(*count);
            }
        }
    }
}

impl Stage {
    /// Less is better for the next task.
    fn key(&self, index: usize, candidates: &[Candidate<'_>]) -> u64 {
        let of = |pick: fn(&Candidate<'_>) -> u64| candidates.get(index).map_or(u64::MAX, pick);
        match self {
            Self::Random => 0,
            Self::Spread { value_of, counts } => {
                let value = value_of.get(index).and_then(|value| counts.get(*value));
                value.copied().map_or(u64::MAX, u64::from)
            }
            Self::Cpu => of(|candidate| candidate.cpu),
            Self::Memory => of(|candidate| candidate.memory),
        }
    }
}

fn spread(name: &str, candidates: &[Candidate<'_>], tasks: &[u32]) -> Stage {
    // Nearly always there are few values.
    let mut values: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let mut counts: Vec<u32> = Vec::new();
    let mut value_of = Vec::with_capacity(candidates.len());
    for (candidate, tasks) in candidates.iter().zip(tasks) {
        let value = if name == ZONE {
            candidate.host.zone.as_deref()
        } else {
            candidate.instance.attributes.get(name).map(|value| value.as_deref().unwrap_or(""))
        };
        let known = values.len();
        let value = *values.entry(value).or_insert(known);
        match counts.get_mut(value) {
            Some(count) => *count = count.saturating_add(*tasks),
            None => counts.push(*tasks),
        }
        value_of.push(value);
    }
    Stage::Spread { value_of, counts }
}
