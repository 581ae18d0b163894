//! Secrets on the command line: never the value itself, which anybody on the machine could read there, but where it is.
use crate::{failure::Failure, parse};
use std::{io::Read as _, path::PathBuf};
use syp_proto::v1::SecretRef;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// A shared secret, perhaps one version of it.
    Shared(String, Option<String>),
}

/// A secret as flags name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Variable or path.
    pub name: String,
    /// Its value.
    pub from: From,
}

/// What stands before the name of a shared secret.
const SHARED: &str = "secret:";

/// `NAME` or `NAME@VERSION`.
fn shared(text: &str) -> Result<From, String> {
    let (name, version) = text.split_once('@').map_or((text, None), |(n, v)| (n, Some(v)));
    parse::name(name).map_err(|e| format!("secret '{name}': {e}"))?;
    match version {
        Some(v) if v.is_empty() || !v.chars().all(|c| c.is_ascii_digit()) => {
            Err(format!("'{v}' is no version: a number, as 'sypctl secret show' has them"))
        }
        version => Ok(From::Shared(name.to_owned(), version.map(str::to_owned))),
    }
}

fn named(text: &str) -> Result<Named, String> {
    let (name, from) = parse::key_value(text)?;
    let from = match from.strip_prefix('@') {
        Some(path) if !path.is_empty() => From::File(path.into()),
        _ if from == "-" => From::Stdin,
        _ if from.starts_with(SHARED) => shared(&from[SHARED.len()..])?,
        _ => {
            return Err("a value on the command line can be read by others: \
                        NAME=@FILE takes it from a file, NAME=- from standard input, NAME=secret:NAME from a shared secret"
                .into());
        }
    };
    Ok(Named { name, from })
}

/// `NAME=@FILE` or `NAME=-`: the value of a shared secret.
pub fn value(text: &str) -> Result<Named, String> {
    let s = named(text)?;
    parse::name(&s.name)?;
    match s.from {
        From::Shared(..) => {
            Err("the value of a shared secret comes from a file (@FILE) or standard input (-)".into())
        }
        _ => Ok(s),
    }
}

/// `NAME=@FILE`, `NAME=-` or `NAME=secret:NAME[@VERSION]`.
pub fn env(text: &str) -> Result<Named, String> {
    let s = named(text)?;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if s.name.chars().all(word) && !s.name.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(s);
    }
    Err(format!("'{}' can't be the name of a variable", s.name))
}

/// `/PATH=@FILE`, `/PATH=-` or `/PATH=secret:NAME[@VERSION]`.
pub fn file(text: &str) -> Result<Named, String> {
    let s = named(text)?;
    if s.name.starts_with('/') { Ok(s) } else { Err("the path in the replica begins with /".into()) }
}

/// Flags for secrets, the same wherever a spec is given.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Flags {
    /// A secret variable for the image, from a file, standard input or a shared secret (secret:NAME, secret:NAME@VERSION)
    #[arg(long, value_parser = env, value_name = "NAME=@FILE|-|secret:NAME")]
    secret: Vec<Named>,
    /// A secret file for the image, in memory only
    #[arg(long, value_parser = file, value_name = "/PATH=@FILE|-|secret:NAME")]
    secret_file: Vec<Named>,
}

// === impl Flags ===

impl Flags {
    /// Is there any?
    pub fn is_empty(&self) -> bool {
        self.secret.is_empty() && self.secret_file.is_empty()
    }

    /// With their values read.
    ///
    /// # Errors
    /// A file that can't be read, or an empty value.
    pub fn read(&self) -> Result<Vec<SecretRef>, Failure> {
        let stdin = |s: &&Named| s.from == From::Stdin;
        if self.secret.iter().chain(&self.secret_file).filter(stdin).count() > 1 {
            return Err(Failure::usage("standard input can be the value of one secret only"));
        }
        let mut out = Vec::new();
        for s in &self.secret {
            if let From::Shared(name, version) = &s.from {
                out.push(SecretRef { env: s.name.clone(), ..reference(name, version.as_deref()) });
                continue;
            }
            let mut value = bytes(s)?;
            // the line end that editors and echo leave is not part of a password
            if value.last() == Some(&b'\n') {
                value.pop();
            }
            out.push(SecretRef { env: s.name.clone(), value: full(s, value)?, ..Default::default() });
        }
        for s in &self.secret_file {
            if let From::Shared(name, version) = &s.from {
                out.push(SecretRef { file: s.name.clone(), ..reference(name, version.as_deref()) });
                continue;
            }
            let value = full(s, bytes(s)?)?;
            out.push(SecretRef { file: s.name.clone(), value, ..Default::default() });
        }
        Ok(out)
    }
}

/// A reference to a shared secret; with a version it stays there.
pub fn reference(name: &str, version: Option<&str>) -> SecretRef {
    SecretRef {
        secret: name.to_owned(),
        version: version.unwrap_or_default().to_owned(),
        pinned: version.is_some(),
        ..Default::default()
    }
}

/// A value as it is.
///
/// # Errors
/// A file that can't be read, or an empty value.
pub fn read(s: &Named) -> Result<Vec<u8>, Failure> {
    full(s, bytes(s)?)
}

fn bytes(s: &Named) -> Result<Vec<u8>, Failure> {
    let failed = |what: String, e: std::io::Error| Failure::usage(format!("secret {}: {what}: {e}", s.name));
    match &s.from {
        From::File(path) => std::fs::read(path).map_err(|e| failed(path.display().to_string(), e)),
        From::Stdin => {
            let mut value = Vec::new();
            std::io::stdin().read_to_end(&mut value).map_err(|e| failed("standard input".into(), e))?;
            Ok(value)
        }
        From::Shared(..) => Ok(vec![]),
    }
}

fn full(s: &Named, value: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if value.is_empty() {
        return Err(Failure::usage(format!("secret {}: the value is empty", s.name)));
    }
    Ok(value)
}

/// Those that are there, with the new ones in their place or added, and some taken away.
pub fn merged(held: &[SecretRef], new: Vec<SecretRef>, unset: &[String]) -> Vec<SecretRef> {
    let name = |r: &SecretRef| if r.env.is_empty() { r.file.clone() } else { r.env.clone() };
    let stays = |r: &&SecretRef| !unset.contains(&name(r)) && !new.iter().any(|n| name(n) == name(r));
    let mut out: Vec<_> = held.iter().filter(stays).cloned().collect();
    out.extend(new);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_the_words_of_a_command_is_refused() {
        assert!(env("DB=hunter2").unwrap_err().contains("@FILE"));
        assert_eq!(env("DB=@./pw").unwrap().from, From::File("./pw".into()));
        assert_eq!(file("/run/key=-").unwrap().from, From::Stdin);
        assert_eq!(env("DB=secret:pw").unwrap().from, From::Shared("pw".into(), None));
        assert_eq!(file("/k=secret:pw@3").unwrap().from, From::Shared("pw".into(), Some("3".into())));
        for wrong in ["DB=secret:", "DB=secret:A", "DB=secret:pw@", "DB=secret:pw@new"] {
            assert!(env(wrong).is_err(), "{wrong}");
        }
        assert!(value("pw=@./pw").is_ok() && value("pw=secret:other").is_err() && value("PW=@./pw").is_err());
        assert!(file("key=@x").is_err() && env("A-B=@x").is_err() && env("1A=@x").is_err());
    }

    #[test]
    fn values_are_read_whole_but_for_the_line_end_of_a_variable() {
        let d = tempfile::tempdir().unwrap();
        let path = d.path().join("pw");
        std::fs::write(&path, "two words\n").unwrap();
        let s = |name: &str| Named { name: name.into(), from: From::File(path.clone()) };
        let both = Flags { secret: vec![s("DB")], secret_file: vec![s("/k")] }.read().unwrap();
        assert_eq!(
            (both[0].value.as_slice(), both[1].value.as_slice()),
            (&b"two words"[..], &b"two words\n"[..])
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(
            Flags { secret: vec![s("DB")], secret_file: vec![] }
                .read()
                .unwrap_err()
                .message()
                .contains("empty")
        );
    }

    #[test]
    fn a_new_value_takes_the_place_of_the_old_one() {
        let r = |env: &str, version: &str| SecretRef {
            env: env.into(),
            version: version.into(),
            ..Default::default()
        };
        let out = merged(&[r("A", "1"), r("B", "1"), r("C", "1")], vec![r("B", "")], &["C".into()]);
        assert_eq!(out, [r("A", "1"), r("B", "")]);
    }
}
