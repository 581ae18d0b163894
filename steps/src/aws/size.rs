//! Fargate's sizes: a task has one of few, and costs what its size says.
//! Source: Amazon ECS developer guide, "Task size" (Fargate), Linux.

/// Cores in units of 1/1024, memory in MiB: least, most and step.
const SIZES: [(u32, u32, u32, u32); 7] = [
    // 512 MiB is the exception among those of a quarter of a core
    (256, 512, 2_048, 1_024),
    (512, 1_024, 4_096, 1_024),
    (1_024, 2_048, 8_192, 1_024),
    (2_048, 4_096, 16_384, 1_024),
    (4_096, 8_192, 30_720, 1_024),
    (8_192, 16_384, 61_440, 4_096),
    (16_384, 32_768, 122_880, 8_192),
];

/// A task's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Cores, in units of 1/1024.
    pub cpu: u32,
    /// Memory in MiB.
    pub memory: u32,
}

/// The smallest size that has so much: thousandths of a core, and bytes. `None`: there is none so large.
pub fn fit(cpu_millis: u64, memory_bytes: u64) -> Option<Size> {
    let cpu = (cpu_millis * 1_024).div_ceil(1_000);
    let memory = memory_bytes.div_ceil(1 << 20);
    SIZES.into_iter().filter(|(c, ..)| u64::from(*c) >= cpu).find_map(|(cpu, least, most, step)| {
        let steps = memory.saturating_sub(u64::from(least)).div_ceil(u64::from(step));
        // from 512 the next is 1024, and from then on it goes by steps
        let fits = if cpu == 256 && steps > 0 {
            memory.div_ceil(1_024) * 1_024
        } else {
            u64::from(least) + steps * u64::from(step)
        };
        let memory = u32::try_from(fits).ok().filter(|m| *m <= most)?;
        Some(Size { cpu, memory })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn of(cpu: u64, memory: u64) -> Option<(u32, u32)> {
        fit(cpu, memory * MIB).map(|s| (s.cpu, s.memory))
    }

    #[test]
    fn the_smallest_that_has_enough_of_both_is_taken() {
        assert_eq!(of(0, 0), Some((256, 512)));
        assert_eq!(of(250, 512), Some((256, 512)));
        assert_eq!(of(250, 513), Some((256, 1_024)));
        assert_eq!(of(100, 1_025), Some((256, 2_048)));
        assert_eq!(of(100, 2_049), Some((512, 3_072)));
        assert_eq!(of(251, 1), Some((512, 1_024)));
        assert_eq!(of(1_000, 8_192), Some((1_024, 8_192)));
        assert_eq!(of(1_000, 8_193), Some((2_048, 9_216)));
        assert_eq!(of(5_000, 17_000), Some((8_192, 20_480)));
        assert_eq!(of(16_000, 122_880), Some((16_384, 122_880)));
    }

    #[test]
    fn what_no_task_has_is_refused() {
        assert_eq!(of(16_001, 1), None);
        assert_eq!(of(1, 122_881), None);
        assert_eq!(of(u64::MAX / 2_000, 1), None);
    }
}
