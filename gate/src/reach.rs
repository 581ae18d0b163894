//! `syp-gate reach`: whether a TCP connection can be opened from here, for who wants to know that an app can't be reached past
//! its gate.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// How a try ended; the greater one says more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// No answer: it may be closed, far or gone.
    Nothing,
    /// The network says why not.
    Words(String),
    /// There is a way, and nothing listened at its end.
    Refused,
    /// There is a way, and somebody.
    Connected,
}

/// Why the answer is not known where it should be.
#[derive(Debug, thiserror::Error)]
#[error("writing the answer to {path}: {source}")]
pub struct Error {
    path: String,
    source: std::io::Error,
}

// === impl Found ===

impl Found {
    fn of(result: std::io::Result<TcpStream>) -> Self {
        match result {
            Ok(_) => Self::Connected,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => Self::Refused,
                ErrorKind::TimedOut => Self::Nothing,
                _ => Self::Words(error.to_string()),
            },
        }
    }

    fn words(&self) -> &str {
        match self {
            Self::Nothing => "timed out",
            Self::Words(words) => words,
            Self::Refused => "refused",
            Self::Connected => "connected",
        }
    }
}

/// Tries until there is a connection, so many times at most, and says what was found, on stdout and in a file.
///
/// # Errors
/// The file cannot be written.
pub async fn run(to: SocketAddr, tries: u32, timeout: Duration, out: Option<&Path>) -> Result<(), Error> {
    let mut best = Found::Nothing;
    for n in 0..tries {
        if n > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let tried = tokio::time::timeout(timeout, TcpStream::connect(to)).await;
        best = best.max(tried.map_or(Found::Nothing, Found::of));
        if best == Found::Connected {
            break;
        }
    }
    let line = serde_json::json!({ "reached": best == Found::Connected, "detail": best.words() }).to_string();
    println!("{line}");
    if let Some(path) = out {
        let error = |source| Error { path: path.display().to_string(), source };
        std::fs::write(path, line).map_err(error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Found;

    #[test]
    fn what_says_more_counts() {
        let words = Found::Words("no route".to_owned());
        assert!(Found::Nothing < words && words < Found::Refused && Found::Refused < Found::Connected);
    }
}
