//! A secret in Secrets Manager: made, brought to a value, and away. What it holds is never read back: whoever may run instances need
//! not be allowed to. Which value it holds is known by a digest in a tag, made with the engine's key.
use super::client::{code, failed, words};
use crate::labels::{INSTANCE, NAME, STEP, STORE, TEMPLATE};
use aws_sdk_secretsmanager::{Client, types::Tag};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;
use syp_engine::{
    name_conflict,
    step::{Observed, Owner},
};
use syp_proto::journal::Failure;

/// One that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its ARN, which ends with six letters that nobody knows before.
    pub arn: String,
    /// It carries our tags.
    pub ours: bool,
    /// Digest of what it holds.
    digest: String,
    /// It is about to go, and its name is taken until then.
    leaving: bool,
}

/// What it shall hold.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whose.
    pub owner: &'a Owner,
    /// The step's node.
    pub node: &'a str,
    /// Its name.
    pub name: &'a str,
    /// JSON.
    pub value: &'a SecretString,
}

// === impl Found ===

impl Found {
    /// It is ours, and stays.
    pub fn is_good(&self) -> bool {
        self.ours && !self.leaving
    }
}

/// Looks.
///
/// # Errors
/// AWS'.
pub async fn look(c: &Client, owner: &Owner, name: &str) -> Result<Option<Found>, Failure> {
    let said = match c.describe_secret().secret_id(name).send().await {
        Ok(said) => said,
        Err(e) if e.as_service_error().is_some_and(|e| e.is_resource_not_found_exception()) => {
            return Ok(None);
        }
        Err(e) => return Err(failed("secretsmanager:DescribeSecret", &e)),
    };
    let tag = |key: &str| said.tags().iter().find(|t| t.key() == Some(key)).and_then(Tag::value);
    Ok(Some(Found {
        arn: said.arn().unwrap_or(name).to_owned(),
        ours: tag(STORE) == Some(owner.store.as_str())
            && tag(INSTANCE) == Some(owner.uid.to_string().as_str()),
        digest: tag(TEMPLATE).unwrap_or_default().to_owned(),
        leaving: said.deleted_date().is_some(),
    }))
}

/// As the engine asks for it.
///
/// # Errors
/// AWS'.
pub async fn observe(c: &Client, owner: &Owner, name: &str) -> Result<Observed, Failure> {
    let held = look(c, owner, name).await?;
    Ok(held.map_or(Observed::Absent, |h| Observed::Present { handle: h.arn, ours: h.ours, healthy: true }))
}

/// Brings it there; its ARN.
///
/// # Errors
/// `NAME_CONFLICT`, or AWS'.
pub async fn bring(c: &Client, key: &SecretSlice<u8>, w: &Wanted<'_>) -> Result<String, Failure> {
    let digest = digest(key, w);
    let mut held = look(c, w.owner, w.name).await?;
    if held.is_none() {
        held = create(c, w, &digest).await?;
    }
    let Some(held) = held else { return Err(name_conflict(w.name)) };
    if !held.ours {
        return Err(name_conflict(w.name));
    }
    if held.leaving {
        // a deletion that somebody asked for in the console
        let back = c.restore_secret().secret_id(&held.arn).send().await;
        back.map_err(|e| failed("secretsmanager:RestoreSecret", &e))?;
    }
    if held.digest == digest {
        return Ok(held.arn);
    }
    let put = c.put_secret_value().secret_id(&held.arn).secret_string(w.value.expose_secret()).send().await;
    put.map_err(|e| failed("secretsmanager:PutSecretValue", &e))?;
    // only then: a tag that is behind puts the same value once more, one that is ahead would hide an old one
    let tag = c.tag_resource().secret_id(&held.arn).tags(tagged(TEMPLATE, &digest)).send().await;
    tag.map_err(|e| failed("secretsmanager:TagResource", &e))?;
    Ok(held.arn)
}

/// Another one may have made it in this moment, or an answer was lost: then it is looked at.
async fn create(c: &Client, w: &Wanted<'_>, digest: &str) -> Result<Option<Found>, Failure> {
    let tags = [
        tagged(INSTANCE, &w.owner.uid.to_string()),
        tagged(STORE, w.owner.store.as_str()),
        tagged(NAME, &w.owner.name),
        tagged(STEP, w.node),
        tagged(TEMPLATE, digest),
    ];
    let ask =
        c.create_secret().name(w.name).secret_string(w.value.expose_secret()).set_tags(Some(tags.to_vec()));
    match ask.send().await {
        Ok(made) => Ok(made.arn().map(|arn| Found {
            arn: arn.to_owned(),
            ours: true,
            digest: digest.to_owned(),
            leaving: false,
        })),
        Err(e) if e.as_service_error().is_some_and(|e| e.is_resource_exists_exception()) => {
            look(c, w.owner, w.name).await
        }
        Err(e) => Err(failed("secretsmanager:CreateSecret", &e)),
    }
}

/// At once and for good: a name that waits for a month could not be used again, and would be left. False: there was none.
///
/// # Errors
/// AWS'. Somebody else's is left alone.
pub async fn remove(c: &Client, owner: &Owner, name: &str) -> Result<bool, Failure> {
    match look(c, owner, name).await? {
        Some(held) if held.ours => gone(c, &held.arn).await,
        _ => Ok(false),
    }
}

/// The one with this ARN.
///
/// # Errors
/// AWS'.
pub async fn gone(c: &Client, arn: &str) -> Result<bool, Failure> {
    match c.delete_secret().secret_id(arn).force_delete_without_recovery(true).send().await {
        Ok(_) => Ok(true),
        Err(e) if code(&e) == "ResourceNotFoundException" => Ok(false),
        // by somebody else, in this moment
        Err(e) if words(&e).contains("already scheduled for deletion") => Ok(true),
        Err(e) => Err(failed("secretsmanager:DeleteSecret", &e)),
    }
}

fn tagged(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

fn digest(key: &SecretSlice<u8>, w: &Wanted<'_>) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.expose_secret());
    // HMAC takes keys of any length; without one, the value is put each time
    mac.map_or_else(
        |_| String::new(),
        |mut mac| {
            mac.update(b"aws-secret|");
            mac.update(w.name.as_bytes());
            mac.update(b"|");
            mac.update(w.value.expose_secret().as_bytes());
            hex::encode(&mac.finalize().into_bytes()[..16])
        },
    )
}
