//! Machine tokens of the control plane, as they are held in memory; `tokens.rs` has the calls that change them.
use super::authz::to_proto;
use crate::{
    clock::{Clock, Millis},
    door,
    store::{Commit, Error, Store},
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prost::Message;
use std::{collections::HashMap, sync::Arc};
use syp_auth::{
    MachineTokens,
    policy::Role,
    verify::{self, Identity, Verifier},
};
use syp_proto::journal::{self, MachineToken};
use tokio::sync::watch;

/// Setting under which they are stored.
const SETTING: &str = "control_tokens";
/// A last use is written down when the one on disk is older than this.
const COARSE_MS: Millis = 3_600_000;

/// Those that are good, and when they were used.
pub(super) struct Machines {
    held: ArcSwap<Held>,
    tick: watch::Sender<()>,
    uses: Mutex<HashMap<String, Millis>>,
    /// Held from reading the tokens to having the next ones on disk.
    pub(super) changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    stored: journal::MachineTokens,
    good: MachineTokens,
}

// === impl Machines ===

impl Default for Machines {
    fn default() -> Self {
        let (held, uses, changing) = Default::default();
        Self { held, tick: watch::Sender::new(()), uses, changing }
    }
}

impl Machines {
    /// Takes over what is stored.
    pub(super) async fn load(&self, store: &dyn Store) -> Result<(), Error> {
        let Some(value) = store.setting(SETTING).await? else { return Ok(()) };
        let stored = journal::MachineTokens::decode(value.as_slice())
            .map_err(|_| Error::Corrupt("the control plane's machine tokens".into()))?;
        self.set(stored);
        Ok(())
    }

    fn set(&self, stored: journal::MachineTokens) {
        let good = MachineTokens::of(&stored.tokens.iter().map(door::token).collect::<Vec<_>>());
        self.held.store(Arc::new(Held { stored, good }));
        self.tick.send_replace(());
    }

    /// All of them, ended ones too, with their last use.
    pub(super) fn all(&self) -> Vec<MachineToken> {
        let uses = self.uses.lock();
        let mut all = self.held.load().stored.tokens.clone();
        for t in &mut all {
            t.last_use_ms = t.last_use_ms.max(uses.get(&t.id).copied().unwrap_or(0));
        }
        all
    }

    /// What has to be written for these to be all; they are put in force by [`Machines::wrote`].
    pub(super) fn commit(tokens: &[MachineToken]) -> Commit {
        let value = journal::MachineTokens { tokens: tokens.to_vec() }.encode_to_vec();
        Commit { settings: vec![(SETTING.into(), value)], ..Default::default() }
    }

    /// They are on disk.
    pub(super) fn wrote(&self, tokens: Vec<MachineToken>) {
        self.set(journal::MachineTokens { tokens });
    }

    /// Whose token this is.
    pub(super) fn verify(&self, token: &str) -> Result<Identity, verify::Error> {
        let digest = Verifier::digest(token);
        self.held.load().good.verify(&digest, syp_auth::unix_now()).map(|i| Identity::clone(&i))
    }

    fn find(&self, subject: &str) -> Option<MachineToken> {
        let id = subject.strip_prefix("token:")?;
        self.held.load().stored.tokens.iter().find(|t| t.id == id).cloned()
    }

    /// The role that a token was made with.
    pub(super) fn role(&self, subject: &str) -> Option<Role> {
        door::role(self.find(subject)?.role())
    }

    /// Until a token is no more.
    pub(super) async fn until_revoked(&self, subject: &str) {
        let mut tick = self.tick.subscribe();
        while self.find(subject).is_some() {
            if tick.changed().await.is_err() {
                return;
            }
        }
    }

    /// A token was used: is that worth a write?
    pub(super) fn used(&self, subject: &str, now: Millis) -> bool {
        let Some(t) = self.find(subject) else { return false };
        self.uses.lock().insert(t.id, now);
        now - t.last_use_ms >= COARSE_MS
    }

    /// Writes the last uses down.
    pub(super) async fn write_uses(&self, store: &dyn Store) -> Result<(), Error> {
        let _guard = self.changing.lock().await;
        let all = self.all();
        let held = self.held.load_full();
        // of many calls at once the first one has written for all
        if all.iter().zip(&held.stored.tokens).all(|(new, old)| new.last_use_ms - old.last_use_ms < COARSE_MS)
        {
            return Ok(());
        }
        store.commit(Self::commit(&all)).await?;
        self.wrote(all);
        Ok(())
    }
}

/// A new one.
pub(super) struct New<'a> {
    pub id: String,
    pub display_name: &'a str,
    pub ttl: Millis,
    pub paths: Vec<String>,
    pub role: Role,
    pub creator: String,
}

// === impl New ===

impl New<'_> {
    /// With the hash of its value.
    pub(super) fn with(self, digest: &[u8], clock: &Clock) -> MachineToken {
        let now = clock.now();
        MachineToken {
            id: self.id,
            display_name: self.display_name.into(),
            sha256: digest.to_vec(),
            create_ms: now,
            expire_ms: now + self.ttl,
            path_prefixes: self.paths,
            creator: self.creator,
            role: to_proto(self.role) as i32,
            last_use_ms: 0,
        }
    }
}
