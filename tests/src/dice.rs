//! Random numbers with a seed that is told, so that a case can be had again.

/// splitmix64.
pub struct Dice(u64);

// === impl Dice ===

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `SYP_SEED`, else one of its own; said on stdout.
    ///
    /// # Errors
    /// `SYP_SEED` is no number.
    pub fn seed() -> anyhow::Result<u64> {
        let seed = match std::env::var("SYP_SEED") {
            Ok(s) => s.parse()?,
            Err(_) => u64::from(std::process::id()),
        };
        println!("SYP_SEED={seed}");
        Ok(seed)
    }

    /// 0 to `n - 1`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
