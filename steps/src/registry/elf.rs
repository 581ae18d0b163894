//! What a program's file says of itself: for which machine it is, and whether it needs libraries.
use object::{
    Architecture, LittleEndian, Object,
    elf::PT_INTERP,
    read::elf::{ElfFile64, ProgramHeader},
};

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// As images name it.
    pub architecture: &'static str,
    /// No loader and no library is needed.
    pub is_static: bool,
}

/// Of its bytes; `None`: no program of 64-bit Linux, or of a machine that we don't build for.
pub(super) fn program(bytes: &[u8]) -> Option<Program> {
    let file = ElfFile64::<LittleEndian>::parse(bytes).ok()?;
    let architecture = match file.architecture() {
        Architecture::X86_64 => "amd64",
        Architecture::Aarch64 => "arm64",
        _ => return None,
    };
    // who names a loader needs it
    let loaded = file.elf_program_headers().iter().any(|h| h.p_type(LittleEndian) == PT_INTERP);
    Some(Program { architecture, is_static: !loaded })
}

/// A program with these headers, for tests.
#[cfg(test)]
pub(super) fn made(machine: u8, kinds: &[u8]) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(64, 0);
    out[18] = machine;
    out[32] = 64;
    out[54] = 56;
    out[56] = u8::try_from(kinds.len()).unwrap();
    for kind in kinds {
        out.push(*kind);
        out.resize(out.len() + 55, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_names_a_loader_is_not_static_and_what_is_cut_off_is_no_program() {
        let of =
            |machine, kinds: &[u8]| program(&made(machine, kinds)).map(|p| (p.architecture, p.is_static));
        assert_eq!(of(62, &[1, 2]), Some(("amd64", true)), "static-pie has a dynamic part, and no loader");
        assert_eq!(of(183, &[6, 3, 1]), Some(("arm64", false)));
        assert_eq!(of(40, &[1]), None, "a machine that we don't build for");
        let whole = made(62, &[1, 1]);
        for cut in 0..whole.len() - 55 {
            assert_eq!(program(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(program(b"#!/bin/sh\n"), None);
        let mut far = whole;
        far[32..40].fill(255);
        assert_eq!(program(&far), None, "a table beyond everything");
    }
}
