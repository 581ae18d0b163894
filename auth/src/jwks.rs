//! Issuers and their keys: found by discovery, refreshed in the background, replaced without a restart.
//!
//! Guarantees: one fetch at a time for an issuer; a token with an unknown key id causes at most one fetch a second; a failure
//! keeps the last good keys, up to [`Options::max_age`], then nothing is accepted; a key that the issuer dropped is gone after
//! at most one [`Options::ttl`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::fetch::{self, Fetcher, check_address};
use crate::jwk::{self, KeySet};

/// One issuer whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Exactly what its tokens say in `iss`.
    pub issuer: String,
    /// Where its keys are. Without it and without inline keys they are found by OIDC discovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// Keys inline: with `jwks_uri` the start value, without it the only ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Value>,
    /// What a token without `email_verified` means. Only true for issuers that verify every address.
    #[serde(default)]
    pub email_verified_default: bool,
    /// The claim that lists the caller's groups.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
}

fn default_groups_claim() -> String {
    "groups".to_owned()
}

/// Times of the key cache.
#[derive(Debug, Clone)]
pub struct Options {
    /// Keys are fetched again after this.
    pub ttl: Duration,
    /// The last good keys are used for at most this long while the issuer cannot be reached.
    pub max_age: Duration,
    /// The shortest time between two fetches that tokens cause.
    pub min_gap: Duration,
    /// For how long an unknown key id is remembered as unknown.
    pub negative: Duration,
    /// Who is asked for keys that this process can't fetch.
    pub relay: Option<Arc<Relay>>,
}

impl Default for Options {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { ttl: s(300), max_age: s(24 * 3600), min_gap: s(1), negative: s(10), relay: None }
    }
}

/// A key that a token named and its issuer's set does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The issuer.
    pub issuer: String,
    /// The key's id.
    pub kid: String,
}

/// How a gate asks its engine for keys: many a gate can't reach the issuer, its engine can. One key of an issuer stands for
/// all, since a fetch brings them all.
#[derive(Debug, Default)]
pub struct Relay {
    asked: Mutex<BTreeMap<String, String>>,
    news: tokio::sync::Notify,
}

// === impl Relay ===

impl Relay {
    fn ask(&self, issuer: &str, kid: &str) {
        self.asked.lock().insert(issuer.to_owned(), kid.chars().take(256).collect());
        self.news.notify_one();
    }

    /// Waits for the next question.
    pub async fn next(&self) -> Wanted {
        loop {
            let news = self.news.notified();
            if let Some((issuer, kid)) = self.asked.lock().pop_first() {
                return Wanted { issuer, kid };
            }
            news.await;
        }
    }
}

/// Why an issuer cannot be configured, or its keys not fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two configurations of one issuer.
    #[error("issuer '{0}' is configured twice")]
    Twice(String),
    /// No name.
    #[error("an issuer's name is empty")]
    Unnamed,
    /// The answer or address is not acceptable.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// The keys are not acceptable.
    #[error(transparent)]
    Keys(#[from] jwk::Error),
    /// The discovery document belongs to somebody else.
    #[error("the discovery document names issuer '{found}', not '{expected}'")]
    Impostor {
        /// What it says.
        found: String,
        /// What it must say.
        expected: String,
    },
    /// The discovery document lacks `jwks_uri`.
    #[error("the discovery document has no jwks_uri")]
    NoJwksUri,
}

/// An issuer with its keys.
pub struct Issuer {
    config: IssuerConfig,
    options: Options,
    fetcher: Fetcher,
    held: ArcSwapOption<Held>,
    stamps: watch::Sender<u64>,
    flight: tokio::sync::Mutex<Flight>,
    unknown: Mutex<HashMap<String, Instant>>,
    last_error: Mutex<Option<String>>,
}

/// An engine that was asked for a key answers within this, or not at all.
const RELAY_WAIT: Duration = Duration::from_secs(2);
const RELAY_LOOK: Duration = Duration::from_millis(10);

struct Held {
    keys: Arc<KeySet>,
    raw: Value,
    stamp: u64,
    since: Instant,
    /// Where they were fetched; `None` for inline ones.
    uri: Option<String>,
}

#[derive(Default)]
struct Flight {
    began: Option<Instant>,
    last: Option<Instant>,
    jwks_uri: Option<String>,
}

/// What is known of an issuer's keys, for status pages and metrics.
#[derive(Debug, Clone, Serialize)]
pub struct IssuerStatus {
    /// Its name.
    pub issuer: String,
    /// How many usable keys there are.
    pub keys: usize,
    /// Their age in seconds.
    pub age_s: Option<u64>,
    /// Why the last fetch failed.
    pub last_error: Option<String>,
}

// === impl Issuer ===

impl Issuer {
    /// An issuer with its inline keys, if it has any. Nothing is fetched yet.
    ///
    /// # Errors
    /// The configuration is not acceptable.
    pub fn new(config: IssuerConfig, options: Options, fetcher: Fetcher) -> Result<Self, Error> {
        check(&config)?;
        let inline = config.jwks.clone();
        let (flight, stamps) = (tokio::sync::Mutex::default(), watch::Sender::new(0));
        let (unknown, last_error) = (Mutex::default(), Mutex::default());
        let held = ArcSwapOption::empty();
        let issuer = Self { config, options, fetcher, held, stamps, flight, unknown, last_error };
        if let Some(raw) = inline {
            issuer.hold(raw, None)?;
        }
        Ok(issuer)
    }

    /// Its name: what tokens say in `iss`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.issuer
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &IssuerConfig {
        &self.config
    }

    /// Whether its keys come with the configuration only.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.config.jwks_uri.is_none() && self.config.jwks.is_some()
    }

    /// The keys and their stamp; `None` when there are none or they are too old to be trusted.
    #[must_use]
    pub fn keys(&self) -> Option<(u64, Arc<KeySet>)> {
        let held = self.held.load();
        let held = held.as_ref().filter(|h| self.is_fixed() || h.since.elapsed() < self.options.max_age)?;
        Some((held.stamp, held.keys.clone()))
    }

    /// Changes whenever the keys change; `None` as for [`Issuer::keys`]. Cheap: asked for every cached token.
    #[must_use]
    pub fn stamp(&self) -> Option<u64> {
        let held = self.held.load();
        held.as_ref().filter(|h| self.is_fixed() || h.since.elapsed() < self.options.max_age).map(|h| h.stamp)
    }

    /// Wakes whenever the keys change.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.stamps.subscribe()
    }

    /// This issuer for a gate, its keys inline. Before there are any it goes without, and the gate keeps what it has; `None`
    /// when they became too old to be trusted.
    #[must_use]
    pub fn for_gate(&self) -> Option<IssuerConfig> {
        let held = self.held.load();
        let Some(held) = held.as_ref() else { return Some(self.config.clone()) };
        if !self.is_fixed() && held.since.elapsed() >= self.options.max_age {
            return None;
        }
        // a gate fetches by itself where it can; this host's loopback is not the gate's
        let jwks_uri = self.config.jwks_uri.clone().or_else(|| held.uri.clone()).filter(|u| is_elsewhere(u));
        Some(IssuerConfig { jwks: Some(held.raw.clone()), jwks_uri, ..self.config.clone() })
    }

    /// What is known of its keys.
    #[must_use]
    pub fn status(&self) -> IssuerStatus {
        let held = self.held.load();
        let keys = held.as_ref().map_or(0, |h| h.keys.keys.len());
        let age_s = held.as_ref().map(|h| h.since.elapsed().as_secs());
        IssuerStatus {
            issuer: self.name().to_owned(),
            keys,
            age_s,
            last_error: self.last_error.lock().clone(),
        }
    }

    /// Takes new keys in; true when they differ from those held.
    fn hold(&self, raw: Value, uri: Option<String>) -> Result<bool, Error> {
        let now = Instant::now();
        let before = self.held.load_full();
        if let Some(old) = before.as_ref().filter(|old| old.raw == raw) {
            let (keys, stamp, uri) = (old.keys.clone(), old.stamp, uri.or_else(|| old.uri.clone()));
            self.held.store(Some(Arc::new(Held { keys, raw, stamp, since: now, uri })));
            return Ok(false);
        }
        let keys = Arc::new(KeySet::parse(&raw)?);
        self.stamps.send_modify(|stamp| {
            *stamp += 1;
            self.held.store(Some(Arc::new(Held { keys, raw, stamp: *stamp, since: now, uri })));
            self.unknown.lock().clear();
        });
        Ok(true)
    }

    /// New inline keys from a new configuration. What this process fetched itself lately is newer and stays.
    fn offer(&self, raw: &Value) -> Result<(), Error> {
        let own = self
            .held
            .load()
            .as_ref()
            .is_some_and(|h| h.uri.is_some() && h.since.elapsed() < self.options.ttl * 2);
        if self.is_fixed() || !own {
            self.hold(raw.clone(), None)?;
        }
        Ok(())
    }

    /// Fetches the keys because a token names one that is not held. Limited: one at a time, one a second, unknown ids are
    /// remembered. Who comes too early waits for the next one, together with everybody else: a key that is new is taken even
    /// right after a fetch. Returns when the keys are as new as they are going to be for this token.
    pub async fn refetch(&self, kid: &str) {
        if self.is_fixed() && self.options.relay.is_none() || self.is_known_unknown(kid) {
            return;
        }
        let asked = Instant::now();
        let mut flight = self.flight.lock().await;
        let has = || self.keys().is_some_and(|(_, keys)| keys.has_kid(kid));
        // a fetch that began after the question has answered it, for everybody who waits here
        if has() || flight.began.is_some_and(|began| began >= asked) {
            return;
        }
        if let Some(last) = flight.last {
            tokio::time::sleep(self.options.min_gap.saturating_sub(last.elapsed())).await;
            if has() {
                return;
            }
        }
        let mut known = !self.is_fixed() && self.fetch(&mut flight).await.is_ok();
        if let Some(relay) = self.options.relay.as_ref().filter(|_| !has()) {
            flight.began = Some(Instant::now());
            relay.ask(self.name(), kid);
            let end = Instant::now() + RELAY_WAIT;
            while !has() && Instant::now() < end {
                tokio::time::sleep(RELAY_LOOK).await;
            }
            flight.last = Some(Instant::now());
            known = true;
        }
        // an issuer that failed says nothing about the key
        if known && !has() {
            let mut unknown = self.unknown.lock();
            if unknown.len() >= 1024 {
                unknown.clear();
            }
            unknown.insert(kid.chars().take(256).collect(), Instant::now());
        }
    }

    fn is_known_unknown(&self, kid: &str) -> bool {
        let unknown = self.unknown.lock();
        kid.len() <= 256 && unknown.get(kid).is_some_and(|since| since.elapsed() < self.options.negative)
    }

    /// Fetches the keys now.
    ///
    /// # Errors
    /// They could not be fetched or are not acceptable; the keys held are as before.
    pub async fn refresh(&self) -> Result<(), Error> {
        let mut flight = self.flight.lock().await;
        self.fetch(&mut flight).await
    }

    async fn fetch(&self, flight: &mut Flight) -> Result<(), Error> {
        if self.is_fixed() {
            return Ok(());
        }
        flight.began = Some(Instant::now());
        let result = self.fetch_keys(flight).await;
        flight.last = Some(Instant::now());
        if result.is_err() {
            // the address may have moved: ask discovery again next time
            flight.jwks_uri = None;
        }
        *self.last_error.lock() = result.as_ref().err().map(ToString::to_string);
        result
    }

    async fn fetch_keys(&self, flight: &mut Flight) -> Result<(), Error> {
        let uri = match self.config.jwks_uri.clone().or_else(|| flight.jwks_uri.clone()) {
            Some(uri) => uri,
            None => self.discover().await?,
        };
        let raw = self.fetcher.json(&uri).await?;
        self.hold(raw, Some(uri.clone()))?;
        flight.jwks_uri = Some(uri);
        Ok(())
    }

    async fn discover(&self) -> Result<String, Error> {
        let base = self.name().strip_suffix('/').unwrap_or_else(|| self.name());
        let document = self.fetcher.json(&format!("{base}/.well-known/openid-configuration")).await?;
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
        let found = text("issuer").unwrap_or_default();
        if found != self.name() {
            return Err(Error::Impostor { found, expected: self.name().to_owned() });
        }
        text("jwks_uri").ok_or(Error::NoJwksUri)
    }
}

fn check(config: &IssuerConfig) -> Result<(), Error> {
    // the other name is that of machine tokens, which no issuer makes
    if config.issuer.is_empty() || config.issuer == crate::machine::ISSUER {
        return Err(Error::Unnamed);
    }
    if let Some(uri) = &config.jwks_uri {
        check_address(uri)?;
    } else if config.jwks.is_none() {
        check_address(&config.issuer)?;
    }
    if let Some(raw) = &config.jwks {
        KeySet::parse(raw)?;
    }
    Ok(())
}

/// Keeps one issuer's keys fresh until nobody holds the issuer any more.
async fn keep_fresh(issuer: Weak<Issuer>) {
    let mut retry = Duration::from_secs(1);
    while let Some(issuer) = issuer.upgrade() {
        let ttl = issuer.options.ttl;
        let pause = if issuer.refresh().await.is_ok() {
            retry = Duration::from_secs(1);
            ttl
        } else {
            retry = (retry * 2).min(Duration::from_secs(30));
            retry.min(ttl)
        };
        drop(issuer);
        tokio::time::sleep(pause).await;
    }
}

/// The issuers of a process. Configurations come and go; the keys of an issuer that stays are kept.
pub struct Issuers {
    options: Options,
    fetcher: Fetcher,
    list: Mutex<Vec<Arc<Issuer>>>,
}

// === impl Issuers ===

impl Issuers {
    /// No issuers yet.
    #[must_use]
    pub fn new(options: Options, fetcher: Fetcher) -> Self {
        Self { options, fetcher, list: Mutex::default() }
    }

    /// Where questions for keys go, if anywhere.
    #[must_use]
    pub fn relay(&self) -> Option<Arc<Relay>> {
        self.options.relay.clone()
    }

    /// All issuers, in the order of their configuration.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Issuer>> {
        self.list.lock().clone()
    }

    /// Puts a new configuration in place. Each new issuer that is not fixed gets a background task on the current runtime.
    ///
    /// # Errors
    /// A configuration is not acceptable; then everything is as before.
    pub fn apply(&self, configs: &[IssuerConfig]) -> Result<Vec<Arc<Issuer>>, Error> {
        let mut list = self.list.lock();
        let mut new = Vec::with_capacity(configs.len());
        for (n, config) in configs.iter().enumerate() {
            if configs[..n].iter().any(|c| c.issuer == config.issuer) {
                return Err(Error::Twice(config.issuer.clone()));
            }
            check(config)?;
            let kept = list.iter().find(|i| keeps(i.config(), config)).cloned();
            new.push(match kept {
                Some(issuer) => (issuer, false),
                None => {
                    (Arc::new(Issuer::new(config.clone(), self.options.clone(), self.fetcher.clone())?), true)
                }
            });
        }
        for ((issuer, is_new), config) in new.iter().zip(configs) {
            if *is_new && !issuer.is_fixed() && tokio::runtime::Handle::try_current().is_ok() {
                tokio::spawn(keep_fresh(Arc::downgrade(issuer)));
            } else if let (false, Some(raw)) = (*is_new, &config.jwks) {
                issuer.offer(raw)?;
            }
        }
        *list = new.into_iter().map(|(issuer, _)| issuer).collect();
        Ok(list.clone())
    }
}

/// Whether the issuer that is there stays for a new configuration: all but the keys is the same. One that says nothing of keys,
/// from an engine that has none yet, takes none away.
fn keeps(held: &IssuerConfig, new: &IssuerConfig) -> bool {
    let keyless = |c: &IssuerConfig| IssuerConfig { jwks: None, jwks_uri: None, ..c.clone() };
    let silent = new.jwks.is_none() && new.jwks_uri.is_none();
    let same_source = held.jwks_uri == new.jwks_uri && held.jwks.is_some() == new.jwks.is_some();
    keyless(held) == keyless(new) && (silent || same_source)
}

fn is_elsewhere(uri: &str) -> bool {
    check_address(uri).is_ok_and(|u| !fetch::is_loopback(&u))
}

#[cfg(test)]
mod tests;
