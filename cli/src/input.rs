//! Text that does not belong into a command line: secrets, which every user of the host could read there, and documents.
use crate::failure::Failure;
use secrecy::SecretString;
use std::io::Read as _;

/// Nothing that is read here is longer.
const LONGEST: u64 = 1 << 20;

/// A secret from a file (`@FILE`) or standard input (`-`). What was written instead is not repeated: it may be the secret.
///
/// # Errors
/// It is neither, can't be read, or is empty.
pub fn secret(flag: &str, from: &str) -> Result<SecretString, Failure> {
    let text = match (from, from.strip_prefix('@')) {
        ("-", _) => limited(std::io::stdin().lock()),
        (_, Some(file)) => std::fs::File::open(file).and_then(limited),
        _ => {
            return Err(Failure::usage(format!(
                "{flag} takes @FILE or - (standard input): every user of this machine can read a command line"
            )));
        }
    };
    let text = text.map_err(|e| Failure::usage(format!("{flag}: {e}")))?;
    if text.trim().is_empty() {
        return Err(Failure::usage(format!("{flag}: nothing is in there")));
    }
    Ok(SecretString::from(text.trim()))
}

/// A document in JSON or YAML, from a file or standard input (`-`).
///
/// # Errors
/// It can't be read.
pub fn document(flag: &str, from: &str) -> Result<serde_json::Value, Failure> {
    let text = if from == "-" {
        limited(std::io::stdin().lock())
    } else {
        std::fs::File::open(from).and_then(limited)
    };
    let text = text.map_err(|e| Failure::usage(format!("{flag}: {from}: {e}")))?;
    serde_yaml_ng::from_str(&text).map_err(|e| Failure::usage(format!("{flag}: {from}: {e}")))
}

fn limited(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn a_secret_comes_from_a_file_and_is_never_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t");
        std::fs::write(&file, "abc\n").unwrap();
        let from = format!("@{}", file.display());
        assert_eq!(secret("--token", &from).unwrap().expose_secret(), "abc");
        let refused = secret("--token", "eyJ.secret.x").err().unwrap().text();
        assert!(refused.contains("@FILE") && !refused.contains("secret"), "{refused}");
        std::fs::write(&file, " \n").unwrap();
        assert!(secret("--token", &from).is_err());
    }
}
