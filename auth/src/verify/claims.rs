//! The claims of a token, read strictly: no name twice, whole numbers for times.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::Error;

/// The latest time looked at: end of the year 9999. Anything later is a mistake or an attempt to overflow something.
const LATEST: u64 = 253_402_300_799;

struct Strict(Map<String, Value>);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a claim is there twice"));
                    }
                }
                Ok(Strict(map))
            }
        }
        deserializer.deserialize_map(Top)
    }
}

/// Reads the payload. Bytes after the object, invalid UTF-8 and a claim that is there twice are errors.
pub(super) fn parse(payload: &str) -> Result<Map<String, Value>, Error> {
    serde_json::from_str::<Strict>(payload).map(|s| s.0).map_err(|_| Error::Malformed("its claims"))
}

pub(super) fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

/// A time claim: absent, or a whole number of seconds.
pub(super) fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, Error> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds) if seconds <= LATEST => Ok(Some(seconds)),
            _ => Err(Error::Claim(name)),
        },
    }
}

pub(super) fn check_times(claims: &Map<String, Value>, now: u64, leeway: u64) -> Result<(), Error> {
    let exp = time(claims, "exp")?.ok_or(Error::Claim("exp"))?;
    if now >= exp.saturating_add(leeway) {
        return Err(Error::Expired);
    }
    for name in ["nbf", "iat"] {
        if time(claims, name)?.is_some_and(|t| t > now.saturating_add(leeway)) {
            return Err(Error::NotYetValid);
        }
    }
    Ok(())
}

/// `aud` must be a text or a list of texts, and one of them ours.
pub(super) fn check_audience(claims: &Map<String, Value>, ours: &[String]) -> Result<(), Error> {
    let is_ours = |aud: &str| ours.iter().any(|o| o == aud);
    let fits = match claims.get("aud") {
        Some(Value::String(aud)) => is_ours(aud),
        Some(Value::Array(list)) => {
            let mut any = false;
            for aud in list {
                any |= is_ours(aud.as_str().ok_or(Error::Claim("aud"))?);
            }
            any
        }
        _ => return Err(Error::Claim("aud")),
    };
    if fits { Ok(()) } else { Err(Error::Audience) }
}
