//! What this host says of its energy: the counters of its processor packages (RAPL) where the kernel shows them, and how busy it was.
//!
//! # Assumptions
//! `energy_uj` is for root alone since Linux 5.10 (CVE-2020-8694), and a virtual machine has none: then the model counts.
//! Sources: Documentation/power/powercap/powercap.rst and proc_stat(5) of Linux.
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use syp_engine::energy::{Package, Reading};

/// Where the kernel tells it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Power zones.
    pub powercap: PathBuf,
    /// Processor time.
    pub stat: PathBuf,
    /// Which boot this is.
    pub boot_id: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            powercap: "/sys/class/powercap".into(),
            stat: "/proc/stat".into(),
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
        }
    }
}

/// Why nothing is measured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmeasured {
    /// A virtual machine, another processor, or an old kernel.
    #[error("this host has no counters of its energy (no package zone of intel-rapl in {0})")]
    Absent(String),
    /// They are there.
    #[error("the host's energy counters can't be read ({0}): the kernel shows them to root alone")]
    Unreadable(String),
}

// === impl Host ===

impl Host {
    /// Processors of the host; 0: it does not say.
    pub fn cores(&self) -> u32 {
        let text = fs::read_to_string(&self.stat).unwrap_or_default();
        let is_one =
            |l: &&str| l.strip_prefix("cpu").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
        u32::try_from(text.lines().filter(is_one).count()).unwrap_or(0)
    }

    /// Its counters now; `None` when it does not even say how busy it was.
    pub fn read(&self) -> Option<Reading> {
        let boot = fs::read_to_string(&self.boot_id).ok()?.trim().to_owned();
        let busy_us = busy_us(&fs::read_to_string(&self.stat).ok()?, ticks_a_second())?;
        let (packages, why) = match packages(&self.powercap) {
            Ok(p) => (p, String::new()),
            Err(e) => (vec![], e.to_string()),
        };
        Some(Reading { boot, busy_us, packages, why })
    }
}

fn ticks_a_second() -> u64 {
    let said = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    said.and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0).unwrap_or(100)
}

/// Of the line `cpu`: user, nice, system, irq and softirq. Guests are in user already, and what others took was not used here.
fn busy_us(stat: &str, ticks: u64) -> Option<u64> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let n: Vec<u64> = line.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6].into_iter().filter_map(|at| n.get(at)).sum();
    (n.len() >= 4).then(|| busy.saturating_mul(1_000_000) / ticks.max(1))
}

/// Top zones that are packages. Others (`psys`, the whole platform) hold the same energy once more, and so do the zones below.
fn packages(root: &Path) -> Result<Vec<Package>, Unmeasured> {
    let absent = || Unmeasured::Absent(root.display().to_string());
    let mut out = Vec::new();
    for entry in fs::read_dir(root).map_err(|_| absent())?.flatten() {
        let zone = entry.file_name().to_string_lossy().into_owned();
        if zone.strip_prefix("intel-rapl:").is_none_or(|n| n.contains(':')) {
            continue;
        }
        let text = |file: &str| fs::read_to_string(entry.path().join(file));
        let unreadable = |e: io::Error| Unmeasured::Unreadable(format!("{zone}: {e}"));
        let number = |file: &str| -> Result<u64, Unmeasured> {
            let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{file} is no number"));
            text(file).and_then(|t| t.trim().parse().map_err(wrong)).map_err(unreadable)
        };
        if !text("name").map_err(unreadable)?.starts_with("package-") {
            continue;
        }
        let (uj, range_uj) = (number("energy_uj")?, number("max_energy_range_uj")?);
        out.push(Package { name: zone.clone(), uj, range_uj });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    if out.is_empty() { Err(absent()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn host() -> (tempfile::TempDir, Host) {
        let d = tempfile::tempdir().unwrap();
        let at = |n: &str| d.path().join(n);
        fs::write(at("stat"), "cpu  100 20 30 5000 7 4 6 9 50 0\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 5\n")
            .unwrap();
        fs::write(at("boot_id"), "one\n").unwrap();
        fs::create_dir(at("powercap")).unwrap();
        let h = Host { powercap: at("powercap"), stat: at("stat"), boot_id: at("boot_id") };
        (d, h)
    }

    /// As in sysfs: a zone is a link to a folder elsewhere.
    fn zone(h: &Host, zone: &str, name: &str, uj: &str) {
        let real = h.powercap.with_file_name(format!("devices-{zone}"));
        fs::create_dir_all(&real).unwrap();
        for (file, text) in [("name", name), ("energy_uj", uj), ("max_energy_range_uj", "262143328850")] {
            fs::write(real.join(file), format!("{text}\n")).unwrap();
        }
        let _ = symlink(&real, h.powercap.join(zone));
    }

    #[test]
    fn packages_are_counted_once_and_processor_time_is_what_was_used() {
        let (_d, h) = host();
        zone(&h, "intel-rapl:0", "package-0", "5000000");
        zone(&h, "intel-rapl:1", "package-1", "7");
        zone(&h, "intel-rapl:0:0", "core", "4000000");
        zone(&h, "intel-rapl:2", "psys", "9000000");
        zone(&h, "dtpm", "package-9", "1");
        let r = h.read().unwrap();
        let seen: Vec<_> = r.packages.iter().map(|p| (p.name.as_str(), p.uj, p.range_uj)).collect();
        assert_eq!(
            seen,
            [("intel-rapl:0", 5_000_000, 262_143_328_850), ("intel-rapl:1", 7, 262_143_328_850)]
        );
        // 100 + 20 + 30 + 4 + 6 hundredths of a second
        assert_eq!((r.busy_us, r.boot.as_str(), r.why.as_str()), (1_600_000, "one", ""));
        assert_eq!(h.cores(), 2);
        assert_eq!(busy_us("cpu  1 2\n", 100), None);
    }

    #[test]
    fn what_is_absent_unreadable_or_vanishes_is_said_and_processor_time_is_told_all_the_same() {
        let (_d, h) = host();
        assert!(h.read().unwrap().why.contains("no counters"), "an empty folder");
        zone(&h, "intel-rapl:0", "package-0", "5");
        assert_eq!(h.read().unwrap().packages.len(), 1);
        // for root alone: tests may run as root, who reads everything, so a folder stands for what can't be read
        let file = h.powercap.with_file_name("devices-intel-rapl:0").join("energy_uj");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let r = h.read().unwrap();
        assert!(
            r.packages.is_empty() && r.why.contains("can't be read") && r.why.contains("intel-rapl:0"),
            "{r:?}"
        );
        assert_eq!(r.busy_us, 1_600_000);
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "many").unwrap();
        assert!(h.read().unwrap().why.contains("no number"));
        fs::remove_file(h.powercap.join("intel-rapl:0")).unwrap();
        assert!(h.read().unwrap().why.contains("no counters"));
        fs::remove_dir_all(&h.powercap).unwrap();
        assert!(h.read().unwrap().why.contains("no counters"));
        fs::remove_file(&h.stat).unwrap();
        assert_eq!((h.read(), h.cores()), (None, 0));
    }

    /// The whole way: from files, over a wrap, to joules.
    #[test]
    fn a_wrapped_counter_is_counted_to_the_joule() {
        use rust_decimal::Decimal;
        use syp_engine::energy::{Meter, Model, Power};
        let (_d, h) = host();
        let model = Model {
            per_kwh: Decimal::ONE,
            watts_per_core: Decimal::from(10),
            currency: "EUR".into(),
            ..Default::default()
        };
        let power = |h: &Host| Power { reading: h.read().unwrap(), models: vec![(0, model.clone())] };
        // 1 J before the end of its range
        zone(&h, "intel-rapl:0", "package-0", "262142328850");
        let mut m = Meter::default();
        m.take(&power(&h), 1, 0, 1_000);
        zone(&h, "intel-rapl:0", "package-0", "35000000");
        fs::write(&h.stat, "cpu  500 20 30 5000 7 4 6 9 50 0\n").unwrap();
        // 36 J, and half of 4 busy seconds were the instance's
        m.take(&power(&h), 1, 2_000_000, 11_000);
        assert_eq!((m.measured_uj, m.modelled_uj), (Decimal::from(18_000_000), Decimal::ZERO));
    }
}
