//! Secrets: sealed before they are stored, opened only for the step that hands them over, and taken out of every word
//! that is written down.
//!
//! # Guarantees
//! A value is in no record, answer, event, log or error. At rest it is AES-256-GCM under a key derived from the engine's own; whose
//! it is (instance or project, name, version) is authenticated, so that one sealed value can't stand for another. An instance's own
//! goes with it, and a version of it with the last revision that refers to it.
use crate::{
    clock::Millis,
    failure::{Class, failure},
    id::InstanceId,
    journal::{self as codec, Kind},
    revision,
    shared::SecretName,
    store::{self, Store},
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use secrecy::{ExposeSecret, SecretSlice};
use std::{collections::BTreeSet, sync::Arc};
use syp_proto::{
    journal::{Failure, Instance, Sealed},
    v1::SecretRef,
};

/// `SecretRef.secret` of a value that belongs to its instance alone.
pub const OWN: &str = "own";
/// What stands in the place of a value.
const REDACTED: &str = "[secret]";
/// Shorter values are in words by chance: they would redact the whole text.
const SHORTEST: usize = 4;
/// Bytes of a fingerprint.
const FINGERPRINT: usize = 6;

/// Seals and opens.
pub struct Vault {
    key: Option<LessSafeKey>,
    blind: hmac::Key,
}

/// The secrets of one instance, for a step.
#[derive(Clone)]
pub struct Secrets {
    vault: Arc<Vault>,
    store: Arc<dyn Store>,
    uid: InstanceId,
    project: String,
}

/// A sealed value on its way to the store.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its key in the store.
    pub key: Vec<u8>,
    /// Its record.
    pub record: Vec<u8>,
}

// === impl Vault ===

impl Vault {
    /// With a key derived from the engine's own.
    pub fn new(engine: &SecretSlice<u8>) -> Arc<Self> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, engine.expose_secret());
        let derived = |what: &[u8]| hmac::sign(&root, what);
        // HMAC-SHA256 gives the 32 bytes that the key has, so this can't fail; without a key nothing is sealed or opened
        let key = UnboundKey::new(&AES_256_GCM, derived(b"secrets|1").as_ref()).ok().map(LessSafeKey::new);
        Arc::new(Self { key, blind: hmac::Key::new(hmac::HMAC_SHA256, derived(b"blind|1").as_ref()) })
    }

    /// Something that tells two values apart and says nothing of them.
    pub fn blinded(&self, value: &[u8]) -> Vec<u8> {
        hmac::sign(&self.blind, value).as_ref().to_vec()
    }

    fn seal(&self, whose: &[u8], value: &[u8], now: Millis) -> Result<Sealed, Failure> {
        let key = self.key.as_ref().ok_or_else(broken)?;
        let nonce: [u8; 12] = rand::random();
        let mut sealed = value.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(unique, Aad::from(whose), &mut sealed).map_err(|_| broken())?;
        Ok(Sealed { nonce: nonce.to_vec(), sealed, create_ms: now })
    }

    fn open(&self, whose: &[u8], s: Sealed) -> Result<SecretSlice<u8>, Failure> {
        let key = self.key.as_ref().ok_or_else(broken)?;
        let nonce = Nonce::try_assume_unique_for_key(&s.nonce).map_err(|_| broken())?;
        let mut plain = s.sealed;
        let len = key.open_in_place(nonce, Aad::from(whose), &mut plain).map_err(|_| broken())?.len();
        plain.truncate(len);
        Ok(plain.into())
    }

    /// Takes the values out of a revision's secrets: each is sealed, and its reference says which version it is.
    ///
    /// # Errors
    /// The record is too large, or the key is broken.
    pub fn take(
        &self,
        uid: InstanceId,
        revision: u32,
        secrets: &mut [SecretRef],
        now: Millis,
    ) -> Result<Vec<Kept>, Failure> {
        let mut out = Vec::new();
        for r in secrets.iter_mut().filter(|r| !r.value.is_empty()) {
            let value: SecretSlice<u8> = std::mem::take(&mut r.value).into();
            OWN.clone_into(&mut r.secret);
            r.version = revision.to_string();
            r.pinned = false;
            out.push(self.keep(key(uid, r), name(r), &value, now)?);
        }
        Ok(out)
    }

    /// A version of a shared secret, sealed.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_shared(
        &self,
        name: &SecretName,
        version: u32,
        value: &SecretSlice<u8>,
        now: Millis,
    ) -> Result<Kept, Failure> {
        self.keep(shared_key(name, &version.to_string()), &name.id, value, now)
    }

    /// Something that tells two values of one shared secret apart; of another secret the same value has another one.
    pub fn fingerprint(&self, name: &SecretName, value: &SecretSlice<u8>) -> Vec<u8> {
        let of = [name.to_string().as_bytes(), &[0], value.expose_secret()].concat();
        self.blinded(&of)[..FINGERPRINT].to_vec()
    }

    fn keep(&self, key: Vec<u8>, name: &str, value: &SecretSlice<u8>, now: Millis) -> Result<Kept, Failure> {
        let sealed = self.seal(&key, value.expose_secret(), now)?;
        let record = codec::encode(Kind::Sealed, &sealed)
            .map_err(|e| failure(Class::Terminal, "INVALID_ARGUMENT", format!("secret {name}: {e}"), ""))?;
        Ok(Kept { key, record })
    }
}

// === impl Secrets ===

impl Secrets {
    /// Of an instance, which may use the shared ones of its project.
    pub fn new(vault: Arc<Vault>, store: Arc<dyn Store>, uid: InstanceId, project: &str) -> Self {
        Self { vault, store, uid, project: project.to_owned() }
    }

    /// A value.
    ///
    /// # Errors
    /// `SECRET_UNREADABLE`: it is not there, or not under this engine's key.
    pub async fn get(&self, r: &SecretRef) -> Result<SecretSlice<u8>, Failure> {
        let key = if is_shared(r) {
            let name = SecretName { project: self.project.clone(), id: r.secret.clone() };
            shared_key(&name, &r.version)
        } else {
            key(self.uid, r)
        };
        let record = self.store.sealed(&key).await.map_err(|e| unreadable(r, &e))?;
        let record = record.ok_or_else(|| unreadable(r, &"it is not there"))?;
        let sealed = codec::decode(Kind::Sealed, &record).map_err(|e| unreadable(r, &e))?;
        let value = self.vault.open(&key, sealed)?;
        // the line end that editors and echo leave is not part of a password; a file has what was given
        match value.expose_secret().split_last() {
            Some((b'\n', rest)) if is_shared(r) && !r.env.is_empty() => Ok(rest.to_vec().into()),
            _ => Ok(value),
        }
    }

    /// The failure without any of these values in its words: an app may have printed them.
    pub async fn redacted(&self, mut f: Failure, secrets: &[SecretRef]) -> Failure {
        for r in secrets {
            let Ok(value) = self.get(r).await else { continue };
            let Ok(text) = std::str::from_utf8(value.expose_secret()) else { continue };
            // a file's lines are printed one by one
            for line in text.lines().map(str::trim).filter(|l| l.len() >= SHORTEST) {
                f.message = f.message.replace(line, REDACTED);
                f.hint = f.hint.replace(line, REDACTED);
            }
        }
        f
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.uid)
    }
}

impl From<Kept> for store::SealedOp {
    fn from(k: Kept) -> Self {
        (k.key, Some(k.record))
    }
}

/// What the app calls it.
pub fn name(r: &SecretRef) -> &str {
    if r.env.is_empty() { &r.file } else { &r.env }
}

/// Is it a shared one's?
pub fn is_shared(r: &SecretRef) -> bool {
    !r.secret.is_empty() && r.secret != OWN
}

/// What lets go of a shared secret's version.
pub fn forget_shared(name: &SecretName, version: u32) -> store::SealedOp {
    (shared_key(name, &version.to_string()), None)
}

/// The instance's own values that no revision refers to any more once `before` has become `after`. Pure.
pub fn let_go(uid: InstanceId, before: &Instance, after: &Instance) -> Vec<store::SealedOp> {
    let known = |i: &Instance| -> BTreeSet<u32> {
        let wanted = i.wanted.iter().map(|r| r.no);
        i.history.iter().map(|r| r.no).chain(wanted).chain([revision::number(i)]).collect()
    };
    // nearly always: a record that makes no revision be forgotten
    if known(before).is_subset(&known(after)) {
        return vec![];
    }
    let keys = |i: &Instance| -> BTreeSet<Vec<u8>> {
        let all = revision::all(i).into_iter().filter_map(|r| r.spec).flat_map(|s| s.secrets);
        all.filter(|r| !is_shared(r)).map(|r| key(uid, &r)).collect()
    };
    let kept = keys(after);
    keys(before).into_iter().filter(|k| !kept.contains(k)).map(|k| (k, None)).collect()
}

/// Prefix of all of an instance's.
pub fn prefix(uid: InstanceId) -> Vec<u8> {
    [uid.as_bytes(), &b"|"[..]].concat()
}

fn key(uid: InstanceId, r: &SecretRef) -> Vec<u8> {
    let kind = if r.env.is_empty() { "file" } else { "env" };
    [&prefix(uid)[..], format!("{kind}|{}|{}", name(r), r.version).as_bytes()].concat()
}

fn shared_key(name: &SecretName, version: &str) -> Vec<u8> {
    let whose = format!("{}/{}|{version}", name.project, name.id);
    [&prefix(InstanceId::NOBODY)[..], whose.as_bytes()].concat()
}

fn broken() -> Failure {
    failure(
        Class::Terminal,
        "SECRET_UNREADABLE",
        "a secret can't be sealed or opened with this engine's key",
        "the key file engine.key must be the one that the store was made with; set the secret again: 'sypctl set NAME --secret ...'",
    )
}

fn unreadable(r: &SecretRef, why: &dyn std::fmt::Display) -> Failure {
    failure(
        Class::Terminal,
        "SECRET_UNREADABLE",
        format!("the secret {} can't be read: {why}", name(r)),
        "set it again: 'sypctl set NAME --secret ...'",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemKv, open_inline};

    fn vault(key: u8) -> Arc<Vault> {
        Vault::new(&vec![key; 32].into())
    }

    fn env(name: &str, value: &str) -> SecretRef {
        SecretRef { env: name.into(), value: value.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_value_comes_back_only_to_its_owner_under_its_name_version_and_key() {
        let store = open_inline(Arc::new(MemKv::default())).unwrap();
        let (uid, v) = (InstanceId::random(), vault(1));
        let mut refs = [env("DB", "hunter22"), env("API", "another")];
        let kept = v.take(uid, 3, &mut refs, 0).unwrap();
        assert!(refs.iter().all(|r| r.value.is_empty() && r.version == "3" && r.secret == OWN));
        assert!(kept.iter().all(|k| !String::from_utf8_lossy(&k.record).contains("hunter")));
        let sealed = kept.into_iter().map(Into::into).collect();
        store.commit(store::Commit { sealed, ..Default::default() }).await.unwrap();
        let of = |v: &Arc<Vault>, uid| Secrets::new(Arc::clone(v), Arc::clone(&store), uid, "p");
        let got = of(&v, uid).get(&refs[0]).await.unwrap();
        assert_eq!(got.expose_secret(), b"hunter22");
        let other = SecretRef { version: "4".into(), ..refs[0].clone() };
        for f in [
            of(&v, InstanceId::random()).get(&refs[0]).await,
            of(&v, uid).get(&other).await,
            of(&vault(2), uid).get(&refs[0]).await,
        ] {
            assert_eq!(f.err().map(|f| f.reason).as_deref(), Some("SECRET_UNREADABLE"));
        }
        // one sealed value can't be put in another's place
        let moved = store.sealed(&key(uid, &refs[0])).await.unwrap().unwrap();
        let swap = store::Commit { sealed: vec![(key(uid, &refs[1]), Some(moved))], ..Default::default() };
        store.commit(swap).await.unwrap();
        assert!(of(&v, uid).get(&refs[1]).await.is_err());
        let said = failure(Class::Terminal, "CRASH_LOOP", "login with hunter22 failed", "");
        let said = of(&v, uid).redacted(said, &refs).await;
        assert_eq!(said.message, "login with [secret] failed");
    }

    #[tokio::test]
    async fn a_shared_value_belongs_to_its_project_name_and_version() {
        let store = open_inline(Arc::new(MemKv::default())).unwrap();
        let v = vault(1);
        let name = |project: &str, id: &str| SecretName { project: project.into(), id: id.into() };
        let value: SecretSlice<u8> = b"hunter22\n".to_vec().into();
        let kept = v.take_shared(&name("p", "pw"), 2, &value, 0).unwrap();
        store.commit(store::Commit { sealed: vec![kept.into()], ..Default::default() }).await.unwrap();
        let r = |secret: &str, version: &str, env: &str, file: &str| SecretRef {
            secret: secret.into(),
            version: version.into(),
            env: env.into(),
            file: file.into(),
            ..Default::default()
        };
        let of = |project| Secrets::new(Arc::clone(&v), Arc::clone(&store), InstanceId::random(), project);
        assert_eq!(of("p").get(&r("pw", "2", "", "/k")).await.unwrap().expose_secret(), b"hunter22\n");
        assert_eq!(of("p").get(&r("pw", "2", "DB", "")).await.unwrap().expose_secret(), b"hunter22");
        assert!(of("q").get(&r("pw", "2", "DB", "")).await.is_err(), "another project has it not");
        assert!(of("p").get(&r("pw", "1", "DB", "")).await.is_err());
        // not even when its sealed bytes are put in another's place
        let moved = store.sealed(&shared_key(&name("p", "pw"), "2")).await.unwrap();
        let swap = vec![
            (shared_key(&name("p", "pw"), "3"), moved.clone()),
            (shared_key(&name("q", "pw"), "2"), moved),
        ];
        store.commit(store::Commit { sealed: swap, ..Default::default() }).await.unwrap();
        assert!(of("p").get(&r("pw", "3", "DB", "")).await.is_err());
        assert!(of("q").get(&r("pw", "2", "DB", "")).await.is_err());
        let same = v.fingerprint(&name("p", "pw"), &value);
        assert_eq!(same, v.fingerprint(&name("p", "pw"), &value));
        assert_ne!(same, v.fingerprint(&name("p", "other"), &value), "it says nothing across secrets");
    }

    #[test]
    fn a_value_goes_with_the_last_revision_that_refers_to_it() {
        use syp_proto::{journal::Revision, v1::InstanceSpec};
        let uid = InstanceId::random();
        let own = |v: &str| SecretRef { secret: OWN.into(), version: v.into(), ..env("DB", "") };
        let shared = SecretRef { secret: "pw".into(), version: "1".into(), ..env("API", "") };
        let spec = |refs: &[&SecretRef]| {
            Some(InstanceSpec { secrets: refs.iter().map(|r| (*r).clone()).collect(), ..Default::default() })
        };
        let revision = |no, refs: &[&SecretRef]| Revision { no, spec: spec(refs), ..Default::default() };
        let before = Instance {
            revision_no: 4,
            spec: spec(&[&own("3")]),
            history: vec![
                revision(1, &[&own("1"), &shared]),
                revision(2, &[&own("2")]),
                revision(3, &[&own("3")]),
            ],
            ..Default::default()
        };
        let mut after = before.clone();
        after.history.remove(0);
        assert_eq!(
            let_go(uid, &before, &after),
            [(key(uid, &own("1")), None)],
            "a shared one is not its own"
        );
        after.history.remove(1);
        assert_eq!(let_go(uid, &before, &after).len(), 1, "what serves refers to the third");
        assert_eq!(let_go(uid, &before, &before), []);
    }

    #[test]
    fn what_tells_values_apart_says_nothing_of_them() {
        let (a, b) = (vault(1), vault(2));
        assert_eq!(a.blinded(b"x"), a.blinded(b"x"));
        assert_ne!(a.blinded(b"x"), a.blinded(b"y"));
        assert_ne!(a.blinded(b"x"), b.blinded(b"x"));
    }
}
