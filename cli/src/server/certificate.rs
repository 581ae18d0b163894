//! The certificate files, followed: whoever renews them (cert-manager, a timer) need not restart the engine.
use super::Flags;
use anyhow::Context;
use std::{fs, io, path::PathBuf, time::Duration};
use syp_engine::api::Tls;

/// How often they are looked at. A cluster brings a new one to a pod within a minute or two.
const LOOK: Duration = Duration::from_secs(10);

/// Both files, and what they say now.
struct Files {
    cert: PathBuf,
    key: PathBuf,
    said: (Vec<u8>, Vec<u8>),
}

/// The certificate that the flags name, if any; it is exchanged when its files change.
///
/// # Errors
/// They can't be read or used.
pub fn of(f: &Flags) -> anyhow::Result<Option<Tls>> {
    let Some((cert, key)) = f.tls() else { return Ok(None) };
    let (cert, key) = (cert.clone(), key.clone());
    let both = || format!("{} and {}", cert.display(), key.display());
    let said = read(&cert, &key).with_context(|| format!("{} can't be read", both()))?;
    let tls = Tls::new(&said.0, &said.1).with_context(both)?;
    tokio::spawn(Files { cert, key, said }.follow(tls.clone()));
    Ok(Some(tls))
}

fn read(cert: &PathBuf, key: &PathBuf) -> io::Result<(Vec<u8>, Vec<u8>)> {
    Ok((fs::read(cert)?, fs::read(key)?))
}

// === impl Files ===

impl Files {
    async fn follow(mut self, tls: Tls) {
        loop {
            tokio::time::sleep(LOOK).await;
            // one that is being replaced comes back
            let Ok(now) = read(&self.cert, &self.key) else { continue };
            if now == self.said {
                continue;
            }
            match tls.exchange(&now.0, &now.1) {
                Ok(()) => {
                    tracing::info!(file = %self.cert.display(), "new connections get the new certificate")
                }
                // perhaps only one of them is written yet
                Err(error) => {
                    tracing::warn!(file = %self.cert.display(), "the former certificate stays: {error}");
                }
            }
            self.said = now;
        }
    }
}
