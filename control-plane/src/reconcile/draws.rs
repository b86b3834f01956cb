//! Ids for what planners make, from a seed that was drawn outside.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A row of ids. Two of the same seed give the same.
#[derive(Debug, Clone)]
pub struct Draws {
    seed: [u8; 32],
    drawn: u64,
}

impl Draws {
    /// `seed`: random, used for one decision.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// 128 unpredictable bits.
    pub fn bits(&mut self) -> u128 {
        self.drawn += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_be_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        hash.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
    }

    pub fn uuid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.bits().to_be_bytes()).into_uuid()
    }

    /// Id of a deployment: `ecs-svc/<19 digits>`.
    pub fn deployment(&mut self) -> String {
        const LEAST: u128 = 1_000_000_000_000_000_000;
        format!("ecs-svc/{}", LEAST + self.bits() % (9 * LEAST))
    }

    /// A seed for choices among equals.
    pub fn seed(&mut self) -> u64 {
        // The upper half: a shift leaves 64 bits.
        u64::try_from(self.bits() >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_shapes_and_differ() {
        let mut draws = Draws::new([7; 32]);
        let first = draws.deployment();
        let digits = first.strip_prefix("ecs-svc/").unwrap_or_default();
        assert!(digits.len() == 19 && digits.bytes().all(|b| b.is_ascii_digit()), "{first}");
        assert_ne!(first, draws.deployment());
        assert_eq!(draws.uuid().get_version_num(), 4);
        assert_eq!(Draws::new([7; 32]).deployment(), first);
    }
}
