//! Pages and filters of lists (AIP-158, AIP-160 in its simplest form).
use super::status::invalid;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use syp_proto::v1;
use tonic::Status;

const DEFAULT: usize = 100;
const MAX: usize = 1000;

/// One page of a sorted list. The token is bound to the question, so that it can't be used with another filter.
///
/// # Errors
/// `INVALID_ARGUMENT` for a bad size or token.
pub fn cut<T>(
    all: Vec<T>,
    size: i32,
    token: &str,
    question: &str,
    key: impl Fn(&T) -> String,
) -> Result<(Vec<T>, String), Status> {
    let size = usize::try_from(size).map_err(|_| invalid("page_size", "0 or more"))?;
    let size = if size == 0 { DEFAULT } else { size.min(MAX) };
    let bound = hex::encode(&Sha256::digest(question.as_bytes())[..6]);
    let mut rest = all.into_iter().peekable();
    if !token.is_empty() {
        let wrong = || invalid("page_token", "not a token of this list");
        let text =
            URL_SAFE_NO_PAD.decode(token).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(wrong)?;
        let (hash, last) = text.split_once('|').ok_or_else(wrong)?;
        if hash != bound {
            return Err(wrong());
        }
        // the last one of the page before; if it is gone, the first one behind its place
        let mut found = false;
        while let Some(item) = rest.peek() {
            let k = key(item);
            if found || k.as_str() > last {
                break;
            }
            found = k == last;
            rest.next();
        }
    }
    let page: Vec<T> = rest.by_ref().take(size).collect();
    let next = match (rest.peek(), page.last()) {
        (Some(_), Some(last)) => URL_SAFE_NO_PAD.encode(format!("{bound}|{}", key(last))),
        _ => String::new(),
    };
    Ok((page, next))
}

/// `state=SERVING AND labels.team=a`: all must hold.
#[derive(Debug, Default)]
pub struct Filter(Vec<(String, String)>);

// === impl Filter ===

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what is not understood.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut out = Vec::new();
        for term in text.split(" AND ").map(str::trim).filter(|t| !t.is_empty()) {
            let (k, v) = term
                .split_once('=')
                .ok_or_else(|| invalid("filter", &format!("'{term}': expected field=value")))?;
            let (k, v) = (k.trim(), v.trim().trim_matches('"'));
            if !(matches!(k, "state" | "name" | "target") || k.starts_with("labels.")) {
                return Err(invalid(
                    "filter",
                    &format!("'{k}': state, name, target and labels.KEY can be asked for"),
                ));
            }
            out.push((k.to_owned(), v.to_owned()));
        }
        Ok(Self(out))
    }

    /// Does it hold?
    pub fn matches(&self, i: &v1::Instance) -> bool {
        self.0.iter().all(|(k, v)| match k.as_str() {
            "state" => i.state().as_str_name().eq_ignore_ascii_case(v),
            "name" => i.display_name == *v || i.name == *v,
            "target" => i.spec.as_ref().is_some_and(|s| s.target == *v),
            k => k.strip_prefix("labels.").is_some_and(|k| i.labels.get(k) == Some(v)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_the_list_once_and_tokens_are_bound_to_the_question() {
        let all: Vec<u32> = (100..125).collect();
        let (mut token, mut seen) = (String::new(), vec![]);
        loop {
            let (page, next) = cut(all.clone(), 10, &token, "q", u32::to_string).unwrap();
            seen.extend(page);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, all);
        let (_, token) = cut(all.clone(), 10, "", "q", u32::to_string).unwrap();
        assert!(cut(all.clone(), 10, &token, "other", u32::to_string).is_err());
        assert!(cut(all.clone(), 10, "garbage", "q", u32::to_string).is_err());
        assert!(cut(all, -1, "", "q", u32::to_string).is_err());
    }

    #[test]
    fn filters() {
        let i = v1::Instance { state: 3, labels: [("team".into(), "a".into())].into(), ..Default::default() };
        assert!(Filter::parse("state=serving AND labels.team=a").unwrap().matches(&i));
        assert!(!Filter::parse("labels.team=b").unwrap().matches(&i));
        assert!(Filter::parse("nope=1").is_err());
        assert!(Filter::parse("").unwrap().matches(&i));
    }
}
